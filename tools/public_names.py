"""The public names of numbattn, as a user writes them.

One list for whatever has to reach all of them: the reference pages, the docstring
check, the test of the examples. It reads the ``__all__`` of the package (which lazy
loading takes from the stubs) and of each module therein, so a new name needs no line.
"""

from __future__ import annotations

import inspect
from types import ModuleType

import numbattn


def modules() -> dict[str, ModuleType]:
    """Return the package and its public modules, by name."""
    found = {name: getattr(numbattn, name) for name in numbattn.__all__}
    inner = {f"numbattn.{n}": m for n, m in found.items() if inspect.ismodule(m)}
    return {"numbattn": numbattn, **dict(sorted(inner.items()))}


def members(module: str) -> dict[str, object]:
    """Return what one of `modules` offers, but for modules, by its dotted name."""
    place = modules()[module]
    found = {name: getattr(place, name) for name in place.__all__}
    return {
        f"{module}.{name}": each
        for name, each in found.items()
        if not inspect.ismodule(each)
    }


def methods(cls: type) -> dict[str, object]:
    """Return the methods of a class, by name, but for those that a public base has.

    What overrides a documented method means the same.
    """
    offered = [each for name in modules() for each in members(name).values()]
    public = {each for each in offered if inspect.isclass(each)}
    bases = [base for base in cls.__mro__[1:] if base in public]
    return {
        name: method
        for name, method in inspect.getmembers(cls, _is_method)
        if not name.startswith("_") and not any(hasattr(b, name) for b in bases)
    }


def _is_method(value: object) -> bool:
    return inspect.isfunction(value) or inspect.ismethod(value)


def names() -> dict[str, object]:
    """Return every public name, methods included, with what it stands for."""
    found = {}
    for module in modules():
        for name, each in members(module).items():
            found[name] = each
            if inspect.isclass(each):
                found |= {f"{name}.{m}": f for m, f in methods(each).items()}
    return found
