"""The oracle: scores, weights and attention in long double, read from the rules.

Nothing here is shared with :mod:`numbattn.problem` or with a backend, so that a
misreading there cannot hide; of a mask object it asks what rows and keys it attends.
It is written for reading: one leading index at a time, the visible keys of each row
as one explicit range, no blocks, no tricks.
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import Any

import numpy as np

from numbattn.masks import Mask
from numbattn.testing.elementwise import attended_by, changed, parts_of

__all__ = ["Exact", "accumulation_dtype", "exact", "result_dtype"]

Array = np.ndarray[Any, Any]
LONG = np.longdouble
_DEFAULT: Any = object()
_CHUNK = 256


@dataclass(frozen=True)
class Exact:
    """What a call should give, and the sums that its error bounds are made of.

    Parameters
    ----------
    operation : {"scores", "weights", "attention"}
        What is called.
    dtype : numpy.dtype
        Of the result.
    acc_dtype : numpy.dtype
        Of the accumulation; the lse has it too.
    scores : (..., n, m) longdouble
        ``-inf`` where masked.
    attended : (..., n, m) bool
        Whether the key takes part: not masked and a score above ``-inf``.
    magnitude : (..., n, m) longdouble
        ``|scale| * sum_c |q_ic k_jc| + |bias_ij|``; by a score_mod also the change
        of the score, and how far the result moves where the score is off by its
        rounding errors, in units of them.
    row_magnitude : (..., n) longdouble
        The largest `magnitude` over attended keys, 0 in an empty row; the sink, where
        that is larger (S_i).
    weights : (..., n, m) longdouble
        Softmax over attended keys and the sink, 0 elsewhere.
    lse : (..., n) longdouble
        Natural logarithm of the sum of exponentials, of the sink's, too; in an empty
        row the sink, ``-inf`` without one.
    output : (..., n, d_v) longdouble or None
        Weights times value; None unless attention.
    output_magnitude : (..., n, d_v) longdouble or None
        ``sum_j weights_ij |v_jc|``.
    value_max : (..., 1, d_v) longdouble or None
        The largest ``|v_jc|`` over keys that some row attends.

    Examples
    --------
    >>> import numpy as np
    >>> from numbattn.testing import exact
    >>> found = exact("weights", np.ones((1, 4)), np.ones((2, 4)))
    >>> found.weights.astype(float), found.output
    (array([[0.5, 0.5]]), None)
    """

    operation: str
    dtype: np.dtype[Any]
    acc_dtype: np.dtype[Any]
    scores: Array
    attended: Array
    magnitude: Array
    row_magnitude: Array
    weights: Array
    lse: Array
    output: Array | None = None
    output_magnitude: Array | None = None
    value_max: Array | None = None


def result_dtype(*arrays: Array) -> np.dtype[Any]:
    """Return the dtype of the result for these query, key and value arrays."""
    names = {a.dtype.name if a.dtype.kind not in "biu" else "float64" for a in arrays}
    if "float64" in names:
        return np.dtype(np.float64)
    if "float32" in names or len(names) > 1:
        return np.dtype(np.float32)
    native: np.dtype[Any] = arrays[0].dtype.newbyteorder("=")
    return native


def accumulation_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return float64 for float64 and float32 for everything narrower."""
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


