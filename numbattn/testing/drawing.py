"""Seeded random problems: every option, odd sizes, odd memory, four dtypes."""

from __future__ import annotations

from typing import Any

import numpy as np

from numbattn.testing.cases import OPERATIONS, Case, float_dtypes
from numbattn.testing.layouts import LAYOUTS, OUT_LAYOUTS, relayout
from numbattn.testing.oracle import leading_shape
from numbattn.testing.samples import sample_functions

__all__ = ["random_case"]

Array = np.ndarray[Any, Any]

LENGTHS = (0, 1, 2, 3, 5, 7, 8, 15, 16, 17, 24, 31, 32, 33, 48, 63, 65, 100, 113, 129)
LONG_LENGTHS = (200, 257, 513, 799)
VERY_LONG = (1025, 2500, 4099, 8192, 20_000)
WIDTHS = (0, 1, 2, 3, 7, 8, 16, 17, 31, 32, 33, 48, 64, 64, 65, 80, 96, 128, 129)
WORK = 8_000_000


def random_case(
    rng: np.random.Generator,
    operation: str | None = None,
    dtype: str | None = None,
    work: int = WORK,
    modified: float = 0.08,
) -> Case:
    """Draw a problem.

    Parameters
    ----------
    rng : numpy.random.Generator
        The same state gives the same case.
    operation : str, optional
        The operation; drawn where not given.
    dtype : str, optional
        The dtype of query, key and value by name; drawn where not given.
    work : int
        The most multiplications that the case may need.
    modified : float
        The share of cases that get a score_mod or a mask object, where they are small.

    Returns
    -------
    Case
        The case.

    Examples
    --------
    >>> import numpy as np
    >>> from numbattn.testing import random_case
    >>> case = random_case(np.random.default_rng(0), "attention", "float32")
    >>> case.operation, case.value is None
    ('attention', False)
    """
    dtypes = float_dtypes()
    operation = operation or str(rng.choice(OPERATIONS))
    dtype = dtype or str(rng.choice(list(dtypes), p=_shares(len(dtypes))))
    lead, shapes = _shapes(rng, operation, work)
    n, m = shapes[0][-2], shapes[1][-2]
    arrays = [_values(rng, shape, dtypes[dtype]) for shape in shapes]
    if rng.random() < 0.06:
        other = int(rng.integers(len(arrays)))
        arrays[other] = arrays[other].astype(dtypes[str(rng.choice(list(dtypes)))])
    options = _options(rng, operation, lead, n, m)
    if rng.random() < 0.25:
        _poison(rng, arrays, options, m)
    if rng.random() < 0.06:
        one = arrays[int(rng.integers(len(arrays)))]
        if one.size:
            one[tuple(int(rng.integers(a)) for a in one.shape)] = np.nan
    arrays = [_odd_memory(rng, a) for a in arrays]
    # Drawn from every array, as the call will see them: head rules included.
    if leading_shape(*arrays) != lead:
        raise RuntimeError(f"the generator drew {lead} and made {shapes}")
    for name in ("bias", "mask"):
        if name in options and rng.random() < 0.5:
            options[name] = relayout(options[name], str(rng.choice(LAYOUTS)))
    case = Case(
        operation,
        query=arrays[0],
        key=arrays[1],
        value=arrays[2] if operation == "attention" else None,
        options=options,
        return_lse=operation == "attention" and rng.random() < 0.7,
        out_layout=str(rng.choice(OUT_LAYOUTS)) if rng.random() < 0.3 else None,
    )
    if rng.random() < modified:
        options |= sample_functions(rng, options.get("mask"), lead, n, m)
    return case


def _shares(count: int) -> list[float]:
    wide = [0.4, 0.25]
    return wide + [0.35 / (count - 2)] * (count - 2)


