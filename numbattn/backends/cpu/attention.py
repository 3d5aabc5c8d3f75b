"""The attention kernel: softmax(Q Kᵀ) V by blocks of keys, no n x m memory.

A task owns some query rows of one leading index and walks along the keys. For each
block it computes scores as `scores` does, turns them into weights relative to the
running maximum, multiplies by the block's values, and adds to the accumulator after
correcting that for a new maximum: the online softmax of Milakov & Gimelshein (2018)
as in FlashAttention, algorithm 1 (Dao et al., 2022). Sums over blocks are
compensated (TwoSum), so that the error does not grow with the number of keys.

A task lasts as long as there are keys. Where a slab ends before, it is parked after a
block: what it carries (maximum, sum, accumulator) stays in the worker's workspace.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numba import types

from numbattn.problem import UNBOUNDED

from .dots import DOT_KEYS
from .few_rows import strips
from .launch import Kernel, array_types
from .layout import BIAS, KEY, LENGTH, MASK, OUT, POSITION, QUERY, VALUE
from .levels import Simd
from .pointers import address, advance, align, peek, poke
from .rows import row_operations
from .scores import SOFTMAX, blocks, row_finisher
from .simd import inner
from .slabs import draw, late, park, resume
from .tiles import tiles


@cache
def _values(dtype: str, level: Simd):
    """Packing of value rows, and the care for NaN and inf among them."""
    columns = tiles(dtype, level).columns
    scalar = np.dtype(dtype).type

    @inner
    def pack_values(value, row, column, keys, width, packed):
        """Value rows into panels ``[keys][columns]``; True if all are finite.

        What is not finite is packed as 0: 0 * NaN would leak it into rows that do
        not attend that key. `poison` brings it to the rows that do.
        """
        finite = True
        for first in range(0, width, columns):
            panel = advance(packed, first * keys)
            last = min(width, first + columns)
            for j in range(keys):
                at = j * row
                for c in range(first, last):
                    x = peek(value, at + c * column)
                    if not math.isfinite(x):
                        finite = False
                        x = scalar(0)
                    poke(panel, j * columns + c - first, x)
                for c in range(last - first, columns):
                    poke(panel, j * columns + c, scalar(0))
        return finite

    @inner
    def poison(value, row, column, keys, width, scores, top, target):
        """Add the weight times value of every attended value that is not finite."""
        for j in range(keys):
            score = peek(scores, j)
            if score == scalar(-np.inf):
                continue
            weight = scalar(math.exp(score - top))
            for c in range(width):
                x = peek(value, j * row + c * column)
                if not math.isfinite(x):
                    poke(target, c, peek(target, c) + weight * x)

    return pack_values, poison


@cache
def _block_weights(dtype: str, level: Simd):
    row = row_operations(dtype, level)
    scalar = np.dtype(dtype).type

    @inner
    def block_weights(strip, width, state, r):
        """Scores of one row and block to weights; returns the correction factor.

        ``state[r] = (maximum, sum, what the sum lost)``. A row without any
        attended key so far is measured against 0, so that -inf gives 0, not NaN.
        """
        old, total, lost = peek(state, r), peek(state, r + 1), peek(state, r + 2)
        top = row.greatest(strip, width)
        top = top if top > old else old
        shift = scalar(0) if top == scalar(-np.inf) else top
        factor = scalar(1)
        if top != old:
            factor = scalar(math.exp(old - shift))
        block = row.exponentials(strip, width, shift)
        total *= factor
        new = total + block
        part = new - total
        lost = lost * factor + ((total - (new - part)) + (block - part))
        poke(state, r, top)
        poke(state, r + 1, new)
        poke(state, r + 2, lost)
        return factor

    return block_weights


@cache
def kernel(dtype: str, level: Simd) -> Kernel:
    """The attention kernel of one element type (float32 or float64).

    Arguments behind ``number, counter, stop``: `query` (n, d_k), `key` (m, d_k),
    `value` (m, d_v) and `out` (n, d_v) at leading index 0; `lse` (leading, n) or
    empty; `bias`, `mask`, `lead`, `workspace` as for the scores; the numbers of
    the options; rows of a task and keys of a block; whether n is short. Invariant
    after each block: accumulator, sum and maximum of a row are those of the softmax
    over the keys walked so far.
    """
    t = tiles(dtype, level)
    row = row_operations(dtype, level)
    pack, tiled_block = blocks(dtype, level, SOFTMAX)
    pack_queries, dotted_strip = strips(dtype, level)
    finish_row = row_finisher(dtype, level)
    block_weights = _block_weights(dtype, level)
    pack_values, poison = _values(dtype, level)
    scalar = np.dtype(dtype).type

    @inner
    def start(state, accumulator, rows, width):
        for r in range(rows):
            poke(state, 3 * r, scalar(-np.inf))
            poke(state, 3 * r + 1, scalar(0))
            poke(state, 3 * r + 2, scalar(0))
        row.fill(accumulator, 0, 2 * rows * width, scalar(0), 0)

    @inner
    def write(out, out_column, lse, at, state, total, lost, width):
        """One finished row: accumulator over sum, and the log of the sum."""
        top, weight = peek(state, 0), peek(state, 1) + peek(state, 2)
        for c in range(width):
            x = scalar(0)
            if weight != scalar(0):
                x, rest = peek(total, c), peek(lost, c)
                if rest == rest:  # NaN once the total is infinite
                    x += rest
                x /= weight
            poke(out, c * out_column, x)
        if lse.shape[0] > 0:
            # no attended key: log(0) = -inf; top is -inf with NaN scores only
            base = scalar(0) if top == scalar(-np.inf) else top
            lse[at] = base + scalar(math.log(weight))

    def worker(
        number, counter, stop, query, key, value, bias, mask, out, lse, lead,
        workspace, scale, softcap, left, right, row_step, key_block, short,
    ):  # fmt: skip
        n, width = out.shape
        m, depth, item = key.shape[0], query.shape[1], out.itemsize
        q_row, q_column = query.strides[0] // item, query.strides[1] // item
        k_row, k_column = key.strides[0] // item, key.strides[1] // item
        v_row, v_column = value.strides[0] // item, value.strides[1] // item
        o_row, o_column = out.strides[0] // item, out.strides[1] // item
        row_blocks = -(-n // row_step)
        padded = -(-width // t.columns) * t.columns
        # the workspace, piece by piece
        scratch = align(address(workspace, number * workspace.shape[1]))
        strips = advance(scratch, 3 * t.rows * t.columns)
        saved = advance(strips, row_step * key_block)
        product = advance(saved, row_step * key_block)
        accumulator = advance(product, row_step * padded)
        state = advance(accumulator, 2 * row_step * padded)
        factors = advance(state, 3 * row_step)
        packed_values = advance(factors, row_step)
        gathered = advance(packed_values, key_block * padded)  # few rows only
        packed = gathered
        if short:
            packed = advance(gathered, 3 * DOT_KEYS + DOT_KEYS * depth)
        task, walked = resume(counter, number)
        while True:
            fresh = task < 0
            if fresh:
                task = draw(counter)
                if task >= stop:
                    break
            at = task // row_blocks
            top = (row_blocks - 1 - task % row_blocks) * row_step
            rows = min(n, top + row_step) - top
            position, length = lead[at, POSITION], min(m, lead[at, LENGTH])
            q = address(query, lead[at, QUERY] + top * q_row)
            k = address(key, lead[at, KEY])
            v = address(value, lead[at, VALUE])
            lost = advance(accumulator, rows * padded)
            seen_from = max(0, top + position - left)
            seen_to = min(length, top + rows + position + right)
            if fresh:
                start(state, accumulator, rows, padded)
                if short:
                    pack_queries(q, q_row, q_column, rows, depth, scale, packed)
                walked = seen_from // key_block * key_block
            for first in range(walked, seen_to, key_block):
                walked = first
                if late(counter):
                    break
                last = min(m, first + key_block)
                keys = last - first
                if not short:
                    pack(k, k_row, k_column, first, last, depth, scale, packed)
                finite = pack_values(
                    advance(v, first * v_row), v_row, v_column, keys, width,
                    packed_values,
                )  # fmt: skip
                if short:
                    dotted_strip(
                        packed, rows, k, k_row, k_column, depth, gathered,
                        advance(strips, -first), key_block, first, last,
                    )  # fmt: skip
                else:
                    seen = top + position - first
                    tiled_block(
                        q, q_row, q_column, rows, packed, depth, scratch, strips,
                        key_block, 0, keys, left - seen, seen + right + 1, 0, 0,
                    )  # fmt: skip
                for r in range(rows):
                    strip = advance(strips, r * key_block)
                    low = max(0, top + r + position - left)
                    high = min(length, top + r + position + right + 1)
                    finish_row(
                        advance(strip, -first), top + r, first, last, low, high,
                        bias, lead[at, BIAS], mask, lead[at, MASK], softcap, True, 0,
                    )  # fmt: skip
                    if not finite:
                        for j in range(keys):
                            poke(saved, r * key_block + j, peek(strip, j))
                    factor = block_weights(strip, keys, state, 3 * r)
                    poke(factors, r, factor)
                tiled_block(
                    strips, key_block, 1, rows, packed_values, keys, scratch,
                    product, padded, 0, padded, UNBOUNDED, UNBOUNDED, 0, 0,
                )  # fmt: skip
                for r in range(rows):
                    block = advance(product, r * padded)
                    if not finite:
                        poison(
                            advance(v, first * v_row), v_row, v_column, keys, width,
                            advance(saved, r * key_block), peek(state, 3 * r), block,
                        )  # fmt: skip
                    row.accumulate(
                        advance(accumulator, r * padded), advance(lost, r * padded),
                        block, padded, peek(factors, r),
                    )  # fmt: skip
                walked = last
            if walked < seen_to:
                park(counter, number, task, walked, seen_to)
                break
            task = -1
            for r in range(rows):
                write(
                    address(out, lead[at, OUT] + (top + r) * o_row), o_column,
                    lse, at * n + top + r, advance(state, 3 * r),
                    advance(accumulator, r * padded), advance(lost, r * padded), width,
                )  # fmt: skip

    element = getattr(types, dtype)
    matrix, flags, target, *others = array_types(dtype)
    arrays = (matrix, matrix, matrix, matrix, flags, target)
    numbers = (element, element, *(types.int64,) * 4, types.boolean)
    arguments = (*arrays, types.Array(element, 1, "C"), *others, *numbers)
    return Kernel(f"attention-{dtype}-{level.name}", worker, arguments)
