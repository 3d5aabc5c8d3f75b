"""threadpoolctl's limits hold for numbattn, too.

``threadpool_limits(1)`` and its like find thread pools by the shared libraries that are
loaded. Ours is Numba's, whose library is loaded by the first parallel call only, and a
limit set before that has to hold. So the controller here goes by the extension module
of NumPy, which is always there, and keeps the limit itself.

A limit belongs to the thread that set it. Threads without one obey the lowest of the
others', as a limit for the process would be obeyed: a pool's threads do what their
creator set.
"""

from __future__ import annotations

import os
import sys
import threading

import threadpoolctl

_limits: dict[threading.Thread, int] = {}


class _Foreign(int):
    """Threads allowed to a thread that has set no limit itself.

    threadpoolctl reads the number, sets its limit, and at the end sets what it read.
    The mark says that the thread's limit is to be removed then, even where those of
    others have changed meanwhile.
    """


def current() -> int | None:
    """Return how many threads a call may use here at most, None without a limit."""
    if not _limits:
        return None
    own = _limits.get(threading.current_thread())
    if own is not None:
        return own
    for thread in tuple(_limits):
        if not thread.is_alive():
            _limits.pop(thread, None)
    return min(tuple(_limits.values()), default=None)


def _default() -> int:
    """Threads of a call without a limit: Numba's pool, which need not be loaded."""
    numba = sys.modules.get("numba")
    if numba is not None and hasattr(numba, "config"):
        return int(numba.config.NUMBA_NUM_THREADS)
    text = os.environ.get("NUMBA_NUM_THREADS", "")
    if text.isdecimal():
        return int(text)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class NumbattnController(threadpoolctl.LibController):  # type: ignore[misc]
    """numbattn among the thread pools that threadpoolctl knows."""

    user_api = "numbattn"
    internal_api = "numbattn"
    filename_prefixes = ("_multiarray_umath",)

    def get_num_threads(self) -> int:
        """Return how many threads a call may use here."""
        own = _limits.get(threading.current_thread())
        return own or _Foreign(current() or _default())

    def set_num_threads(self, num_threads: int) -> None:
        """Limit calls of this thread, and of those that have no limit."""
        here = threading.current_thread()
        if isinstance(num_threads, _Foreign):
            _limits.pop(here, None)
        else:
            _limits[here] = max(1, int(num_threads))

    def get_version(self) -> str:
        """Return numbattn's version."""
        return str(sys.modules["numbattn"].__version__)


threadpoolctl.register(NumbattnController)
