"""Threads of a call, and turns: never more threads in kernels than there are cores.

Calls from several Python threads share the cores. Each takes some of them for a slab,
as many as are free, waits where there are none, and gives them back after it: who
comes late is served, in order, at the end of somebody's slab. One launch at a time is
parallel, since Numba's `workqueue` layer aborts the process on a second; the others
run in the thread that called. So do callers in a child forked from GNU OpenMP, which
would kill it, and tasks of a Dask worker, which counts one thread for each.
"""

from __future__ import annotations

import os
import sys
import threading
from _thread import LockType, allocate_lock

import numba

from numbattn import limits
from numbattn.backends import Execution
from numbattn.errors import OptionError

PATIENCE = 0.1  # seconds; a waiter looks again by itself, should nobody wake it


def layer() -> str | None:
    """Threading layer in use; None before the first parallel launch."""
    try:
        return str(numba.threading_layer())
    except ValueError:
        return None


def pool() -> int:
    """Threads of Numba's pool."""
    return int(numba.config.NUMBA_NUM_THREADS)


def _is_dask_task() -> bool:
    worker = sys.modules.get("distributed.worker")
    if worker is None:
        return False
    try:
        worker.get_worker()
    except ValueError:
        return False
    return True


def allowed(execution: Execution) -> int:
    """Threads that a call may use: as asked for, else what Numba is set to here.

    threadpoolctl's limit holds in any case. A task of Dask has one thread, unless it
    asks for more.

    Raises
    ------
    OptionError
        More are asked for than Numba's pool has.
    """
    wanted, most = execution.num_threads, pool()
    if wanted is not None and wanted > most:
        raise OptionError(
            f"num_threads (in the call, the settings or NUMBATTN_NUM_THREADS) is "
            f"{wanted}; Numba's pool has {most} threads. Ask for at most {most}, or "
            f"start Python with NUMBA_NUM_THREADS={wanted}"
        )
    limit = limits.current()
    if wanted is not None:
        return wanted if limit is None else min(wanted, limit)
    if limit == 1 or most == 1 or turns.forked_from_openmp or _is_dask_task():
        return 1  # and Numba's pool need not start
    usual = int(numba.get_num_threads())
    return usual if limit is None else min(usual, limit)


class Turns:
    """Which threads are in a kernel, on how many cores, and which wait for their turn.

    Written so that a KeyboardInterrupt between any two steps leaves nothing taken: a
    turn is one entry of `running`, and whoever takes it has a ``finally`` that begins
    with the removal of that entry, in C, before which no signal handler can run.
    """

    def __init__(self, forked_from_openmp: bool = False) -> None:
        self.forked_from_openmp = forked_from_openmp
        self.cores = max(pool(), int(numba.config.NUMBA_DEFAULT_NUM_THREADS))
        self.running: dict[int, int] = {}  # cores of each thread
        self.waiting: dict[LockType, None] = {}  # in the order of their coming
        self._lock = threading.RLock()

    def take(self, me: int, wanted: int) -> int:
        """Enter the thread `me` into `running`; return its cores, 1 or more."""
        if me in self.running:  # a signal handler's call: its thread must not wait
            return 1
        with self._lock:
            if not self.waiting and self._enter(me, wanted, self.cores):
                return self.running[me]
        gate = allocate_lock()
        gate.acquire()
        try:
            self.waiting[gate] = None
            while True:
                with self._lock:
                    ahead = list(self.waiting).index(gate)
                    if self._enter(me, wanted, self.cores - ahead):
                        del self.waiting[gate]
                        return self.running[me]
                gate.acquire(timeout=PATIENCE)
        finally:
            self.waiting.pop(gate, None)

    def _enter(self, me: int, wanted: int, cores: int) -> bool:
        taken = sum(self.running.values())
        if taken >= cores:
            return False
        parallel = taken > len(self.running)
        alone = parallel or self.forked_from_openmp
        self.running[me] = 1 if alone else min(wanted, cores - taken)
        return True

    def wake(self) -> None:
        """Let those go on for whom there is room now."""
        with self._lock:
            free = max(0, self.cores - sum(self.running.values()))
            for gate in list(self.waiting)[:free]:
                if gate.locked():
                    gate.release()


turns = Turns()


def _after_fork() -> None:
    """Only the thread that forked goes on; GNU OpenMP's threads are gone."""
    global turns
    turns = Turns(forked_from_openmp=turns.forked_from_openmp or layer() == "omp")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
