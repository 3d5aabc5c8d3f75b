"""Keys packed k-major into panels as wide as the register tile, the scale folded in.

A task of the score kernel packs the keys it needs. Where many tasks need the same
keys, all are packed once, before: at 60 rows a task, packing takes 8 % of it.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numba import types

from .launch import Kernel, array_types
from .levels import Simd
from .pointers import address, advance, peek, poke
from .simd import inner
from .slabs import draw
from .tiles import tiles


@cache
def packing(dtype: str, level: Simd):
    """The function that packs rows first..last."""
    t = tiles(dtype, level)
    lanes = t.lanes
    scalar = np.dtype(dtype).type

    @inner
    def pack(key, row, column, first, last, depth, scale, columns, packed):
        """Rows first..last, scaled, into panels ``[depth][columns]``.

        Places without a row (before 0, behind `last`) are filled with zeros.
        """
        for panel in range(first, last, columns):
            target = advance(packed, (panel - first) * depth)
            for j in range(panel, panel + columns, lanes):
                block = advance(target, j - panel)
                source = advance(key, j * row)
                done = 0
                if column == 1 and j >= 0 and j + lanes <= last:
                    while done + lanes <= depth:
                        t.transpose(
                            advance(source, done), row,
                            advance(block, done * columns), columns, scale,
                        )  # fmt: skip
                        done += lanes
                for c in range(done, depth):
                    for lane in range(lanes):
                        x = scalar(0)
                        if 0 <= j + lane < last:
                            x = peek(source, lane * row + c * column) * scale
                        poke(block, c * columns + lane, x)

    return pack


@cache
def kernel(dtype: str, level: Simd) -> Kernel:
    """Packs all keys of a problem, for one element type (float32 or float64).

    A task is some keys of one key matrix. Arguments behind ``number, counter, stop``:
    `key` (m, d) at leading index 0; `starts`, the element offsets of the key matrices;
    `panels`, where they go, one after the other; `scale`; keys of a task, a multiple
    of a panel; how many places the first panel has before key 0. Invariant: a task
    writes its own panels.
    """
    pack = packing(dtype, level)
    columns = tiles(dtype, level).columns

    def worker(
        number, counter, stop, key, starts, panels, scale, key_step, shift
    ):  # fmt: skip
        m, depth = key.shape
        row, column = key.strides[0] // key.itemsize, key.strides[1] // key.itemsize
        size = panels.shape[0] // starts.shape[0]
        blocks = -(-(size // max(1, depth)) // key_step)
        while True:
            task = draw(counter)
            if task >= stop:
                break
            at, first = task // blocks, task % blocks * key_step
            last = min(m, first - shift + key_step)
            pack(
                address(key, starts[at]), row, column, first - shift, last, depth,
                scale, columns, address(panels, at * size + first * depth),
            )  # fmt: skip

    element = getattr(types, dtype)
    matrix = array_types(dtype)[0]
    vectors = types.Array(types.int64, 1, "C"), types.Array(element, 1, "C")
    arguments = (matrix, *vectors, element, types.int64, types.int64)
    return Kernel(f"panels-{dtype}-{level.name}", worker, arguments)
