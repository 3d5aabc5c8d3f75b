"""Functions that users hand in: what may be compiled, told apart, and bound anew.

A score_mod is ``f(score, b, h, q_idx, kv_idx, *args)``, a function for a mask is
``f(b, h, q_idx, kv_idx, *args)``. Everything is read from code objects, never from
source text, so that functions typed at a prompt or made by ``exec`` are as good.
"""

from __future__ import annotations

import functools
import math
import numbers
import os
import types
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy as np

from ..arrays import DeviceArrayError, as_array, float_name, has, on_device
from ..arrays import describe as describe_array
from ..errors import OptionError, shown
from .bytecode import NOT_PLAIN, read
from .captures import (
    INT64,
    KNOWN,
    MISSING,
    NUMBERS,
    captured,
    functions_in,
    wrong_attribute,
    wrong_value,
)

SCORE_MOD = ("score", "b", "h", "q_idx", "kv_idx")
"""The leading parameters of a score_mod."""
MASK = SCORE_MOD[1:]
"""The leading parameters of a function for a mask."""


def describe(function: types.FunctionType) -> str:
    """Return "'alibi' (line 12 of bias.py)"."""
    code = function.__code__
    file = " ".join(os.path.basename(code.co_filename).split()) or "<unknown>"
    return f"{shown(function.__name__)} (line {code.co_firstlineno} of {file})"


def check_function(
    function: object, argument: str, leading: tuple[str, ...], count: int
) -> None:
    """Refuse what is no function of scalars that can be compiled and kept.

    Parameters
    ----------
    function : object
        What the user passed.
    argument : str
        Its name in messages: "score_mod".
    leading : tuple of str
        The parameters that every such function has: `SCORE_MOD` or `MASK`.
    count : int
        How many args follow them.

    Raises
    ------
    OptionError
        With the function's name and line, and what to change.
    """
    if type(function) is not types.FunctionType or id(function) in KNOWN:
        raise OptionError(f"{argument} is {_no_function(function, leading)}")
    _check_parameters(function, argument, leading, count)
    args = "score_mod_args" if leading[0] == "score" else "args="
    _check_code(
        function, f"{argument} {describe(function)}", args, len(leading) + count
    )


def _no_function(value: object, leading: tuple[str, ...]) -> str:
    """Return what a value is that is no plain function, and what to do."""
    call = f"lambda {', '.join(leading)}: ..."
    if callable(value):
        if has(value, "py_func"):
            return "compiled by Numba already; pass the Python function, f.py_func"
        if isinstance(value, functools.partial):
            return (
                "a functools.partial; pass a plain function, with the values as "
                f"defaults or by args: {call}"
            )
        if isinstance(value, types.MethodType):
            return (
                f"the method {shown(value.__name__)}, bound to an object; pass a plain "
                f"function of numbers: {call}"
            )
        name = getattr(value, "__name__", None)
        kind = "class" if isinstance(value, type) else type(value).__name__
        which = f" {shown(name)}" if isinstance(name, str) else ""
        return f"the {kind}{which}; it has to be a plain Python function: {call}"
    return (
        f"{shown(value)}; it has to be a plain Python function "
        f"f({', '.join(leading)}, *args)"
    )


def _check_parameters(
    function: types.FunctionType, argument: str, leading: tuple[str, ...], count: int
) -> None:
    """Refuse a function that cannot be called with that many arguments."""
    code, given = function.__code__, len(leading) + count
    who = f"{argument} {describe(function)}"
    what = next((word for flag, word in NOT_PLAIN.items() if code.co_flags & flag), "")
    if what:
        raise OptionError(f"{who} is {what}; it has to return one number")
    if code.co_flags & 8:  # CO_VARKEYWORDS
        raise OptionError(f"{who} takes **keywords; name its parameters one by one")
    keywords = code.co_varnames[code.co_argcount :][: code.co_kwonlyargcount]
    lacking = [k for k in keywords if k not in (function.__kwdefaults__ or {})]
    if lacking:
        raise OptionError(
            f"{who} needs the keyword {lacking[0]!r}, which nobody passes; give it a "
            "default, or make it a plain parameter"
        )
    most, least = code.co_argcount, code.co_argcount - len(function.__defaults__ or ())
    if least <= given and (given <= most or code.co_flags & 4):  # CO_VARARGS
        return
    more = f", and {count} more of args" if count else ""
    takes = str(most) if least == most else f"{least} to {most}"
    other = MASK if leading == SCORE_MOD else SCORE_MOD
    hint = ""
    if code.co_varnames[: len(other)] == other:
        hint = (
            "; a mask goes by mask=masks.from_function(f)"
            if other is MASK
            else "; a function of scores goes by score_mod="
        )
    raise OptionError(
        f"{who} takes {takes} arguments; it is called with {given}: "
        f"{', '.join(leading)}{more}{hint}"
    )