def exact(
    operation: str,
    query: Any,
    key: Any,
    value: Any = None,
    *,
    scale: Any = _DEFAULT,
    softcap: float | None = None,
    score_mod: Any = None,
    score_mod_args: tuple[Any, ...] = (),
    bias: Any = None,
    mask: Any = None,
    is_causal: bool = False,
    window_size: Any = None,
    q_offset: Any = 0,
    kv_lengths: Any = None,
    sinks: Any = None,
) -> Exact:
    """Compute one operation in long double.

    Parameters
    ----------
    operation : {"scores", "weights", "attention"}
        Only its default scale and its value argument make a difference.
    query, key, value : array_like
        As in :func:`numbattn.attention`; `value` only for attention.
    scale : float, optional
        As in :func:`numbattn.attention`.
    softcap : float, optional
        As in :func:`numbattn.attention`.
    score_mod : callable or ScoreMod, optional
        As in :func:`numbattn.attention`.
    score_mod_args : tuple
        As in :func:`numbattn.attention`.
    bias : array_like, optional
        As in :func:`numbattn.attention`.
    mask : array_like or Mask, optional
        As in :func:`numbattn.attention`.
    is_causal : bool
        As in :func:`numbattn.attention`.
    window_size : (left, right), optional
        As in :func:`numbattn.attention`.
    q_offset : int, array_like or "lower_right"
        As in :func:`numbattn.attention`.
    kv_lengths : int or array_like, optional
        As in :func:`numbattn.attention`.
    sinks : array_like, optional
        As in :func:`numbattn.attention`.

    Returns
    -------
    Exact
        The exact result and the magnitudes of its error bounds.

    Examples
    --------
    >>> import numpy as np
    >>> from numbattn.testing import exact
    >>> found = exact("scores", np.ones((1, 4)), np.ones((2, 4)), scale=0.5)
    >>> found.scores.astype(float)
    array([[2., 2.]])
    """
    arrays = [np.asarray(a) for a in (query, key, value) if a is not None]
    dtype = result_dtype(*arrays)
    acc = accumulation_dtype(dtype)
    (n, d_k), m = arrays[0].shape[-2:], arrays[1].shape[-2]
    lead = leading_shape(*arrays)
    if scale is None or (scale is _DEFAULT and operation != "scores"):
        scale = 1.0 / math.sqrt(max(d_k, 1))
    scale = 1.0 if scale is _DEFAULT else scale
    if bias is not None:
        with np.errstate(over="ignore"):
            bias = np.asarray(bias).astype(acc)
    lengths = np.full((), m) if kv_lengths is None else np.asarray(kv_lengths)
    heads = lead[-1] if lead else 1
    extra = np.full(heads, -np.inf) if sinks is None else np.asarray(sinks)
    with np.errstate(over="ignore"):
        extra = extra.astype(acc).astype(LONG)
    offsets = np.asarray(lengths - n if isinstance(q_offset, str) else q_offset)
    parts = [] if score_mod is None else parts_of(score_mod, score_mod_args, acc)

    found: dict[str, Array] = {}
    for at in np.ndindex(*lead):
        offset, length = (int(pick(a, at, lead, core=0)) for a in (offsets, lengths))
        visible = visible_keys(n, m, length, offset, window_size, is_causal)
        place = _place(at, lead, offset)
        if isinstance(mask, Mask):
            visible &= attended_by(mask, n, m, place)
        elif mask is not None:
            visible &= np.broadcast_to(pick(np.asarray(mask), at, lead), (n, m))
        q, k, *v = (pick(a, at, lead).astype(LONG) for a in arrays)
        b = None if bias is None else pick(bias, at, lead).astype(LONG)
        one = _scores(q, k, scale, softcap, b, visible, np.finfo(acc), parts, place)
        sink = extra[at[-1] if at else 0]
        one |= _softmax(one["scores"], one["attended"], one["magnitude"], sink)
        if v:
            one |= _average(one["weights"], one["attended"], v[0])
        for name, part in one.items():
            if name not in found:
                found[name] = np.empty((*lead, *part.shape), part.dtype)
            found[name][at] = part
    if not found:
        found = _nothing(lead, n, m, None if value is None else arrays[2].shape[-1])
    return Exact(operation, dtype, acc, **found)


def _nothing(
    lead: tuple[int, ...], n: int, m: int, d_v: int | None
) -> dict[str, Array]:
    """Return the results of a leading shape without any element."""
    matrix, row = np.empty((*lead, n, m), LONG), np.empty((*lead, n), LONG)
    found = {
        "scores": matrix,
        "attended": matrix.astype(bool),
        "magnitude": matrix,
        "row_magnitude": row,
        "weights": matrix,
        "lse": row,
    }
    if d_v is not None:
        output = np.empty((*lead, n, d_v), LONG)
        found |= {"output": output, "output_magnitude": output}
        found["value_max"] = np.empty((*lead, 1, d_v), LONG)
    return found


def _place(
    at: tuple[int, ...], lead: tuple[int, ...], offset: int
) -> tuple[int, int, int]:
    """Return what functions get as b and h, and the position of row 0."""
    b = 0
    for i, size in zip(at[:-1], lead[:-1], strict=True):
        b = b * size + i
    return b, at[-1] if at else 0, offset


def leading_shape(query: Array, *others: Array) -> tuple[int, ...]:
    """Broadcast the leading axes; the last of them is the heads axis."""
    count = max(a.ndim for a in (query, *others)) - 2
    if count == 0:
        return ()
    padded = [
        (1,) * (count + 2 - a.ndim) + a.shape[: a.ndim - 2] for a in (query, *others)
    ]
    batch = np.broadcast_shapes(*[shape[:-1] for shape in padded])
    (kv_heads,) = np.broadcast_shapes(*[shape[-1:] for shape in padded[1:]])
    heads = padded[0][-1]
    return (*batch, kv_heads if heads == 1 else heads)


