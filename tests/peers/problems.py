"""Random problems that a peer understands as numbattn does, and the comparison."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import numbattn
from numbattn.testing import C, assert_lse, assert_output, exact

Array = np.ndarray[Any, Any]
Record = Callable[[str, float], None]

LENGTHS = (1, 2, 3, 7, 16, 17, 31, 48, 64, 65, 100, 129, 200, 257)
WIDTHS = (1, 3, 8, 16, 24, 33, 64, 80, 128)
HEADS = (1, 2, 3, 4)
WORK = 3_000_000
"""Multiplications that the oracle, in long double, may take for one problem."""


def pick(rng: np.random.Generator, choices: tuple[int, ...]) -> int:
    """Return one of the choices."""
    return int(rng.choice(choices))


def sizes(rng: np.random.Generator) -> tuple[int, int, int, int, int]:
    """Return batch, key heads, query heads for each of them, n and m."""
    batch, heads = pick(rng, (1, 2, 3)), pick(rng, HEADS)
    group = pick(rng, (1, 1, 2, 4))
    n, m = pick(rng, LENGTHS), pick(rng, LENGTHS)
    while batch * heads * group * n * m * 32 > WORK and n * m > 1:
        n, m = -(-n // 2), -(-m // 2)
    return batch, heads, group, n, m


def values(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Array:
    """Return normal numbers, of another size now and then."""
    size = rng.choice([0.1, 1.0, 1.0, 3.0])
    return (size * rng.standard_normal(shape)).astype(dtype)


def in_other_memory(rng: np.random.Generator, array: Array) -> Array:
    """Return the same numbers, sometimes with two axes swapped in memory."""
    if array.ndim > 2 and rng.random() < 0.5:
        return np.ascontiguousarray(array.swapaxes(-2, -3)).swapaxes(-2, -3)
    return array


def seen(
    rng: np.random.Generator, shape: tuple[int, ...], *, empty_rows: bool
) -> Array:
    """Return a random boolean mask; without `empty_rows` each row has a key."""
    mask = rng.random(shape) < rng.choice([0.1, 0.5, 0.9])
    if empty_rows:
        mask &= rng.random((*shape[:-1], 1)) < 0.8
    else:
        at = rng.integers(shape[-1], size=(*shape[:-1], 1))
        np.put_along_axis(mask, at, True, axis=-1)
    return mask


def scale(rng: np.random.Generator) -> float:
    """Return a scale: small, negative or 0 too."""
    return float(rng.choice([-0.4, 0.0, 0.05, 0.3, 1.0]))


def compare(
    name: str,
    arrays: tuple[Array, Array, Array],
    options: dict[str, Any],
    theirs: Array,
    record: Record,
    *,
    their_lse: Array | None = None,
    rows: Array | None = None,
) -> None:
    """Hold both sides to their bounds around the exact result.

    Ours is C = 16. A peer's sums run over d and over the keys, and all of their
    roundings may go the same way: that is the bound of the peer. So the two sides
    agree within the sum of both bounds; whoever is wrong is named.

    `rows` tells the rows of queries that the peer fills, all of them if not given.
    """
    query, key, _ = arrays
    want = exact("attention", *arrays, **options)
    plain = C + 2.0 * (query.shape[-1] + key.shape[-2])
    ours, lse = numbattn.attention(*arrays, **options, return_lse=True)
    kind = want.dtype.name
    record(f"numbattn output {kind}", assert_output(ours, want))
    record(f"numbattn lse {kind}", assert_lse(lse, want))
    if rows is not None:
        theirs = np.where(rows[..., None], theirs, ours)
    try:
        record(f"{name} output {kind}", assert_output(theirs, want, plain))
        if their_lse is not None:
            if rows is not None:
                their_lse = np.where(rows, their_lse, lse)
            record(f"{name} lse {kind}", assert_lse(their_lse, want, plain))
    except AssertionError as error:
        error.add_note(f"this is {name}'s result; numbattn's is within its bound")
        raise
