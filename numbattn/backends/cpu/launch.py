"""Run a kernel's tasks: threads, slabs, the serial twin.

A kernel is one worker function, ``worker(number, counter, stop, ...)``: it draws
task numbers from a shared atomic counter until `stop` is reached, so that threads
share the work whatever the tasks' lengths. The parallel driver is only
``for number in prange(workers): call(worker, number, ...)``; the worker itself is
the serial twin. What a task computes depends on its number alone, so bits depend
neither on the threads nor on the slabs.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from types import FunctionType
from typing import Any

import numba
import numpy as np
from numba import prange, types
from numba.core import cgutils
from numba.extending import intrinsic

from numbattn.backends import Execution
from numbattn.errors import OptionError

from . import cache

SLAB_SECONDS = 0.05  # Ctrl-C and progress wait for a slab at most
FIRST_SLAB_FLOPS = 4e9  # 20 to 80 ms on two cores; later slabs are timed
SERIAL_FLOPS = 1e6  # below it waking a thread (5 us) costs more than it gives

_compiling = threading.RLock()
_launching = threading.Lock()
_forked_from_openmp = False


def _after_fork() -> None:
    """GNU OpenMP kills a forked child that enters a parallel region."""
    global _forked_from_openmp, _launching, _compiling
    _launching, _compiling = threading.Lock(), threading.RLock()
    _forked_from_openmp = _layer() == "omp"


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _layer() -> str | None:
    """Threading layer in use; None before the first parallel launch."""
    try:
        return str(numba.threading_layer())
    except ValueError:
        return None


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


def _driver(  # type: ignore[no-untyped-def]
    workers, address, arguments, counter, stop
):
    """Start the workers on the threads of the pool."""
    for number in prange(workers):
        _call(address, number, counter, stop, arguments)


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

    def __init__(self, name: str, worker: Any, arguments: Sequence[Any]):
        self.name, self._worker = name, worker
        counter = types.Array(types.int64, 1, "C")
        self._arguments = tuple(arguments)
        self._common = (counter, types.int64)

    def _compile(self, function: Any, kind: str, signature: Any, **options: Any) -> Any:
        with _compiling:
            # No fast-math: callees inherit the flags, and `reassoc` folds the
            # rounding steps of exp2 and the compensation of sums away.
            options |= {"nogil": True, "error_model": "numpy"}
            name = f"{self.name}-{kind}"
            dispatcher = numba.njit(**options)(_renamed(function, name))
            how = f"{name} {sorted(options.items(), key=str)}"
            cache.compile_kernel(dispatcher, name, how, signature)
            dispatcher.disable_compile()
            return dispatcher

    @cached_property
    def serial(self) -> Any:
        """The worker, for one thread."""
        signature = types.void(types.int64, *self._common, *self._arguments)
        return self._compile(self._worker, "worker", signature)

    @cached_property
    def address(self) -> int:
        """Where the worker's machine code lies."""
        (compiled,) = self.serial.overloads.values()
        name = compiled.fndesc.llvm_func_name
        return int(compiled.library.get_pointer_to_function(name))

    @cached_property
    def parallel(self) -> Any:
        """The driver; takes the number of workers and the worker's address first."""
        signature = types.void(
            types.int64, types.int64, types.Tuple(self._arguments), *self._common
        )
        return self._compile(_driver, "driver", signature, parallel=True)


def array_types(dtype: str) -> tuple[Any, ...]:
    """Numba types of a kernel's arrays: input, flags, output, lead table, scratch."""
    element = getattr(types, dtype)
    return (
        types.Array(element, 2, "A", readonly=True),
        types.Array(types.boolean, 2, "A", readonly=True),
        types.Array(element, 2, "A"),
        types.Array(types.int64, 2, "C"),
        types.Array(element, 2, "C"),
    )


def threads(execution: Execution) -> int:
    """Threads that a launch may use: as asked for, else Numba's current number.

    Raises
    ------
    OptionError
        More are asked for than Numba's pool has.
    """
    wanted = execution.num_threads
    if wanted is None:
        return int(numba.get_num_threads())
    pool = int(numba.config.NUMBA_NUM_THREADS)
    if wanted > pool:
        raise OptionError(
            f"num_threads (in the call, the settings or NUMBATTN_NUM_THREADS) is "
            f"{wanted}; Numba's pool has {pool} threads. Ask for at most {pool}, or "
            f"start Python with NUMBA_NUM_THREADS={wanted}"
        )
    return wanted


def workers(execution: Execution, tasks: int, flops: float) -> int:
    """Workers for this much work; one runs in the calling thread."""
    if flops < SERIAL_FLOPS and execution.num_threads is None:
        return 1
    count = threads(execution)
    return 1 if flops < SERIAL_FLOPS else min(count, tasks)


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
        Estimated operations in all, to size the first slab.
    elements : int
        What a progress callback is told as the total.
    execution : Execution
        Threads and progress.
    """
    # One parallel launch at a time: workqueue aborts the process on a second one,
    # and two pools would fight for the cores. Others run the serial twin meanwhile.
    alone = workers == 1 or _forked_from_openmp
    if alone or not _launching.acquire(blocking=False):
        call = partial(_in_this_thread, kernel.serial, arguments)
        _slabs(call, tasks, flops, elements, execution)
        return
    try:
        call = partial(kernel.parallel, workers, kernel.address, arguments)
        if execution.num_threads is None:
            _slabs(call, tasks, flops, elements, execution)
            return
        before = numba.get_num_threads()
        numba.set_num_threads(workers)
        try:
            _slabs(call, tasks, flops, elements, execution)
        finally:
            numba.set_num_threads(before)
    finally:
        _launching.release()


def _in_this_thread(
    worker: Any, arguments: tuple[Any, ...], counter: Any, stop: int
) -> None:
    worker(0, counter, stop, *arguments)


def _slabs(
    launch: Callable[[Any, int], None],
    tasks: int,
    flops: float,
    elements: int,
    execution: Execution,
) -> None:
    counter = np.zeros(1, np.int64)
    if flops <= FIRST_SLAB_FLOPS:
        launch(counter, tasks)
        if execution.progress is not None:
            execution.progress(elements, elements)
        return
    done, step = 0, max(1, int(tasks * FIRST_SLAB_FLOPS / flops))
    while done < tasks:
        stop = min(tasks, done + step)
        counter[0] = done
        start = time.perf_counter()
        launch(counter, stop)
        if stop < tasks:
            seconds = time.perf_counter() - start
            step = max(1, int((stop - done) * SLAB_SECONDS / max(seconds, 1e-6)))
        done = stop
        if execution.progress is not None:
            execution.progress(elements * done // tasks, elements)
