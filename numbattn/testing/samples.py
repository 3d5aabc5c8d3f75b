"""Score functions and mask objects to draw from: few, since each compiles for 0.1 s."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from numbattn import masks, score_mods

__all__ = ["sample_functions", "sample_mask", "sample_score_mod"]

Array = np.ndarray[Any, Any]
Rng = np.random.Generator
Sizes = tuple[int, int, int, int]
"""Entries of b, heads, queries and keys; none is 0."""
MOST = 5000
"""Scores of a problem with a function: the oracle takes 10 us for each."""


def near(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    return score - 0.1 * abs(q_idx - kv_idx) + 0.5 * h - 0.25 * b


def hidden_ahead(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    return score if kv_idx <= q_idx + 3 else -math.inf


def squashed(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any, cap: Any) -> Any:
    if (q_idx + kv_idx) % 3 == 0:
        return cap * math.tanh(score / cap)
    return score / (1 + math.fabs(score)) + math.log1p(score * score)


def looked_up(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any, table: Any) -> Any:
    """Read an array of exactly (b, h, n, m), the queries' axis cyclically."""
    return score + table[b, h, q_idx % table.shape[2], kv_idx]


def by_key(
    score: Any,
    b: Any,
    h: Any,
    q_idx: Any,
    kv_idx: Any,
    bias: Any,
    shown: Any,
    code: Any,
) -> Any:
    if not shown[kv_idx]:
        return -math.inf
    return score * (1 + code[h] % 3) - bias[b][kv_idx]


