"""Children of a process that has called numbattn in parallel."""

from __future__ import annotations

import pytest

from .children import python

TASK = """
import time
def task(seed):
    start = time.perf_counter()
    import numpy as np, numbattn
    rng = np.random.default_rng(seed)
    query, key, value = rng.standard_normal((3, 300, 64)).astype(np.float32)
    for call, arrays in ((numbattn.scores, (query, key)),
                         (numbattn.weights, (query, key)),
                         (numbattn.attention, (query, key, value))):
        got = call(*arrays)
        want = call(*arrays, backend="reference")
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4)
    return time.perf_counter() - start
"""

CHILDREN = """
import multiprocessing, sys, tempfile
import numba
with open(f"{folder}/numbattn_task.py", "w") as file:
    file.write({task!r})
sys.path.insert(0, {folder!r})
from numbattn_task import task
method, count = {method!r}, {count}
if __name__ == "__main__":
    task(0)  # in parallel
    assert numba.threading_layer()
    if method == "loky":
        import joblib
        assert joblib.effective_n_jobs(2) == 2
        from joblib.externals.loky import get_reusable_executor
        seconds = []
        for first in range(0, count, 2):  # each a process of its own
            executor = get_reusable_executor(max_workers=2, reuse=False)
            seconds += executor.map(task, range(first, min(count, first + 2)))
            executor.shutdown()
    else:
        context = multiprocessing.get_context(method)
        with context.Pool(2, maxtasksperchild=1) as pool:
            seconds = pool.map(task, range(count), chunksize=1)
    assert len(seconds) == count
    print(max(seconds))
    task(1)  # and the parent is as well as before
"""


def children(method: str, count: int, folder: object) -> None:
    # two threads, so that OpenMP has a pool that a fork cannot take along
    code = CHILDREN.format(task=TASK, folder=str(folder), method=method, count=count)
    script = f"{folder}/main.py"
    with open(script, "w") as file:  # spawned children import it anew
        file.write(code)
    run = f"import runpy; runpy.run_path({script!r}, run_name='__main__')"
    slowest = float(python(run, timeout=500, NUMBA_NUM_THREADS="2"))
    assert slowest < 4 * 10


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver", "loky"])
def test_children_are_right_and_never_hang(method: str, tmp_path: object) -> None:
    children(method, 6 if method == "fork" else 2, tmp_path)


@pytest.mark.heavy
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver", "loky"])
def test_100_children_are_right_and_never_hang(method: str, tmp_path: object) -> None:
    children(method, 100, tmp_path)


@pytest.mark.parametrize("layer", ["omp", "workqueue"])
def test_fork_while_another_thread_compiles(layer: str) -> None:
    """The compiler's locks must not stay locked in the child."""
    code = """
import os, threading, time
import numpy as np, numbattn
x = np.ones((300, 64), np.float32)
thread = threading.Thread(target=lambda: numbattn.scores(x, x))
thread.start()
from numbattn.backends.cpu import launch
while launch._compiling.acquire(blocking=False):  # until it is at work
    launch._compiling.release()
    time.sleep(0.01)
    assert thread.is_alive()
child = os.fork()
if child == 0:
    os._exit(0 if (numbattn.scores(x, x) == 64).all() else 3)
for _ in range(1000):
    done, status = os.waitpid(child, os.WNOHANG)
    if done:
        break
    time.sleep(0.05)
else:
    os.kill(child, 9)
    raise AssertionError("the child hangs")
assert status == 0, status
thread.join()
assert (numbattn.scores(x, x) == 64).all()
"""
    python(
        code, NUMBATTN_CACHE_DIR="", NUMBA_THREADING_LAYER=layer, NUMBA_NUM_THREADS="2"
    )


@pytest.mark.parametrize("works", [True, False])
def test_a_fork_waits_for_a_compiler_as_long_as_it_works(works: bool) -> None:
    """However slow it is; one that waits, maybe for this thread, holds nobody up."""
    code = f"""
import os, threading, time
from numbattn.backends.cpu import launch
launch.FORK_TICK, launch.FORK_TICKS = 0.05, 20  # 1 s
begun, over = threading.Event(), threading.Event()
def compile():
    with launch.compiling():
        begun.set()
        while {works} and time.thread_time() < 3:
            pass
        if not {works}:
            over.wait()
thread = threading.Thread(target=compile)
thread.start()
begun.wait()
child = os.fork()
if child == 0:
    os._exit(0 if launch._compiling.acquire(blocking=False) else 3)
_, status = os.waitpid(child, 0)
assert status == 0, status
assert launch._held_over_fork == {works}
over.set()
thread.join()
assert launch._compiling.acquire(blocking=False)  # and the parent gave it back
"""
    python(code)


def test_fork_in_a_progress_callback() -> None:
    """A child in the midst of a job goes on with it alone, and so does the parent."""
    code = """
import os
import numpy as np, numbattn
rng = np.random.default_rng(0)
query = rng.standard_normal((300, 64)).astype(np.float32)
key = rng.standard_normal((20_000, 64)).astype(np.float32)
want = numbattn.attention(query, key, key)
children = []
def fork(done, total):
    if not children:
        children.append(os.fork())
right = np.array_equal(numbattn.attention(query, key, key, progress=fork), want)
if children[0] == 0:
    os._exit(0 if right else 3)
assert right
_, status = os.waitpid(children[0], 0)
assert status == 0, status
"""
    python(code, NUMBA_NUM_THREADS="2")
