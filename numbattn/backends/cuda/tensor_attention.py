"""The attention kernel on tensor cores: float16, bfloat16, and float32 as TF32."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import fragments, layout, ptx, tiles, warp_softmax
from .attention import attended, change_tile
from .device import cuda, device_function
from .elements import changed_by, corner, loader
from .geometry import TensorGeometry, turn
from .layout import (
    BEFORE,
    CLEAN,
    COLUMNS,
    D_K,
    D_V,
    EMPTY,
    FIRST_BLOCK,
    FLAGS,
    FULL,
    HAS_PATTERN,
    K_COL,
    K_ROW,
    K_VECTOR,
    KEY,
    KEY_TILES,
    LENGTH,
    OPTIONS,
    PAUSE,
    Q_COL,
    Q_ROW,
    QUERY,
    RESUME,
    ROW_TILES,
    SCALE,
    STRETCH,
    V_COL,
    V_ROW,
    V_VECTOR,
    VALUE,
    M,
    N,
)  # fmt: skip
from .softmax import outputs, stretches

BLOCKS = layout.BLOCKS
# what a block's threads read again where they need it: it would take registers
LEAD, ROW_TILE, STRIP, STOP, WHOLE, WHOLE_END, STEPS, TILE, TOLD = range(9)
EDGE = 1 << 40  # a flag that is none of the options
RUN = 8  # columns that pass through shared memory at a time where options are applied


def fetching(shape: TensorGeometry) -> Any:
    """``fetch(...)``: begin to copy a piece of K, or V, of a tile of keys."""
    bits, threads, width = shape.bits, shape.threads, shape.width
    depth, block_d, keys = shape.depth, shape.block_d, shape.block_kv
    load_k = loader(bits, threads, keys, depth, depth, width, turn(depth // width))
    load_v = loader(
        bits, threads, keys, block_d, block_d, width, turn(block_d // width),
        fragments.finiteness(shape),
    )  # fmt: skip

    @device_function
    def fetch(  # type: ignore[no-untyped-def]
        staged, to, key, value, leads, sizes, told, tile, step
    ):
        j, t, at = tile * keys, ptx.thread(), ptx.read(told, LEAD) * COLUMNS
        if step < ptx.read(told, STEPS):
            c = step * depth
            load_k(
                staged, to, key,
                ptx.read(leads, at + KEY) + j * sizes[K_ROW] + c * sizes[K_COL],
                sizes[K_ROW], sizes[K_COL], sizes[M] - j, sizes[D_K] - c,
                sizes[FLAGS] & K_VECTOR, False, t,
            )  # fmt: skip
        else:
            # keys that do not exist are not read: they might be anything
            column = ptx.read(told, STRIP) * block_d
            length = min(sizes[M], ptx.read(leads, at + LENGTH))
            load_v(
                staged, to, value,
                ptx.read(leads, at + VALUE) + j * sizes[V_ROW] + column * sizes[V_COL],
                sizes[V_ROW], sizes[V_COL], length - j, sizes[D_V] - column,
                sizes[FLAGS] & V_VECTOR, sizes[FLAGS] & CLEAN, t,
            )  # fmt: skip

    return fetch


def queries(shape: TensorGeometry) -> Any:
    """``load(...)``: a piece of the lane's queries into registers."""
    depth, block_q, place = shape.depth, shape.block_q, corner(shape)
    load_all = fragments.loading(shape)

    @device_function
    def load(left, query, leads, sizes, told, step):  # type: ignore[no-untyped-def]
        c, first = step * depth, ptx.read(told, ROW_TILE) * block_q
        (x, y), at = place(), ptx.read(told, LEAD) * COLUMNS
        start = ptx.read(leads, at + QUERY) + first * sizes[Q_ROW] + c * sizes[Q_COL]
        load_all(
            left, query, start, sizes[Q_ROW], sizes[Q_COL], sizes[N] - first,
            sizes[D_K] - c, y, x,
        )  # fmt: skip

    return load


@device_function
def following(blocks, told, leads, sizes, tile):  # type: ignore[no-untyped-def]
    """The next tile of keys that a mask object does not leave out."""
    tile += 1
    if sizes[FLAGS] & HAS_PATTERN:
        at = ptx.read(leads, ptx.read(told, LEAD) * COLUMNS + BLOCKS)
        at += ptx.read(told, ROW_TILE) * sizes[KEY_TILES]
        while tile < ptx.read(told, STOP) and ptx.read(blocks, at + tile) == EMPTY:
            tile += 1
    return tile


