"""The counter that workers share: drawing tasks, the end of a slab, parked tasks.

An int64 array: the next task; the time at which the slab ends, 0 for never; then, for
each worker, the task that it has parked. A worker that finds the slab over takes no
more tasks, and may leave a long one where it stands: with what it has carried so far
in its own part of the workspace, it goes on from there in the next slab. What a task
computes does not depend on where it was parked, so neither do bits.
"""

from __future__ import annotations

import os
import time

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .pointers import I64, fetch_add
from .simd import inner

NEXT, END, PARKED = 0, 1, 2
RECORD = 3  # of a worker: the task and 1 (0: none), keys walked, keys to walk
NEVER = 2**62  # beyond every task

NANOSECONDS = 10**9
MILLISECOND = 10**6


def new(workers: int) -> np.ndarray:
    """A counter at task 0, without an end, nothing parked."""
    return np.zeros(PARKED + RECORD * workers, np.int64)


if os.name == "nt":  # not tried: no Windows at hand
    import ctypes

    def now() -> int:
        """Nanoseconds on the clock that the workers read."""
        ticks = ctypes.windll.kernel32.GetTickCount64()  # type: ignore[attr-defined]
        return int(ticks) * MILLISECOND
else:

    def now() -> int:
        """Nanoseconds on the clock that the workers read."""
        return time.clock_gettime_ns(time.CLOCK_MONOTONIC)


@intrinsic
def _clock(typingctx):  # type: ignore[no-untyped-def]
    """Nanoseconds, as `now`; 25 ns."""

    def generate(context, builder, signature, values):  # type: ignore[no-untyped-def]
        if os.name == "nt":
            kind, name, passed = ir.FunctionType(I64, []), "GetTickCount64", []
        else:
            spec = cgutils.alloca_once(builder, ir.ArrayType(I64, 2))
            kind = ir.FunctionType(ir.IntType(32), [ir.IntType(32), spec.type])
            clock = ir.Constant(ir.IntType(32), int(time.CLOCK_MONOTONIC))
            name, passed = "clock_gettime", [clock, spec]
        function = cgutils.get_or_insert_function(builder.module, kind, name)
        ticks = builder.call(function, passed)
        if os.name == "nt":
            return builder.mul(ticks, ir.Constant(I64, MILLISECOND))
        seconds, rest = cgutils.unpack_tuple(builder, builder.load(spec), 2)
        whole = builder.mul(seconds, ir.Constant(I64, NANOSECONDS))
        return builder.add(whole, rest)

    return types.int64(), generate


@inner
def late(counter):  # type: ignore[no-untyped-def]
    """Whether the slab is over."""
    return counter[END] != 0 and _clock() > counter[END]


@inner
def draw(counter):  # type: ignore[no-untyped-def]
    """The number of the next task; one beyond every task where the slab is over."""
    return NEVER if late(counter) else fetch_add(counter, 1)


@inner
def park(counter, number, task, done, size):  # type: ignore[no-untyped-def]
    """Leave a task that has walked `done` of `size` keys for the next slab."""
    at = PARKED + RECORD * number
    counter[at], counter[at + 1], counter[at + 2] = task + 1, done, size


@inner
def resume(counter, number):  # type: ignore[no-untyped-def]
    """The worker's parked task, or -1, and the keys walked; it is parked no more."""
    at = PARKED + RECORD * number
    task = counter[at] - 1
    counter[at] = 0
    return task, counter[at + 1]


def progress(counter: np.ndarray, tasks: int) -> tuple[float, bool]:
    """Tasks that are done, parked ones in part, and whether anything is left."""
    drawn = min(int(counter[NEXT]), tasks)
    task, walked, size = counter[PARKED:].reshape(-1, RECORD).T
    parked = task > 0
    part = (walked[parked] / size[parked]).sum()
    count = int(parked.sum())
    return drawn - count + float(part), drawn < tasks or count > 0
