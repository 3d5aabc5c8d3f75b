"""The kernel of scores and weights on tensor cores: halves, and float32 as TF32."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import fragments, ptx, tiles, warp_softmax
from .attention import change_tile
from .device import cuda, device_function
from .elements import changed_by, corner, loader, pieces
from .geometry import TensorGeometry, turn
from .layout import (
    COLUMNS,
    D_K,
    FIRST_BLOCK,
    FLAGS,
    KEY_TILES,
    O_COL,
    O_ROW,
    OPTIONS,
    OUT,
    ROW_TILES,
    SCALE,
    STATE,
    WEIGHTS,
    M,
    N,
)  # fmt: skip
from .scores import extent, tile_of

# what a block's threads read again where they need it: it would take registers
LEAD, FIRST, K_FIRST, CHANGES, STEPS, TOLD = range(6)
EDGE = 1 << 40  # a flag that is none of the options
RUN = 8  # columns that pass through shared memory at a time


def fetching(shape: TensorGeometry) -> Any:
    """``fetch(...)``: begin to copy pieces of Q and of K."""
    bits, threads, depth, width = shape.bits, shape.threads, shape.depth, shape.width
    block_q, turned = shape.block_q, turn(depth // width)
    load_q = loader(bits, threads, block_q, depth, depth, width, turned)
    load_k = loader(bits, threads, shape.block_kv, depth, depth, width, turned)
    bring = pieces(load_q, load_k, block_q * depth, depth)

    @device_function
    def fetch(staged, to, query, key, leads, sizes, told, step):  # type: ignore[no-untyped-def]
        first, k_first = ptx.read(told, FIRST), ptx.read(told, K_FIRST)
        at = ptx.read(told, LEAD) * COLUMNS
        bring(staged, to, query, key, leads, sizes, at, first, k_first, step)

    return fetch


def finishing(shape: TensorGeometry, pitch: int, put: Any) -> Any:
    """``finish(...)``: write the warp's tile of scores, whole or what exists of it."""
    rows, groups, width = shape.rows, shape.keys // 8, shape.width
    store, write = fragments.storing(shape), fragments.writing(shape)
    height, breadth, key_warps = 16 * shape.atoms, shape.keys, shape.key_warps
    place = corner(shape)

    @device_function
    def finish(score, scratch, out, leads, sizes, told, own):  # type: ignore[no-untyped-def]
        x, y = place()
        row, x = ptx.read(told, FIRST) + y, x % RUN
        key = ptx.read(told, K_FIRST) + ptx.thread() // 32 % key_warps * breadth
        start = ptx.read(leads, ptx.read(told, LEAD) * COLUMNS + OUT)
        start += row * sizes[O_ROW] + key * sizes[O_COL]
        whole = row - y % 8 + height <= sizes[N] and key + breadth <= sizes[M]
        whole = whole and sizes[O_COL] == 1 and sizes[O_ROW] % width == 0
        if whole and ptx.aligned16(out, start):
            store(score, out, start, sizes[O_ROW], x)
        else:
            n = 0
            while n < groups:
                put(score, n, scratch, own)
                i, column = 0, n * RUN + 2 * x
                while i < rows:
                    e = 0
                    while e < 2:
                        if row + 8 * i < sizes[N] and key + column + e < sizes[M]:
                            to = start + 8 * i * sizes[O_ROW]
                            to += (column + e) * sizes[O_COL]
                            write(out, to, ptx.read(scratch, own + 8 * i * pitch + e))
                        e = ptx.onward(e, 1)
                    i = ptx.onward(i, 1)
                n = ptx.onward(n, 1)

    return finish


