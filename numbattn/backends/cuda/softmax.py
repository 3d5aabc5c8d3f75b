"""Softmax of rows of scores that lie in shared memory, tile after tile of keys."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import ptx
from .device import device_function
from .elements import corner
from .geometry import Geometry, TensorGeometry
from .layout import (
    COLUMNS,
    D_V,
    FLAGS,
    HAS_LSE,
    HAS_SINKS,
    HEADS,
    O_COL,
    O_ROW,
    OUT,
    ROW_TILES,
    STATE,
    N,
)  # fmt: skip


def exponentials(shape: Geometry, pitch: int) -> Any:
    """``update(weights, row_max, row_sum, factor)``: online softmax of a tile.

    Scores in `weights` become exp(score - row_max); `factor` is by how much what was
    summed up before is to be multiplied (Milakov and Gimelshein 2018, algorithm 3).
    A row belongs to the `across` threads of one y, which are lanes of one warp; each of
    them writes the row's numbers, all the same, and reads what itself has written.
    """
    real, across, down = shape.real, shape.across, shape.down
    rows, columns = shape.rows, shape.columns
    zero, lowest = real(0), real(-np.inf)

    @device_function
    def update(weights, row_max, row_sum, factor):  # type: ignore[no-untyped-def]
        t = ptx.thread()
        x, y = t % across, t // across
        for i in range(rows):
            r = y + down * i
            at = r * pitch + x
            before, summed = ptx.read(row_max, r), ptx.read(row_sum, r)
            best = ptx.greatest(weights, at, across, columns, before)
            step = across // 2
            while step:
                best = max(best, ptx.shuffle_xor(best, step))
                step //= 2
            base = zero if best == lowest else best
            total = ptx.exponentials(weights, at, across, columns, base, zero)
            step = across // 2
            while step:
                total += ptx.shuffle_xor(total, step)
                step //= 2
            scaled = ptx.exp(before - base)
            ptx.write(row_max, r, best)
            ptx.write(factor, r, scaled)
            ptx.write(row_sum, r, summed * scaled + total)

    return update


def stretches(shape: Geometry | TensorGeometry) -> Any:
    """``settle(...)``: add what a stretch of keys gave to the rows' totals.

    `factor` and `fresh` become what the carried and the new outputs are multiplied by;
    at the last stretch `row_sum` becomes the share by which their sum is multiplied,
    with the sink in it, and the log-sum-exp is written. The rows' maxima and sums go to
    `carry`, for those who come next.
    """
    real, down, rows, place = shape.real, shape.down, shape.rows, corner(shape)
    zero, one, lowest = real(0), real(1), real(-np.inf)

    @device_function
    def settle(  # type: ignore[no-untyped-def]
        row_max, row_sum, factor, fresh, total_max, total_sum, lse, carry, sinks,
        sizes, lead, first, is_last, writes,
    ):  # fmt: skip
        x, y = place()
        writes = writes and x == 0
        flags, lead, first = sizes[FLAGS], ptx.opaque(lead), ptx.opaque(first)
        i = 0
        while i < rows:
            r = y + down * i
            before, total = ptx.read(total_max, r), ptx.read(total_sum, r)
            here, some = ptx.read(row_max, r), ptx.read(row_sum, r)
            ptx.sync_warp()
            top = max(before, here)
            base = zero if top == lowest else top
            old, new = ptx.exp(before - base), ptx.exp(here - base)
            total = total * old + some * new
            share = zero
            if is_last:
                # a step of its own: where the keys are cut then changes no bit
                if not flags & HAS_SINKS:
                    share = zero if total == zero else one / total
                else:
                    sink = ptx.read(sinks, lead % sizes[HEADS])
                    if top == lowest and total == zero:  # no keys
                        top, total = sink, one
                    else:
                        most = max(top, sink)
                        base = zero if most == lowest else most
                        share = ptx.exp(top - base)
                        total = total * share + ptx.exp(sink - base)
                        share, top = share / total, most
            ptx.write(row_max, r, lowest)
            ptx.write(row_sum, r, share)
            ptx.write(total_max, r, top)
            ptx.write(total_sum, r, total)
            ptx.write(factor, r, old)
            ptx.write(fresh, r, new)
            slot = lead * sizes[N] + first + r
            if writes and first + r < sizes[N]:
                ptx.write(carry, sizes[STATE] + 2 * slot, top)
                ptx.write(carry, sizes[STATE] + 2 * slot + 1, total)
                if is_last and flags & HAS_LSE:
                    ptx.write(lse, slot, top + ptx.log(total))
            i = ptx.onward(i, 1)

    return settle


def outputs(
    shape: Geometry | TensorGeometry, groups: int, width: int, pitch: int,
    put_group: Any, write: Any,
) -> Any:  # fmt: skip
    """``give(...)``: write what a stretch gave, to `carry` or to the output (`write`).

    A thread has `groups` runs of `width` columns of each of its rows. It passes its own
    elements through shared memory, so that the loop over them needs no registers by
    number.
    """
    across, down, rows, place = shape.across, shape.down, shape.rows, corner(shape)
    block_q, block_d, zero = shape.block_q, shape.block_d, shape.real(0)

    @device_function
    def give(  # type: ignore[no-untyped-def]
        acc, weights, factor, fresh, row_sum, out, carry, leads, broken, sizes,
        lead, row_tile, strip, is_first, is_last,
    ):  # fmt: skip
        x, y = place()
        lead, row_tile = ptx.opaque(lead), ptx.opaque(row_tile)
        first = row_tile * block_q
        base = ptx.read(leads, lead * COLUMNS + OUT)
        g = 0
        while g < groups:
            put_group(acc, g, weights, y * pitch + x * width)
            column = strip * block_d + (g * across + x) * width
            count, i = min(width, sizes[D_V] - column), 0
            while i < rows:
                r = y + down * i
                row = first + r
                if row < sizes[N]:
                    e = 0
                    while e < count:
                        got = ptx.read(weights, r * pitch + x * width + e)
                        got *= ptx.read(fresh, r)
                        slot = (lead * sizes[N] + row) * sizes[D_V] + column + e
                        if not is_first and ptx.read(factor, r) != zero:
                            got += ptx.read(carry, slot) * ptx.read(factor, r)
                        if is_last:
                            got *= ptx.read(row_sum, r)
                            if not ptx.finite(got):
                                ptx.write(broken, lead * sizes[ROW_TILES] + row_tile, 1)
                            slot = base + row * sizes[O_ROW]
                            write(out, slot + (column + e) * sizes[O_COL], got)
                        else:
                            ptx.write(carry, slot, got)
                        e = ptx.onward(e, 1)
                i = ptx.onward(i, 1)
            g = ptx.onward(g, 1)

    return give
