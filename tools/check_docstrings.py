"""Validate the docstrings of the public names with numpydoc.

`numpydoc lint` takes whole files and would ask for a Parameters section in every small
internal helper; this walks `public_names` instead, all of them. Constants have no
docstring: numpydoc has nothing to check there, and the count says how many they are.
The checks left out are those of ``[tool.numpydoc_validation]`` in pyproject.toml.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import public_names
from numpydoc.validate import validate

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Print every complaint; return how many there are, at most 1."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    left_out = set(settings["tool"]["numpydoc_validation"]["checks"]) - {"all"}
    found = public_names.names()
    checked = [name for name, value in found.items() if callable(value)]
    complaints = 0
    for name in checked:
        for code, message in validate(name)["errors"]:
            if code not in left_out:
                print(f"{name}: {code} {message}")
                complaints += 1
    print(
        f"{len(found)} public names, {len(found) - len(checked)} of them constants, "
        f"{complaints} complaints; left out: {', '.join(sorted(left_out))}"
    )
    return min(complaints, 1) if checked else 1


if __name__ == "__main__":
    sys.exit(main())
