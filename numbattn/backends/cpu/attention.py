"""The attention kernel: softmax(Q Kᵀ) V by blocks of keys, no n x m memory.

A task owns some query rows of one leading index, as many as fill a few vectors, and
walks along the keys. It works on transposed scores, Sᵀ = K Qᵀ, with queries in the
vector lanes: maxima and sums are vertical, without any step across lanes, and Sᵀ, once
its scores are weights, is the left operand of the product with V as it lies. Of the
inputs only the queries are packed, once, with scale and log2(e) on them; keys and
values are read where they are. `online` has the softmax; the loop is FlashAttention's,
algorithm 1 (Dao et al., 2022).

A masked value must not be read, but 0 * NaN is NaN: where a row of the result is not
finite the task is done once more, with care: from values that are finite, and with what
is not finite brought to the rows that attend it.

A task lasts as long as there are keys. Where a slab ends before, it is parked after a
block: what it carries stays in the worker's workspace.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numba import types

from .changes import HIDE, MODIFY, change, hull
from .columns import column_operations
from .launch import Kernel, array_types
from .layout import BIAS, KEY, LENGTH, MASK, OUT, POSITION, QUERY, VALUE
from .levels import Simd
from .masking import masking
from .online import SPARE, SUM, TOP, finished, online_softmax
from .panels import packing
from .pointers import address, advance, align, peek, poke
from .products import SCORES, VALUES, products
from .rows import LOG2_E
from .simd import inner, vector_operations
from .slabs import draw, late, park, resume
from .values import value_operations

# Keys whose sums are added plainly, blocks of them; more with compensation.
STRETCH = 2048
LN_2 = math.log(2.0)
# A sum over d runs, in two chains, up to `CHUNK` steps at one go, then in chunks of
# about so many, of `FINE` from `MANY` steps on; beyond `DEEP` steps the chunks' sums
# are added up by stretches of these. A weight has the errors of two scores: for equal
# products, with V the unit matrix, C was 20 with one chain of 64, 16.3 with two of 40.
CHUNK, FINE, MANY, DEEP = 64, 48, 256, 480


@cache
def _results(dtype: str, level: Simd):
    v = vector_operations(dtype, level)
    lanes = v.lanes
    scalar = np.dtype(dtype).type

    @inner
    def write(
        out, o_row, o_column, lse, at, rows, width, sink, state, pitch, acc, step
    ):  # fmt: skip
        """Rows of the accumulator over their sums; False if one may be poisoned.

        It may where elements are not finite though the sum is: by a value.
        """
        clean = True
        for r in range(rows):
            total = peek(state, SUM * pitch + r)
            top = np.float64(peek(state, TOP * pitch + r)) * LN_2
            factor, row_lse = finished(top, total, sink, lse.shape[0] > 0)
            x, zero = v.splat(scalar(factor)), v.splat(scalar(0))
            line, target, bad = advance(acc, r * step), advance(out, r * o_row), zero
            for c in range(0, width, lanes):
                y = v.multiply(v.masked_load(line, c, width - c, zero), x)
                bad = v.add(bad, v.multiply(y, zero))
                if o_column == 1:
                    v.masked_store(y, target, c, width - c)
                else:
                    v.store(y, line, c)
            if o_column != 1:
                for c in range(width):
                    poke(target, c * o_column, peek(line, c))
            lost = v.sum_lanes(bad)
            clean = clean and (lost == lost or factor != factor)
            if lse.shape[0] > 0:
                lse[at + r] = scalar(row_lse)
        return clean

    return write


@cache
def kernel(dtype: str, level: Simd) -> Kernel:
    """The attention kernel of one element type (float32 or float64).

    Arguments behind ``number, counter, stop``: `query` (n, d_k), `key` (m, d_k),
    `value` (m, d_v) and `out` (n, d_v) at leading index 0; `lse` (leading, n) or
    empty; `sinks` (leading,) or empty; `bias`, `mask`, `lead`, `workspace`, `extra`,
    `blocks` as for the scores; the numbers of the options; rows of a task and keys of a
    block. Invariant after each block: accumulator, sum and maximum of a row are those
    of the softmax over the keys walked so far.
    """
    score, mix = products(dtype, level, SCORES), products(dtype, level, VALUES)
    lanes, spread = mix.lanes, mix.rows
    score, mix = score.product, mix.product
    columns = column_operations(dtype, level)
    masks = masking(dtype, level)
    online = online_softmax(dtype, level)
    pack = packing(dtype, level)
    values = value_operations(dtype, level)
    write = _results(dtype, level)
    scalar = np.dtype(dtype).type
    log2_e, minus_infinity = scalar(LOG2_E), scalar(-np.inf)
    lowest = np.finfo(dtype).min

    @inner
    def strides(array, item):
        """Of rows and columns in elements; 0 where there is only one."""
        row = array.strides[0] // item if array.shape[0] > 1 else 0
        return row, array.strides[1] // item if array.shape[1] > 1 else 0

    def worker(
        number, counter, stop, query, key, value, bias, mask, out, lse, sinks,
        lead, workspace, extra, blocks, scale, softcap, left, right, row_step,
        key_block,
    ):  # fmt: skip
        n, width = out.shape
        m, depth, item = key.shape[0], query.shape[1], out.itemsize
        q_row, q_column = query.strides[0] // item, query.strides[1] // item
        k_row, k_column = key.strides[0] // item, key.strides[1] // item
        v_row, v_column = value.strides[0] // item, value.strides[1] // item
        o_row, o_column = out.strides[0] // item, out.strides[1] // item
        b_row, b_column = strides(bias, item)
        m_row, m_column = strides(mask, 1)
        has_bias, has_mask = bias.shape[0] > 0, mask.shape[0] > 0
        row_blocks, unit = -(-n // row_step), np.int64(1)  # a literal: compiled anew
        key_blocks = -(-m // key_block)
        has_blocks, modify, hide = blocks.shape[0] > 0, np.int64(MODIFY), np.int64(HIDE)
        # a score_mod sees natural units, and its results are brought to those of log2
        units = log2_e if extra[modify] == 0 else scalar(1)
        step = -(-width // lanes) * lanes
        chunk = depth
        if depth > DEEP:
            chunk = FINE
        elif depth > CHUNK:
            about = FINE if depth > MANY else CHUNK
            chunk = -(-depth // -(-depth // about) // 4) * 4
        # the workspace, piece by piece
        most = -(-row_step // lanes) * lanes
        state = align(address(workspace, number * workspace.shape[1]))
        panel = advance(state, (SPARE + 1) * most)
        strip = advance(panel, most * depth)
        acc = advance(strip, most * (key_block + spread))
        saved = advance(acc, step * (most + spread))
        clean = advance(saved, most * key_block)
        square = advance(clean, key_block * width)
        total = advance(square, lanes * lanes)  # these two where m > STRETCH only
        lost = advance(total, step * most)
        task, walked = resume(counter, number)
        held = folded = careful = False
        begun = task >= 0
        if begun:
            flags = int(peek(state, SPARE * most))
            held, folded, careful = flags & 1 > 0, flags & 2 > 0, flags & 4 > 0
        while True:
            if task < 0:
                task = draw(counter)
                if task >= stop:
                    break
                careful = v_column != 1
            at = task // row_blocks
            top = (row_blocks - 1 - task % row_blocks) * row_step
            rows = min(n, top + row_step) - top
            pitch = -(-rows // lanes) * lanes
            position, length = lead[at, POSITION], min(m, lead[at, LENGTH])
            k = address(key, lead[at, KEY])
            v = address(value, lead[at, VALUE])
            low, high = top + position - left, top + position + right + 1
            seen_from = max(0, low)
            seen_to = min(length, high + rows - 1)
            if seen_to <= seen_from:
                seen_from = seen_to = 0
            if not begun:
                pack(
                    address(query, lead[at, QUERY] + top * q_row), q_row, q_column,
                    0, rows, depth, scale * units, pitch, panel,
                )  # fmt: skip
                online.begin(state, pitch)
                held = folded = False
                walked = seen_from // key_block * key_block
            for block in range(walked, seen_to, key_block):
                walked = block
                if late(counter):
                    break
                if held and block % STRETCH == 0:
                    if not folded:
                        online.begin_whole(state, pitch, total, lost, step)
                        folded = True
                    online.fold(state, pitch, acc, total, lost, step)
                    held = False
                walked = block + key_block
                first = max(seen_from, block)
                last = min(seen_to, block + key_block)
                hidden = False
                if has_blocks:
                    number_of = top // row_step * key_blocks + block // key_block
                    first, last, hidden = hull(
                        blocks, lead, at, number_of, first, last, block
                    )
                    if first >= last:
                        continue
                keys = last - first
                some_bias = address(
                    bias, lead[at, BIAS] + top * b_row + block * b_column
                )
                some_mask = address(
                    mask, lead[at, MASK] + top * m_row + block * m_column
                )
                if has_mask and masks.none_true(
                    some_mask, m_row, m_column, rows, first - block, last - block
                ):
                    continue
                if has_bias and masks.all_minus_infinity(
                    some_bias, b_row, b_column, rows, first - block, last - block
                ):
                    continue
                line = advance(strip, (first - block) * pitch)
                for c in range(0, max(1, depth), max(1, chunk)):
                    score(
                        advance(k, first * k_row + c * k_column), k_row, k_column, keys,
                        advance(panel, c * pitch), pitch, min(chunk, depth - c), pitch,
                        line, pitch, c % DEEP,
                    )  # fmt: skip
                    ends = c + chunk >= depth or (c + chunk) % DEEP == 0
                    if ends and depth > DEEP:
                        for i in range(keys * pitch):
                            x = peek(line, i)
                            poke(saved, i, x if c < DEEP else peek(saved, i) + x)
                if depth > DEEP:
                    for i in range(keys * pitch):
                        poke(line, i, peek(saved, i))
                for i in range(0, pitch if softcap > scalar(0) else 0, lanes):
                    columns.soft_cap(
                        advance(strip, i), pitch, first - block, last - block,
                        softcap * units,
                    )  # fmt: skip
                if extra[modify] != 0:
                    change(
                        extra, modify, line, keys, rows, pitch, lead, at,
                        top + position, first, top, log2_e,
                    )  # fmt: skip
                for i in range(0, pitch, lanes):
                    column = advance(strip, i)
                    if has_bias:
                        masks.add_bias(
                            column, pitch, first - block, last - block,
                            advance(some_bias, i * b_row), b_row, b_column, rows - i,
                            square,
                        )  # fmt: skip
                    if has_mask:
                        masks.apply_mask(
                            column, pitch, first - block, last - block,
                            advance(some_mask, i * m_row), m_row, m_column, rows - i,
                        )  # fmt: skip
                    begins, ends = low + i - block, high + i - block
                    if begins + lanes - 1 > first - block or ends < last - block:
                        masks.window(
                            column, pitch, first - block, last - block, begins, ends
                        )
                if hidden:
                    change(
                        extra, hide, line, keys, rows, pitch, lead, at,
                        top + position, first, top, log2_e,
                    )  # fmt: skip
                if careful:
                    for i in range(keys * pitch):
                        poke(saved, i, peek(line, i))
                online.weigh(
                    strip, pitch, first - block, last - block, state, acc,
                    step if held else 0,
                )  # fmt: skip
                u, u_row = advance(v, first * v_row), v_row
                finite = True
                if careful:
                    finite = values.copy(u, v_row, v_column, keys, width, clean)
                    u, u_row = clean, width
                mix(
                    line, unit, pitch, pitch, u, u_row, keys, width, acc, step,
                    int(held),
                )  # fmt: skip
                held = True
                if careful and not finite:
                    values.poison(
                        advance(v, first * v_row), v_row, v_column, keys, width,
                        saved, line, 1, pitch, rows, acc, step,
                    )  # fmt: skip
            if walked < seen_to:
                flags = held + 2 * folded + 4 * careful
                poke(state, SPARE * most, scalar(flags))
                park(counter, number, task, walked, seen_to)
                break
            if not held:
                for i in range(step * pitch):
                    poke(acc, i, scalar(0))
            if folded:
                online.fold(state, pitch, acc, total, lost, step)
                online.unite(state, pitch, acc, total, lost, step)
            sink = sinks[at] if sinks.shape[0] > 0 else minus_infinity
            fine = write(
                address(out, lead[at, OUT] + top * o_row), o_row, o_column, lse,
                at * n + top, rows, width, sink, state, pitch, acc, step,
            )  # fmt: skip
            if lse.shape[0] > 0:
                for r in range(rows if has_bias or extra[modify] != 0 else 0):
                    # in units of log2 it may have been beyond the lowest number
                    top_score = peek(state, TOP * pitch + r)
                    if not lowest >= top_score > minus_infinity >= sink:
                        continue
                    lse[at * n + top + r] = lowest
                    if extra[modify] == 0:
                        lse[at * n + top + r] = masks.greatest_bias(
                            address(bias, lead[at, BIAS] + (top + r) * b_row), b_column,
                            address(mask, lead[at, MASK] + (top + r) * m_row), m_column,
                            has_mask, max(0, low + r), min(length, high + r),
                        )  # fmt: skip
            begun = False
            if fine or careful:
                task = -1
            else:  # once more
                careful = True

    element = getattr(types, dtype)
    matrix, flags, target, *others = array_types(dtype)
    arrays = (matrix, matrix, matrix, matrix, flags, target)
    numbers = (element, element, *(types.int64,) * 4)
    rows, sinks = (types.Array(element, 1, "C", readonly=r) for r in (False, True))
    arguments = (*arrays, rows, sinks, *others, *numbers)
    return Kernel(f"attention-{dtype}-{level.name}", worker, arguments)