def _check_code(
    function: types.FunctionType,
    who: str,
    args: str,
    given: int,
    above: tuple[types.FunctionType, ...] = (),
) -> None:
    """Refuse what cannot be compiled in a function or in what it captures.

    `given` is how many parameters get a value, so that their defaults do not matter;
    `above` is the functions that called this one.
    """
    code = function.__code__
    if function in above:
        raise OptionError(f"{who} calls itself; write it as a loop")
    reading = read(code)
    if reading.complaint:
        raise OptionError(f"{who} {reading.complaint}")
    found = dict(captured(function))
    for name, attribute, line in reading.attributes:
        wrong = wrong_attribute(found.get(name), attribute)
        if wrong:
            raise OptionError(f"{who} {wrong} (line {line})")
    own = code.co_argcount - len(function.__defaults__ or ())
    for (kind, label), value in found.items():
        if kind == "default" and label in code.co_varnames[own:given]:
            continue
        wrong = wrong_value(value, label, kind, args)
        if wrong:
            raise OptionError(f"{who} {wrong}")
        for each in functions_in(value):
            inner = f"{who} calls {describe(each)}, which"
            _check_code(each, inner, args, 0, (*above, function))


def key_of(function: types.FunctionType) -> Hashable:
    """Return what is equal for functions that compile alike.

    That is the code with everything captured, by type and value. Neither the function
    nor an array is kept alive by it. Cells and globals are looked at in every call.
    """
    return _key(function, ())


def _key(
    function: types.FunctionType, above: tuple[types.FunctionType, ...]
) -> Hashable:
    code = function.__code__
    if function in above:  # refused by check_function; here it only has to end
        return code
    above = (*above, function)
    return code, *[_value_key(value, above) for _, value in captured(function)]


def _value_key(value: Any, above: tuple[types.FunctionType, ...]) -> Hashable:
    kind = type(value)
    if kind is int or kind is bool:
        return kind, value
    if kind is float:
        return kind, value.hex()  # tells 0.0 from -0.0, and nan is equal to itself
    if value is math or value is np or id(value) in KNOWN:
        return id(value)
    if kind is types.FunctionType:
        return _key(value, above)
    if kind is tuple:
        return kind, *[_value_key(each, above) for each in value]
    if kind in NUMBERS:
        return kind, value.tobytes()
    if kind is types.BuiltinFunctionType or kind is type:
        return id(value)
    return id(kind)  # refused by check_function, or a default that nobody uses


