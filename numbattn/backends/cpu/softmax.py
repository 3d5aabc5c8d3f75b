"""Softmax of rows that lie in memory already, in place.

Used where a task cannot hold whole rows of scores: very long rows, and few rows
whose keys are shared among threads. Each task takes some rows of one leading index.
"""

from __future__ import annotations

from functools import cache

from numba import types

from .launch import Kernel, array_types
from .layout import OUT
from .levels import Simd
from .pointers import address, advance, fetch_add
from .rows import row_operations


@cache
def kernel(dtype: str, level: Simd) -> Kernel:
    """``out[i] = softmax(out[i])`` for every row; a row of -inf becomes 0."""
    row = row_operations(dtype, level)

    def worker(number, counter, stop, out, lead, row_step):
        n, m = out.shape
        blocks = -(-n // row_step)
        while True:
            task = fetch_add(counter, 1)
            if task >= stop:
                break
            start = address(out, lead[task // blocks, OUT])
            first = task % blocks * row_step
            for i in range(first, min(n, first + row_step)):
                at = i * (out.strides[0] // out.itemsize)
                line = advance(start, at)
                row.softmax(line, 0, m, m, line, 0)

    _, _, target, leads, _ = array_types(dtype)
    arguments = (target, leads, types.int64)
    return Kernel(f"softmax-{dtype}-{level.name}", worker, arguments)
