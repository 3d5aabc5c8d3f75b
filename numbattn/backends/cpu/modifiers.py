"""User functions and mask objects on the CPU: compiled once, called by address.

A kernel stays one kernel: where a problem has a score_mod or a mask object, it makes
one indirect call for each block of scores. What is called is a loop over the block
around the user's function, which is compiled into it, so that the loop becomes vectors.
There is one for each orientation: scores transposed (queries side by side, as in
`attention`) or in rows.

What has been compiled is kept by code, constants and types of arguments (`functions.
key_of`), not by function object: a lambda made anew for each call is compiled once.
Array arguments go by address and shape.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numba
import numpy as np
from numba import types
from numba.core import errors as numba_errors

from numbattn import functions
from numbattn.arrays import FLOAT32
from numbattn.functions import complaints, inferred
from numbattn.masks import And, Leaf, Mask, Not, Or

from . import launch, names
from .arguments import Argument, no_flag, put_score, reader, score_at, slots_of
from .division import Compiler
from .pointers import advance, peek, poke
from .reals import Real, as_number, as_score

COLUMNS, ROWS = "columns", "rows"  # queries, or keys, side by side

_compiled: dict[Hashable, Any] = {}
_NUMBERS = {bool: types.boolean, int: types.int64, float: types.float64}
_DUMMY = np.zeros(2)  # what stands at the address of an array without elements

_TILE = """
def tile(
    scores, outer, inner, pitch, b, h, q_idx, kv_idx, i, factor, arguments, status
):
    flag = no_flag()
{reads}
    for o in range(outer):
        line = advance(scores, o * pitch)
        for c in range(inner):
            x = score_at(line, c)
{places}
{value}
            put_score(line, c, x)
    if peek(flag, 0) != 0:
        poke(status, 0, 1)
"""
_PLACES = {
    COLUMNS: "q, k, row = q_idx + c, kv_idx + o, i + c",
    ROWS: "q, k, row = q_idx + o, kv_idx + c, i + o",
}


class Part(NamedTuple):
    """A function within a modifier, and what it is called with."""

    function: Any
    args: tuple[Any, ...]
    leading: tuple[str, ...]
    """What it gets before `args`: names within the loop."""
    checked: bool = True


class Modifier(NamedTuple):
    """What is done to scores: functions one after another, or a mask's expression."""

    parts: tuple[Part, ...]
    expression: str
    """Of a mask, with ``{0}`` for what part 0 gives; empty for a score_mod."""


def of_score_mod(score_mod: Any) -> Modifier:
    """The modifier of a ScoreMod."""
    leading = ("s", "b", "h", "q", "k")
    parts = [
        Part(part.function, part.args, leading, not part.unchecked)
        for part in score_mod.parts
    ]
    return Modifier(tuple(parts), "")


def of_mask(mask: Mask) -> Modifier:
    """The modifier of a mask object."""
    parts: list[Part] = []

    def write(node: Mask) -> str:
        if isinstance(node, Not):
            return f"(not {write(node.operand)})"
        if isinstance(node, (And, Or)):
            return f"({write(node.left)} {node.sign} {write(node.right)})"
        assert isinstance(node, Leaf)
        leading = ("b", "h", "q", "k", *(("row",) if node.by_row else ()))
        # the arrays of our own masks have been checked against the call
        parts.append(Part(node.function, node.args, leading, not node.by_row))
        return f"{{{len(parts) - 1}}}"

    expression = write(mask)
    return Modifier(tuple(parts), expression)


def _kind(argument: Any) -> Any:
    """What an argument is compiled as: Python's type, or a dtype and a rank."""
    if not isinstance(argument, np.ndarray):
        return type(argument)
    dtype = argument.dtype
    if dtype.itemsize == 2 and dtype.kind not in "iu":
        dtype = FLOAT32  # half precision is read from a copy
    return dtype if dtype.isnative else dtype.newbyteorder("="), argument.ndim


def _typed(kind: Any, score: Real, checked: bool) -> Any:
    """The type of an argument, as the function sees it."""
    if isinstance(kind, type):
        return _NUMBERS[kind]
    dtype, ndim = kind
    return Argument(dtype, ndim, score, checked)


def packed(parts: Sequence[Part]) -> tuple[np.ndarray, list[Any]]:
    """The arguments of all parts as int64 slots, and what has to be kept meanwhile."""
    slots: list[int] = []
    kept: list[Any] = []
    for argument in (x for part in parts for x in part.args):
        if isinstance(argument, float):
            slots.append(int(np.float64(argument).view(np.int64)))
        elif isinstance(argument, (bool, int)):
            slots.append(int(argument))
        else:
            dtype, _ = _kind(argument)
            array = np.ascontiguousarray(argument, dtype)
            if not array.flags.aligned:
                array = array.copy()
            kept.append(array)
            place = array if array.size else _DUMMY
            slots += [place.__array_interface__["data"][0], *array.shape]
    return np.array(slots or [0], np.int64), kept


