"""Limits that others set: threadpoolctl, joblib, Dask."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import threadpoolctl

import numbattn
from numbattn import limits

from .children import THREADS, python

JOB = """
def job():
    rng = np.random.default_rng(0)
    query = rng.standard_normal((500, 64)).astype(np.float32)
    key = rng.standard_normal((20_000, 64)).astype(np.float32)
    return threads_of(lambda: numbattn.attention(query, key, key))
"""


def ours() -> int:
    """Return what threadpoolctl tells of us."""
    (found,) = threadpoolctl.ThreadpoolController().select(user_api="numbattn").info()
    return int(found["num_threads"])


def test_threadpoolctl_knows_us_before_and_after_the_first_call() -> None:
    code = (
        "import sys, threadpoolctl, numpy as np\n"
        "threadpoolctl.threadpool_info()  # what was found is kept there\n"
        "import numbattn\n"
        "def told(): return [(i['num_threads'], i['version'])\n"
        "    for i in threadpoolctl.threadpool_info() if i['user_api'] == 'numbattn']\n"
        "assert told() == [(2, numbattn.__version__)], told()\n"
        "assert 'numba' not in sys.modules\n"
        "numbattn.scores(np.ones((500, 64)), np.ones((500, 64)))\n"
        "assert told() == [(2, numbattn.__version__)], told()\n"
    )
    python(code, NUMBA_NUM_THREADS="2")


def test_a_limit_set_before_the_engine_is_loaded_is_obeyed_and_lifted() -> None:
    code = f"""{THREADS}{JOB}
import sys, threadpoolctl
with threadpoolctl.threadpool_limits(1):
    assert "numba" not in sys.modules
    assert job() == 1
    found = []
    thread = threading.Thread(target=lambda: found.append(job()))
    thread.start(); thread.join()
    assert found == [1]  # the limit of the thread that made this one
assert job() == 2
assert len(os.listdir("/proc/self/task")) < 4 + (os.cpu_count() or 1)
plan = numbattn.explain(np.ones((999, 8)), np.ones((999, 8)), operation="scores")
assert "2" in str(plan)
"""
    python(code, NUMBA_NUM_THREADS="2")


def test_limits_nest_and_end() -> None:
    free = ours()
    with threadpoolctl.threadpool_limits(3, user_api="numbattn"):
        assert (ours(), limits.current()) == (3, 3)
        with threadpoolctl.threadpool_limits({"numbattn": 1}):
            assert (ours(), limits.current()) == (1, 1)
        assert (ours(), limits.current()) == (3, 3)
    assert (ours(), limits.current()) == (free, None)


def test_limits_of_blas_alone_are_not_ours() -> None:
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        assert limits.current() is None


def test_limits_of_threads_that_end_in_another_order_leave_nothing() -> None:
    steps = [threading.Event() for _ in range(3)]
    seen: list[int | None] = []

    def other() -> None:
        with threadpoolctl.threadpool_limits(2, user_api="numbattn"):
            seen.append(limits.current())  # its own, not ours
            steps[0].set()
            steps[1].wait()
        seen.append(limits.current())
        steps[2].wait()

    thread = threading.Thread(target=other)
    with threadpoolctl.threadpool_limits(1, user_api="numbattn"):
        thread.start()
        steps[0].wait()
    assert limits.current() == 2  # of the thread that still has one
    steps[1].set()
    while len(seen) < 2:
        pass
    assert limits.current() is None
    steps[2].set()
    thread.join()
    assert seen == [2, None]


def test_a_limit_dies_with_its_thread() -> None:
    def forget() -> None:
        threadpoolctl.threadpool_limits(1, user_api="numbattn")

    thread = threading.Thread(target=forget)
    thread.start()
    thread.join()
    assert limits.current() is None


def test_more_threads_than_a_limit_are_cut_not_refused() -> None:
    x = np.ones((300, 64), np.float32)
    with threadpoolctl.threadpool_limits(1, user_api="numbattn"):
        assert (numbattn.scores(x, x, backend="cpu", num_threads=1) == 64).all()


def test_joblib_workers_run_as_many_threads_as_joblib_allows() -> None:
    code = f"""
import joblib
CODE = {THREADS + JOB!r}
def task():
    space = {{}}
    exec(CODE, space)
    return space["job"]()
for inner in (1, 2):
    with joblib.parallel_config("loky", inner_max_num_threads=inner):
        found = joblib.Parallel(n_jobs=2)(joblib.delayed(task)() for _ in range(2))
    assert found == [inner, inner], found
"""
    python(code)


DASK = """
import warnings
import dask, distributed
CODE = {code!r}
def task(_):
    space = {{}}
    exec(CODE, space)
    return space["job"]()
if __name__ == "__main__":
    dask.config.set({{"distributed.worker.daemon": False}})
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker={threads}, processes={processes},
        dashboard_address=None,
    ) as cluster, distributed.Client(cluster) as client:
        found = client.gather(client.map(task, range({threads}), pure=False))
    assert max(found) <= {threads}, found
"""


@pytest.mark.parametrize("processes", [False, True])
@pytest.mark.parametrize("threads", [1, 2])
def test_dask_workers_run_one_thread_a_task(
    processes: bool, threads: int, tmp_path: object
) -> None:
    code = DASK.format(code=THREADS + JOB, threads=threads, processes=processes)
    python(code, NUMBA_NUM_THREADS="4")
