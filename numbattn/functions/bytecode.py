"""What the code object of a user's function does, read from its instructions.

The spellings are those of Python 3.11 to 3.14; source text is not needed.
"""

from __future__ import annotations

import dis
import inspect
import types
from functools import lru_cache
from typing import Any, NamedTuple

Name = tuple[str, str]
"""Where a captured value is from ("cell", "default", "global"), and its name."""

NOT_PLAIN = {
    inspect.CO_GENERATOR: "a generator",
    inspect.CO_COROUTINE: "a coroutine (async def)",
    inspect.CO_ITERABLE_COROUTINE: "a coroutine",
    inspect.CO_ASYNC_GENERATOR: "an asynchronous generator",
}
"""Flags of code that does not return when it is called."""

_RAISE = ("raises", "return a number for every input, such as -math.inf or math.nan")
_TRY = ("catches exceptions", "none can occur: division by zero gives inf or nan")
_WITH = ("has a `with` block", "take it out: a function of numbers has nothing to open")
_YIELD = ("has a `yield` or `await`, or loops over a generator", "write a plain loop")
_IMPORT = ("imports", "import it outside of the function")
_OUTER = (
    "assigns to a name outside of itself",
    "return everything that it computes: it is called in any order, and by threads",
)
_STORE = (
    "writes into an array or an object",
    "argument arrays are read only: compute a number from them and return it",
)
_CLASS = ("defines a class", "write it with plain numbers")
_NONE = ("can end without returning a number", "end every path with `return` a number")

_REFUSED = {
    "RAISE_VARARGS": _RAISE,
    "LOAD_ASSERTION_ERROR": ("contains `assert`", "take it out; " + _RAISE[1]),
    "PUSH_EXC_INFO": _TRY,
    "SETUP_FINALLY": _TRY,
    "BEFORE_WITH": _WITH,
    "BEFORE_ASYNC_WITH": _WITH,
    "LOAD_SPECIAL": _WITH,
    "YIELD_VALUE": _YIELD,
    "RETURN_GENERATOR": _YIELD,
    "SEND": _YIELD,
    "GET_AWAITABLE": _YIELD,
    "GET_YIELD_FROM_ITER": _YIELD,
    "IMPORT_NAME": _IMPORT,
    "IMPORT_FROM": _IMPORT,
    "STORE_GLOBAL": _OUTER,
    "DELETE_GLOBAL": _OUTER,
    "STORE_NAME": _CLASS,
    "LOAD_BUILD_CLASS": _CLASS,
    "STORE_SUBSCR": _STORE,
    "DELETE_SUBSCR": _STORE,
    "STORE_SLICE": _STORE,
    "STORE_ATTR": _STORE,
    "DELETE_ATTR": _STORE,
}


class Reading(NamedTuple):
    """What is known of a code object, and of those of the functions inside it."""

    names: tuple[str, ...]
    """The globals that it loads."""
    attributes: tuple[tuple[Name, str, int], ...]
    """What an attribute is read of, the attribute, and the line."""
    complaint: str
    """Why it cannot be compiled; "" where nothing is known against it."""
    loads: frozenset[str]
    """The parameters and local names whose values it uses."""


@lru_cache(maxsize=1024)
def read(code: types.CodeType) -> Reading:
    """Return what the instructions of a code object say."""
    names: dict[str, None] = {}
    attributes: list[tuple[Name, str, int]] = []
    complaint = ""
    loads = set(code.co_cellvars)
    last: Name = ("", "")
    previous: Any = None
    for step in dis.get_instructions(code):
        if step.opname == "EXTENDED_ARG":
            continue
        line = (step.positions and step.positions.lineno) or code.co_firstlineno
        here: Name = ("", "")
        if step.opname == "LOAD_GLOBAL":
            names[step.argval] = None
            here = ("global", step.argval)
        elif step.opname == "LOAD_DEREF":
            here = ("cell", step.argval)
        elif step.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            attributes.append((last, step.argval, line))
        elif "LOAD_FAST" in step.opname:
            both = isinstance(step.argval, tuple)  # two in one, from 3.13 on
            loads.update(step.argval if both else [step.argval])
        if not complaint:
            complaint = _complaint(step, previous, code, line)
        last, previous = here, step
    for inner in code.co_consts:
        # from 3.14 on, annotations are code that nobody runs
        if isinstance(inner, types.CodeType) and inner.co_name != "__annotate__":
            below = read(inner)
            names.update(dict.fromkeys(below.names))
            attributes += below.attributes
            complaint = complaint or below.complaint
    return Reading(tuple(names), tuple(attributes), complaint, frozenset(loads))


def _complaint(
    step: dis.Instruction, previous: Any, code: types.CodeType, line: int
) -> str:
    """Return why one instruction cannot be compiled, or ""."""
    found = _REFUSED.get(step.opname)
    if step.opname in ("STORE_DEREF", "DELETE_DEREF"):
        found = _OUTER if step.argval in code.co_freevars else None
    elif step.opname == "LOAD_COMMON_CONSTANT" and "AssertionError" in step.argrepr:
        found = _REFUSED["LOAD_ASSERTION_ERROR"]
    elif step.opname in ("RETURN_VALUE", "RETURN_CONST"):
        constant = step if step.opname == "RETURN_CONST" else previous
        if constant is not None and constant.opname.endswith("_CONST"):
            found = _constant(constant.argval)
    elif step.opname == "LOAD_CONST" and isinstance(step.argval, complex):
        found = ("contains a complex number", "scores are real")
    return f"{found[0]} (line {line}); {found[1]}" if found else ""


def _constant(value: object) -> tuple[str, str] | None:
    """Return what is wrong about returning that constant."""
    if value is None:
        return _NONE
    if isinstance(value, (str, bytes)):
        return ("returns text", "return a number")
    return None
