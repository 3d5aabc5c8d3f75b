"""Comparisons with other libraries, run by `tox -e peers`."""
