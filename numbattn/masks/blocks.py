"""What each block of a score matrix is under a mask: empty, full or partial.

Nothing here has the size of the matrix: a few numbers for each block, and pieces of
`PIECE` elements where a mask has to be evaluated.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

PIECE = 2**20
"""Elements that are evaluated at a time."""
MAX_ENTRIES = 16
MAX_BYTES = 32 * 2**20

Edges = NDArray[np.int64]
"""Where blocks begin, and at last where the last one ends: they never decrease."""


class Blocks(NamedTuple):
    """What the blocks are, each field (R, C): by blocks of rows and of keys."""

    first: NDArray[np.int32]
    """The first attended key of a block, counted from the block's first key."""
    last: NDArray[np.int32]
    """One behind the last attended key; `first` and `last` are 0 where none is."""
    full: NDArray[np.bool_]
    """Every row attends every key from `first` to `last`; False where there is none."""


Evaluate = Callable[[Any, Edges, Edges, int, int, int], Blocks]
"""``f(leaf, rows, keys, q_offset, b, h)``: what `by_pieces` returns.

One with a true attribute ``rough`` may say less; it is remembered apart.
"""


class Hulled(Protocol):
    """What `blocks` needs of a mask; `numbattn.masks.Mask` has it."""

    @property
    def varies(self) -> tuple[bool, bool]:
        """Whether it depends on b, and on h."""

    @property
    def stamp(self) -> Hashable:
        """What else could change between two calls."""

    @property
    def memo(self) -> Memo:
        """What is remembered."""

    def attended(
        self, b: int, h: int, i: Edges, j: Edges, q_offset: int
    ) -> NDArray[np.bool_]:
        """Return (len(i), len(j)): True where row i attends key j."""

    def hulls(
        self,
        rows: Edges,
        keys: Edges,
        q_offset: int,
        b: int,
        h: int,
        evaluate: Evaluate,
    ) -> Blocks:
        """Return the blocks, reckoned anew."""