def tile(modifier: Modifier, orientation: str, dtype: str) -> int:
    """The address of the loop over a block of scores; compiled where it is new."""
    key = (
        orientation,
        dtype,
        modifier.expression,
        tuple(
            [
                (
                    functions.key_of(part.function),
                    part.leading,
                    part.checked,
                    tuple(map(_kind, part.args)),
                )
                for part in modifier.parts
            ]
        ),
    )
    found = _compiled.get(key)
    if found is None:
        with launch.compiling():
            found = _compiled.get(key)
            if found is None:
                found = _compiled[key] = _compile(modifier, orientation, dtype)
    return int(found[0])


def _inlined(function: Any) -> Any:
    """A function for other compiled functions, which LLVM puts into its caller."""
    return numba.njit(
        error_model="numpy",
        no_cpython_wrapper=True,
        no_cfunc_wrapper=True,
        forceinline=True,
        nogil=True,
        pipeline_class=Compiler,
    )(function)


def _part(part: Part, kinds: tuple[Any, ...], dtype: str, is_mask: bool) -> Any:
    """A user's function, compiled by itself: what is wrong is known to be its."""
    first = tuple(Real(dtype) if x == "s" else types.int64 for x in part.leading)
    signature = (*first, *kinds)
    known = ("part", functions.key_of(part.function), signature)
    if known in _compiled:
        return _compiled[known]
    bound = functions.rebound(
        part.function, names.modules(), names.functions(), _inlined
    )
    made = _inlined(bound)
    words = complaints.name_of(part.function, is_mask)
    try:
        made.compile(signature)
    except numba_errors.NumbaError as error:
        raise complaints.refused(words, error) from None
    except Exception as error:
        raise complaints.unknown(words, error) from error
    (overload,) = made.overloads.values()
    result = types.unliteral(overload.signature.return_type)
    inferred.check_powers(words, overload.type_annotation)
    _check_result(words, result, is_mask)
    _compiled[known] = made
    return made


def _check_result(words: str, result: Any, is_mask: bool) -> None:
    fits = types.Boolean if is_mask else (Real, types.Integer, types.Float)
    if not isinstance(result, fits):
        raise complaints.wrong_result(words, inferred.in_words(result), is_mask)


def _compile(modifier: Modifier, orientation: str, dtype: str) -> tuple[int, Any]:
    """The address of a tile function, and what has to be kept for it."""
    is_mask = bool(modifier.expression)
    number = getattr(types, dtype)
    scalar = np.dtype(dtype).type
    scope: dict[str, Any] = {
        "no_flag": no_flag, "advance": advance, "peek": peek, "poke": poke,
        "score_at": score_at, "put_score": put_score, "as_score": as_score,
        "as_number": as_number, "minus_infinity": scalar(-np.inf),
        "lowest": np.finfo(dtype).min, "__name__": __name__,
    }  # fmt: skip
    reads, calls, at = ["    pass"], [], 0
    # a mask's floats are float64 whatever the call's dtype, as `materialize` has them
    inside = "float64" if is_mask else dtype
    score = Real(inside)
    for number_of, part in enumerate(modifier.parts):
        kinds = tuple(_typed(_kind(x), score, part.checked) for x in part.args)
        scope[f"f{number_of}"] = _part(part, kinds, inside, is_mask)
        passed = list(part.leading)
        for place, kind in enumerate(kinds):
            name = f"a{number_of}_{place}"
            scope[f"read_{name}"] = reader(kind)
            reads.append(f"    {name} = read_{name}(arguments, {at}, flag)")
            passed.append(name)
            at += slots_of(kind)
        calls.append(f"f{number_of}({', '.join(passed)})")
    if is_mask:
        steps = [f"x = x if {modifier.expression.format(*calls)} else minus_infinity"]
    else:
        steps = [f"s = as_score(as_number({call}, x))" for call in calls]
        steps = ["s = as_score(x)", *steps, "y = as_number(s, x)", "x = y * factor"]
        # a finite score stays finite in units of log2
        steps.append("x = lowest if x < lowest and y > minus_infinity else x")
    source = _TILE.format(
        reads="\n".join(reads),
        value="\n".join(f"            {step}" for step in steps),
        places=f"            {_PLACES[orientation]}",
    )
    exec(compile(source, "<numbattn tile>", "exec"), scope)
    integer, slots = types.int64, types.CPointer(types.int64)
    places = types.CPointer(number), *(integer,) * 8, number, slots, slots
    made = numba.njit(
        error_model="numpy", nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True
    )(scope["tile"])
    made.compile(types.void(*places))
    (overload,) = made.overloads.values()
    address_of = overload.library.get_pointer_to_function
    return int(address_of(overload.fndesc.llvm_func_name)), made