def _shapes(
    rng: np.random.Generator, operation: str, work: int
) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """Draw the broadcast leading shape and the shapes of query, key and value."""
    lengths = LENGTHS[1:] if rng.random() < 0.97 else LENGTHS
    widths = WIDTHS[1:] if rng.random() < 0.97 else WIDTHS
    n, m = (int(rng.choice(lengths)) for _ in range(2))
    if rng.random() < 0.08:
        m = int(rng.choice(LONG_LENGTHS))
    if rng.random() < 0.04:
        n = int(rng.choice(LONG_LENGTHS))
    if rng.random() < 0.01:
        n, m = min(n, 20), int(rng.choice(VERY_LONG))
    d_k, d_v = (int(rng.choice(widths)) for _ in range(2))
    count = int(rng.choice(4, p=[0.4, 0.3, 0.2, 0.1]))
    batch = [int(b) for b in rng.choice([1, 1, 2, 3], size=max(count - 1, 0))]
    kv_heads, group = (int(rng.choice([1, 1, 2, 3])) for _ in range(2))
    if count and rng.random() < 0.02:
        kv_heads = 0
    while n * m * (d_k + d_v) * int(np.prod(batch)) * max(kv_heads * group, 1) > work:
        if group > 1:
            group = 1
        elif d_k + d_v > 96:
            d_k, d_v = (d_k + 1) // 2, (d_v + 1) // 2
        elif any(b > 1 for b in batch):
            batch = [1] * len(batch)
        elif kv_heads > 1:
            kv_heads = 1
        elif n > m:
            n = (n + 1) // 2
        else:
            m = (m + 1) // 2
    heads = kv_heads * group
    if count == 0:
        lead: tuple[int, ...] = ()
        leads: list[tuple[int, ...]] = [(), (), ()]
    else:
        lead = (*batch, heads)
        q_heads = 1 if heads == kv_heads and rng.random() < 0.2 else heads
        kv = [kv_heads, kv_heads]
        if rng.random() < 0.2:
            kv[int(rng.integers(2))] = 1
        leads = [_thinner(rng, (*batch, h), lead) for h in (q_heads, *kv)]
        lead = _broadcast_leads(leads[: 3 if operation == "attention" else 2])
    shapes: list[tuple[int, ...]] = [(*leads[0], n, d_k), (*leads[1], m, d_k)]
    if operation == "attention":
        shapes.append((*leads[2], m, d_v))
    return lead, shapes


def _thinner(
    rng: np.random.Generator, own: tuple[int, ...], lead: tuple[int, ...]
) -> tuple[int, ...]:
    """Replace some batch axes by 1 and drop some axes of length 1 from the front."""
    axes = [
        1 if i < len(own) - 1 and rng.random() < 0.2 else a for i, a in enumerate(own)
    ]
    while axes and axes[0] == 1 and rng.random() < 0.5:
        axes.pop(0)
    return tuple(axes)


def _broadcast_leads(leads: list[tuple[int, ...]]) -> tuple[int, ...]:
    dummies = [np.empty((*lead, 0, 0)) for lead in leads]
    return leading_shape(*dummies)


