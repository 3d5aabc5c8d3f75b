"""Masks by rule instead of by array: causal, windows, prefixes, documents, yours.

Each function returns a `Mask`: pass it as ``mask=``, combine it with ``&``, ``|`` and
``~``, look at it with its `materialize`, `sparsity` and `plot`. A mask knows of every
block of scores whether it is empty, full or partial, so that nothing is computed for
empty ones and nothing masked in full ones, and no array of the scores' size is made.

``q_idx`` is a query's position, its row i plus ``q_offset``; j is a key.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ..arrays import DeviceArrayError, describe, once
from ..errors import DTypeError, OptionError, ShapeError
from ..functions import MASK, check_args, check_function
from ..options import UNBOUNDED, integer, positive
from .by_function import NAME, FromFunction
from .inputs import (
    count_of,
    elsewhere,
    int_array,
    locked,
    on_host,
    whole,
    window_side,
)
from .leaves import (
    Causal,
    Dilated,
    Document,
    FromArray,
    Prefix,
    Window,
)
from .nodes import And, Leaf, Mask, Not, Or

if TYPE_CHECKING:
    from types import FunctionType

    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "And",
    "Leaf",
    "Mask",
    "Not",
    "Or",
    "causal",
    "dilated",
    "document",
    "from_array",
    "from_function",
    "prefix",
    "sliding_window",
]


def causal(offset: int = 0) -> Mask:
    """Attend keys up to the query's position: ``j <= q_idx + offset``.

    Parameters
    ----------
    offset : int, default 0
        How many keys more are attended; negative for fewer.

    Returns
    -------
    Mask
        The mask.

    Raises
    ------
    OptionError
        An offset that is no int.

    Examples
    --------
    >>> from numbattn import masks
    >>> masks.causal().materialize(3, 3).astype(int)
    array([[1, 0, 0],
           [1, 1, 0],
           [1, 1, 1]])
    """
    return Causal(whole(offset, "offset of masks.causal"))


def sliding_window(left: int | None, right: int | None) -> Mask:
    """Attend keys around the query: ``q_idx - left <= j <= q_idx + right``.

    Parameters
    ----------
    left : int or None
        How many keys before the query's position; None or -1 for all.
    right : int or None
        How many keys behind it; None or -1 for all.

    Returns
    -------
    Mask
        The mask.

    Raises
    ------
    OptionError
        A side that is neither None, nor an int of -1 or more.

    Examples
    --------
    The first key is attended by all, as a sink:

    >>> from numbattn import masks
    >>> mask = masks.sliding_window(1, 0) | masks.prefix(1) & masks.causal()
    >>> mask.materialize(4, 4).astype(int)
    array([[1, 0, 0, 0],
           [1, 1, 0, 0],
           [1, 1, 1, 0],
           [1, 0, 1, 1]])
    """
    return Window(window_side(left, "left"), window_side(right, "right"))


def prefix(lengths: int | ArrayLike) -> Mask:
    """Attend the first keys: ``j < length``.

    Parameters
    ----------
    lengths : int or array_like of int
        The length: one for all, one for each batch entry (B,), or (B or 1, H or 1)
        for heads too. One beyond the last key attends all keys.

    Returns
    -------
    Mask
        The mask.

    Raises
    ------
    OptionError
        A length below 0, or one that is no int.
    DTypeError, ShapeError
        An array that is not of ints, or that has more axes.

    Examples
    --------
    A prefix language model: all attend the prompt, and what follows is causal.

    >>> from numbattn import masks
    >>> (masks.causal() | masks.prefix(2)).materialize(3, 3).astype(int)
    array([[1, 1, 0],
           [1, 1, 0],
           [1, 1, 1]])
    """
    name = "lengths of masks.prefix"
    number = integer(lengths)
    if number is not None or lengths is None or isinstance(lengths, (bool, float)):
        return Prefix(min(count_of(lengths, name), UNBOUNDED), ())
    array = int_array(lengths, name)
    if array.ndim not in (1, 2):
        raise ShapeError(
            f"{name} has shape {array.shape}; it has to be an int, (B,), or (B or 1, "
            "H or 1)"
        )
    if array.size and array.min() < 0:
        raise OptionError(
            f"{name} has the value {array.min()}; lengths have to be 0 or more"
        )
    given = array.shape
    return Prefix(locked(array.reshape(given if array.ndim == 2 else (-1, 1))), given)


def document(q_ids: ArrayLike, kv_ids: ArrayLike) -> Mask:
    """Attend keys of the same document: ``q_ids[i] == kv_ids[j]``.

    Parameters
    ----------
    q_ids : array_like of int
        The document of each query row (not position: ``q_offset`` does not move it):
        shape (n,), (B, n) or (B or 1, H or 1, n). Any ints, in any order; sorted ones
        are looked up faster.
    kv_ids : array_like of int
        The document of each key: shape (m,), (B, m) or (B or 1, H or 1, m).

    Returns
    -------
    Mask
        The mask.

    Raises
    ------
    DTypeError, ShapeError
        Arrays that are not of ints, or that have other axes.
    OptionError
        Ids beyond the range of int64.

    Examples
    --------
    >>> from numbattn import masks
    >>> ids = [0, 0, 1, 1]
    >>> (masks.document(ids, ids) & masks.causal()).materialize(4, 4).astype(int)
    array([[1, 0, 0, 0],
           [1, 1, 0, 0],
           [0, 0, 1, 0],
           [0, 0, 1, 1]])
    """
    arrays = []
    for value, name, axis in ((q_ids, "q_ids", "n"), (kv_ids, "kv_ids", "m")):
        array = int_array(value, f"{name} of masks.document")
        if not 1 <= array.ndim <= 3:
            raise ShapeError(
                f"{name} of masks.document has shape {array.shape}; it has to be "
                f"({axis},), (B, {axis}) or (B or 1, H or 1, {axis})"
            )
        arrays.append(array)
    given = [array.shape for array in arrays]
    q, kv = (locked(_by_lead(array)) for array in arrays)
    for name, one, other in zip("BH", q.shape, kv.shape, strict=False):
        if one != other and 1 not in (one, other):
            raise ShapeError(
                f"q_ids and kv_ids of masks.document have shapes {given[0]} and "
                f"{given[1]}; their {name} has to be 1 or equal"
            )
    return Document(q, kv, *given)


def _by_lead(array: NDArray[Any]) -> NDArray[Any]:
    """Return ids with axes for batch entries and heads."""
    if array.ndim == 3:
        return array
    return array[:, None] if array.ndim == 2 else array[None, None]


def dilated(step: int) -> Mask:
    """Attend every so-and-so-manieth key: ``(q_idx - j) % step == 0``.

    Parameters
    ----------
    step : int
        The distance of two attended keys, 1 or more.

    Returns
    -------
    Mask
        The mask.

    Raises
    ------
    OptionError
        A step that is no int of 1 or more.

    Examples
    --------
    >>> from numbattn import masks
    >>> (masks.dilated(2) & masks.causal()).materialize(4, 4).astype(int)
    array([[1, 0, 0, 0],
           [0, 1, 0, 0],
           [1, 0, 1, 0],
           [0, 1, 0, 1]])
    """
    size = positive(step, "step of masks.dilated", "the distance of attended keys")
    return Dilated(min(size, UNBOUNDED))


def from_array(a: ArrayLike) -> Mask:
    """Attend what an array says, by row and key: to combine it with other masks.

    Parameters
    ----------
    a : array_like of bool
        True = attend; it broadcasts to (batch, heads, n, m) as an array in ``mask=``
        does. Axes before the heads are one axis here: reshape.

    Returns
    -------
    Mask
        The mask; it owns a copy of the array.

    Raises
    ------
    DTypeError, ShapeError
        An array that is not of bools, or that has more than four axes.

    Examples
    --------
    A tree: each token attends itself and those above it.

    >>> import numpy as np
    >>> from numbattn import masks
    >>> parents = [-1, 0, 0, 1]
    >>> seen = np.eye(4, dtype=bool)
    >>> for token, parent in enumerate(parents[1:], 1):
    ...     seen[token] |= seen[parent]
    >>> (masks.from_array(seen) & masks.causal()).materialize(4, 4).astype(int)
    array([[1, 0, 0, 0],
           [1, 1, 0, 0],
           [1, 0, 1, 0],
           [1, 1, 0, 1]])
    """
    name = "the array of masks.from_array"
    array = on_host(a, name)
    if array.dtype.kind != "b":
        hint = (
            "what is added to the scores goes by bias="
            if array.dtype.kind == "f" or array.dtype.name == "bfloat16"
            else "pass a.astype(bool)"
        )
        raise DTypeError(
            f"{name} is {describe(array)}; it has to be of dtype bool, True = attend: "
            f"{hint}"
        )
    if array.ndim > 4:
        raise ShapeError(
            f"{name} has shape {array.shape}; it has to broadcast to (batch, heads, n, "
            "m): make the axes before the heads one, by reshape"
        )
    given = array.shape
    # what repeats by a stride of 0 is kept once; `given` is what it has to fit
    copy = np.array(once(array), np.bool_, order="C")
    copy = copy.reshape((1,) * (4 - array.ndim) + copy.shape)
    return FromArray(locked(copy), given)


def from_function(f: Callable[..., Any], args: Sequence[Any] = ()) -> Mask:
    """Attend keys for which a plain Python function is true.

    Parameters
    ----------
    f : callable
        ``f(b, h, q_idx, kv_idx, *args) -> bool``: an undecorated function or lambda of
        numbers, compiled into the kernels. It may capture numbers, the modules `math`
        and `numpy`, and other plain functions. It is called in any order, for other
        places than those in question too, so it must be pure.
    args : sequence, default ()
        Numbers and arrays for the function; arrays are copied now.

    Returns
    -------
    Mask
        The mask; it pickles where the function does.

    Raises
    ------
    OptionError, DTypeError
        A function that cannot be compiled, with what to change; args that are neither
        numbers nor arrays of numbers.

    Examples
    --------
    A neighbourhood in an image of 3 × 3 points, seen as a row:

    >>> from numbattn import masks
    >>> def near(b, h, q_idx, kv_idx, width):
    ...     down = abs(q_idx // width - kv_idx // width)
    ...     return down + abs(q_idx % width - kv_idx % width) <= 1
    >>> masks.from_function(near, (3,)).materialize(2, 9).astype(int)
    array([[1, 1, 0, 1, 0, 0, 0, 0, 0],
           [1, 1, 1, 0, 1, 0, 0, 0, 0]])
    """
    try:
        given = check_args(args, "args of masks.from_function")
    except DeviceArrayError as error:
        raise elsewhere(error.args[0]) from None
    check_function(f, NAME, MASK, len(given))
    copies = tuple(
        np.array(each, each.dtype.newbyteorder("="), order="C")
        if isinstance(each, np.ndarray)
        else each
        for each in given
    )
    return FromFunction(cast("FunctionType", f), locked(copies))
