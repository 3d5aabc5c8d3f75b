"""The attention kernel on plain arithmetic units: float32 and float64.

Also, with no columns of values, the maximum and the sum of every row of scores, which
`weights` needs.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import layout, ptx, tiles
from .device import cuda, device_function
from .elements import changed_by, corner, loader, pieces
from .geometry import FOLD, Geometry, TensorGeometry
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
    KEY_TILES,
    LEFT,
    LENGTH,
    OPTIONS,
    PAUSE,
    POSITION,
    RESUME,
    RIGHT,
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
from .softmax import exponentials, outputs, stretches

BLOCKS = layout.BLOCKS


def change_tile(shape: Geometry | TensorGeometry, pitch: int, changed: Any) -> Any:
    """``change(...)``: apply the options to a tile of scores in shared memory."""
    columns, across, down = shape.columns, shape.across, shape.down
    size, lowest, place_of = shape.rows * columns, shape.real(-np.inf), corner(shape)

    @device_function
    def change(  # type: ignore[no-untyped-def]
        scores, first, tile_first, at, bias, mask, leads, sizes, reals, flags,
        arguments, status,
    ):  # fmt: skip
        first, at = ptx.opaque(first), ptx.opaque(at)
        e = 0
        while e < size:
            x, y = place_of()
            r, c = y + down * (e // columns), x + across * (e % columns)
            place = r * pitch + c
            s = lowest
            if first + r < sizes[N] and tile_first + c < sizes[M]:
                s = changed(
                    ptx.read(scores, place), first + r, tile_first + c, at,
                    bias, mask, leads, sizes, reals, flags, arguments, status,
                )  # fmt: skip
            ptx.write(scores, place, s)
            e = ptx.onward(e, 1)

    return change


def attended(block_q: int, block_kv: int) -> Any:
    """``bounds(...)``: the tiles of keys that a tile of queries attends.

    Returns the first, the one after the last, and the tiles in between in which
    no window, causal bound or length hides anything.
    """

    @device_function
    def bounds(leads, sizes, at, first, height):  # type: ignore[no-untyped-def]
        q = first + ptx.read(leads, at + POSITION)
        length = min(ptx.read(leads, at + LENGTH), sizes[M])
        begin = max(0, q - sizes[LEFT])
        end = min(length, q + height + sizes[RIGHT])
        stop = (end + block_kv - 1) // block_kv if end > begin else 0
        whole = max(0, q + height - 1 - sizes[LEFT])
        whole = (whole + block_kv - 1) // block_kv
        whole_end = max(0, min(length, q + sizes[RIGHT] + 1)) // block_kv
        return begin // block_kv, stop, whole, whole_end

    return bounds


def build(shape: Geometry, modify: Any, attends: Any) -> Any:
    """The kernel of one geometry and one pair of users' functions.

    It computes out = softmax(scores) V of one tile of queries and one strip of value
    columns (FlashAttention-2, Dao 2023, algorithm 1, forward).

    Work: a block of threads a tile of queries and a strip; tiles of keys one after
    another. Q, K and then V come in pieces through two stages of shared memory: one is
    filled (cp.async) while the other is multiplied. Thread (y, x) holds the scores of
    rows y + down r and keys x + across c, and the outputs of the same rows.

    Invariant: after each tile of keys, `acc` is the sum over the keys so far of this
    stretch of exp(score - row_max) v, and row_sum that of the exponentials. A stretch
    is `STRETCH` tiles; what stretches give is added up in `carry`, so that a sum over
    m keys has about 2 sqrt(m / block_kv) + block_kv additions after one another.
    """
    real, threads, width = shape.real, shape.threads, shape.width
    dtype = np.dtype(real)
    across, down, rows, columns = shape.across, shape.down, shape.rows, shape.columns
    block_q, block_kv, block_d = shape.block_q, shape.block_kv, shape.block_d
    depth, keys, groups = shape.depth, shape.keys, shape.groups
    pitch = depth + width  # rows of 16 bytes more: lanes read without bank conflicts
    p_pitch = max(block_kv, across * width) + width
    stage = max((block_q + block_kv) * pitch, keys * block_d)
    q_size, stages, scores_size = block_q * pitch, 2 * stage, block_q * p_pitch
    size, out_size = rows * columns, rows * groups * width
    v_steps, folds = block_kv // keys, max(1, FOLD // depth)
    zero, lowest = real(0), real(-np.inf)

    clear_scores = tiles.clear(dtype, size)
    clear_out = tiles.clear(dtype, out_size)
    multiply = tiles.row_product(dtype, rows, columns, down * pitch, across * pitch)
    accumulate = tiles.column_product(
        dtype, rows, groups, down * p_pitch, block_d, across * width
    )
    correct = tiles.scale_rows(dtype, rows, groups * width, down)
    put = tiles.put(dtype, rows, columns, down * p_pitch, across)
    load_q = loader(real, threads, block_q, depth, pitch, width)
    load_k = loader(real, threads, block_kv, depth, pitch, width)
    load_v = loader(real, threads, keys, block_d, block_d, width)
    change = change_tile(shape, p_pitch, changed_by(real, modify, attends))
    bounds = attended(block_q, block_kv)
    update, settle = exponentials(shape, p_pitch), stretches(shape)
    put_group = tiles.put_group(dtype, rows, groups, width, down * p_pitch)
    give = outputs(shape, groups, width, p_pitch, put_group, ptx.write)

    bring = pieces(load_q, load_k, q_size, depth)

    @device_function
    def fetch(  # type: ignore[no-untyped-def]
        staged, to, query, key, value, leads, sizes, at, first, tile, step, steps,
        column,
    ):  # fmt: skip
        t, flags = ptx.thread(), sizes[FLAGS]
        first, at = ptx.opaque(first), ptx.opaque(at)
        k_first = ptx.opaque(tile) * block_kv
        if step < steps:
            bring(staged, to, query, key, leads, sizes, at, first, k_first, step)
        else:
            j = k_first + (step - steps) * keys
            # keys that do not exist are not read: they might be anything
            length = min(sizes[M], ptx.read(leads, at + LENGTH))
            load_v(
                staged, to, value,
                ptx.read(leads, at + VALUE) + j * sizes[V_ROW] + column * sizes[V_COL],
                sizes[V_ROW], sizes[V_COL], length - j, sizes[D_V] - column,
                flags & V_VECTOR, flags & CLEAN, t,
            )  # fmt: skip

    def kernel(  # type: ignore[no-untyped-def]
        query, key, value, out, lse, bias, mask, sinks, leads, blocks, carry, broken,
        sizes, reals, arguments, status,
    ):  # fmt: skip
        staged = cuda.shared.array(stages, real)
        weights = cuda.shared.array(scores_size, real)
        row_max = cuda.shared.array(block_q, real)
        row_sum = cuda.shared.array(block_q, real)
        factor = cuda.shared.array(block_q, real)
        fresh = cuda.shared.array(block_q, real)
        total_max = cuda.shared.array(block_q, real)
        total_sum = cuda.shared.array(block_q, real)
        part = cuda.local.array(size, real)
        acc = cuda.local.array(out_size, real)

        t = cuda.threadIdx.x
        x, y = t % across, t // across
        index = cuda.blockIdx.x + sizes[FIRST_BLOCK]
        # the last rows first: they are the longest where a call is causal
        row_tile = sizes[ROW_TILES] - 1 - index % sizes[ROW_TILES]
        strips = max(1, (sizes[D_V] + block_d - 1) // block_d)
        strip = index // sizes[ROW_TILES] % strips
        lead = index // sizes[ROW_TILES] // strips
        at, first = lead * COLUMNS, row_tile * block_q
        noted = lead * sizes[ROW_TILES] + row_tile
        if sizes[FLAGS] & CLEAN and ptx.read(broken, noted) == 0:
            return
        tile, stop, whole, whole_end = bounds(
            leads, sizes, at, first, min(block_q, sizes[N] - first)
        )
        patterned = sizes[FLAGS] & HAS_PATTERN
        table = ptx.read(leads, at + BLOCKS) + row_tile * sizes[KEY_TILES]
        steps = max(1, (sizes[D_K] + depth - 1) // depth)
        all_steps = steps + (v_steps if sizes[D_V] else 0)
        for r in range(t, block_q, threads):
            ptx.write(row_max, r, lowest)
            ptx.write(row_sum, r, zero)
            ptx.write(total_max, r, lowest)
            ptx.write(total_sum, r, zero)
            if sizes[FLAGS] & RESUME and first + r < sizes[N]:
                slot = sizes[BEFORE] + 2 * (lead * sizes[N] + first + r)
                ptx.write(total_max, r, ptx.read(carry, slot))
                ptx.write(total_sum, r, ptx.read(carry, slot + 1))
        clear_out(acc)
        cuda.syncthreads()

        if patterned:
            while tile < stop and ptx.read(blocks, table + tile) == EMPTY:
                tile += 1
        now, stretch = 0, tile // sizes[STRETCH]
        is_first = not sizes[FLAGS] & RESUME
        is_last = not sizes[FLAGS] & PAUSE
        if tile < stop:
            fetch(
                staged, 0, query, key, value, leads, sizes, at, first, tile, 0, steps,
                strip * block_d,
            )  # fmt: skip
            ptx.copy_commit()
        done = False
        while not done:
            if tile < stop:
                following = tile + 1
                if patterned:
                    while (
                        following < stop
                        and ptx.read(blocks, table + following) == EMPTY
                    ):
                        following += 1
                clear_scores(part)
                for step in range(all_steps):
                    ptx.copy_wait()
                    cuda.syncthreads()
                    to = stage - now
                    next_tile, next_step = tile, step + 1
                    if next_step == all_steps:
                        next_tile, next_step = following, 0
                    if next_tile < stop:
                        fetch(
                            staged, to, query, key, value, leads, sizes, at, first,
                            next_tile, next_step, steps, strip * block_d,
                        )  # fmt: skip
                    ptx.copy_commit()
                    if step < steps:
                        for k in range(0, depth, width):
                            multiply(
                                part, staged, now + y * pitch + k,
                                staged, now + q_size + x * pitch + k,
                            )  # fmt: skip
                        if step + 1 == steps or step % folds == folds - 1:
                            corner = y * p_pitch + x
                            put(part, weights, corner, reals[SCALE], step // folds)
                    if step + 1 == steps:
                        flags = sizes[FLAGS] & OPTIONS
                        if patterned and ptx.read(blocks, table + tile) == FULL:
                            flags &= ~HAS_PATTERN
                        if flags or tile < whole or tile >= whole_end:
                            change(
                                weights, first, tile * block_kv, at, bias, mask, leads,
                                sizes, reals, flags, arguments, status,
                            )  # fmt: skip
                        update(weights, row_max, row_sum, factor)
                        correct(acc, factor, y)
                    elif step >= steps:
                        j = (step - steps) * keys
                        for k in range(0, keys, width):
                            accumulate(
                                acc, weights, y * p_pitch + j + k,
                                staged, now + k * block_d + x * width,
                            )  # fmt: skip
                    now = to
                tile = following
            done = tile >= stop
            if done or tile // sizes[STRETCH] != stretch:
                ends = done and is_last
                settle(
                    row_max, row_sum, factor, fresh, total_max, total_sum, lse, carry,
                    sinks, sizes, lead, first, ends, strip == 0,
                )  # fmt: skip
                give(
                    acc, weights, factor, fresh, row_sum, out, carry, leads, broken,
                    sizes, lead, row_tile, strip, is_first, ends,
                )  # fmt: skip
                clear_out(acc)
                stretch, is_first = tile // sizes[STRETCH], False

    return kernel
