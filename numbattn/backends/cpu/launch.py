"""Run a kernel's tasks: threads, slabs, the serial twin.

A kernel is one worker function, ``worker(number, counter, stop, ...)``: it draws
task numbers from a shared atomic counter until `stop` is reached, so that threads
share the work whatever the tasks' lengths. The parallel driver is only
``for number in prange(workers): call(worker, number, ...)``; the worker itself is
the serial twin. What a task computes depends on its number alone, so bits depend
neither on the threads nor on the slabs (see `slabs`), nor on whose turn it is (see
`cores`).
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from _thread import get_ident
from collections.abc import Iterator, Sequence
from types import FunctionType
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import prange, types
from numba.core import cgutils
from numba.extending import intrinsic

from numbattn import limits
from numbattn.backends import Execution

from . import cache, cores, slabs

SLAB_SECONDS = 0.05  # Ctrl-C, progress and other threads wait for a slab at most
SLAB_FLOPS = 2e8  # below it 2 ms, or 0.1 s without vectors: one slab, and no clock
SERIAL_FLOPS = 1e6  # below it waking a thread (5 us) costs more than it gives
FORK_TICK = 0.1  # seconds; a fork looks so often whether the compiler is at work
FORK_TICKS = 600  # so often without progress, a fork goes on without it

_compiling = threading.RLock()
_clock: int | None = None  # counts the CPU time of the thread that compiled last
_held_over_fork = False


def _compiler_time() -> float:
    """CPU time of the thread that compiles; 0 where threads have no clocks (macOS)."""
    if _clock is None:
        return 0.0
    try:
        return time.clock_gettime(_clock)
    except OSError:  # the thread has just ended
        return 0.0


def _before_fork() -> None:
    """Wait for the compiler: its locks would stay locked in the child for ever.

    It takes 3 s, a minute on a busy machine, longer where the process is stopped: so
    no time is set while it works. Only if it does nothing, as where it waits for what
    this thread has locked (a module's import), the fork goes on without it.
    """
    global _held_over_fork
    _held_over_fork, before, idle = False, -1.0, 0
    while idle < FORK_TICKS:
        if _compiling.acquire(timeout=FORK_TICK):
            _held_over_fork = True
            return
        now = _compiler_time()
        idle = 0 if now != before else idle + 1
        before = now


def _after_fork_in_parent() -> None:
    if _held_over_fork:
        _compiling.release()


def _after_fork_in_child() -> None:
    global _compiling
    _compiling = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )


@contextlib.contextmanager
def _hearing_interrupts() -> Iterator[None]:
    """Raise the KeyboardInterrupt that a callback of the compiler swallows.

    Python reports what is raised in there to `sys.unraisablehook`, and goes on.
    """
    before, heard = sys.unraisablehook, []

    def hook(unraisable: Any) -> None:
        if unraisable.exc_type is KeyboardInterrupt:
            heard.append(True)
        else:
            before(unraisable)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before
    if heard:
        raise KeyboardInterrupt


@contextlib.contextmanager
def compiling() -> Iterator[None]:
    """Hold the compiler: one thread at a time, and no fork meanwhile."""
    global _clock
    with _compiling, _hearing_interrupts():
        if hasattr(time, "pthread_getcpuclockid"):
            _clock = time.pthread_getcpuclockid(get_ident())
        yield


@intrinsic
def _call(  # type: ignore[no-untyped-def]
    typingctx, address, number, counter, stop, arguments
):
    """Call a compiled worker, whose machine code lies at an address."""
    passed = (number, counter, stop, *arguments.types)

    def generate(context, builder, signature, values):  # type: ignore[no-untyped-def]
        convention = context.call_conv
        kind = convention.get_function_type(types.void, passed)
        callee = builder.inttoptr(values[0], kind.as_pointer())
        unpacked = cgutils.unpack_tuple(builder, values[4])
        convention.call_function(
            builder, callee, types.void, passed, [*values[1:4], *unpacked]
        )
        return context.get_dummy_value()

    return types.void(address, number, counter, stop, arguments), generate


# Numba's own functions of these names are ctypes pointers, and what calls those has
# no place in a disk cache: the driver would be compiled in every process (0.5 s).
@intrinsic
def _pool_threads(typingctx):  # type: ignore[no-untyped-def]
    """Threads of Numba's pool that this thread may use."""

    def generate(context, builder, signature, values):  # type: ignore[no-untyped-def]
        kind = ir.FunctionType(cgutils.intp_t, [])  # as Numba declares it
        name = "get_num_threads"
        function = cgutils.get_or_insert_function(builder.module, kind, name)
        return builder.call(function, [])

    return types.intp(), generate


@intrinsic
def _set_pool_threads(typingctx, count):  # type: ignore[no-untyped-def]
    """Let this thread use so many threads of Numba's pool."""

    def generate(context, builder, signature, values):  # type: ignore[no-untyped-def]
        kind = ir.FunctionType(ir.VoidType(), [cgutils.intp_t])
        name = "set_num_threads"
        function = cgutils.get_or_insert_function(builder.module, kind, name)
        builder.call(function, [values[0]])
        return context.get_dummy_value()

    return types.void(types.intp), generate


def _driver(  # type: ignore[no-untyped-def]
    workers, threads, address, arguments, counter, stop
):
    """Start the workers on so many threads of the pool; 0: on those of the caller."""
    before = _pool_threads()
    if threads > 0:
        _set_pool_threads(threads)
    for number in prange(workers):
        _call(address, number, counter, stop, arguments)
    if threads > 0:
        _set_pool_threads(before)


def _renamed(function: Any, name: str) -> Any:
    """A copy of a function under a name of its own.

    The name, with a number counted in each process, becomes the symbol of the machine
    code. Two kernels made from one function in two processes can have the same
    number: loaded from the disk cache into one process, the second would run the
    first one's code.
    """
    copy = FunctionType(
        function.__code__, function.__globals__, name, None, function.__closure__
    )
    copy.__qualname__ = name.replace("-", "_")
    return copy


class Kernel:
    """A worker ``worker(number, counter, stop, *arguments)`` and its driver.

    Each is compiled when first wanted, for one signature: arrays are declared
    strided and read-only, so that every layout runs the same machine code. The
    driver calls the worker by address: the worker is compiled once, serial and
    parallel runs share its code, and the driver compiles in 0.35 s instead of 6.9.
    """

    serial: Any  # the worker, for one thread
    parallel: Any  # the driver
    address: int  # where the worker's machine code lies

    def __init__(self, name: str, worker: Any, arguments: Sequence[Any]):
        self.name, self._worker = name, worker
        counter = types.Array(types.int64, 1, "C")
        self._arguments = tuple(arguments)
        self._common = (counter, types.int64)

    def __getattr__(self, name: str) -> Any:
        """Make what is wanted first: `serial`, `parallel` or `address`.

        Not cached properties: those of Python 3.11 have a lock that a fork could find
        locked.
        """
        make = {
            "serial": self._compile_worker,
            "parallel": self._compile_driver,
            "address": self._find_address,
        }.get(name)
        if make is None:
            raise AttributeError(name)
        with compiling():
            if name not in vars(self):
                setattr(self, name, make())
            return vars(self)[name]

    def _compile(self, function: Any, kind: str, signature: Any, **options: Any) -> Any:
        # No fast-math: callees inherit the flags, and `reassoc` folds the
        # rounding steps of exp2 and the compensation of sums away.
        options |= {"nogil": True, "error_model": "numpy"}
        name = f"{self.name}-{kind}"
        dispatcher = numba.njit(**options)(_renamed(function, name))
        how = f"{name} {sorted(options.items(), key=str)}"
        cache.compile_kernel(dispatcher, name, how, signature)
        dispatcher.disable_compile()
        return dispatcher

    def _compile_worker(self) -> Any:
        signature = types.void(types.int64, *self._common, *self._arguments)
        return self._compile(self._worker, "worker", signature)

    def _compile_driver(self) -> Any:
        """Takes numbers of workers and of threads and the worker's address first."""
        first = (types.int64,) * 3
        signature = types.void(*first, types.Tuple(self._arguments), *self._common)
        return self._compile(_driver, "driver", signature, parallel=True)

    def _find_address(self) -> int:
        (compiled,) = self.serial.overloads.values()
        name = compiled.fndesc.llvm_func_name
        return int(compiled.library.get_pointer_to_function(name))


def array_types(dtype: str) -> tuple[Any, ...]:
    """Numba types of a kernel's arrays.

    Input, flags, output, lead table, scratch, modifiers and their blocks (`changes`).
    """
    element = getattr(types, dtype)
    return (
        types.Array(element, 2, "A", readonly=True),
        types.Array(types.boolean, 2, "A", readonly=True),
        types.Array(element, 2, "A"),
        types.Array(types.int64, 2, "C"),
        types.Array(element, 2, "C"),
        types.Array(types.int64, 1, "C"),
        types.Array(types.int32, 2, "C"),
    )


def workers(execution: Execution, tasks: int, flops: float) -> int:
    """Workers for this much work; one runs in the calling thread."""
    if flops < SERIAL_FLOPS and execution.num_threads is None:
        return 1
    count = cores.allowed(execution)
    return 1 if flops < SERIAL_FLOPS else min(count, tasks)


def has_slabs(flops: float) -> bool:
    """Whether so much work is run in more than one slab."""
    return flops > SLAB_FLOPS


def part(execution: Execution, first: float, last: float) -> Execution:
    """Return the execution of a launch that is a part of a call: its progress."""
    report = execution.progress
    if report is None:
        return execution

    def report_part(done: int, total: int) -> None:
        share = first + (last - first) * (done / total)
        report(int(total * share), total)

    return execution._replace(progress=report_part)


def run(
    kernel: Kernel,
    arguments: tuple[Any, ...],
    workers: int,
    tasks: int,
    flops: float,
    elements: int,
    execution: Execution,
) -> None:
    """Run all tasks of a kernel, in slabs, in parallel where that is safe.

    Parameters
    ----------
    kernel : Kernel
        What to run.
    arguments : tuple
        The kernel's arguments behind ``number, counter, stop``.
    workers : int
        How many share the tasks; see `workers`.
    tasks : int
        Number of tasks.
    flops : float
        Estimated operations in all.
    elements : int
        What a progress callback is told as the total.
    execution : Execution
        Threads and progress.
    """
    counter = slabs.new(workers)
    if flops < SERIAL_FLOPS:
        kernel.serial(0, counter, tasks, *arguments)
    elif not has_slabs(flops):
        _slab(kernel, arguments, workers, counter, tasks, execution)
    else:
        _slabs(kernel, arguments, workers, counter, tasks, elements, execution)
    if execution.progress is not None:
        execution.progress(elements, elements)


def _slabs(
    kernel: Kernel,
    arguments: tuple[Any, ...],
    workers: int,
    counter: np.ndarray,
    tasks: int,
    elements: int,
    execution: Execution,
) -> None:
    most = 0.0
    while True:
        _slab(kernel, arguments, workers, counter, tasks, execution, SLAB_SECONDS)
        done, left = slabs.progress(counter, tasks)
        if not left:
            return
        done = most = max(most, done)  # less where a task is done once more, with care
        if execution.progress is not None:
            execution.progress(int(elements * (done / tasks)), elements)


def _slab(
    kernel: Kernel,
    arguments: tuple[Any, ...],
    workers: int,
    counter: np.ndarray,
    stop: int,
    execution: Execution,
    seconds: float = 0,
) -> None:
    """Let the workers run until the tasks, or so many seconds, are over."""
    turns, me, limit = cores.turns, get_ident(), limits.current()
    worker, wanted = kernel.serial, workers if limit is None else min(workers, limit)
    if wanted > 1 and not turns.forked_from_openmp:
        _ = kernel.parallel  # before the turn: it may have to be compiled
    try:
        count = turns.take(me, wanted)
        if seconds > 0:  # from now on: the compiler and other threads took their time
            counter[slabs.END] = slabs.now() + int(seconds * slabs.NANOSECONDS)
        if count > 1:
            usual = count == workers and limit is None and execution.num_threads is None
            threads = 0 if usual else count
            kernel.parallel(
                workers, threads, kernel.address, arguments, counter, stop
            )  # fmt: skip
        else:
            for number in range(workers):
                worker(number, counter, stop, *arguments)
    finally:
        turns.running.pop(me, None)
        if turns.waiting:
            turns.wake()
