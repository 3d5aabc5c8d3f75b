"""The kernel of scores and weights on plain arithmetic units: float32 and float64."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import layout, ptx, tiles
from .device import cuda, device_function
from .elements import changed_by, loader, pieces
from .geometry import FOLD, Geometry
from .layout import (
    COLUMNS,
    D_K,
    EMPTY,
    FIRST_BLOCK,
    FLAGS,
    FULL,
    HAS_PATTERN,
    KEY_TILES,
    LEFT,
    LENGTH,
    O_COL,
    O_ROW,
    OPTIONS,
    OUT,
    POSITION,
    RIGHT,
    ROW_TILES,
    SCALE,
    STATE,
    WEIGHTS,
    M,
    N,
)  # fmt: skip

BLOCKS = layout.BLOCKS
GROUP = 16  # tiles of queries that share the keys they read in the level-2 cache


@device_function
def tile_of(index, row_tiles, key_tiles):  # type: ignore[no-untyped-def]
    """The lead, row and key tile of a block: groups of rows walk along the keys."""
    each = row_tiles * key_tiles
    lead, place = index // each, index % each
    group = place // (GROUP * key_tiles)
    first = group * GROUP
    height = min(GROUP, row_tiles - first)
    place -= first * key_tiles
    return lead, first + place % height, place // height


def extent(block_q: int, block_kv: int) -> Any:
    """``see(...)``: what of a tile is attended, by windows, lengths and mask objects.

    Whether nothing is; whether no window or length hides anything; and the flags, of
    which a mask object that hides nothing in the tile is taken away.
    """

    @device_function
    def see(leads, blocks, sizes, at, row_tile, tile):  # type: ignore[no-untyped-def]
        first, k_first = row_tile * block_q, tile * block_kv
        q = first + ptx.read(leads, at + POSITION)
        q_last = min(first + block_q, sizes[N]) - 1 + ptx.read(leads, at + POSITION)
        length, last = ptx.read(leads, at + LENGTH), k_first + block_kv - 1
        hidden = k_first >= length or last < q - sizes[LEFT]
        hidden = hidden or k_first > q_last + sizes[RIGHT]
        inside = last < length and k_first >= q_last - sizes[LEFT]
        inside = inside and last <= q + sizes[RIGHT]
        flags = sizes[FLAGS]
        if flags & HAS_PATTERN:
            place = ptx.read(leads, at + BLOCKS) + row_tile * sizes[KEY_TILES] + tile
            kind = ptx.read(blocks, place)
            hidden = hidden or kind == EMPTY
            if kind == FULL:
                flags &= ~HAS_PATTERN
        return hidden, inside, flags

    return see


def finishing(shape: Geometry, changed: Any, pitch: int) -> Any:
    """``finish(...)``: options, weights and the write of one tile of scores."""
    rows, columns, across, down = shape.rows, shape.columns, shape.across, shape.down
    real, block_q, block_kv = shape.real, shape.block_q, shape.block_kv
    zero, lowest = real(0), real(-np.inf)

    @device_function
    def finish(  # type: ignore[no-untyped-def]
        scores, row_tile, tile, lead, out, bias, mask, stats, leads, sizes, reals,
        flags, plain, hidden, arguments, status,
    ):  # fmt: skip
        t = ptx.thread()
        x, y = t % across, t // across
        at = lead * COLUMNS
        base = ptx.read(leads, at + OUT)
        for i in range(rows):
            r = y + down * i
            row = row_tile * block_q + r
            if row < sizes[N]:
                top, total = zero, zero
                if flags & WEIGHTS:
                    slot = sizes[STATE] + 2 * (lead * sizes[N] + row)
                    top, total = ptx.read(stats, slot), ptx.read(stats, slot + 1)
                for j in range(columns):
                    key = tile * block_kv + x + across * j
                    if key < sizes[M]:
                        s = lowest
                        if not hidden:
                            s = ptx.read(scores, r * pitch + x + across * j)
                            if not plain:
                                s = changed(
                                    s, row, key, at, bias, mask, leads, sizes, reals,
                                    flags, arguments, status,
                                )  # fmt: skip
                        if flags & WEIGHTS:
                            # what is hidden weighs 0 whatever the sink is
                            s = zero if s == lowest else ptx.exp(s - top) / total
                        slot = base + row * sizes[O_ROW] + key * sizes[O_COL]
                        ptx.write(out, slot, s)

    return finish


def build(shape: Geometry, modify: Any, attends: Any) -> Any:
    """The kernel of one geometry and one pair of users' functions.

    It computes one tile of scale Q Kᵀ, with the options applied; where FLAGS has
    WEIGHTS, exp(score - max) / sum by the rows' numbers in `stats`, from STATE on.

    Work: a block of threads a tile of block_q x block_kv scores. Q and K come in
    pieces of `depth` columns through two stages of shared memory: one is filled
    (cp.async) while the other is multiplied. Thread (y, x) holds the scores of rows
    y + down r and keys x + across c.

    Invariant: `part` has the products of up to `FOLD` columns, `finished` those before
    (Goto and van de Geijn 2008 for the blocking; the two levels keep the error bound).
    """
    real, threads, width = shape.real, shape.threads, shape.width
    dtype = np.dtype(real)
    across, down, rows, columns = shape.across, shape.down, shape.rows, shape.columns
    block_q, block_kv, depth = shape.block_q, shape.block_kv, shape.depth
    pitch, p_pitch = depth + width, block_kv + width
    q_size, stage = block_q * pitch, (block_q + block_kv) * pitch
    stages, size, scores_size = 2 * stage, rows * columns, block_q * p_pitch
    folds = max(1, FOLD // depth)

    clear, see = tiles.clear(dtype, size), extent(block_q, block_kv)
    multiply = tiles.row_product(dtype, rows, columns, down * pitch, across * pitch)
    put = tiles.put(dtype, rows, columns, down * p_pitch, across)
    load_q = loader(real, threads, block_q, depth, pitch, width)
    load_k = loader(real, threads, block_kv, depth, pitch, width)
    finish = finishing(shape, changed_by(real, modify, attends), p_pitch)

    fetch = pieces(load_q, load_k, q_size, depth)

    def kernel(  # type: ignore[no-untyped-def]
        query, key, out, bias, mask, stats, leads, blocks, sizes, reals, arguments,
        status,
    ):  # fmt: skip
        staged = cuda.shared.array(stages, real)
        finished = cuda.shared.array(scores_size, real)
        part = cuda.local.array(size, real)
        t = cuda.threadIdx.x
        x, y = t % across, t // across
        index = cuda.blockIdx.x + sizes[FIRST_BLOCK]
        lead, row_tile, tile = tile_of(index, sizes[ROW_TILES], sizes[KEY_TILES])
        at, first, k_first = lead * COLUMNS, row_tile * block_q, tile * block_kv

        # what no query of the tile attends is not computed
        hidden, inside, flags = see(leads, blocks, sizes, at, row_tile, tile)
        if not hidden:
            steps = max(1, (sizes[D_K] + depth - 1) // depth)
            clear(part)
            fetch(staged, 0, query, key, leads, sizes, at, first, k_first, 0)
            ptx.copy_commit()
            now = 0
            for step in range(steps):
                ptx.copy_wait()
                cuda.syncthreads()
                if step + 1 < steps:
                    fetch(
                        staged, stage - now, query, key, leads, sizes, at, first,
                        k_first, step + 1,
                    )  # fmt: skip
                ptx.copy_commit()
                for k in range(0, depth, width):
                    multiply(
                        part, staged, now + y * pitch + k,
                        staged, now + q_size + x * pitch + k,
                    )  # fmt: skip
                if step + 1 == steps or step % folds == folds - 1:
                    corner = y * p_pitch + x
                    put(part, finished, corner, reals[SCALE], step // folds)
                now = stage - now
        finish(
            finished, row_tile, tile, lead, out, bias, mask, stats, leads, sizes, reals,
            flags, inside and not flags & OPTIONS, hidden, arguments, status,
        )  # fmt: skip

    return kernel