def build(shape: TensorGeometry, modify: Any, attends: Any) -> Any:
    """The kernel of one geometry and one pair of users' functions.

    It computes what `scores` does: one tile of scale Q Kᵀ with the options applied, or
    weights by the rows' maxima and sums; rounded once, when it is written.

    Work: a block of warps a tile of block_q x block_kv scores, each warp a part. Q and
    K come in pieces of `depth` columns through two stages of shared memory: one is
    filled (cp.async) while the other is multiplied (CUTLASS's scheme of a GEMM).

    Invariant: `score` is the sum over the columns so far, in float32, one product of
    16 (or 8) columns after another: d / 16 roundings of 2^-24, next to which the
    arrays' own u, 2^-8 or 2^-11, is all of the error bound.
    """
    real, bits = shape.real, shape.bits
    dtype = np.dtype(real)
    block_q, block_kv, rows, keys = (
        shape.block_q,
        shape.block_kv,
        shape.rows,
        shape.keys,
    )
    depth, width, key_warps = shape.depth, shape.width, shape.key_warps
    q_size, stage = block_q * depth, (block_q + block_kv) * depth
    # rows of 8 or 24 floats: few lanes meet in a bank
    pitch = RUN if key_warps == 1 else RUN * (key_warps + 1)
    stages, scratch_size = 2 * stage, block_q * pitch
    size, groups = rows * keys // 4, keys // 8
    shift, turned = turn(depth // width)
    lowest, zero = real(-np.inf), real(0)
    height, corner_of = 16 * shape.atoms, corner(shape)

    clear = tiles.clear(dtype, size)
    product, scale = fragments.block_product(shape), warp_softmax.scaling(shape)
    weigh, fetch = warp_softmax.weighing(shape), fetching(shape)
    put = tiles.put_group(dtype, rows, groups, 2, 8 * pitch)
    take = tiles.take_group(dtype, rows, groups, 2, 8 * pitch)
    change = change_tile(shape, pitch, changed_by(real, modify, attends))
    see, finish = extent(block_q, block_kv), finishing(shape, pitch, put)

    @device_function
    def q_row():  # type: ignore[no-untyped-def]
        """The row and vector of Q that the lane names to ldmatrix, see `fragments`."""
        t = ptx.thread()
        r = t % 16
        place = (t // 32 // key_warps * height + r) * depth
        return place + ((t // 16 % 2) ^ (r >> shift & turned)) * width

    @device_function
    def k_row():  # type: ignore[no-untyped-def]
        """Likewise of K."""
        t = ptx.thread()
        r = t % 8 + t // 16 % 2 * 8
        place = (t // 32 % key_warps * keys + r) * depth
        return place + ((t // 8 % 2) ^ (r >> shift & turned)) * width

    @device_function
    def own():  # type: ignore[no-untyped-def]
        """Where the lane's elements of a run of columns are in shared memory."""
        x, y = corner_of()
        return y * pitch + x // RUN * RUN + 2 * (x % RUN)

    def kernel(  # type: ignore[no-untyped-def]
        query, key, out, bias, mask, stats, leads, blocks, sizes, reals, arguments,
        status,
    ):  # fmt: skip
        staged = cuda.shared.array(stages, bits, alignment=128)
        scratch = cuda.shared.array(scratch_size, real)
        told = cuda.shared.array(TOLD, np.int64)
        score = cuda.local.array(size, real)
        if cuda.threadIdx.x == 0:
            index = cuda.blockIdx.x + sizes[FIRST_BLOCK]
            lead, row_tile, tile = tile_of(index, sizes[ROW_TILES], sizes[KEY_TILES])
            hidden, inside, flags = see(
                leads, blocks, sizes, lead * COLUMNS, row_tile, tile
            )
            options = flags & OPTIONS
            if not inside:
                options |= EDGE
            ptx.write(told, LEAD, lead)
            ptx.write(told, FIRST, row_tile * block_q)
            ptx.write(told, K_FIRST, tile * block_kv)
            ptx.write(told, CHANGES, 0 if hidden else options)
            steps = max(1, (sizes[D_K] + depth - 1) // depth)
            ptx.write(told, STEPS, 0 if hidden else steps)
        cuda.syncthreads()
        clear(score)
        step, now = -1, stage
        while step < ptx.read(told, STEPS):
            ptx.copy_wait()
            cuda.syncthreads()
            if step + 1 < ptx.read(told, STEPS):
                fetch(staged, stage - now, query, key, leads, sizes, told, step + 1)
            ptx.copy_commit()
            if step >= 0:
                product(score, staged, now + q_row(), now + q_size + k_row())
            now = stage - now
            step = ptx.onward(step, 1)
        # where nothing is attended nothing was added up
        shift = lowest if ptx.read(told, STEPS) == 0 else zero
        scale(score, reals[SCALE], shift)
        if ptx.read(told, CHANGES):
            n = 0
            while n < groups:
                put(score, n, scratch, own())
                ptx.sync_warp()
                # a warp's keys begin `across` runs into the rows of shared memory
                across = ptx.thread() // 32 % key_warps
                change(
                    scratch, ptx.read(told, FIRST),
                    ptx.read(told, K_FIRST) + across * keys + (n - across) * RUN,
                    ptx.read(told, LEAD) * COLUMNS, bias, mask, leads, sizes, reals,
                    ptx.read(told, CHANGES), arguments, status,
                )  # fmt: skip
                ptx.sync_warp()
                take(score, n, scratch, own())
                n = ptx.onward(n, 1)
        if sizes[FLAGS] & WEIGHTS:
            _, y = corner_of()
            weigh(
                score, stats, sizes[STATE] + 2 * ptx.read(told, LEAD) * sizes[N],
                ptx.read(told, FIRST) + y, sizes[N] - 1,
            )  # fmt: skip
        finish(score, scratch, out, leads, sizes, told, own())

    return kernel
