"""What the blocks of a user's mask are: its function asked about every score.

A block of zeros is given to the mask's tile function (`modifiers`), which writes -inf
where it hides.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numba import types

from .changes import call_tile
from .launch import Kernel
from .levels import Simd
from .pointers import address, advance, peek, poke
from .slabs import draw


@cache
def kernel(dtype: str, level: Simd) -> Kernel:
    """Hulls of attended keys, and whether every row attends all of them.

    A task is a stretch of rows, by blocks of keys. Arguments behind ``number, counter,
    stop``: `rows` and `keys`, where blocks begin, and at last their end; the tile
    function's address and its arguments; b, h, q_offset; `scratch` (workers, a block
    and two of its rows); `first`, `last` and `full` (row blocks, key blocks) are
    written, and `status` (`changes`). Invariant: a task writes its row of these.
    """
    scalar = np.dtype(dtype).type
    zero, minus_infinity = scalar(0), scalar(-np.inf)

    def worker(
        number, counter, stop, rows, keys, where, arguments, b, h, q_offset, scratch,
        first, last, full, status,
    ):  # fmt: skip
        block = address(scratch, number * scratch.shape[1])
        while True:
            task = draw(counter)
            if task >= stop:
                break
            top, count = rows[task], rows[task + 1] - rows[task]
            for part in range(keys.shape[0] - 1):
                begin, width = keys[part], keys[part + 1] - keys[part]
                some = advance(block, count * width)
                every = advance(some, width)
                for place in range(count * width):
                    poke(block, place, zero)
                call_tile(
                    where, block, count, width, width, b, h, q_offset + top, begin, top,
                    scalar(1), arguments, address(status, 0),
                )  # fmt: skip
                for c in range(width):
                    poke(some, c, minus_infinity)
                    poke(every, c, zero)
                for r in range(count):
                    for c in range(width):
                        x = peek(block, r * width + c)
                        poke(some, c, max(x, peek(some, c)))
                        poke(every, c, min(x, peek(every, c)))
                low, high, whole = 0, 0, True
                while low < width and peek(some, low) < zero:
                    low += 1
                for c in range(low, width):
                    if peek(some, c) == zero:
                        high = c + 1
                for c in range(low, high):
                    whole = whole and peek(every, c) == zero
                some_keys = high > low
                first[task, part] = low if some_keys else 0
                last[task, part] = high
                full[task, part] = whole and some_keys

    integer, element = types.int64, getattr(types, dtype)
    edges = types.Array(integer, 1, "C", readonly=True)
    table, flags = types.Array(types.int32, 2, "C"), types.Array(types.boolean, 2, "C")
    arguments = (
        edges, edges, *(integer,) * 5, types.Array(element, 2, "C"), table, table,
        flags, types.Array(integer, 1, "C"),
    )  # fmt: skip
    return Kernel(f"hulls-{dtype}-{level.name}", worker, arguments)
