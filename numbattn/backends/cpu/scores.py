"""The score kernel: blocked Q Kᵀ with every option, softmax on demand.

Work is split into tasks of one leading index, some rows and some keys. In a task
the keys are packed k-major into panels as wide as the register tile (scale folded
in), then each tile of query rows runs along the panels: a strip of `out` is
written once, finished (options, masks) while it is in the nearest cache, and left.
For `weights` a task holds whole rows and ends with their softmax.

The loop over blocks is that of Goto & van de Geijn, "Anatomy of high-performance
matrix multiplication" (2008), without packing the left operand: d is small.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
from numba import types

from .changes import HIDE, MODIFY, change, hull
from .launch import Kernel, array_types
from .layout import BIAS, KEY, LENGTH, MASK, OUT, PANELS, POSITION, QUERY
from .levels import Simd
from .panels import packing
from .pointers import address, advance, align, misalignment, peek, poke
from .rows import row_operations
from .simd import inner
from .slabs import draw
from .tiles import tiles


class Sums(NamedTuple):
    """How a sum over d is cut, in steps; see `SCORES` and `SOFTMAX`."""

    whole: int
    """Up to so many run in registers at one go,"""
    chunk: int
    """more in chunks of about so many, which are added up,"""
    stretch: int
    """and in stretches of so many, whose sums are added with compensation."""


# A plain sum breaks the promised bounds, C = 16, where terms have one sign: its errors,
# up to L/4 u in L steps of constant vectors, do not cancel. For scores C is 12.2 at
# d = 96, 16.2 at 128. A weight has the errors of two scores, its own and the row's
# maximum: C was 20 at d = 64, 35 at 96. A chunk costs 55 cycles: 2 % of the scores at
# d = 128, 1 % of the weights at d = 64.
SCORES = Sums(96, 80, 32 * 80)
SOFTMAX = Sums(32, 32, 4 * 32)

GROUP = 16  # row tiles that pass by a panel of keys before the next one


@cache
def _stretches(dtype: str, level: Simd):
    t = tiles(dtype, level)
    size = t.rows * t.columns
    scalar = np.dtype(dtype).type

    @inner
    def add_stretch(scratch, first):
        """Add the tile in scratch to the sums behind it, with what they lose."""
        total, lost = advance(scratch, size), advance(scratch, 2 * size)
        for i in range(size):
            x, old, rest = peek(scratch, i), scalar(0), scalar(0)
            if not first:
                old, rest = peek(total, i), peek(lost, i)
            new = old + x
            part = new - old
            poke(lost, i, rest + ((old - (new - part)) + (x - part)))
            poke(total, i, new)

    @inner
    def write_sums(scratch, rows, out, out_row, first, last):
        """The sums to columns first..last of `out`."""
        total, lost = advance(scratch, size), advance(scratch, 2 * size)
        for r in range(rows):
            for j in range(first, last):
                x = peek(total, r * t.columns + j)
                rest = peek(lost, r * t.columns + j)
                if rest == rest:  # NaN once the total is infinite
                    x += rest
                poke(out, r * out_row + j, x)

    return add_stretch, write_sums


@cache
def blocks(dtype: str, level: Simd, sums: Sums):
    """How to fill a block of `out` with plain scores: packing, then tiles."""
    t = tiles(dtype, level)
    whole, near, stretch = sums
    pack = packing(dtype, level)
    add_stretch, write_sums = _stretches(dtype, level)

    @inner
    def tiled_block(
        query, q_row, q_column, rows, packed, depth, scratch, out, out_row,
        first, last, behind, ahead, skipped, stream,
    ):  # fmt: skip
        """Rows times packed keys first..last, without tiles that no row sees.

        Row i sees columns ``i - behind <= j < i + ahead``; columns below `skipped`
        are not of `out`. A panel stays in the L1 cache while the rows pass by.
        """
        chunk = depth
        if depth > whole:
            chunk = -(-depth // -(-depth // near) // 8) * 8
        j = first // t.columns * t.columns
        while j < last:
            panel, target = advance(packed, j * depth), advance(out, j)
            begin, end = max(0, skipped - j), last - j
            top = max(0, j + 1 - ahead) // t.rows * t.rows
            bottom = (j + t.columns + behind + t.rows - 1) // t.rows * t.rows
            bottom = min(rows, bottom)
            if depth <= stretch:
                t.panel(
                    query, q_row, q_column, top, bottom, panel, depth, chunk, scratch,
                    target, out_row, begin, end, stream,
                )  # fmt: skip
            else:
                for i in range(top, bottom, t.rows):
                    stop, at = min(bottom, i + t.rows), i * out_row
                    for c in range(0, depth, stretch):
                        width = min(stretch, depth - c)
                        t.panel(
                            advance(query, c * q_column), q_row, q_column, i, stop,
                            advance(panel, c * t.columns), width, chunk, scratch,
                            advance(scratch, -i * t.columns), t.columns,
                            0, t.columns, 0,
                        )  # fmt: skip
                        add_stretch(scratch, c == 0)
                    write_sums(
                        scratch, stop - i, advance(target, at), out_row,
                        begin, min(end, t.columns),
                    )  # fmt: skip
            j += t.columns

    return pack, tiled_block


@cache
def row_finisher(dtype: str, level: Simd):
    """Options and masks on a stretch of one row; shared with the attention kernel."""
    row = row_operations(dtype, level)
    scalar = np.dtype(dtype).type

    @inner
    def finish_row(
        out, i, first, last, low, high, bias, mask, lead, at, extra, hidden, softcap,
        fill, stream,
    ):  # fmt: skip
        """Options and masks on ``out[first:last]`` of row i; low..high is seen.

        A mask object is asked where some of these are `hidden`.
        """
        begin, end = max(first, low), min(last, high)
        if begin >= end:
            begin = end = first
        if softcap > scalar(0):
            row.soft_cap(out, begin, end, softcap)
        where, q_idx = advance(out, begin), i + lead[at, POSITION]
        which, one = np.int64(MODIFY), np.int64(1)
        if extra[which] != 0:
            change(
                extra, which, where, one, end - begin, one, lead, at, q_idx, begin, i,
                scalar(1),
            )  # fmt: skip
        if bias.shape[0] > 0:
            place = lead[at, BIAS]
            if bias.shape[0] > 1:
                place += i * (bias.strides[0] // bias.itemsize)
            stride = 0
            if bias.shape[1] > 1:
                stride = bias.strides[1] // bias.itemsize
            row.add_bias(out, begin, end, address(bias, place), stride)
        if mask.shape[0] > 0:
            place = lead[at, MASK]
            if mask.shape[0] > 1:
                place += i * mask.strides[0]
            stride = 0
            if mask.shape[1] > 1:
                stride = mask.strides[1]
            row.apply_mask(out, begin, end, address(mask, place), stride)
        if hidden:
            which = np.int64(HIDE)
            change(
                extra, which, where, one, end - begin, one, lead, at, q_idx, begin, i,
                scalar(1),
            )  # fmt: skip
        if fill:
            row.fill(out, first, begin, scalar(-np.inf), stream)
            row.fill(out, end, last, scalar(-np.inf), stream)

    return finish_row


def kernel(dtype: str, level: Simd) -> Kernel:
    """The score kernel of one element type (float32 or float64)."""
    return build(dtype, level, False)


@cache
def build(dtype: str, level: Simd, softmax: bool) -> Kernel:
    """The score kernel, or, with `softmax`, the same ending in weights.

    The flag is fixed at compile time because the first call of a process waits for
    the compiler: without the softmax the score kernel takes 0.5 s less.

    Arguments behind ``number, counter, stop``: `query` (n, d), `key` (m, d) and
    `out` (n, m, unit stride along m) at leading index 0; `bias`, `mask` likewise
    or empty; `lead`, the table of element offsets, positions and lengths for every
    leading index; `workspace` (workers, elements); `extra`, the modifiers (`changes`);
    `hulls`, what a mask object's blocks are, or empty; `panels`, the keys packed by
    `panels.kernel`, or empty: each task packs its own; `sinks`, one for each leading
    index, or empty; the numbers of the options; the
    steps of `matrix.Tiling`; whether (1, 0) `out` is written past the caches.
    Invariant: a task writes its own part of `out`, nothing else.
    """
    t = tiles(dtype, level)
    row = row_operations(dtype, level)
    pack, tiled_block = blocks(dtype, level, SOFTMAX if softmax else SCORES)
    finish_row = row_finisher(dtype, level)
    scalar = np.dtype(dtype).type

    def worker(
        number, counter, stop, query, key, bias, mask, out, lead, workspace, extra,
        hulls, panels, sinks, scale, softcap, left, right, row_step, key_step,
        key_block, stream,
    ):  # fmt: skip
        n, m, depth = out.shape[0], out.shape[1], query.shape[1]
        item = out.itemsize
        q_row, q_column = query.strides[0] // item, query.strides[1] // item
        k_row, k_column = key.strides[0] // item, key.strides[1] // item
        out_row = out.strides[0] // item
        reach = m + t.lanes - 1 if stream and not softmax else m
        row_blocks, key_blocks = -(-n // row_step), -(-reach // key_step)
        modified = softcap > scalar(0) or bias.shape[0] > 0 or mask.shape[0] > 0
        modified = modified or extra[MODIFY] != 0
        has_hulls, width = hulls.shape[0] > 0, -(-m // key_block)
        groups = -(-row_step // (GROUP * t.rows))
        scratch = align(address(workspace, number * workspace.shape[1]))
        packed = advance(scratch, 3 * t.rows * t.columns)
        lines = advance(packed, -(-key_block // t.columns) * t.columns * depth)
        while True:
            task = draw(counter)
            if task >= stop:
                break
            block = task % (row_blocks * key_blocks)
            at = task // (row_blocks * key_blocks)
            top = block % row_blocks * row_step
            bottom = min(n, top + row_step)
            position, length = lead[at, POSITION], lead[at, LENGTH]
            q = address(query, lead[at, QUERY])
            k = address(key, lead[at, KEY])
            target = address(out, lead[at, OUT])
            o, o_row, past, shift = target, out_row, stream, 0
            if softmax:  # whole rows, in scratch until they are done
                o, o_row, past = advance(lines, -top * m), m, 0
            elif stream:  # panels have to start on a vector of `out` then
                shift = misalignment(target, t.lanes)
            begin = block // row_blocks * key_step - shift
            end = min(m, begin + key_step)
            for start in range(begin, end, key_block):
                first, last = max(0, start), min(end, start + key_block)
                low = max(first, top + position - left)
                high = min(last, length, bottom + position + right)
                keys = packed
                if panels.shape[0] > 0:
                    keys = address(panels, lead[at, PANELS] + (start + shift) * depth)
                elif low < high:
                    whole = -(-(high - start) // t.columns) * t.columns
                    pack(
                        k, k_row, k_column, start, min(last, start + whole), depth,
                        scale, t.columns, packed,
                    )  # fmt: skip
                for i in range(top, bottom, GROUP * t.rows):
                    rows = min(GROUP * t.rows, bottom - i)
                    near, far, hidden = first, last, False
                    if has_hulls:
                        group = top // row_step * groups + (i - top) // (GROUP * t.rows)
                        near, far, hidden = hull(
                            hulls, lead, at, group * width + start // key_block,
                            first, last, start,
                        )  # fmt: skip
                    low = max(near, i + position - left)
                    high = min(far, length, i + rows + position + right)
                    strip = advance(o, i * o_row)
                    if low < high:
                        seen = i + position - start
                        tiled_block(
                            advance(q, i * q_row), q_row, q_column, rows, keys,
                            depth, scratch, advance(strip, start), o_row,
                            low - start, high - start, left - seen, seen + right + 1,
                            first - start, past,
                        )  # fmt: skip
                    for r in range(i, i + rows):
                        low = max(near, r + position - left)
                        high = min(far, length, r + position + right + 1)
                        if modified or hidden or low > first or high < last:
                            finish_row(
                                advance(o, r * o_row), r, first, last, low, high,
                                bias, mask, lead, at, extra, hidden, softcap,
                                not softmax or has_hulls, past,
                            )  # fmt: skip
            if softmax:
                sink = sinks[at] if sinks.shape[0] > 0 else scalar(-np.inf)
                for r in range(top, bottom):
                    low = max(0, r + position - left)
                    high = max(low, min(length, r + position + right + 1))
                    row.softmax(
                        advance(o, r * o_row), low, high, m, sink,
                        advance(target, r * out_row), stream,
                    )  # fmt: skip

    element = getattr(types, dtype)
    matrix, flags, *others = array_types(dtype)
    numbers = (element, element, *(types.int64,) * 6)
    line = types.Array(element, 1, "C", readonly=True)
    arguments = (matrix, matrix, matrix, flags, *others, line, line, *numbers)
    name = "weights" if softmax else "scores"
    return Kernel(f"{name}-{dtype}-{level.name}", worker, arguments)
