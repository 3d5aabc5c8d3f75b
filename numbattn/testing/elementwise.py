"""What a score_mod or a mask object gives, for the oracle: one element at a time.

Functions are called as Python functions, once for each score, on NumPy scalars of long
double: nothing here is shared with `numbattn.functions.evaluation`, which works on
whole blocks, nor with a compiler.
"""

from __future__ import annotations

import math
import types
from typing import Any

import numpy as np

from numbattn.masks import And, Leaf, Mask, Not, Or

__all__ = ["attended_by", "changed", "parts_of"]

Array = np.ndarray[Any, Any]
LONG = np.longdouble
_OF_DOUBLES = ("erf", "erfc", "gamma", "lgamma")
_NAMED = {
    "acos": "arccos", "acosh": "arccosh", "asin": "arcsin", "asinh": "arcsinh",
    "atan": "arctan", "atanh": "arctanh", "atan2": "arctan2", "pow": "power",
}  # fmt: skip
_INTS = {"floor": np.floor, "ceil": np.ceil, "trunc": np.trunc}


class _Math:
    """The module math, on long double, with an answer where math raises."""

    def __getattr__(self, name: str) -> Any:
        if name in _OF_DOUBLES:
            return lambda x: LONG(getattr(math, name)(float(x)))
        if name in _INTS:
            return lambda x: int(_INTS[name](x))
        if name == "log":
            return lambda x, base=None: (
                np.log(x) if base is None else np.log(x) / np.log(LONG(base))
            )
        return getattr(np, _NAMED.get(name, name))


_MATH = _Math()


def _wide(value: Any) -> Any:
    """Return what a function captures, where it is math's in long double."""
    if value is math:
        return _MATH
    if isinstance(value, types.FunctionType):
        return _wide_function(value)
    if getattr(value, "__module__", "") == "math" and callable(value):
        return getattr(_MATH, value.__name__)
    if type(value) is int:  # as an index is: it may be divided by 0
        return np.int64(value)
    return np.float64(value) if type(value) is float else value


def _wide_function(function: Any) -> Any:
    scope = dict(function.__globals__)
    for name in function.__code__.co_names:
        if name in scope:
            scope[name] = _wide(scope[name])
    cells = function.__closure__ or ()
    closure = tuple(types.CellType(_wide(cell.cell_contents)) for cell in cells)
    made = types.FunctionType(
        function.__code__, scope, function.__name__, function.__defaults__, closure
    )
    made.__kwdefaults__ = function.__kwdefaults__
    return made


def _argument(value: Any, acc: Any) -> Any:
    """Return an argument: an array's floats rounded to `acc`, numbers as they are."""
    if not isinstance(value, np.ndarray):
        return _wide(value)
    if value.dtype.kind == "b":
        return value.astype(object)  # of Python's bools, which are numbers
    if value.dtype.kind in "iu":
        return value.astype(np.int64)
    return value.astype(acc).astype(LONG)


def parts_of(score_mod: Any, args: Any, acc: Any) -> list[tuple[Any, list[Any]]]:
    """Return functions, innermost first, each with its arguments.

    Parameters
    ----------
    score_mod : function or ScoreMod
        As a call has it.
    args : tuple
        Its ``score_mod_args``.
    acc : dtype
        Of the accumulation.

    Returns
    -------
    list of (function, list)
        What `changed` takes.
    """
    given = [(score_mod, args)]
    if not isinstance(score_mod, types.FunctionType):
        given = [(part.function, part.args) for part in score_mod.parts]
    with np.errstate(over="ignore"):
        return [
            (_wide_function(f), [_argument(x, acc) for x in own]) for f, own in given
        ]


def changed(
    parts: list[tuple[Any, list[Any]]],
    s: Array,
    magnitude: Array,
    visible: Array,
    place: tuple[int, int, int],
    unit: Any,
) -> tuple[Array, Array]:
    """Return changed scores, and what this adds to their magnitudes.

    Parameters
    ----------
    parts : list
        From `parts_of`.
    s : ndarray
        (n, m) scores in long double.
    magnitude : ndarray
        What their rounding errors are in proportion to, beside the scores themselves.
    visible : ndarray
        Where there is a score to be changed; others stay.
    place : (int, int, int)
        b, h, and the position of row 0.
    unit : longdouble
        The unit roundoff of the accumulation dtype.

    Returns
    -------
    changed : ndarray
        The scores.
    added : ndarray
        By how much each part changes a score; and, as the function's own condition,
        by how much the result differs where the score is off by
        ``unit * (magnitude + |s|)``, in units.
    """
    b, h, offset = place
    out, added = s.copy(), np.zeros_like(s)
    for i, j in np.argwhere(visible):
        where = np.int64(b), np.int64(h), np.int64(i + offset), np.int64(j)
        x = s[i, j]
        off = unit * (magnitude[i, j] + abs(x))
        low, high, moved = x - off, x + off, LONG(0)
        for function, args in parts:
            new = LONG(function(x, *where, *args))
            low = LONG(function(low, *where, *args))
            high = LONG(function(high, *where, *args))
            x, moved = new, moved + abs(new - x)
        out[i, j] = x
        added[i, j] = moved + max(abs(high - x), abs(low - x)) / unit
    return out, np.where(np.isfinite(added), added, 0)


def attended_by(mask: Mask, n: int, m: int, place: tuple[int, int, int]) -> Array:
    """Return (n, m) bools of a mask object: combinations, and functions, from scratch.

    Parameters
    ----------
    mask : Mask
        As a call has it.
    n, m : int
        Rows and keys.
    place : (int, int, int)
        b, h, and the position of row 0.

    Returns
    -------
    ndarray
        True where the query attends the key.
    """
    if isinstance(mask, Not):
        return ~attended_by(mask.operand, n, m, place)
    if isinstance(mask, And):
        return attended_by(mask.left, n, m, place) & attended_by(
            mask.right, n, m, place
        )
    if isinstance(mask, Or):
        return attended_by(mask.left, n, m, place) | attended_by(
            mask.right, n, m, place
        )
    if not isinstance(mask, Leaf):
        raise TypeError(f"{mask!r} is no mask object")
    b, h, offset = place
    if mask.by_row:
        rows, keys = np.arange(n, dtype=np.int64), np.arange(m, dtype=np.int64)
        return mask.attended(b, h, rows, keys, offset)
    function, args = (
        _wide_function(mask.function),
        [_argument(x, LONG) for x in mask.args],
    )
    found = np.zeros((n, m), bool)
    with np.errstate(all="ignore"):
        for i, j in np.ndindex(n, m):
            where = np.int64(b), np.int64(h), np.int64(i + offset), np.int64(j)
            found[i, j] = bool(function(*where, *args))
    return found
