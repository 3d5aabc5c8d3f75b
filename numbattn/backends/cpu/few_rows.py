"""Scores of few queries: every key is read once, as it lies, without packing.

With the lanes along d a dot product needs neither packed keys nor idle lanes, so
that the speed is that of reading the keys: 60 GB/s from the cache on one core. Each
aligned group of key rows serves all query rows while it is in the nearest cache.

Calls take the tasks in turns forwards and backwards: of keys that are searched again
and again, what the last call left in the caches is then read first.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numba import types

from .launch import Kernel, array_types
from .layout import BIAS, KEY, LENGTH, MASK, OUT, POSITION, QUERY
from .levels import Simd
from .pointers import address, advance, align, fetch_add, misalignment, peek, poke
from .scores import DEPTH_CHUNK, DEPTH_STRETCH, row_finisher
from .simd import inner
from .tiles import DOT_KEYS, tiles


@inner
def padded_depth(depth, step, lanes):
    """Elements of a packed query row: chunks of `step` between vectors of zeros."""
    return depth + 2 * lanes * -(-depth // step)


@cache
def _dot_rows(dtype: str, level: Simd):
    t = tiles(dtype, level)
    step, stretch = DEPTH_CHUNK * t.lanes, DEPTH_STRETCH * t.lanes
    scalar = np.dtype(dtype).type

    @inner
    def dot_rows(query, key, row, keys, depth, shift, scratch, out):
        """Scores of one packed query row against up to DOT_KEYS key rows."""
        if 0 < depth <= step and keys == DOT_KEYS:
            t.dots(query, key, row, keys, depth, shift, out)
            return
        sums, total = advance(scratch, DOT_KEYS), advance(scratch, 2 * DOT_KEYS)
        for j in range(DOT_KEYS):
            poke(sums, j, scalar(0))
            poke(total, j, scalar(0))
        for c in range(0, depth, step):
            width = min(step, depth - c)
            part = advance(query, c // step * (step + 2 * t.lanes))
            t.dots(part, advance(key, c), row, keys, width, shift, scratch)
            for j in range(DOT_KEYS):
                x = peek(sums, j) + peek(scratch, j)
                if (c + width) % stretch == 0 or c + width == depth:
                    poke(total, j, peek(total, j) + x)
                    x = scalar(0)
                poke(sums, j, x)
        for j in range(keys):
            poke(out, j, peek(total, j))

    return dot_rows


@cache
def strips(dtype: str, level: Simd):
    """Packing of query rows, and their scores against a run of keys."""
    t = tiles(dtype, level)
    step = DEPTH_CHUNK * t.lanes
    dot_rows = _dot_rows(dtype, level)
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
        gathered = advance(scratch, 3 * DOT_KEYS)
        size = padded_depth(depth, step, t.lanes)
        shift = misalignment(key, t.lanes) if k_row % t.lanes == 0 else 0
        for j in range(first, last, DOT_KEYS):
            keys = min(DOT_KEYS, last - j)
            source, row = advance(key, j * k_row), k_row
            if k_column != 1:
                shift = 0
                for i in range(keys):
                    for c in range(depth):
                        x = peek(source, i * k_row + c * k_column)
                        poke(gathered, i * depth + c, x)
                source, row = gathered, depth
            for r in range(rows):
                dot_rows(
                    advance(packed, r * size + t.lanes), source, row, keys, depth,
                    shift, scratch, advance(out, r * out_row + j),
                )  # fmt: skip

    return pack_queries, dotted_strip


@cache
def kernel(dtype: str, level: Simd) -> Kernel:
    """Scores of few rows, for one element type (float32 or float64).

    A task is a run of keys of one leading index against all query rows. Arguments
    behind ``number, counter, stop`` as for `scores.kernel`, with keys of a task
    for all of the blocking, then the numbers of tasks and workers, and whether to
    go backwards. Invariant: a task writes its own columns of `out`.
    """
    pack_queries, dotted_strip = strips(dtype, level)
    finish_row = row_finisher(dtype, level)

    def worker(
        number, counter, stop, query, key, bias, mask, out, lead, workspace,
        scale, softcap, left, right, key_step, tasks, workers, backwards,
    ):  # fmt: skip
        n, m, depth = out.shape[0], out.shape[1], query.shape[1]
        item = out.itemsize
        k_row, k_column = key.strides[0] // item, key.strides[1] // item
        out_row = out.strides[0] // item
        key_blocks = -(-m // key_step)
        scratch = align(address(workspace, number * workspace.shape[1]))
        packed = advance(scratch, 3 * DOT_KEYS + DOT_KEYS * depth)
        while True:
            task = fetch_add(counter, 1)
            if task >= stop:
                break
            if backwards and tasks % workers == 0:
                # the last round first, and each thread what it had then
                turn = tasks // workers - 1 - task // workers
                task = turn * workers + task % workers
            elif backwards:
                task = tasks - 1 - task
            at, begin = task // key_blocks, task % key_blocks * key_step
            end = min(m, begin + key_step)
            position, length = lead[at, POSITION], lead[at, LENGTH]
            o = address(out, lead[at, OUT])
            low = max(begin, position - left)
            high = min(end, length, n + position + right)
            if low < high:
                pack_queries(
                    address(query, lead[at, QUERY]), query.strides[0] // item,
                    query.strides[1] // item, n, depth, scale, packed,
                )  # fmt: skip
                dotted_strip(
                    packed, n, address(key, lead[at, KEY]), k_row, k_column, depth,
                    scratch, o, out_row, low, high,
                )  # fmt: skip
            for r in range(n):
                low = max(0, r + position - left)
                high = min(length, r + position + right + 1)
                finish_row(
                    advance(o, r * out_row), r, begin, end, low, high,
                    bias, lead[at, BIAS], mask, lead[at, MASK], softcap, True, 0,
                )  # fmt: skip

    element = getattr(types, dtype)
    matrix, flags, *others = array_types(dtype)
    numbers = (element, element, *(types.int64,) * 6)
    arguments = (matrix, matrix, matrix, flags, *others, *numbers)
    return Kernel(f"few-rows-{dtype}-{level.name}", worker, arguments)
