"""What is not finite goes to the outputs that attend it, and nowhere else.

The attention kernels multiply masked values by 0, which is NaN where the value is NaN
or infinite. They note tiles of queries with an output that is not finite. Those are
computed once more from values of which the others count as 0 (layout.CLEAN), in the
same order, so that all other outputs keep their bits; then this kernel adds what is not
finite to the rows that attend it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import ptx
from .device import cuda, device_function
from .elements import changed_by
from .layout import (
    COLUMNS,
    D_K,
    D_V,
    FLAGS,
    K_COL,
    K_ROW,
    KEY,
    LENGTH,
    O_COL,
    O_ROW,
    OPTIONS,
    OUT,
    Q_COL,
    Q_ROW,
    QUERY,
    ROW_TILES,
    SCALE,
    STATE,
    V_COL,
    V_ROW,
    VALUE,
    M,
    N,
)  # fmt: skip

THREADS = 128
SIMULATED_THREADS = 8


def build(
    real: Any, block_q: int, threads: int, load: Any, store: Any, modify: Any,
    attends: Any,
) -> Any:  # fmt: skip
    """The kernel for tiles of `block_q` queries.

    Work: a block of threads a tile of queries; nothing to do where the tile is not
    noted in `broken`. Key after key: where its values are all finite, nothing. Else a
    thread a query computes its weight, by the row's maximum and sum in `carry`, from
    STATE on; then a thread a column adds weight times value, for the rows that attend.
    `load(array, at)` reads an element as a real, `store` writes it.
    """
    changed = changed_by(real, modify, attends)
    zero, one, lowest = real(0), real(1), real(-np.inf)

    @device_function
    def weight_of(  # type: ignore[no-untyped-def]
        query, key, bias, mask, leads, carry, sizes, reals, arguments, status, lead,
        i, j,
    ):  # fmt: skip
        at = lead * COLUMNS
        s = zero
        q = ptx.read(leads, at + QUERY) + i * sizes[Q_ROW]
        k = ptx.read(leads, at + KEY) + j * sizes[K_ROW]
        for c in range(sizes[D_K]):
            s += load(query, q + c * sizes[Q_COL]) * load(key, k + c * sizes[K_COL])
        s = changed(
            s * reals[SCALE], i, j, at, bias, mask, leads, sizes, reals,
            sizes[FLAGS] & OPTIONS, arguments, status,
        )  # fmt: skip
        if s == lowest:
            return -one
        row = lead * sizes[N] + i
        top = ptx.read(carry, sizes[STATE] + 2 * row)
        return ptx.exp(s - top) / ptx.read(carry, sizes[STATE] + 2 * row + 1)

    def kernel(  # type: ignore[no-untyped-def]
        query, key, value, out, bias, mask, leads, carry, broken, sizes, reals,
        arguments, status,
    ):  # fmt: skip
        weights = cuda.shared.array(block_q, real)
        t, index = cuda.threadIdx.x, cuda.blockIdx.x
        if ptx.read(broken, index) == 0:
            return
        lead, row_tile = index // sizes[ROW_TILES], index % sizes[ROW_TILES]
        at, first = lead * COLUMNS, row_tile * block_q
        height = min(block_q, sizes[N] - first)
        for j in range(min(sizes[M], ptx.read(leads, at + LENGTH))):
            v = ptx.read(leads, at + VALUE) + j * sizes[V_ROW]
            found = 0
            for c in range(t, sizes[D_V], threads):
                if not ptx.finite(load(value, v + c * sizes[V_COL])):
                    found = 1
            if cuda.syncthreads_or(found):
                for r in range(t, height, threads):
                    weights[r] = weight_of(
                        query, key, bias, mask, leads, carry, sizes, reals, arguments,
                        status, lead, first + r, j,
                    )  # fmt: skip
                cuda.syncthreads()
                for c in range(t, sizes[D_V], threads):
                    x = load(value, v + c * sizes[V_COL])
                    if not ptx.finite(x):
                        for r in range(height):
                            if weights[r] != -one:
                                slot = ptx.read(leads, at + OUT) + c * sizes[O_COL]
                                slot += (first + r) * sizes[O_ROW]
                                store(out, slot, load(out, slot) + weights[r] * x)
                cuda.syncthreads()

    return kernel
