"""Ready-made functions of scores: each a plain function of scalars, and its factory.

Positions count as in every score_mod: ``q_idx = i + q_offset``, ``kv_idx = j``.
"""

from __future__ import annotations

import math
import numbers
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .arrays import as_array, describe
from .errors import OptionError, ShapeError, shown
from .score_mod import ScoreMod

__all__ = [
    "ScoreMod",
    "alibi",
    "distance_bias",
    "gaussian",
    "head_bias",
    "relative_bias",
    "softcap",
    "time_decay",
]


def _alibi(score, b, h, q_idx, kv_idx, slopes):  # type: ignore[no-untyped-def]
    return score - slopes[h] * abs(q_idx - kv_idx)


def alibi(num_heads: int) -> ScoreMod:
    """Return ALiBi: a penalty that grows with the distance, by a slope for each head.

    Parameters
    ----------
    num_heads : int
        The number of query heads.

    Returns
    -------
    ScoreMod
        ``score - slopes[h] * abs(q_idx - kv_idx)``.

    Raises
    ------
    OptionError
        A number of heads below 1.

    Notes
    -----
    Press, Smith and Lewis, "Train Short, Test Long" (ICLR 2022), section 3: for a power
    of two n the slopes are ``2 ** (-8 * (h + 1) / n)``. Else, as in `get_slopes` of the
    paper's code, those of the power of two below, then every second one of the power of
    two above. Behind the query the paper has no keys; here both sides are penalised.

    Examples
    --------
    >>> from numbattn import score_mods
    >>> mod = score_mods.alibi(8)
    >>> mod.args[0][:3].tolist()
    [0.5, 0.25, 0.125]
    >>> mod(1.0, 0, 1, 5, 3)
    0.5
    """
    if not isinstance(num_heads, (int, np.integer)) or num_heads < 1:
        raise OptionError(
            f"num_heads is {shown(num_heads)}; it has to be an int of 1 or more"
        )
    power = 2 ** (int(num_heads).bit_length() - 1)
    slopes = 2.0 ** (-8 * np.arange(1, power + 1) / power)
    between = 2.0 ** (-4 * np.arange(1, 2 * power + 1, 2) / power)
    return ScoreMod(_alibi, (np.append(slopes, between)[:num_heads],))


def _relative_bias(score, b, h, q_idx, kv_idx, table, buckets, reach):  # type: ignore[no-untyped-def]
    ahead = min(max(kv_idx - q_idx, -reach), reach)
    return score + table[buckets[ahead + reach], h]