def rebound(
    function: types.FunctionType,
    modules: Mapping[types.ModuleType, Any],
    functions: Mapping[Any, Any],
    wrap: Callable[[types.FunctionType], Any],
    number: Callable[[Any], Any] = lambda value: value,
) -> types.FunctionType:
    """Return a copy of a checked function with other things in place of what it uses.

    Parameters
    ----------
    function : function
        Checked by `check_function`; its code object is shared with the copy.
    modules : mapping
        What stands in for math and numpy.
    functions : mapping
        What stands in for functions taken from these, and for built-ins.
    wrap : callable
        Turns the copy of each captured plain function into what stands in for it.
    number : callable
        Turns each captured number into what stands in for it.

    Returns
    -------
    function
        With globals of its own that hold only what the code loads.
    """
    done: dict[int, Any] = {}

    def changed(value: Any) -> Any:
        if isinstance(value, types.ModuleType):
            return modules.get(value, value)
        if type(value) is tuple:
            return tuple(map(changed, value))
        if type(value) in NUMBERS:
            return number(value)
        if id(value) in KNOWN or isinstance(value, (types.BuiltinFunctionType, type)):
            return functions.get(value, value)
        if type(value) is types.FunctionType:
            if id(value) not in done:
                done[id(value)] = wrap(copied(value))
            return done[id(value)]
        return value

    def copied(old: types.FunctionType) -> types.FunctionType:
        found = {name: changed(value) for name, value in captured(old)}
        around = {
            "__builtins__": getattr(old, "__builtins__"),  # noqa: B009 - not in stubs
            "__name__": old.__globals__.get("__name__", __name__),
        }
        cells, defaults = [], []
        for (kind, name), value in found.items():
            if kind == "cell":
                full = value is not MISSING
                cells.append(types.CellType(value) if full else types.CellType())
            elif kind == "default":
                defaults.append((name, value))
            elif value is not MISSING:
                around[name] = value
        count = len(old.__defaults__ or ())
        positional = tuple(value for _, value in defaults[:count])
        new = types.FunctionType(
            old.__code__, around, old.__name__, positional, tuple(cells)
        )
        new.__kwdefaults__ = dict(defaults[count:]) or None
        new.__qualname__ = old.__qualname__
        return new

    return copied(function)


def unused(function: types.FunctionType, position: int) -> bool:
    """Whether the value of a positional parameter is never loaded by the code."""
    code = function.__code__
    if position >= code.co_argcount:  # then it is in *rest
        position = code.co_argcount + code.co_kwonlyargcount
        if not code.co_flags & 4 or position >= len(code.co_varnames):  # CO_VARARGS
            return False
    return code.co_varnames[position] not in read(code).loads


def check_args(args: object, argument: str) -> tuple[Any, ...]:
    """Return the args of a function: Python numbers, and arrays as they are.

    Raises
    ------
    OptionError
        No tuple or list, or something in it that is neither a number nor an array.
    DTypeError
        An array that cannot be computed with.
    """
    if not isinstance(args, (tuple, list)):
        one = "; for a single array pass (array,)" if has(args, "dtype") else ""
        what = describe_array(args) if isinstance(args, np.ndarray) else shown(args)
        raise OptionError(
            f"{argument} is {what}; it has to be a tuple of numbers and arrays{one}"
        )
    return tuple(_arg(each, f"{argument}[{i}]") for i, each in enumerate(args))


def _arg(value: Any, name: str) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        array = as_array(value, name)
        float_name(array.dtype, name)
        value = array if array.ndim else _plain(array)
    elif on_device(value):
        raise DeviceArrayError(name)
    if type(value) is np.ndarray and value.dtype.kind == "u" and value.itemsize == 8:
        most = int(value.max(initial=0))
        if most not in INT64:
            raise OptionError(
                f"{name} has the element {most}; ints are of 64 bits with a sign, up "
                "to 2**63 - 1: pass smaller ones, or floats"
            )
    if type(value) is np.ndarray or type(value) in (bool, float):
        return value
    if type(value) is int:
        if value not in INT64:
            raise OptionError(f"{name} is {shown(value)}; it has to fit into 64 bits")
        return value
    hint = "nothing else can be passed"
    if isinstance(value, numbers.Real):
        hint = f"pass {'int' if isinstance(value, numbers.Integral) else 'float'}(x)"
    elif isinstance(value, (list, tuple)) or has(value, "__array__"):
        hint = "pass numpy.asarray(x)"
    raise OptionError(
        f"{name} is {shown(value)}; it has to be an int, a float, a bool or an array: "
        f"{hint}"
    )


def _plain(array: np.ndarray[Any, Any]) -> int | float | bool:
    """Return the one element of an array without axes as Python's number."""
    if array.dtype.kind in "biu":
        number: int | bool = array.item()
        return number
    return float(array)
