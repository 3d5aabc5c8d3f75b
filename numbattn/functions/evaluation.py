"""Functions that users hand in, evaluated in NumPy: what the compiled ones mean.

On whole blocks: a function gets `Number`, arrays that pass for one number. Where a
branch differs between places it is called again for those of each side.
"""

from __future__ import annotations

import types
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import OptionError, shown
from . import describe, rebound
from .places import (
    FUNCTIONS,
    MODULES,
    PLAIN,
    ArgumentArray,
    Number,
    Split,
    bare,
    number,
)


def apply_score_mod(
    function: types.FunctionType,
    score: NDArray[Any],
    b: int,
    h: int,
    q_idx: NDArray[np.int64],
    kv_idx: NDArray[np.int64],
    args: tuple[Any, ...],
) -> NDArray[Any]:
    """Return the score that a function makes of each score.

    Parameters
    ----------
    function : function
        Checked by `check_function`.
    score : ndarray
        float64 or longdouble, shape (rows, keys); not written.
    b, h : int
        The flat index over the leading axes, and the query head.
    q_idx, kv_idx : ndarray
        int64, shapes (rows,) and (keys,).
    args : tuple
        As `check_args` returned them.

    Returns
    -------
    ndarray
        Shape and dtype of `score`.

    Raises
    ------
    OptionError
        What the function returned, or raised.
    """
    who = f"score_mod {describe(function)}"
    return _applied(function, who, score, b, h, q_idx, kv_idx, args)


def apply_mask(
    function: types.FunctionType,
    b: int,
    h: int,
    q_idx: NDArray[np.int64],
    kv_idx: NDArray[np.int64],
    args: tuple[Any, ...],
) -> NDArray[np.bool_]:
    """Return where a mask's function is true; as `apply_score_mod`, without scores."""
    who = f"f of masks.from_function, {describe(function)},"
    return _applied(function, who, None, b, h, q_idx, kv_idx, args)


def _applied(
    function: types.FunctionType,
    who: str,
    score: NDArray[Any] | None,
    b: int,
    h: int,
    q_idx: NDArray[np.int64],
    kv_idx: NDArray[np.int64],
    args: tuple[Any, ...],
) -> NDArray[Any]:
    """Evaluate on the whole block; in parts where branches differ."""
    call = rebound(function, MODULES, FUNCTIONS, lambda inner: inner, number)
    rest = [ArgumentArray(a) if isinstance(a, np.ndarray) else number(a) for a in args]
    shape = len(q_idx), len(kv_idx)
    out = np.empty(shape, bool if score is None else score.dtype)

    def result(rows: Any, columns: Any) -> Any:
        """Return the result at some places, which index as in `out[rows, columns]`."""
        first = () if score is None else (Number(score[rows, columns]),)
        place = np.int64(b), np.int64(h), q_idx[rows], kv_idx[columns]
        try:
            found = call(*first, *map(Number, place), *rest)
        except Split:
            raise
        except Exception as error:
            raise OptionError(f"{who} {_raised(error, place)}") from error
        wrong = _wrong_result(found, score is None)
        if wrong:
            raise OptionError(f"{who} {wrong}")
        return bare(found)

    rows, columns = np.arange(shape[0])[:, None], np.arange(shape[1])[None]
    parts = [(rows, columns)] if out.size else []
    with np.errstate(all="ignore"):
        while parts:
            rows, columns = parts.pop()
            try:
                out[rows, columns] = result(rows, columns)
            except Split as split:
                rows, columns = np.broadcast_arrays(rows, columns)
                where = np.broadcast_to(split.where, rows.shape)
                parts += [(rows[each], columns[each]) for each in (~where, where)]
            except OptionError:  # said again by the first place that it is true of
                for i, j in np.broadcast(rows, columns):
                    out[i, j] = result(i, j)
    return out


def _raised(error: Exception, place: tuple[Any, ...]) -> str:
    """Return what an exception of the function says, and where."""
    said = " ".join(str(error).split())[:200]
    what = f"raised {type(error).__name__}: {said}"
    if isinstance(error, IndexError) and "out of bounds" in said:
        what = f"reads outside an argument array ({said})"
    names = ("b", "h", "q_idx", "kv_idx")
    where = ", ".join(f"{n} = {value}" for n, value in zip(names, place, strict=True))
    return (
        f"{what}, at {where}; it has to return a number for every place, masked ones "
        "too, and to read argument arrays one element at a time"
    )


def _wrong_result(found: Any, is_mask: bool) -> str:
    """Return what is wrong about a result; "" where nothing is."""
    if isinstance(found, ArgumentArray):
        return f"returns an array of shape {found.shape}; it has to return one number"
    fits = isinstance(found, (Number, *PLAIN))
    kind = np.asarray(bare(found)).dtype.kind if fits else "O"
    if kind == "b":
        return (
            ""
            if is_mask
            else "returns a bool; a mask goes by mask=masks.from_function(f)"
        )
    if kind in "iuf" and not is_mask:
        return ""
    wanted = "True or False: x != 0" if is_mask else "one real number"
    shape = getattr(found, "shape", ())
    what = f"an array of shape {shape}" if shape else shown(bare(found))
    return f"returns {what}; it has to return {wanted}"