@device_function
def hiding(blocks, told, leads, sizes, tile):  # type: ignore[no-untyped-def]
    """The options that a tile of keys needs; EDGE where a window or length cuts it."""
    flags = sizes[FLAGS] & OPTIONS
    if flags & HAS_PATTERN:
        at = ptx.read(leads, ptx.read(told, LEAD) * COLUMNS + BLOCKS)
        at += ptx.read(told, ROW_TILE) * sizes[KEY_TILES]
        if ptx.read(blocks, at + tile) == FULL:
            flags &= ~HAS_PATTERN
    if tile < ptx.read(told, WHOLE) or tile >= ptx.read(told, WHOLE_END):
        flags |= EDGE
    return flags


def build(shape: TensorGeometry, modify: Any, attends: Any) -> Any:
    """The kernel of one geometry and one pair of users' functions.

    It computes out = softmax(scores) V of one tile of queries and one strip of value
    columns (FlashAttention-2, Dao 2023, algorithm 1; products by ``mma.sync``).

    Work: a block of warps a tile of queries and a strip; a warp 16 queries, or a
    multiple. Tiles of keys come one after another: K in pieces of `depth` columns, then
    V, through two stages of shared memory; one is filled (cp.async) while the other is
    multiplied. Queries, scores, weights and outputs stay in registers: the scores that
    a lane has are the weights that it needs for P V.

    Invariant: as in `attention`, which shares stretches, `carry` and the options.
    Weights are rounded to the arrays' type for P V; their sum is that of the unrounded.
    """
    real, bits, threads = shape.real, shape.bits, shape.threads
    dtype = np.dtype(real)
    block_q, block_kv, block_d = shape.block_q, shape.block_kv, shape.block_d
    depth, rows, width = shape.depth, shape.rows, shape.width
    stage = block_kv * max(depth, block_d)
    stages, scratch_size, place = 2 * stage, block_q * RUN, corner(shape)
    score_size, out_size = rows * block_kv // 4, rows * block_d // 4
    left_size = shape.atoms * depth // width * 2
    groups, (k_shift, k_bits) = block_kv // 8, turn(depth // width)
    v_shift, v_bits = turn(block_d // width)
    tf32 = shape.kind == "tf32"
    zero, lowest = real(0), real(-np.inf)

    clear_scores, clear_out = (
        tiles.clear(dtype, score_size),
        tiles.clear(dtype, out_size),
    )
    load, fetch = queries(shape), fetching(shape)
    product, accumulate = fragments.row_product(shape), fragments.column_product(shape)
    scale, update = warp_softmax.scaling(shape), warp_softmax.exponentials(shape)
    begin, share = warp_softmax.beginning(shape), warp_softmax.sharing(shape)
    put = tiles.put_group(dtype, rows, groups, 2, 8 * RUN)
    take = tiles.take_group(dtype, rows, groups, 2, 8 * RUN)
    change = change_tile(shape, RUN, changed_by(real, modify, attends))
    bounds, settle = attended(block_q, block_kv), stretches(shape)
    put_out = tiles.put_group(dtype, rows, block_d // 8, 2, 8 * RUN)
    give = outputs(shape, block_d // 8, 2, RUN, put_out, fragments.writing(shape))

    @device_function
    def own():  # type: ignore[no-untyped-def]
        """Where the lane's elements of a run of columns are in shared memory."""
        x, y = place()
        return y * RUN + 2 * x

    @device_function
    def k_row():  # type: ignore[no-untyped-def]
        """The row and vector of K that the lane names to ldmatrix, see `fragments`."""
        lane = ptx.thread() % 32
        r = lane % 8 + lane // 16 * 8
        return r * depth + ((lane // 8 % 2) ^ (r >> k_shift & k_bits)) * width

    @device_function
    def v_row(odd):  # type: ignore[no-untyped-def]
        """Likewise of V; of TF32 the lane's first element, or that of an odd key."""
        lane = ptx.thread() % 32
        r, within = lane % 16, 0
        if tf32:
            r, within = lane % 4 * 2 + odd, lane // 4 % 4
        return r * block_d + ((lane // 16) ^ (r >> v_shift & v_bits)) * width + within

    def kernel(  # type: ignore[no-untyped-def]
        query, key, value, out, lse, bias, mask, sinks, leads, blocks, carry, broken,
        sizes, reals, arguments, status,
    ):  # fmt: skip
        staged = cuda.shared.array(stages, bits, alignment=128)
        scratch = cuda.shared.array(scratch_size, real)
        maxima = cuda.shared.array(block_q, real)
        sums = cuda.shared.array(block_q, real)
        factor = cuda.shared.array(block_q, real)
        fresh = cuda.shared.array(block_q, real)
        total_max = cuda.shared.array(block_q, real)
        total_sum = cuda.shared.array(block_q, real)
        told = cuda.shared.array(TOLD, np.int64)
        left = cuda.local.array(left_size, np.uint32)
        score = cuda.local.array(score_size, real)
        acc = cuda.local.array(out_size, real)
        row_max = cuda.local.array(rows, real)
        row_sum = cuda.local.array(rows, real)

        index, t = cuda.blockIdx.x + sizes[FIRST_BLOCK], cuda.threadIdx.x
        # the last rows first: they are the longest where a call is causal
        row_tile = sizes[ROW_TILES] - 1 - index % sizes[ROW_TILES]
        strips = max(1, (sizes[D_V] + block_d - 1) // block_d)
        lead = index // sizes[ROW_TILES] // strips
        noted, first = lead * sizes[ROW_TILES] + row_tile, row_tile * block_q
        if sizes[FLAGS] & CLEAN and ptx.read(broken, noted) == 0:
            return
        if t == 0:
            tile, stop, whole, whole_end = bounds(
                leads, sizes, lead * COLUMNS, first, min(block_q, sizes[N] - first)
            )
            ptx.write(told, LEAD, lead)
            ptx.write(told, ROW_TILE, row_tile)
            ptx.write(told, STRIP, index // sizes[ROW_TILES] % strips)
            ptx.write(told, STOP, stop)
            ptx.write(told, WHOLE, whole)
            ptx.write(told, WHOLE_END, whole_end)
            steps = max(1, (sizes[D_K] + depth - 1) // depth)
            ptx.write(told, STEPS, steps)
            ptx.write(told, TILE, following(blocks, told, leads, sizes, tile - 1))
        for r in range(t, block_q, threads):
            ptx.write(total_max, r, lowest)
            ptx.write(total_sum, r, zero)
            if sizes[FLAGS] & RESUME and first + r < sizes[N]:
                slot = sizes[BEFORE] + 2 * (lead * sizes[N] + first + r)
                ptx.write(total_max, r, ptx.read(carry, slot))
                ptx.write(total_sum, r, ptx.read(carry, slot + 1))
        cuda.syncthreads()
        clear_out(acc)
        begin(row_max, row_sum)

        is_first, loaded, going = not sizes[FLAGS] & RESUME, False, True
        # what is multiplied next, and what is fetched meanwhile; at first nothing is
        tile, step, now = ptx.read(told, TILE), -1, stage
        then, behind, stretch = tile, 0, tile // sizes[STRETCH]
        while going:
            ptx.copy_wait()
            cuda.syncthreads()
            if then < ptx.read(told, STOP):
                fetch(staged, stage - now, key, value, leads, sizes, told, then, behind)
            ptx.copy_commit()
            steps = ptx.read(told, STEPS)
            if 0 <= step < steps:
                if steps > 1 or not loaded:
                    load(left, query, leads, sizes, told, step)
                    loaded = True
                if step == 0:
                    clear_scores(score)
                product(score, left, staged, now + k_row(), sizes[D_K] - step * depth)
                if step + 1 == steps:
                    scale(score, reals[SCALE], zero)
                    flags = hiding(blocks, told, leads, sizes, tile)
                    if flags:
                        g = 0
                        while g < groups:
                            put(score, g, scratch, own())
                            ptx.sync_warp()
                            change(
                                scratch, ptx.read(told, ROW_TILE) * block_q,
                                tile * block_kv + g * 8,
                                ptx.read(told, LEAD) * COLUMNS, bias, mask, leads,
                                sizes, reals, flags, arguments, status,
                            )  # fmt: skip
                            ptx.sync_warp()
                            take(score, g, scratch, own())
                            g = ptx.onward(g, 1)
                    update(score, acc, row_max, row_sum)
            elif step >= steps:
                accumulate(
                    acc, score, staged, now + v_row(0), now + v_row(1),
                    sizes[D_V] - ptx.read(told, STRIP) * block_d,
                )  # fmt: skip
            ends = step == steps if sizes[D_V] else step + 1 == steps
            if ends or tile >= ptx.read(told, STOP):
                going = then < ptx.read(told, STOP)
                if not going or then // sizes[STRETCH] != stretch:
                    is_last = not going and not sizes[FLAGS] & PAUSE
                    lead, strip = ptx.read(told, LEAD), ptx.read(told, STRIP)
                    row_tile = ptx.read(told, ROW_TILE)
                    _, y = place()
                    share(row_max, row_sum, maxima, sums, y)
                    settle(
                        maxima, sums, factor, fresh, total_max, total_sum, lse, carry,
                        sinks, sizes, lead, row_tile * block_q, is_last, strip == 0,
                    )  # fmt: skip
                    give(
                        acc, scratch, factor, fresh, sums, out, carry, leads, broken,
                        sizes, lead, row_tile, strip, is_first, is_last,
                    )  # fmt: skip
                    clear_out(acc)
                    stretch, is_first = then // sizes[STRETCH], False
            tile, step, now = then, behind, stage - now
            behind += 1
            if behind == ptx.read(told, STEPS) + (1 if sizes[D_V] else 0):
                then, behind = following(blocks, told, leads, sizes, then), 0

    return kernel