def bounded(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    return min(max(score, -2.0), 5) + np.where(kv_idx > q_idx, 0.25, -1)


def summed(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any, waves: Any) -> Any:
    total = 0.5 * score
    for i in range(len(waves)):
        total += waves[i] / (1 + (kv_idx + i) % 5)
    return total


def sigmoid(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any, bend: Any) -> Any:
    return bend / (1 + math.exp(-score)) + math.sqrt(abs(score))


def _numbers(rng: Rng, shape: tuple[int, ...], dtype: Any) -> Array:
    array: Array = (rng.standard_normal(shape) * 2).astype(dtype)
    return array


def _plain(rng: Rng, sizes: Sizes, name: str) -> tuple[Any, tuple[Any, ...]]:
    """Return a function of this module and arguments, whose dtypes are always alike."""
    b, h, n, m = sizes
    if name == "squashed":
        return squashed, (float(rng.uniform(0.5, 20)),)
    if name == "looked_up":
        table = _numbers(rng, (b, h, n, m), np.float32)
        return looked_up, (table[::-1, :, ::-1] if rng.random() < 0.5 else table,)
    if name == "by_key":
        bias = _numbers(rng, (b, m), np.float16)
        code = rng.integers(0, 250, h).astype(np.uint8)
        return by_key, (bias, rng.random(m) < 0.8, code)
    if name == "summed":
        return summed, (_numbers(rng, (int(rng.integers(4)),), ">f8"),)
    if name == "sigmoid":
        return sigmoid, (int(rng.integers(1, 9)),)
    function = {"near": near, "hidden_ahead": hidden_ahead, "bounded": bounded}[name]
    return function, ()


_PLAIN = (
    "near", "hidden_ahead", "squashed", "looked_up", "by_key", "bounded", "summed",
    "sigmoid",
)  # fmt: skip


def _ready(rng: Rng, sizes: Sizes) -> Any:
    """Return one that numbattn.score_mods makes."""
    _, h, _, m = sizes
    return (
        lambda: score_mods.alibi(h),
        lambda: score_mods.relative_bias(_numbers(rng, (32, h), np.float32)),
        lambda: score_mods.softcap(float(rng.uniform(0.5, 50))),
        lambda: score_mods.time_decay(rng.uniform(0, 1, h)),
        lambda: score_mods.time_decay(float(rng.uniform(0, 1))),
        lambda: score_mods.gaussian(float(rng.uniform(2, 30))),
        lambda: score_mods.head_bias(_numbers(rng, (h, m), np.float64)),
    )[int(rng.integers(7))]()


def sample_score_mod(rng: Rng, sizes: Sizes) -> dict[str, Any]:
    """Draw a function of scores.

    Parameters
    ----------
    rng : numpy.random.Generator
        The same state gives the same function.
    sizes : tuple of int
        Entries of b, heads, queries and keys, of which none is 0.

    Returns
    -------
    dict
        The options ``score_mod`` and, where it is a plain one, ``score_mod_args``.
    """
    if rng.random() < 0.4:
        mod = _ready(rng, sizes)
        if rng.random() < 0.25:
            mod = mod @ score_mods.ScoreMod(near)
        return {"score_mod": mod}
    function, args = _plain(rng, sizes, str(rng.choice(_PLAIN)))
    return {"score_mod": function, "score_mod_args": args}


def island(b: Any, h: Any, q_idx: Any, kv_idx: Any, reach: Any) -> Any:
    return (kv_idx + h) % 7 != 2 and abs(q_idx - kv_idx) <= reach


def marked(b: Any, h: Any, q_idx: Any, kv_idx: Any, marks: Any) -> Any:
    return marks[b, kv_idx] > 0 or q_idx % 3 == h


def _of_function(rng: Rng, sizes: Sizes) -> Any:
    """Draw a mask object that is a function with arguments."""
    b, _, _, m = sizes
    if rng.random() < 0.5:
        return masks.from_function(island, (int(rng.integers(0, m + 1)),))
    return masks.from_function(marked, (rng.integers(-3, 4, (b, m)).astype("i2"),))


def _leaf(rng: Rng, sizes: Sizes, functions: bool) -> Any:
    b, h, n, m = sizes
    kind = int(rng.integers(8 if functions else 7))
    if kind == 0:
        return masks.causal(int(rng.integers(-3, 9)))
    if kind == 1:
        left, right = (
            (None, -1, int(rng.integers(m + 1)))[i] for i in rng.integers(3, size=2)
        )
        return masks.sliding_window(left, right)
    if kind == 2:
        lead = ((), (b,), (b, h), (1, h))[int(rng.integers(4))]
        return masks.prefix(rng.integers(0, m + 1, lead))
    if kind == 3:
        return masks.dilated(int(rng.integers(1, 6)))
    if kind in (4, 5):
        lead = ((), (b,), (b, h), (1, h))[int(rng.integers(4))]
        ids = [rng.integers(0, int(rng.choice([2, 5, 40])), (*lead, x)) for x in (n, m)]
        if rng.random() < 0.6:
            ids = [np.sort(each, axis=-1) for each in ids]
        return masks.document(*ids)
    if kind == 6:
        shape = tuple(x if rng.random() < 0.7 else 1 for x in sizes)
        return masks.from_array(rng.random(shape) < rng.choice([0.0, 0.5, 0.9, 1.0]))
    return _of_function(rng, sizes)


def sample_mask(rng: Rng, sizes: Sizes, functions: bool = True) -> Any:
    """Draw a mask object: one, or a combination of up to three.

    Parameters
    ----------
    rng : numpy.random.Generator
        The same state gives the same mask.
    sizes : tuple of int
        As for `sample_score_mod`.
    functions : bool
        Whether functions may be part of it.

    Returns
    -------
    Mask
        The mask.
    """
    mask = _leaf(rng, sizes, functions)
    for _ in range(int(rng.choice(3, p=[0.4, 0.4, 0.2]))):
        if rng.random() < 0.25:
            mask = ~mask
        other = _leaf(rng, sizes, functions)
        mask = mask & other if rng.random() < 0.5 else mask | other
    return mask


def sample_functions(
    rng: Rng, given: Array | None, lead: tuple[int, ...], n: int, m: int
) -> dict[str, Any]:
    """Draw a score_mod, a mask object, or both, for a problem.

    Parameters
    ----------
    rng : numpy.random.Generator
        The same state gives the same functions.
    given : ndarray or None
        The problem's mask, which a mask object then is a part of.
    lead : tuple of int
        Its leading axes.
    n, m : int
        Its queries and keys.

    Returns
    -------
    dict
        Options; none where an axis is empty.
    """
    sizes = (math.prod(lead[:-1]), lead[-1] if lead else 1, n, m)
    few, kind = math.prod(sizes) <= MOST, rng.random()
    if not all(sizes):
        return {}
    found = sample_score_mod(rng, sizes) if few and kind < 0.65 else {}
    if kind < 0.35 or (given is not None and len(lead) > 2):
        return found
    mask = sample_mask(rng, sizes, few)
    return found | {"mask": mask if given is None else masks.from_array(given) & mask}
