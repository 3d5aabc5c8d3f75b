"""Documents by blocks: by runs of equal ids, never by pairs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .blocks import Blocks, Edges, made

Ints = NDArray[np.int64]


class _Runs:
    """The runs of equal ids: their ids, and where they begin and end."""

    def __init__(self, ids: Ints) -> None:
        self.begin = np.concatenate([[0], np.flatnonzero(ids[1:] != ids[:-1]) + 1])
        self.end = np.append(self.begin[1:], len(ids))
        self.ids = ids[self.begin]
        self.sorted = bool((self.ids[1:] > self.ids[:-1]).all())

    def of(self, place: Ints) -> Ints:
        """Return the number of the run that a place lies in."""
        return np.searchsorted(self.begin, place, side="right") - 1


def documents(q_ids: Ints, kv_ids: Ints, rows: Edges, keys: Edges) -> Blocks:
    """Return the blocks of ``q_ids[i] == kv_ids[j]``, exactly."""
    shape = len(rows) - 1, len(keys) - 1
    first, last = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    single = np.zeros((shape[0], 1), np.bool_)
    full = np.zeros(shape, np.bool_)
    some = np.flatnonzero(np.diff(rows) > 0)
    if not len(some) or not len(kv_ids):
        return made(first, last, full)
    q, kv = _Runs(q_ids), _Runs(kv_ids)
    top, end = q.of(rows[:-1][some]), q.of(rows[1:][some] - 1) + 1  # runs of rows
    single = end - top == 1
    if q.sorted and kv.sorted:
        place = np.minimum(np.searchsorted(kv.ids, q.ids), len(kv.ids) - 1)
        there = kv.ids[place] == q.ids
        before = np.concatenate([[0], np.cumsum(there)])
        place = place[there]  # the runs of keys that any row attends
        found = _hulls(
            kv.begin[place], kv.end[place], before[top], before[end], single, keys
        )
        first[some], last[some], full[some] = found
        return made(first, last, full)
    order = np.argsort(kv.ids, kind="stable")
    ranked = kv.ids[order]
    for a, t, e, one in zip(some, top, end, single, strict=True):
        wanted = np.unique(q.ids[t:e])
        low, high = (
            np.searchsorted(ranked, wanted, side) for side in ("left", "right")
        )
        count = high - low
        # the runs of all wanted ids: stretches of `order`, one behind the other
        place = np.arange(count.sum()) + np.repeat(high - np.cumsum(count), count)
        place = np.sort(order[place])
        zero, total = np.zeros(1, np.int64), np.array([len(place)])
        found = _hulls(
            kv.begin[place], kv.end[place], zero, total, np.array([one]), keys
        )
        first[a], last[a], full[a] = (each[0] for each in found)
    return made(first, last, full)


def _hulls(
    begin: Ints,
    end: Ints,
    low: Ints,
    high: Ints,
    single: NDArray[np.bool_],
    keys: Edges,
) -> tuple[Ints, Ints, NDArray[np.bool_]]:
    """Return first, last, full, where rows attend the runs of keys from low to high.

    The runs, from `begin` to `end`, are in order and do not overlap; `single` tells
    where all rows of a block are of one document.
    """
    start, stop = keys[:-1], keys[1:]
    low = np.maximum(low[:, None], np.searchsorted(end, start, side="right"))
    high = np.minimum(high[:, None], np.searchsorted(begin, stop, side="left"))
    some = low < high
    if not len(begin):
        return np.zeros_like(low), np.zeros_like(low), some
    top = len(begin) - 1
    first = np.maximum(begin[np.minimum(low, top)], start) - start
    last = np.where(some, np.minimum(end[np.clip(high - 1, 0, top)], stop) - start, 0)
    return first, last, single[:, None] & (high - low == 1)
