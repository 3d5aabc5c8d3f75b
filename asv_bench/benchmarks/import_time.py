"""What importing numbattn takes, in a new interpreter."""

from __future__ import annotations

PACKAGES = ["numbattn", "numpy"]


class Import:
    """NumPy alone to compare with: numbattn imports it."""

    params = (PACKAGES,)
    param_names = ("package",)
    version = "1"
    number = 1
    repeat = (3, 10, 20.0)

    def timeraw_import(self, package: str) -> str:
        """Import it."""
        return f"import {package}"