def pick(
    array: Array, at: tuple[int, ...], lead: tuple[int, ...], core: int = 2
) -> Any:
    """Return the part of `array` that belongs to the leading index `at`.

    An axis of length 1 serves every index; on the heads axis (the last one) each
    entry of `array` serves an equal stretch of the heads.
    """
    own = array.ndim - core
    if own <= 0:
        return array
    sizes = zip(at[-own:], lead[-own:], array.shape[:own], strict=True)
    return array[tuple(i // (total // size) for i, total, size in sizes)]


def visible_keys(
    n: int,
    m: int,
    length: int,
    offset: int = 0,
    window_size: Any = None,
    is_causal: bool = False,
) -> Array:
    """Return which keys each query may see, from positions alone, as (n, m) bool."""
    left, right = (None, None) if window_size is None else window_size
    left = None if left is None or operator.index(left) == -1 else int(left)
    right = None if right is None or operator.index(right) == -1 else int(right)
    visible = np.zeros((n, m), bool)
    for i in range(n):
        position = i + offset
        first, last = 0, length - 1
        if left is not None:
            first = max(first, position - left)
        if right is not None:
            last = min(last, position + right)
        if is_causal:
            last = min(last, position)
        if first <= last:
            visible[i, first : last + 1] = True
    return visible


def _matmul(a: Array, b: Array) -> Array:
    """Multiply in long double, the sum in pieces so that its error stays small."""
    total = np.zeros((a.shape[0], b.shape[1]), LONG)
    for start in range(0, a.shape[1], _CHUNK):
        stop = start + _CHUNK
        total += a[:, start:stop] @ b[start:stop]
    return total


def _scores(
    q: Array,
    k: Array,
    scale: Any,
    softcap: float | None,
    bias: Array | None,
    visible: Array,
    limits: Any,
    parts: list[Any],
    place: tuple[int, int, int],
) -> dict[str, Array]:
    with np.errstate(all="ignore"):
        s = LONG(scale) * _matmul(q, k.T)
        magnitude = abs(LONG(scale)) * _matmul(abs(q), abs(k).T)
        if softcap is not None:
            s = LONG(softcap) * np.tanh(s / LONG(softcap))
        if parts:
            unit = LONG(limits.eps) / 2
            s, added = changed(parts, s, magnitude, visible, place, unit)
            magnitude = magnitude + added
        if bias is not None:
            s = s + bias
            magnitude = magnitude + abs(bias)
            # A bias of -inf masks, whatever it is added to: NaN, too, is not read.
            visible = visible & ~np.isneginf(np.broadcast_to(bias, s.shape))
        # A sum beyond the range of the accumulation dtype is an infinity there.
        s = np.where(abs(s) > LONG(limits.max), np.copysign(LONG(np.inf), s), s)
    s = np.where(visible, s, -np.inf)
    magnitude = np.where(visible, magnitude, 0)
    return {"scores": s, "attended": ~np.isneginf(s), "magnitude": magnitude}


def _softmax(
    s: Array, attended: Array, magnitude: Array, sink: Any
) -> dict[str, Array]:
    some = attended.any(axis=1)
    with np.errstate(all="ignore"):
        largest = np.maximum(s.max(axis=1, initial=-np.inf), sink)
        shift = np.where(some, largest, 0)[:, None]
        p = np.where(attended, np.exp(s - shift), 0)
        total = p.sum(axis=1) + np.exp(sink - shift[:, 0])
        weights = np.where(attended, p / np.where(some, total, 1)[:, None], 0)
        lse = np.where(some, shift[:, 0] + np.log(np.where(some, total, 1)), sink)
    row_magnitude = np.where(attended, magnitude, 0).max(axis=1, initial=0)
    if np.isfinite(sink):  # what is lost in score - sink, where the sink is larger
        row_magnitude = np.maximum(row_magnitude, sink)
    return {"weights": weights, "lse": lse, "row_magnitude": row_magnitude}


def _average(weights: Array, attended: Array, v: Array) -> dict[str, Array]:
    finite = np.isfinite(v)
    tame = np.where(finite, v, 0)
    with np.errstate(all="ignore"):
        output = _matmul(weights, tame)
        magnitude = _matmul(weights, abs(tame))
        # A NaN or an infinity reaches exactly the rows that attend its key.
        for j, c in np.argwhere(~finite):
            rows = attended[:, j]
            output[rows, c] += weights[rows, j] * v[j, c]
            magnitude[rows, c] += weights[rows, j] * abs(v[j, c])
    used = np.any(attended, axis=0, keepdims=True).T & finite
    value_max = np.where(used, abs(tame), 0).max(axis=0, initial=0)
    return {
        "output": output,
        "output_magnitude": magnitude,
        "value_max": value_max[None, :],
    }