class Memo:
    """The results used last, within `MAX_ENTRIES` and `MAX_BYTES`; for many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: OrderedDict[Hashable, tuple[Blocks, int]] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: Hashable) -> Blocks | None:
        """Return what is remembered."""
        with self._lock:
            found = self._entries.get(key)
            if found is None:
                return None
            self._entries.move_to_end(key)
            return found[0]

    def put(self, key: Hashable, found: Blocks, extra: int) -> None:
        """Remember a result of a moderate size; `extra` is the bytes of its key."""
        size = extra + sum(array.nbytes for array in found)
        with self._lock:
            if size > MAX_BYTES or key in self._entries:
                return
            self._entries[key] = found, size
            self._bytes += size
            while len(self._entries) > MAX_ENTRIES or self._bytes > MAX_BYTES:
                self._bytes -= self._entries.popitem(last=False)[1][1]


def blocks(
    mask: Hulled,
    rows: Edges,
    keys: Edges,
    q_offset: int,
    b: int,
    h: int,
    evaluate: Evaluate | None = None,
) -> Blocks:
    """Return what each block of rows and keys is; it is remembered on the mask.

    Never wrong: attended keys lie between `first` and `last`, and full means full. A
    combination may be called larger, or partial, where it is not.

    Parameters
    ----------
    mask : Mask
        The mask.
    rows, keys : ndarray of int64
        The edges: block a has the rows from ``rows[a]`` up to ``rows[a + 1]``.
    q_offset, b, h : int
        The position of row 0, the batch entry and the head.
    evaluate : callable, optional
        What to ask where only evaluating the mask can tell (`from_function`,
        `from_array`); `by_pieces` unless given.

    Returns
    -------
    Blocks
        Read-only arrays, shared by all who ask.
    """
    rows = np.ascontiguousarray(rows, np.int64)
    keys = np.ascontiguousarray(keys, np.int64)
    by_b, by_h = mask.varies
    edges = rows.tobytes(), keys.tobytes()
    b_key, h_key = b if by_b else 0, h if by_h else 0
    rough = getattr(evaluate, "rough", False)
    key = (*edges, q_offset, b_key, h_key, mask.stamp, rough)
    found = mask.memo.get(key)
    if found is None:
        found = mask.hulls(rows, keys, q_offset, b, h, evaluate or by_pieces)
        mask.memo.put(key, found, len(edges[0]) + len(edges[1]))
    return found


def made(first: NDArray[Any], last: NDArray[Any], full: NDArray[np.bool_]) -> Blocks:
    """Return the blocks in one form: what is empty is 0, 0, False."""
    some = first < last
    result = Blocks(
        np.where(some, first, 0).astype(np.int32),
        np.where(some, last, 0).astype(np.int32),
        some & full,
    )
    for array in result:
        array.flags.writeable = False
    return result


# Combinations. They know no more than the hulls, so what they say may be too large.


def both(one: Blocks, other: Blocks) -> Blocks:
    """Return the blocks of a conjunction."""
    first = np.maximum(one.first, other.first)
    last = np.minimum(one.last, other.last)
    return made(first, last, one.full & other.full)


def either(one: Blocks, other: Blocks) -> Blocks:
    """Return the blocks of a disjunction."""
    none, no_other = one.first >= one.last, other.first >= other.last
    first = np.where(none, other.first, np.minimum(one.first, other.first))
    first = np.where(no_other, one.first, first)
    last = np.maximum(one.last, other.last)  # that of none is 0
    touching = np.maximum(one.first, other.first) <= np.minimum(one.last, other.last)
    full = one.full & other.full & touching
    for each in (one, other):
        full |= each.full & (each.first == first) & (each.last == last)
    return made(first, last, full)


def inverse(operand: Blocks, rows: Edges, keys: Edges) -> Blocks:
    """Return the blocks of a negation."""
    width = np.where(np.diff(rows)[:, None] > 0, np.diff(keys), 0)
    none = operand.first >= operand.last
    at_start = operand.full & (operand.first == 0)
    at_end = operand.full & (operand.last == width)
    first = np.where(at_start, operand.last, 0)
    last = np.where(at_end & ~at_start, operand.first, width)
    return made(first, last, none | at_start | at_end)


# Where nothing but evaluating the mask can tell.


def pieces(top: int, end: int, count: int) -> Iterator[tuple[Edges, slice]]:
    """Cut (rows, keys) into pieces of at most `PIECE`: row numbers, slice of keys."""
    height = min(max(1, end - top), 1024)
    width = PIECE // height
    for start in range(0, count, width):
        for row in range(top, end, height):
            yield np.arange(row, min(row + height, end)), slice(start, start + width)


def by_pieces(
    leaf: Hulled, rows: Edges, keys: Edges, q_offset: int, b: int, h: int
) -> Blocks:
    """Return the blocks, exactly, by evaluating every element with NumPy."""
    shape = len(rows) - 1, len(keys) - 1
    first, last = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    full = np.zeros(shape, np.bool_)
    j = np.arange(keys[0], keys[-1])
    for a in range(shape[0]):
        some, every = np.zeros(len(j), np.bool_), np.ones(len(j), np.bool_)
        for i, part in pieces(int(rows[a]), int(rows[a + 1]), len(j)):
            seen = leaf.attended(b, h, i, j[part], q_offset)
            some[part] |= seen.any(axis=0)
            every[part] &= seen.all(axis=0)
        first[a], last[a], full[a] = _by_key(some, every, keys)
    return made(first, last, full)


def _by_key(
    some: NDArray[np.bool_], every: NDArray[np.bool_], keys: Edges
) -> tuple[Edges, Edges, NDArray[np.bool_]]:
    """Return one row of blocks, from what any row attends and what every row does."""
    begin, places = keys[:-1], np.flatnonzero(some) + keys[0]
    if not len(places):
        return np.zeros_like(begin), np.zeros_like(begin), np.zeros(len(begin), bool)
    low, high = np.searchsorted(places, begin), np.searchsorted(places, keys[1:])
    first = places[np.minimum(low, len(places) - 1)]
    last = np.where(low < high, places[high - 1] + 1, first)
    total = np.concatenate([[0], np.cumsum(every)])
    full = total[last - keys[0]] - total[first - keys[0]] == last - first
    return first - begin, last - begin, full


def counts(
    mask: Hulled, rows: Edges, keys: Edges, q_offset: int, b: int, h: int
) -> NDArray[np.int64]:
    """Return (R, C): how many pairs of each block are attended, exactly."""
    found = mask.hulls(rows, keys, q_offset, b, h, by_pieces)
    width = found.last.astype(np.int64) - found.first
    result: NDArray[np.int64] = width * np.diff(rows)[:, None]
    partial = ~found.full & (width > 0)
    for a in np.flatnonzero(partial.any(axis=1)):
        c = np.flatnonzero(partial[a])
        wide = width[a, c]
        ends = np.cumsum(wide)
        begins = ends - wide
        # the keys of all hulls, one hull behind the other
        j = np.arange(ends[-1]) + np.repeat(keys[c] + found.first[a, c] - begins, wide)
        seen = np.zeros(len(j), np.int64)
        for i, part in pieces(int(rows[a]), int(rows[a + 1]), len(j)):
            seen[part] += np.count_nonzero(
                mask.attended(b, h, i, j[part], q_offset), axis=0
            )
        result[a, c] = np.add.reduceat(seen, begins)
    return result
