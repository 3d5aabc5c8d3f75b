"""Kernels as Python: threads one at a time, in an order that changes.

Numba's simulator gives the ``cuda`` that a kernel sees; its threads are ours. It runs
every CUDA thread in a thread of the system, which takes milliseconds a block and an
order by chance. Here a thread is a greenlet: it runs until it waits for others, and
which one comes next is drawn anew each time. What lacks a barrier shows.

Shared and local memory is poison until written; an index outside an array raises.
"""

from __future__ import annotations

import contextvars
import random
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from greenlet import getcurrent, greenlet

from . import device

Dim3: Any = device.kernelapi.Dim3
FakeCUDAModule: Any = device.kernelapi.FakeCUDAModule

READY, BARRIER, WARP = range(3)
WARP_SIZE = 32
_lock = threading.RLock()
_order = random.Random(0)


class Thread(greenlet):  # type: ignore[misc]
    """One CUDA thread."""

    def __init__(self, function: Callable[[], None], number: int, shape: Any) -> None:
        super().__init__(function)
        self.number, self.lane = number, number % WARP_SIZE
        x, y, _ = shape
        self.place = Dim3(number % x, number // x % y, number // (x * y))
        self.waits, self.posted = READY, None
        self.answer: Any = None
        self.copies: list[list[tuple[Any, ...]]] = [[]]
        """Asynchronous copies, by group; the last one is not committed yet."""


def poison(shape: Any, dtype: Any) -> np.ndarray:
    """An array that is anything but zeros."""
    if not isinstance(dtype, (np.dtype, type)):
        dtype = device.numpy_support.as_dtype(dtype)
    array = np.empty(shape, dtype)
    array.fill(np.nan if array.dtype.kind == "f" else np.iinfo(array.dtype).max // 3)
    return array


class _Local:
    @staticmethod
    def array(shape: Any, dtype: Any) -> np.ndarray:
        return poison(shape, dtype)


class _Shared:
    """An array for each place in the code that asks for one."""

    def __init__(self) -> None:
        self.arrays: dict[Any, np.ndarray] = {}

    def array(self, shape: Any, dtype: Any, alignment: int = 16) -> np.ndarray:
        frame = sys._getframe(1)
        place = frame.f_code, frame.f_lineno
        if place not in self.arrays:
            self.arrays[place] = poison(shape, dtype)
        return self.arrays[place]


class Module(FakeCUDAModule):  # type: ignore[misc]
    """What ``cuda`` is within a kernel, for the thread that runs."""

    # plain attributes in place of properties that ask for the system's thread
    threadIdx: Any = None  # noqa: N815
    blockIdx: Any = None  # noqa: N815
    shared: Any = None
    local: Any = None

    def __init__(self, grid: tuple[int, ...], block: tuple[int, ...]) -> None:
        super().__init__(grid, block, 0)
        self.local = _Local

    @property
    def laneid(self) -> int:
        """The thread's number within its warp."""
        return int(getcurrent().lane)

    def syncthreads(self) -> None:
        """Wait until every thread of the block is here."""
        _wait(BARRIER, None)

    def syncthreads_or(self, value: Any) -> int:
        """Wait likewise; whether any thread brought a true value."""
        return int(any(_wait(BARRIER, bool(value))))


def _wait(where: int, value: Any) -> Any:
    thread = getcurrent()
    thread.waits, thread.posted = where, value
    thread.parent.switch()
    return thread.answer


def exchange(value: Any) -> list[Any]:
    """What each lane of the warp brought: all of them have to come here."""
    return list(_wait(WARP, value))


class Meeting(list[Any]):
    """What each thread brought to where it waited."""

    done = False


def meet(operation: Any, value: Any, act: Callable[[list[Any]], None]) -> None:
    """Wait for all lanes of the warp; `act` is called once, with what they brought."""
    brought = _wait(WARP, (operation, value))
    if not brought.done:
        brought.done = True
        if any(each[0] is not operation for each in brought):
            raise RuntimeError("lanes of one warp that do different things")
        act([each[1] for each in brought])


def _release(threads: Sequence[Thread]) -> None:
    brought = Meeting(thread.posted for thread in threads)
    for thread in threads:
        thread.waits, thread.answer, thread.posted = READY, brought, None


def _block(threads: list[Thread], module: Module) -> None:
    """Run the threads of a block to their end.

    One warp goes on for as long as it can, so that what others have not done yet is
    missed; at times another one takes its place.
    """
    warps = [threads[i : i + WARP_SIZE] for i in range(0, len(threads), WARP_SIZE)]
    ahead = 0
    while not all(thread.dead for thread in threads):
        if _order.randrange(8) == 0:
            ahead = _order.randrange(len(warps))
        if any(_moves(warp, module) for warp in warps[ahead:] + warps[:ahead]):
            continue
        if any(thread.dead or thread.waits != BARRIER for thread in threads):
            raise RuntimeError(
                "a barrier that some threads never reach: "
                f"{[(t.number, t.waits, t.dead) for t in threads]}"
            )
        _release(threads)


def _moves(warp: list[Thread], module: Module) -> bool:
    """Run the threads of a warp until they wait, or let them go where all have met."""
    ready = [thread for thread in warp if thread.waits == READY and not thread.dead]
    if not ready and all(t.waits == WARP and not t.dead for t in warp):
        _release(warp)
        return True
    how = _order.randrange(3)
    if how == 2:
        _order.shuffle(ready)
    elif how:
        ready.reverse()
    for thread in ready:
        module.threadIdx = thread.place
        thread.switch()
    return bool(ready)


def launch(
    kernel: Callable[..., None], grid: int, threads: int, arguments: tuple[Any, ...]
) -> None:
    """Run a kernel's blocks one after another."""
    around = [*device.swapped, kernel.__globals__]
    with _lock, np.errstate(all="ignore"):
        context = contextvars.copy_context()  # where warnings are off
        module = Module((grid, 1, 1), (threads, 1, 1))
        kept = [(names, names["cuda"]) for names in around if "cuda" in names]
        try:
            for names, _ in kept:
                names["cuda"] = module
            for block in range(grid):
                module.blockIdx, module.shared = Dim3(block, 0, 0), _Shared()
                made = [
                    Thread(lambda: kernel(*arguments), number, (threads, 1, 1))
                    for number in range(threads)
                ]
                for thread in made:
                    thread.gr_context = context
                _block(made, module)
        finally:
            for names, real in reversed(kept):
                names["cuda"] = real
