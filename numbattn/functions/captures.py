"""What a user's function captures, and what of it can be compiled."""

from __future__ import annotations

import builtins
import math
import types
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..arrays import describe, has
from ..errors import shown
from .bytecode import NOT_PLAIN, Name, read

BUILTINS: tuple[Any, ...] = (
    abs, bool, divmod, enumerate, float, int, len, max, min, pow, range, round, sum, zip
)  # fmt: skip
NUMBERS = {bool, int, float, np.bool_, np.float32, np.float64} | {
    np.dtype(f"{sign}int{bits}").type for sign in ("", "u") for bits in (8, 16, 32, 64)
}
KNOWN = {
    id(value): value
    for module in (math, np)
    for value in vars(module).values()
    if callable(value)
}
MISSING = object()
INT64 = range(-(2**63), 2**63)


def captured(function: types.FunctionType) -> Iterator[tuple[Name, Any]]:
    """Yield what a function takes from around it: cells, defaults, globals it loads."""
    code = function.__code__
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield ("cell", name), cell.cell_contents
        except ValueError:  # nothing was put into it yet
            yield ("cell", name), MISSING
    defaults = function.__defaults__ or ()
    first = code.co_argcount - len(defaults)
    names = code.co_varnames[first : code.co_argcount]
    for name, value in zip(names, defaults, strict=True):
        yield ("default", name), value
    for name, value in (function.__kwdefaults__ or {}).items():
        yield ("default", name), value
    around = function.__globals__
    plain: Any = function  # not every version of the type stubs has __builtins__
    known: dict[str, Any] = plain.__builtins__
    for name in read(code).names:
        value = around.get(name, MISSING)
        yield (
            ("global", name),
            known.get(name, MISSING) if value is MISSING else value,
        )


def functions_in(value: object) -> Iterator[types.FunctionType]:
    """Yield the plain functions of a captured value."""
    if type(value) is tuple:
        for each in value:
            yield from functions_in(each)
    elif type(value) is types.FunctionType and id(value) not in KNOWN:
        yield value


def wrong_attribute(value: object, attribute: str) -> str:
    """Return what is wrong about reading that attribute of a captured value."""
    if value is math or value is np:
        name = f"{value.__name__}.{attribute}"
        if not hasattr(value, attribute):
            return f"uses {name}, which does not exist"
        if isinstance(getattr(value, attribute), types.ModuleType):
            return (
                f"uses {name}; it has to be pure, and to use only functions and "
                "constants of math and numpy themselves"
            )
        return ""
    if isinstance(value, types.ModuleType) or attribute in ("shape", "size", "ndim"):
        return ""  # another module is refused as a value
    return (
        f"reads .{attribute} of a value that is not the module math or numpy; it is "
        "called with plain numbers: compute the value before, and use the number"
    )


def wrong_value(value: Any, name: str, kind: str, args: str) -> str:
    """Return what is wrong about a captured value; "" where it is a constant."""
    if value is MISSING:
        return f"uses the name {name!r}, which is not defined"
    uses = f"has the default {name}=" if kind == "default" else f"captures {name!r}, "
    if type(value) in NUMBERS:
        if type(value) is int and value not in INT64:
            return f"{uses}{shown(value)}; it has to be within 64 bits"
        return ""
    if type(value) is tuple:
        wrong = (wrong_value(each, name, kind, args) for each in value)
        return next(filter(None, wrong), "")
    if value is math or value is np or id(value) in KNOWN:
        return ""
    if type(value) is types.FunctionType:
        what = next(
            (w for flag, w in NOT_PLAIN.items() if value.__code__.co_flags & flag), ""
        )
        return f"{uses}{what}; it has to be plain functions all through" if what else ""
    if isinstance(value, (types.BuiltinFunctionType, type)):
        return _wrong_builtin(value, uses)
    kept = (
        "real numbers, the modules math and numpy, and plain functions can be captured"
    )
    if isinstance(value, np.ndarray):
        return (
            f"{uses}{describe(value)}; pass it by {args}, and give the function "
            "a parameter for it"
        )
    if isinstance(value, list):
        return f"{uses}a list; pass it by {args} as an array, or make it a tuple"
    if isinstance(value, types.ModuleType):
        return f"{uses}the module {value.__name__}; only {kept}"
    if has(value, "py_func"):
        return f"{uses}compiled by Numba already; use the Python function, .py_func"
    convert = (
        f"; write float({name}) or int({name}) before"
        if isinstance(value, (int, float, np.integer, np.floating))
        else ""
    )
    return f"{uses}of type {type(value).__name__}; only {kept}{convert}"


def _wrong_builtin(value: Any, uses: str) -> str:
    """Return what is wrong about a built-in function or a class."""
    if any(value is each for each in BUILTINS):
        return ""
    allowed = ", ".join(each.__name__ for each in BUILTINS)
    own = getattr(builtins, value.__name__, None) is value
    what = "the built-in" if own else "the class" if isinstance(value, type) else ""
    return (
        f"{uses}{what or 'the function'} {value.__name__}; what can be called are "
        f"functions of math and numpy, plain functions, and {allowed}"
    )
