"""Softmax of rows that lie in memory already, in place.

Used where a task cannot hold whole rows of scores: very long rows, and few rows
whose keys are shared among threads. Rows of up to `STRETCH` keys are done at once.
Longer ones are cut into stretches, their bounds fixed by m: each becomes weights
relative to its own maximum, and, when all have, is scaled to the row's. So one row,
too, is shared among threads, and no task is long.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numba import types

from numbattn.backends import Execution

from . import launch
from .layout import OUT
from .levels import Simd, chosen
from .pointers import address, advance
from .rows import row_operations
from .simd import inner
from .slabs import draw

STRETCH = 2**16  # keys; a task takes as many, of one row or of several
WHOLE, EXPONENTIALS, SCALE = range(3)  # what a launch does
FLOPS = 32.0  # of an element, next to those of a dot product


@cache
def kernel(dtype: str, level: Simd) -> launch.Kernel:
    """``out[i] = softmax(out[i])`` for every row; a row of -inf becomes 0.

    Arguments behind ``number, counter, stop``: `out` (n, m) at leading index 0;
    `lead`, its offsets; rows of a task; keys of a stretch; what to do; `partial`,
    maximum and sum of every stretch of a row: a row of it for each of `out`'s, or for
    each worker where rows are done at once; `sinks`, one for each leading index, or
    empty. Source of the merged stretches: Milakov &
    Gimelshein (2018), equation 4; their sum is compensated.
    """
    row = row_operations(dtype, level)
    scalar = np.dtype(dtype).type

    @inner
    def merged(states, stretches, sink):
        """Maximum of a row and its sink, and their sum relative to that."""
        top = states[0]
        for s in range(1, stretches):
            top = max(top, states[2 * s])
        some = top != scalar(-np.inf)
        if some and sink > top:
            top = sink
        total, lost = scalar(0), scalar(0)
        for s in range(stretches):
            x = states[2 * s + 1]
            if some:
                x *= scalar(math.exp(states[2 * s] - top))
            new = total + x
            part = new - total
            lost += (total - (new - part)) + (x - part)
            total = new
        total += lost
        if some and sink != scalar(-np.inf):
            total += scalar(math.exp(sink - top))
        return top, total

    def worker(
        number, counter, stop, out, lead, row_step, stretch, what, partial, sinks
    ):
        n, m = out.shape
        pitch = out.strides[0] // out.itemsize
        stretches, blocks = -(-m // stretch), -(-n // row_step)
        while True:
            task = draw(counter)
            if task >= stop:
                break
            block, part = task // stretches, task % stretches
            at, top = block // blocks, block % blocks * row_step
            sink = sinks[at] if sinks.shape[0] > 0 else scalar(-np.inf)
            first = part * stretch
            keys = min(m, first + stretch) - first
            for i in range(top, min(n, top + row_step)):
                line = advance(address(out, lead[at, OUT] + i * pitch), first)
                states = partial[number if what == WHOLE else at * n + i]
                if what != SCALE:
                    greatest = row.greatest(line, keys)
                    shift = scalar(0) if greatest == scalar(-np.inf) else greatest
                    states[2 * part] = greatest
                    states[2 * part + 1] = row.exponentials(line, keys, shift)
                if what != EXPONENTIALS:
                    greatest, total = merged(states, stretches, sink)
                    if total != total:  # NaN or +inf was attended: all of the row's
                        row.fill(line, 0, keys, total, 0)
                        continue
                    factor = scalar(0)
                    if total != scalar(0):
                        factor = scalar(math.exp(states[2 * part] - greatest)) / total
                    row.scale_row(line, keys, factor, line, 0)

    _, _, target, leads, scratch, *_ = launch.array_types(dtype)
    sinks = types.Array(getattr(types, dtype), 1, "C", readonly=True)
    arguments = (target, leads, *(types.int64,) * 3, scratch, sinks)
    return launch.Kernel(f"softmax-{dtype}-{level.name}", worker, arguments)


def run(
    out: np.ndarray, lead: np.ndarray, sinks: np.ndarray, execution: Execution
) -> None:
    """Turn rows of `out`, a matrix for each entry of the table `lead`, into weights."""
    n, m = out.shape
    stretches, step = -(-m // STRETCH), max(1, min(n, STRETCH // m))
    tasks = len(lead) * -(-n // step) * stretches
    elements = len(lead) * n * m
    workers = launch.workers(execution, tasks, FLOPS * elements)
    if stretches == 1:
        launches, rows = ((WHOLE, 0.0, 1.0),), workers
    else:
        launches, rows = ((EXPONENTIALS, 0.0, 0.5), (SCALE, 0.5, 1.0)), len(lead) * n
    partial = np.empty((rows, 2 * stretches), out.dtype)
    flops = FLOPS * elements / len(launches)
    for what, first, last in launches:
        arguments = (out, lead, step, min(m, STRETCH), what, partial, sinks)
        launch.run(
            kernel(out.dtype.name, chosen()), arguments, workers, tasks, flops,
            elements, launch.part(execution, first, last),
        )  # fmt: skip