def _values(
    rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> Array:
    kind = rng.random()
    if kind < 0.7:
        array = rng.standard_normal(shape) * rng.choice([0.1, 1.0, 1.0, 3.0])
    elif kind < 0.8:
        array = np.full(shape, rng.uniform(0.5, 2.0))
    elif kind < 0.9:
        array = rng.integers(-4, 5, shape).astype(float)
    else:
        array = rng.standard_normal(shape) * 10.0 ** rng.uniform(-3, 1, shape)
    values: Array = array.astype(dtype)
    return values


def _odd_memory(rng: np.random.Generator, array: Array) -> Array:
    kind = rng.random()
    if kind < 0.5:
        return array
    if kind < 0.9:
        return relayout(array, str(rng.choice(LAYOUTS)))
    # Stride 0: the first entry of some axis serves the whole axis.
    axis = int(rng.integers(array.ndim))
    first = array[(slice(None),) * axis + (slice(0, 1),)]
    return np.broadcast_to(first, array.shape) if first.size else array


def _options(
    rng: np.random.Generator, operation: str, lead: tuple[int, ...], n: int, m: int
) -> dict[str, Any]:
    def often(share: float) -> bool:
        return bool(rng.random() < share)

    options: dict[str, Any] = {}
    if often(0.4):
        scales = [None, 1.0, 0.3, -0.7, 0.0, 1e-3, float(rng.uniform(-1, 1))]
        options["scale"] = scales[int(rng.integers(len(scales)))]
    if often(0.2):
        options["softcap"] = float(rng.choice([0.01, 0.5, 2.0, 5.0, 30.0, 1e4]))
    if often(0.3):
        options["bias"] = _bias(rng, lead, n, m)
    if often(0.3):
        shape = _broadcastable(rng, (*lead, n, m))
        options["mask"] = rng.random(shape) < rng.choice([0.0, 0.1, 0.5, 0.9, 1.0])
    if often(0.3):
        options["is_causal"] = True
    if often(0.2):
        options["window_size"] = tuple(
            (None, -1, int(rng.integers(0, m + 1)), int(rng.integers(0, 9)))[
                int(rng.integers(4))
            ]
            for _ in range(2)
        )
    if often(0.3):
        options["kv_lengths"] = _per_lead(rng, lead, 0, m)
    if often(0.4):
        options["q_offset"] = (
            "lower_right" if often(0.4) else _per_lead(rng, lead, -n - 2, m + 2)
        )
    if operation != "scores" and often(0.3):
        options["sinks"] = _sinks(rng, lead[-1] if lead else 1)
    return options


def _per_lead(
    rng: np.random.Generator, lead: tuple[int, ...], low: int, high: int
) -> Any:
    if rng.random() < 0.4:
        return int(rng.integers(low, high + 1))
    shape = tuple(a if rng.random() < 0.6 else 1 for a in lead)
    dtype = np.int64 if rng.random() < 0.5 else np.int32
    return rng.integers(low, high + 1, shape, dtype=dtype)


def _broadcastable(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[int, ...]:
    axes = [a if rng.random() < 0.75 else 1 for a in shape]
    drop = int(rng.integers(len(axes) - 1)) if rng.random() < 0.4 else 0
    return tuple(axes[drop:])


def _bias(rng: np.random.Generator, lead: tuple[int, ...], n: int, m: int) -> Array:
    dtypes = list(float_dtypes().values())
    bias = rng.standard_normal(_broadcastable(rng, (*lead, n, m))) * 3
    if rng.random() < 0.15:
        # Large, in both directions: up to the largest of float16.
        bias *= 10.0 ** rng.uniform(0, 3, bias.shape)
    if rng.random() < 0.5:
        bias[rng.random(bias.shape) < 0.3] = -np.inf
    return bias.astype(dtypes[int(rng.integers(len(dtypes)))])


def _sinks(rng: np.random.Generator, heads: int) -> Array:
    sinks = rng.standard_normal(heads) * rng.choice([1.0, 5.0, 100.0])
    sinks[rng.random(heads) < 0.1] = rng.choice([-np.inf, np.inf, np.nan])
    dtypes = list(float_dtypes().values())
    cast: Array = sinks.astype(dtypes[int(rng.integers(len(dtypes)))])
    return cast


def _poison(
    rng: np.random.Generator, arrays: list[Array], options: dict[str, Any], m: int
) -> None:
    """Mask some keys for every query, and put NaN and infinities there."""
    hidden = rng.random(m) < 0.2
    mask = options.get("mask", np.ones((1, 1), bool))
    options["mask"] = mask & ~hidden
    bad = np.array([np.nan, np.inf, -np.inf])
    for array in arrays[1:]:
        values = rng.choice(bad, size=array[..., hidden, :].shape)
        array[..., hidden, :] = values.astype(array.dtype)