def relative_bias(
    table: ArrayLike, *, bidirectional: bool = True, max_distance: int = 128
) -> ScoreMod:
    """Return T5's bias: learned numbers for buckets of relative positions.

    Parameters
    ----------
    table : array_like
        Of real numbers, shape (num_buckets, heads): the weight of T5's
        ``relative_attention_bias``. It is not copied.
    bidirectional : bool
        Whether keys behind the query have buckets of their own (T5's encoder); else
        they share that of distance 0 (its decoder).
    max_distance : int
        From there on all distances share a bucket.

    Returns
    -------
    ScoreMod
        ``score + table[bucket(kv_idx - q_idx), h]``.

    Raises
    ------
    ShapeError, DTypeError, OptionError
        A table of another shape or dtype, or one without logarithmic buckets.

    Notes
    -----
    Raffel et al., "Exploring the Limits of Transfer Learning" (2020), section 2.1;
    buckets as by `T5Attention._relative_position_bucket` of HuggingFace Transformers:
    half of them for distances one by one, the others up to `max_distance` in
    logarithmic steps.

    Examples
    --------
    >>> import numpy as np
    >>> from numbattn import score_mods
    >>> table = np.arange(32.0)[:, None]  # shows the bucket
    >>> mod = score_mods.relative_bias(table)
    >>> [int(mod(0.0, 0, 0, 100, key)) for key in (100, 97, 103, 60, 0)]
    [0, 3, 19, 12, 15]
    """
    array = as_array(table, "table")
    if array.ndim != 2:
        raise ShapeError(
            f"table is {describe(array)}; it has to have shape (num_buckets, heads)"
        )
    count, reach = len(array), max_distance
    exact = count // 4 if bidirectional else count // 2
    if not isinstance(reach, (int, np.integer)) or not 0 < exact < reach < 2**24:
        raise OptionError(
            f"max_distance is {shown(reach)}, for a table of {count} buckets; it has "
            f"to be an int above {max(exact, 1)} and below 2**24, and the table needs "
            f"at least {4 if bidirectional else 2} buckets"
        )
    ahead = np.arange(-reach, reach + 1)
    if bidirectional:
        buckets = _t5_buckets(abs(ahead), count // 2, exact, reach)
        buckets[ahead > 0] += count // 2
    else:
        buckets = _t5_buckets(np.maximum(-ahead, 0), count, exact, reach)
    return ScoreMod(_relative_bias, (array, buckets, int(reach)))


def _t5_buckets(
    apart: NDArray[np.int64], count: int, exact: int, reach: int
) -> NDArray[np.int32]:
    """Return the buckets of distances, in float32 as in HuggingFace's code."""
    ratio = np.log(np.maximum(apart, exact).astype(np.float32) / exact)
    steps = (ratio / math.log(reach / exact) * (count - exact)).astype(np.int64)
    far = np.minimum(exact + steps, count - 1)
    return np.where(apart < exact, apart, far).astype(np.int32)


def _softcap(score, b, h, q_idx, kv_idx, cap):  # type: ignore[no-untyped-def]
    return cap * math.tanh(score / cap)


def softcap(cap: float) -> ScoreMod:
    """Return a cap on scores: ``cap * tanh(score / cap)``.

    Parameters
    ----------
    cap : float
        Above 0. The option ``softcap=`` does the same, faster, before any score_mod;
        this one can stand anywhere in a composition.

    Returns
    -------
    ScoreMod
        ``cap * tanh(score / cap)``.

    Raises
    ------
    OptionError
        A cap that is no finite number above 0.

    Notes
    -----
    Gemma Team, "Gemma 2" (2024), section 2.

    Examples
    --------
    >>> from numbattn import score_mods
    >>> round(score_mods.softcap(30.0)(60.0, 0, 0, 0, 0), 3)
    28.921
    """
    return ScoreMod(_softcap, (_positive(cap, "cap"),))


def _time_decay(score, b, h, q_idx, kv_idx, rate):  # type: ignore[no-untyped-def]
    return score - rate * abs(q_idx - kv_idx)


def time_decay(rate: ArrayLike) -> ScoreMod:
    """Return exponential forgetting: weights fall by ``exp(-rate)`` a step.

    Parameters
    ----------
    rate : float or array_like
        One number for all heads, or shape (heads,); per step of distance.

    Returns
    -------
    ScoreMod
        ``score - rate * abs(q_idx - kv_idx)``.

    Raises
    ------
    ShapeError, DTypeError, OptionError
        A rate that is neither a finite number nor one for each head.

    Notes
    -----
    ``exp`` of it is the decay of Sun et al., "Retentive Network" (2023), section 2.1,
    equation 5, with ``rate = -log(gamma)``, inside of a softmax.

    Examples
    --------
    >>> import math
    >>> from numbattn import score_mods
    >>> mod = score_mods.time_decay(math.log(2))  # a half-life of one step
    >>> round(math.exp(mod(0.0, 0, 0, 5, 2)), 3)
    0.125
    """
    if isinstance(rate, numbers.Real):
        return ScoreMod(_time_decay, (_finite(rate, "rate"),))
    return ScoreMod(_alibi, (_per_head(rate, "rate"),))


def _gaussian(score, b, h, q_idx, kv_idx, precision):  # type: ignore[no-untyped-def]
    apart = (q_idx - kv_idx) * precision
    return score - 0.5 * apart * apart


def gaussian(width: float) -> ScoreMod:
    """Return a Gaussian window of distances, centred on the query.

    Parameters
    ----------
    width : float
        Its standard deviation in positions, above 0.

    Returns
    -------
    ScoreMod
        ``score - (q_idx - kv_idx) ** 2 / (2 * width ** 2)``.

    Raises
    ------
    OptionError
        A width that is no finite number above 0.

    Notes
    -----
    Yang et al., "Modeling Localness for Self-Attention Networks" (EMNLP 2018),
    section 3.1, equations 4 and 5, with the query in the centre. On scores of 0 the
    weights are those of a Gaussian kernel smoother.

    Examples
    --------
    >>> from numbattn import score_mods
    >>> score_mods.gaussian(2.0)(0.0, 0, 0, 7, 3)
    -2.0
    """
    return ScoreMod(_gaussian, (1 / _positive(width, "width"),))


def _head_bias(score, b, h, q_idx, kv_idx, bias):  # type: ignore[no-untyped-def]
    return score + bias[h, kv_idx]


def head_bias(bias: ArrayLike) -> ScoreMod:
    """Return a bias by head and key, such as the log-counts of merged keys.

    Parameters
    ----------
    bias : array_like
        Of real numbers, shape (heads, m). It is not copied.

    Returns
    -------
    ScoreMod
        ``score + bias[h, kv_idx]``.

    Raises
    ------
    ShapeError, DTypeError
        A bias of another shape or dtype.

    Notes
    -----
    With the logarithms of how many tokens a key stands for it is the proportional
    attention of Bolya et al., "Token Merging" (ICLR 2023), section 3, equation 1.

    Examples
    --------
    >>> import numpy as np
    >>> from numbattn import score_mods
    >>> counts = np.array([[1, 4, 1]])
    >>> mod = score_mods.head_bias(np.log(counts))
    >>> round(float(np.exp(mod(0.0, 0, 0, 0, 1))), 3)
    4.0
    """
    array = as_array(bias, "bias")
    if array.ndim != 2:
        raise ShapeError(f"bias is {describe(array)}; it has to have shape (heads, m)")
    return ScoreMod(_head_bias, (array,))


def _distance_bias(score, b, h, q_idx, kv_idx, table, columns):  # type: ignore[no-untyped-def]
    down = kv_idx // columns - q_idx // columns + table.shape[1] // 2
    right = kv_idx % columns - q_idx % columns + table.shape[2] // 2
    return score + table[h, down, right]


def distance_bias(table: ArrayLike, columns: int) -> ScoreMod:
    """Return a bias by the distance in rows and columns of an image's grid.

    Parameters
    ----------
    table : array_like
        Of real numbers, shape (heads, 2 * rows - 1, 2 * columns - 1); distance 0 is in
        the middle. It is not copied.
    columns : int
        How many columns the grid has: position p is at ``divmod(p, columns)``.

    Returns
    -------
    ScoreMod
        ``score + table[h, rows - 1 + down, columns - 1 + right]``.

    Raises
    ------
    ShapeError, DTypeError, OptionError
        A table that is not of that shape or dtype.

    Notes
    -----
    Liu et al., "Swin Transformer" (ICCV 2021), section 3.2, equation 4.

    Examples
    --------
    >>> import numpy as np
    >>> from numbattn import score_mods
    >>> table = np.arange(15.0).reshape(1, 3, 5)  # a grid of 2 rows, 3 columns
    >>> score_mods.distance_bias(table, 3)(0.0, 0, 0, 0, 4)  # 1 down, 1 right
    13.0
    """
    array = as_array(table, "table")
    if not isinstance(columns, (int, np.integer)) or columns < 1:
        raise OptionError(
            f"columns is {shown(columns)}; it has to be an int of 1 or more"
        )
    wide = 2 * int(columns) - 1
    if array.ndim != 3 or array.shape[1] % 2 == 0 or array.shape[2] != wide:
        raise ShapeError(
            f"table is {describe(array)}; it has to have shape (heads, 2 * rows - 1, "
            f"2 * columns - 1), the last {wide} here"
        )
    return ScoreMod(_distance_bias, (array, int(columns)))


def _finite(value: Any, name: str) -> float:
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isfinite(number):
            return number
    raise OptionError(f"{name} is {shown(value)}; it has to be a finite number")


def _positive(value: Any, name: str) -> float:
    number = _finite(value, name)
    if number <= 0:
        raise OptionError(f"{name} is {shown(value)}; it has to be above 0")
    return number


def _per_head(value: ArrayLike, name: str) -> NDArray[Any]:
    array = as_array(value, name)
    if array.ndim == 1:
        return array
    raise ShapeError(
        f"{name} is {describe(array)}; it has to be a number, or of shape (heads,)"
    )
