"""Scores of few queries: every key is read once, as it lies, without packing.

With the lanes along d a dot product needs neither packed keys nor idle lanes, so
that the speed is that of reading the keys: 80 GB/s from the cache on one core. Each
run of key rows serves all query rows while it is in the nearest cache.

Of keys that are searched again and again, a thread takes its own part first, in
turns forwards and backwards: what the last call left in its cache is then read first.
8192 keys of d = 128 take 34 us, 37 without the turns, 38 with whichever task is next.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numba import types

from .changes import hull
from .dots import DOT_KEYS
from .launch import Kernel, array_types
from .layout import KEY, LENGTH, OUT, POSITION, QUERY
from .levels import Simd
from .pointers import (
    address,
    advance,
    align,
    fetch_or,
    misalignment,
    peek,
    poke,
)
from .scores import SOFTMAX, row_finisher
from .simd import inner
from .slabs import draw
from .tiles import tiles

ANY, FORWARDS, BACKWARDS = range(3)
MOST_CLAIMS = 62
MANY = 3  # rows, and more, go by several abreast
NEAR = 4096  # elements of keys that all query rows pass before the next ones


@inner
def padded_depth(depth, step, lanes):
    """Elements of a packed query row: chunks of `step` between vectors of zeros."""
    return depth + 2 * lanes * -(-depth // step)


@cache
def strips(dtype: str, level: Simd):
    """Packing of query rows, and their scores against a run of keys."""
    t = tiles(dtype, level)
    # cut as for the softmax, which these scores may go to
    step, stretch = SOFTMAX.chunk * t.lanes, SOFTMAX.stretch * t.lanes
    scalar = np.dtype(dtype).type

    @inner
    def pack_queries(query, q_row, q_column, rows, depth, scale, packed):
        """Query rows, scaled, each chunk of d between zeros as `dots` wants it."""
        size = padded_depth(depth, step, t.lanes)
        for r in range(rows):
            row = advance(packed, r * size)
            for i in range(size):
                poke(row, i, scalar(0))
            for c in range(depth):
                x = peek(query, r * q_row + c * q_column) * scale
                poke(row, c + t.lanes * (2 * (c // step) + 1), x)

    @inner
    def dotted_strip(
        packed, rows, key, k_row, k_column, depth, scratch, out, out_row, first, last
    ):  # fmt: skip
        """Rows of packed queries against keys first..last, as they lie."""
        sums, total = advance(scratch, DOT_KEYS), advance(scratch, 2 * DOT_KEYS)
        gathered = advance(scratch, 3 * DOT_KEYS)
        size = padded_depth(depth, step, t.lanes)
        shift = misalignment(key, t.lanes) if k_row % t.lanes == 0 else 0
        run = last - first
        if k_column != 1:
            run = DOT_KEYS
        elif rows > 1:  # keys wait in the nearest cache for the next row
            run = DOT_KEYS * max(1, NEAR // (DOT_KEYS * max(1, depth)))
        for j in range(first, last, run):
            keys = min(run, last - j)
            source, row = advance(key, j * k_row), k_row
            if k_column != 1:
                shift = 0
                for i in range(keys):
                    for c in range(depth):
                        x = peek(source, i * k_row + c * k_column)
                        poke(gathered, i * depth + c, x)
                source, row = gathered, depth
            done = 0
            if 0 < depth <= step:
                while rows - done >= MANY:
                    some = min(t.queries, rows - done)
                    t.dots_many(
                        advance(packed, done * size + t.lanes), size, some, source,
                        row, keys, depth, 0, advance(out, done * out_row + j),
                        out_row,
                    )  # fmt: skip
                    done += some
            for r in range(done, rows):
                query = advance(packed, r * size + t.lanes)
                line = advance(out, r * out_row + j)
                if 0 < depth <= step:
                    t.dots(query, source, row, keys, depth, shift, line)
                    continue
                for i in range(0, keys, DOT_KEYS):  # in chunks that meet in scratch
                    group = min(DOT_KEYS, keys - i)
                    for c in range(2 * DOT_KEYS):
                        poke(sums, c, scalar(0))
                    for c in range(0, depth, step):
                        width = min(step, depth - c)
                        part = advance(query, c // step * (step + 2 * t.lanes))
                        keys_of = advance(source, i * row + c)
                        t.dots(part, keys_of, row, group, width, shift, scratch)
                        whole = (c + width) % stretch == 0 or c + width == depth
                        for g in range(group):
                            x = peek(sums, g) + peek(scratch, g)
                            if whole:
                                poke(total, g, peek(total, g) + x)
                                x = scalar(0)
                            poke(sums, g, x)
                    for g in range(group):
                        poke(line, i + g, peek(total, g))

    return pack_queries, dotted_strip


@cache
def kernel(dtype: str, level: Simd) -> Kernel:
    """Scores of few rows, for one element type (float32 or float64).

    A task is a run of keys of one leading index against all query rows. Arguments
    behind ``number, counter, stop`` as for `scores.kernel`, with keys of a task
    for all of the blocking, then the numbers of tasks and workers, and the order of
    tasks: ANY, or FORWARDS or BACKWARDS with the counter as a set of claimed tasks, for
    up to MOST_CLAIMS tasks in one launch. Invariant: a task writes its own columns of
    `out`.
    """
    pack_queries, dotted_strip = strips(dtype, level)
    finish_row = row_finisher(dtype, level)

    def worker(
        number, counter, stop, query, key, bias, mask, out, lead, workspace,
        extra, hulls, scale, softcap, left, right, key_step, tasks, workers, order,
    ):  # fmt: skip
        n, m, depth = out.shape[0], out.shape[1], query.shape[1]
        item = out.itemsize
        k_row, k_column = key.strides[0] // item, key.strides[1] // item
        out_row = out.strides[0] // item
        key_blocks = -(-m // key_step)
        scratch = align(address(workspace, number * workspace.shape[1]))
        packed = advance(scratch, 3 * DOT_KEYS + DOT_KEYS * depth)
        packed_at, own = -1, -(-tasks // workers)
        for turn in range(tasks):
            if order == ANY:
                task = draw(counter)
                if task >= stop:
                    break
            else:  # own tasks, then those that others have not claimed
                task = (number * own + turn) % tasks
                if order == BACKWARDS and turn < own:
                    task = (number * own + own - 1 - turn) % tasks
                claim = np.int64(1) << task
                if fetch_or(counter, claim) & claim:
                    continue
            at, begin = task // key_blocks, task % key_blocks * key_step
            end = min(m, begin + key_step)
            position, length = lead[at, POSITION], lead[at, LENGTH]
            o = address(out, lead[at, OUT])
            near, far, hidden = begin, end, False
            if hulls.shape[0] > 0:
                near, far, hidden = hull(
                    hulls, lead, at, begin // key_step, begin, end, begin
                )
            low = max(near, position - left)
            high = min(far, length, n + position + right)
            if low < high and at != packed_at:
                pack_queries(
                    address(query, lead[at, QUERY]), query.strides[0] // item,
                    query.strides[1] // item, n, depth, scale, packed,
                )  # fmt: skip
                packed_at = at
            if low < high:
                dotted_strip(
                    packed, n, address(key, lead[at, KEY]), k_row, k_column, depth,
                    scratch, o, out_row, low, high,
                )  # fmt: skip
            for r in range(n):
                low = max(near, r + position - left)
                high = min(far, length, r + position + right + 1)
                finish_row(
                    advance(o, r * out_row), r, begin, end, low, high, bias, mask, lead,
                    at, extra, hidden, softcap, True, 0,
                )  # fmt: skip

    element = getattr(types, dtype)
    matrix, flags, *others = array_types(dtype)
    numbers = (element, element, *(types.int64,) * 6)
    arguments = (matrix, matrix, matrix, flags, *others, *numbers)
    return Kernel(f"few-rows-{dtype}-{level.name}", worker, arguments)
