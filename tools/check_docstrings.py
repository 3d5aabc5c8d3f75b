"""Validate the docstrings of the public names with numpydoc.

`numpydoc lint` takes whole files and would ask for a Parameters section in every small
internal helper; this walks `numbattn.__all__`, the public modules of `MODULES`, and the
methods of their classes instead.
The checks left out are those of ``[tool.numpydoc_validation]`` in pyproject.toml.
"""

from __future__ import annotations

import inspect
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from numpydoc.validate import validate

import numbattn

ROOT = Path(__file__).resolve().parent.parent
MODULES = [numbattn, numbattn.masks, numbattn.score_mods]


def public_names() -> Iterator[str]:
    """Give the dotted name of everything that a user can meet in the documentation."""
    for module in MODULES:
        for name in module.__all__:
            found = getattr(module, name)
            if not (inspect.isfunction(found) or inspect.isclass(found)):
                continue
            if not found.__module__.startswith("numbattn"):
                continue
            yield f"{found.__module__}.{found.__qualname__}"
            if inspect.isclass(found):
                for method, _ in inspect.getmembers(found, inspect.isfunction):
                    owners = [c for c in found.__mro__ if method in vars(c)]
                    # what overrides a documented method means the same
                    if not method.startswith("_") and len(owners) == 1:
                        (owner,) = owners
                        yield f"{owner.__module__}.{owner.__qualname__}.{method}"


def main() -> int:
    """Print every complaint; return how many there are, at most 1."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    left_out = set(settings["tool"]["numpydoc_validation"]["checks"]) - {"all"}
    complaints = count = 0
    for name in dict.fromkeys(public_names()):
        count += 1
        for code, message in validate(name)["errors"]:
            if code not in left_out:
                print(f"{name}: {code} {message}")
                complaints += 1
    print(f"{count} public names, {complaints} complaints")
    return min(complaints, 1) if count else 1


if __name__ == "__main__":
    sys.exit(main())
