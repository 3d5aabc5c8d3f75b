"""Calls from many Python threads: right bits, and no more threads than are allowed."""

from __future__ import annotations

import os
import signal
import threading

import numpy as np
import pytest

import numbattn
from numbattn.backends.cpu import cores

from .children import THREADS, python

MIXED = """
import threading
import numpy as np
import numba, numbattn

rng = np.random.default_rng(0)
def array(*shape): return rng.standard_normal(shape).astype(np.float32)
calls = []
for n, m in ((3, 40), (5, 3000), (100, 600), (200, 9000)):
    query, key, value = array(n, 32), array(m, 32), array(m, 16)
    for more in ({}, {"num_threads": 2}, {"num_threads": 1}):
        calls.append((numbattn.scores, (query, key), more))
        calls.append((numbattn.weights, (query, key), more))
        calls.append((numbattn.attention, (query, key, value), more))
wanted = [call(*arrays, num_threads=1) for call, arrays, _ in calls]
wrong, finished = [], []

def work(seed):
    for i in np.random.default_rng(seed).integers(0, len(calls), COUNT):
        call, arrays, more = calls[i]
        if not np.array_equal(call(*arrays, **more), wanted[i]):
            wrong.append(i)
    assert numba.get_num_threads() == 2
    finished.append(seed)

threads = [threading.Thread(target=work, args=(seed,)) for seed in range(64)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert not wrong and len(finished) == 64, (wrong, len(finished))
print(numba.threading_layer())
"""


def mixed(layer: str, count: int) -> None:
    code = MIXED.replace("COUNT", str(count))
    used = python(code, NUMBA_THREADING_LAYER=layer, NUMBA_NUM_THREADS="2")
    assert used.strip() == layer


@pytest.mark.parametrize("layer", ["omp", "workqueue"])
def test_64_threads_get_right_bits(layer: str) -> None:
    mixed(layer, 5)


@pytest.mark.heavy
@pytest.mark.parametrize("layer", ["omp", "workqueue"])
def test_64_threads_get_right_bits_in_100_calls_each(layer: str) -> None:
    mixed(layer, 100)


BUSY = """
rng = np.random.default_rng(0)
query = rng.standard_normal((500, 64)).astype(np.float32)
key = rng.standard_normal((20_000, 64)).astype(np.float32)
def work(): numbattn.attention(query, key, key)
def several(count):
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
"""


def test_callers_share_the_cores() -> None:
    """Four callers of a pool of two: two threads compute, not five."""
    code = f"""{THREADS}{BUSY}
from numbattn.backends.cpu import cores
numbattn.attention(query[:20], key, key)
cores.turns.cores = 2  # whatever this machine has
assert threads_of(work) == 2
found = threads_of(lambda: several(4))
assert found <= 2, found
assert not cores.turns.running and not cores.turns.waiting
"""
    python(code, NUMBA_NUM_THREADS="2")


def test_a_later_caller_does_not_wait_for_a_long_job() -> None:
    rng = np.random.default_rng(0)
    query = rng.standard_normal((4000, 64)).astype(np.float32)
    key = rng.standard_normal((60_000, 64)).astype(np.float32)
    numbattn.attention(query[:500], key[:500], key[:500], backend="cpu")
    stop, served = threading.Event(), []

    def halt(done: int, total: int) -> None:
        if stop.is_set():
            raise InterruptedError

    def long_job() -> None:
        with pytest.raises(InterruptedError):
            numbattn.attention(query, key, key, backend="cpu", progress=halt)

    thread = threading.Thread(target=long_job)
    thread.start()
    for _ in range(5):
        numbattn.attention(query[:500], key[:500], key[:500], backend="cpu")
        served.append(thread.is_alive())
    stop.set()
    thread.join()
    assert all(served)


def turn(turns: cores.Turns, log: list[int], name: int, wanted: int) -> None:
    me = threading.get_ident()
    turns.take(me, wanted)
    log.append(name)
    turns.running.pop(me)
    turns.wake()


def test_turns_come_in_order() -> None:
    turns = cores.Turns()
    turns.cores = 1
    me = threading.get_ident()
    assert turns.take(me, 9) == 1
    log: list[int] = []
    threads = []
    for name in range(5):
        threads.append(threading.Thread(target=turn, args=(turns, log, name, 4)))
        threads[-1].start()
        while len(turns.waiting) <= name:
            pass
    assert log == []
    turns.running.pop(me)
    turns.wake()
    for thread in threads:
        thread.join()
    assert log == [0, 1, 2, 3, 4]
    assert not turns.running
    assert not turns.waiting


def test_one_launch_at_a_time_is_parallel() -> None:
    turns = cores.Turns()
    turns.cores = 8
    assert turns.take(-1, 3) == 3  # any numbers but our own
    assert turns.take(-2, 3) == 1
    assert turns.take(-3, 3) == 1
    turns.running.pop(-1)
    assert turns.take(-4, 9) == 6
    assert turns.take(-4, 9) == 1  # the same thread again, as from a signal handler


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs POSIX timers")
def test_interrupts_at_any_step_leave_no_core_taken() -> None:
    """Alarms that raise, thousands of them, wherever the calls are just then."""
    query = np.ones((64, 64), np.float32)
    numbattn.scores(query, np.ones((500, 64), np.float32), backend="cpu")
    arrays = query, np.ones((500, 64), np.float32)

    def alarm(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, alarm)
    interrupted = 0
    try:
        for i in range(3000):
            try:
                signal.setitimer(signal.ITIMER_REAL, 1e-5 + 1e-7 * (i % 600))
                for _ in range(3):
                    numbattn.scores(*arrays, backend="cpu", num_threads=1 + i % 2)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                interrupted += 1
            assert not cores.turns.running, i
            assert not cores.turns.waiting, i
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert interrupted > 100


def test_num_threads_is_restored_and_numba_s_own_setting_obeyed() -> None:
    code = f"""{THREADS}{BUSY}
import numba
from numbattn.errors import OptionError
numba.set_num_threads(1)
assert threads_of(work) == 1
small = query[:100], key, key
numbattn.attention(*small, num_threads=2)
assert numba.get_num_threads() == 1
numba.set_num_threads(2)
assert threads_of(work) == 2
numbattn.attention(*small, num_threads=1)
with numbattn.config_context(num_threads=1):
    assert threads_of(work) == 1
assert numba.get_num_threads() == 2
def refuse(done, total): raise ZeroDivisionError
try: numbattn.attention(query, key, key, num_threads=1, progress=refuse)
except ZeroDivisionError: pass
assert numba.get_num_threads() == 2
for ask in (lambda: numbattn.scores(query, key, num_threads=3),
            lambda: numbattn.scores(query[:1, :1], key[:1, :1], num_threads=3)):
    try: ask()
    except OptionError as error: assert "NUMBA_NUM_THREADS=3" in str(error)
    else: raise AssertionError("no OptionError")
"""
    python(code, NUMBA_NUM_THREADS="2")


def test_small_calls_start_no_threads() -> None:
    code = (
        "import numpy as np, numbattn, numba, os\n"
        "x = np.ones((20, 16), np.float32)\n"
        "numbattn.scores(x, x); numbattn.attention(x, x, x)\n"
        "before = len(os.listdir('/proc/self/task'))\n"
        "numbattn.scores(np.ones((500, 64)), np.ones((500, 64)))\n"
        "assert len(os.listdir('/proc/self/task')) > before\n"
    )
    if not os.path.isdir("/proc/self/task"):
        pytest.skip("counts threads in /proc")
    python(code, NUMBA_NUM_THREADS="4")
