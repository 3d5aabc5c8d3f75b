"""Attention of few queries: keys and values are read once, as they lie.

With few queries the speed is that of reading keys and values. All query rows that share
them, those of grouped heads above all, go along in one pass. Keys are cut into parts by
a rule that depends on m alone, so that many threads read a single head; a part's sums
are merged with the others', in order, by whoever ends last. So bits depend neither on
the threads nor on who shares what.

A part is walked by blocks of keys as in FlashDecoding (Dao et al., 2023): scores with
the lanes along d, softmax relative to the running maximum, product with the values
where they are. Sums over blocks, and parts, are compensated.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numba import types

from .changes import hull
from .dots import DOT_KEYS
from .few_rows import padded_depth, strips
from .launch import Kernel, array_types
from .layout import KEY, LENGTH, OUT, POSITION, QUERY, VALUE
from .levels import Simd
from .online import finished
from .pointers import address, advance, align, fetch_add_at, peek, poke
from .products import FEW_VALUES, products
from .rows import SUM_BLOCK, row_operations
from .scores import SOFTMAX, row_finisher
from .simd import inner
from .slabs import draw, late, park, resume
from .values import value_operations

BLOCK_KEYS = 512
SUM_KEYS = 32  # summed plainly: their values stay in the L1 cache for the next rows
TOP, SUM, LOST, FACTOR, STATE = range(5)  # a row's state, and its size


@cache
def _sums(dtype: str, level: Simd):
    """What is carried from block to block, and from part to part."""
    row = row_operations(dtype, level)
    scalar = np.dtype(dtype).type

    @inner
    def begin(state, acc, rows, width):
        for r in range(rows):
            poke(state, STATE * r + TOP, scalar(-np.inf))
            poke(state, STATE * r + SUM, scalar(0))
            poke(state, STATE * r + LOST, scalar(0))
        row.fill(acc, 0, 2 * rows * width, scalar(0), 0)

    @inner
    def raise_top(state, top):
        """Measure a row's sums against a new maximum: what they are multiplied by.

        A row without an attended key is measured against 0, so that -inf gives 0.
        """
        old = peek(state, TOP)
        new = top if top > old else old
        shift = scalar(0) if new == scalar(-np.inf) else new
        factor = scalar(1)
        if new != old:
            factor = scalar(math.exp(old - shift))
        poke(state, TOP, new)
        return shift, factor

    @inner
    def add(state, x, factor):
        """``sum = sum * factor + x``, compensated."""
        old = peek(state, SUM) * factor
        new = old + x
        part = new - old
        lost = peek(state, LOST) * factor + ((old - (new - part)) + (x - part))
        poke(state, SUM, new)
        poke(state, LOST, lost)

    @inner
    def merge(state, acc, lost, part, width):
        """Add a part, ``[top, sum, its accumulator]``, to a row."""
        top = peek(part, 0)
        shift, factor = raise_top(state, top)
        now = scalar(0) if top == scalar(-np.inf) else scalar(math.exp(top - shift))
        add(state, peek(part, 1) * now, factor)
        block = advance(part, 2)
        for c in range(width):
            poke(block, c, peek(block, c) * now)
        row.accumulate(acc, lost, block, width, factor)

    @inner
    def total(state, acc, lost, width, target):
        """The sums of a row as ``[top, sum, accumulator]``."""
        poke(target, 0, peek(state, TOP))
        poke(target, 1, peek(state, SUM) + peek(state, LOST))
        for c in range(width):
            x, rest = peek(acc, c), peek(lost, c)
            poke(target, 2 + c, x + rest if rest == rest else x)

    return begin, raise_top, add, merge, total


@cache
def kernel(dtype: str, level: Simd) -> Kernel:
    """The kernel for few queries, for one element type (float32 or float64).

    A task is a part of the keys of a group: leading indices `groups[g]` up to
    ``groups[g + 1]``, which share keys and values. Arguments behind ``number, counter,
    stop`` as for `attention.kernel`, then keys of a part; `groups`; `partial`, the
    sums of each row and part; `ended`, how many parts of a group are done. Invariant
    after each block as there.
    """
    p = products(dtype, level, FEW_VALUES)
    product, lanes = p.product, p.lanes
    row = row_operations(dtype, level)
    pack_queries, dotted_strip = strips(dtype, level)
    finish_row = row_finisher(dtype, level)
    values = value_operations(dtype, level)
    begin, raise_top, add, merge, total = _sums(dtype, level)
    sum_keys = SUM_BLOCK * lanes  # that are added without a compensated step
    packed_step = SOFTMAX.chunk * lanes
    scalar = np.dtype(dtype).type
    minus_infinity = scalar(-np.inf)

    @inner
    def write(out, at, o_column, lse, row_at, sink, sums, width):
        wanted = lse.shape[0] > 0
        factor, row_lse = finished(peek(sums, 0), peek(sums, 1), sink, wanted)
        for c in range(width):
            poke(address(out, at), c * o_column, peek(sums, 2 + c) * scalar(factor))
        if wanted:
            lse[row_at] = scalar(row_lse)

    def worker(
        number, counter, stop, query, key, value, bias, mask, out, lse, sinks, lead,
        workspace, extra, blocks, scale, softcap, left, right, part_keys, most, groups,
        partial, ended,
    ):  # fmt: skip
        n, width = out.shape
        m, depth, item = key.shape[0], query.shape[1], out.itemsize
        q_row, q_column = query.strides[0] // item, query.strides[1] // item
        k_row, k_column = key.strides[0] // item, key.strides[1] // item
        v_row, v_column = value.strides[0] // item, value.strides[1] // item
        o_row, o_column = out.strides[0] // item, out.strides[1] // item
        parts, has_blocks = max(1, -(-m // part_keys)), blocks.shape[0] > 0
        step = -(-width // lanes) * lanes
        # the workspace, piece by piece
        state = align(address(workspace, number * workspace.shape[1]))
        strip = advance(state, -(-STATE * most // lanes) * lanes)
        saved = advance(strip, most * BLOCK_KEYS)
        block_sum = advance(saved, most * BLOCK_KEYS)
        acc = advance(block_sum, (most + p.rows) * step)
        clean = advance(acc, 2 * most * step)
        sums = advance(clean, BLOCK_KEYS * width)
        scratch = advance(sums, step + 2)
        packed = advance(scratch, DOT_KEYS * (3 + depth))
        task, walked = resume(counter, number)
        packed_at = -1
        while True:
            fresh = task < 0
            if fresh:
                task = draw(counter)
                if task >= stop:
                    break
            group, part = task // parts, task % parts
            head = groups[group]
            heads = groups[group + 1] - head
            rows = heads * n
            lost = advance(acc, rows * step)
            k, v = address(key, lead[head, KEY]), address(value, lead[head, VALUE])
            begins, ends = part * part_keys, min(m, (part + 1) * part_keys)
            seen_from, seen_to = ends, begins
            for h in range(heads):
                low = max(begins, lead[head + h, POSITION] - left)
                high = min(ends, lead[head + h, LENGTH])
                high = min(high, n + lead[head + h, POSITION] + right)
                if low < high:
                    seen_from, seen_to = min(seen_from, low), max(seen_to, high)
            if group != packed_at:
                size = padded_depth(depth, packed_step, lanes)
                for h in range(heads):
                    pack_queries(
                        address(query, lead[head + h, QUERY]), q_row, q_column, n,
                        depth, scale, advance(packed, h * n * size),
                    )  # fmt: skip
                packed_at = group
            if fresh:
                begin(state, acc, rows, step)
                walked = seen_from // BLOCK_KEYS * BLOCK_KEYS
            for block in range(walked, seen_to, BLOCK_KEYS):
                walked = block
                if late(counter):
                    break
                walked = block + BLOCK_KEYS
                first, last = max(seen_from, block), min(seen_to, block + BLOCK_KEYS)
                if has_blocks:
                    near, far = last, first
                    for h in range(heads):
                        low, high, _ = hull(
                            blocks, lead, head + h, block // BLOCK_KEYS, first, last,
                            block,
                        )  # fmt: skip
                        if low < high:
                            near, far = min(near, low), max(far, high)
                    if near >= far:
                        continue
                    first, last = near, far
                keys, begun = last - first, first - block
                dotted_strip(
                    packed, rows, k, k_row, k_column, depth, scratch,
                    advance(strip, -block), BLOCK_KEYS, first, last,
                )  # fmt: skip
                for r in range(rows):
                    at, i = head + r // n, r % n
                    line = advance(strip, r * BLOCK_KEYS)
                    low = max(0, i + lead[at, POSITION] - left)
                    high = min(lead[at, LENGTH], i + lead[at, POSITION] + right + 1)
                    hidden = False
                    if has_blocks:
                        low, high, hidden = hull(
                            blocks, lead, at, block // BLOCK_KEYS, low, high, block
                        )
                    finish_row(
                        advance(line, -block), i, first, last, low, high, bias, mask,
                        lead, at, extra, hidden, softcap, True, 0,
                    )  # fmt: skip
                    row.scale_row(
                        advance(line, begun), keys, scalar(1),
                        advance(saved, r * BLOCK_KEYS + begun), 0,
                    )  # fmt: skip
                    # sums from the same keys on, whatever the rows beside it see
                    start = begun // sum_keys * sum_keys
                    row.fill(line, start, begun, minus_infinity, 0)
                    line, count = advance(line, start), begun + keys - start
                    own = advance(state, STATE * r)
                    shift, factor = raise_top(own, row.greatest(line, count))
                    add(own, row.exponentials(line, count, shift), factor)
                    poke(own, FACTOR, factor)
                u = advance(v, first * v_row)
                w, w_row, finite, careful = u, v_row, True, v_column != 1
                while True:
                    if careful:
                        finite = values.copy(u, v_row, v_column, keys, width, clean)
                        w, w_row = clean, width
                    j = begun
                    while j < begun + keys:
                        end = min(begun + keys, (j // SUM_KEYS + 1) * SUM_KEYS)
                        product(
                            advance(strip, j), BLOCK_KEYS, 1, rows,
                            advance(w, (j - begun) * w_row), w_row, end - j, width,
                            block_sum, step, int(j > begun),
                        )  # fmt: skip
                        j = end
                    if careful or values.finite(block_sum, step, rows, width):
                        break
                    careful = True
                if not finite:
                    values.poison(
                        u, v_row, v_column, keys, width, advance(saved, begun),
                        advance(strip, begun), BLOCK_KEYS, 1, rows, block_sum, step,
                    )  # fmt: skip
                for r in range(rows):
                    row.accumulate(
                        advance(acc, r * step), advance(lost, r * step),
                        advance(block_sum, r * step), step,
                        peek(state, STATE * r + FACTOR),
                    )  # fmt: skip
            if walked < seen_to:
                park(counter, number, task, walked, seen_to)
                break
            task = -1
            for r in range(rows):
                line = head * n + r
                total(
                    advance(state, STATE * r), advance(acc, r * step),
                    advance(lost, r * step), step, address(
                        partial, (line * parts + part) * (step + 2)),
                )  # fmt: skip
            if fetch_add_at(address(ended, group), 1) < parts - 1:
                continue
            for r in range(rows):  # the last part of all: merge them, in order
                line, at, i = head * n + r, head + r // n, r % n
                begin(state, acc, 1, step)
                for other in range(parts):
                    merge(
                        state, acc, advance(acc, step),
                        address(partial, (line * parts + other) * (step + 2)), step,
                    )  # fmt: skip
                total(state, acc, advance(acc, step), width, sums)
                write(
                    out, lead[at, OUT] + i * o_row, o_column, lse, at * n + i,
                    sinks[at] if sinks.shape[0] > 0 else minus_infinity, sums, width,
                )  # fmt: skip

    element = getattr(types, dtype)
    matrix, flags, target, *others = array_types(dtype)
    arrays = (matrix, matrix, matrix, matrix, flags, target)
    vector, numbers = types.Array(element, 1, "C"), types.Array(types.int64, 1, "C")
    sinks = types.Array(element, 1, "C", readonly=True)
    arguments = (
        *arrays, vector, sinks, *others, element, element, *(types.int64,) * 4, numbers,
        vector, numbers,
    )  # fmt: skip
    return Kernel(f"decode-{dtype}-{level.name}", worker, arguments)
