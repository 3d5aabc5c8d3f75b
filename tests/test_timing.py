"""Timing in separate processes: the figures are right and failures are told."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from time import monotonic, sleep
from typing import Any

import psutil
import pytest

from numbattn._peers import (
    ARRAYS,
    FASTEST,
    Case,
    installed_peers,
    program,
    start,
    variables,
)
from numbattn._timing import Comparison, Worker, WorkerError, compare

# the worker itself compares what each way of a side computes with the reference
COMPARED = """
import numbattn

exact = getattr(numbattn, operation)(
    *arrays, mask=seen, backend="reference",
)
timed = ways

def run():
    for way in timed:
        out[...] = 0
        found = np.asarray(way()).reshape(exact.shape)
        np.testing.assert_allclose(found, exact, atol=1e-5)
"""
CASES = [
    *(
        Case(operation, 9, 13, 16, lead=(2,), causal=causal)
        for operation in ("scores", "weights", "attention")
        for causal in (False, True)
    ),
    Case("attention", 13, 13, 16, lead=(2,), causal=True),
    Case("attention", 13, 13, 16, lead=(1, 2), causal=True, window=4),
    Case("attention", 9, 13, 16, lead=(3, 2), mask=True),
    Case("attention", 9, 13, 16, lead=(2,), d_v=8, dtype="float64"),
    Case("attention", 1, 13, 16, lead=(1, 4)),
    Case("attention", 1, 13, 16, lead=(1, 4), kv_heads=2),
]
SLEEP = "import time\ndef run():\n    time.sleep(seconds)\n"


def test_seconds_are_seconds_a_call() -> None:
    with Worker(SLEEP, {"seconds": 0.01}) as worker:
        assert 0.01 <= worker.seconds(3) < 0.1


def test_the_ratio_is_first_over_second() -> None:
    with (
        Worker(SLEEP, {"seconds": 0.02}) as slow,
        Worker(SLEEP, {"seconds": 0.005}) as fast,
    ):
        found = compare(slow, fast, pairs=5, budget=0.0)
        longer = compare(slow, fast, pairs=1, budget=0.5)
    assert 2 < found.ratio < 8
    assert found.first > found.second
    assert found.pairs == 5
    assert longer.pairs > 1


def test_a_side_that_is_not_timed_does_nothing() -> None:
    source = "import threading\ndef spin():\n    while True: pass\n"
    source += "threading.Thread(target=spin, daemon=True).start()\ndef run(): pass\n"
    with Worker(source) as worker:
        process = psutil.Process(worker._process.pid)
        with worker.suspended():
            deadline = monotonic() + 10
            while process.status() != psutil.STATUS_STOPPED and monotonic() < deadline:
                sleep(0.01)
            used = process.cpu_times().user
            sleep(0.2)
            assert process.cpu_times().user == used
        assert worker.seconds() > 0


QUIET = (2.0, 4.0)
"""Seconds of both sides where nothing disturbs them."""
BUSY = (2.4, 8.0)
"""The same pair on a busy machine, which slows the second more."""


@pytest.fixture
def told() -> Iterator[Callable[..., Comparison]]:
    """Compare two sides that are said to take certain seconds, pair by pair."""
    with (
        Worker("def run(): pass") as one,
        Worker("def run(): pass") as other,
        pytest.MonkeyPatch.context() as patch,
    ):

        def compared(seen: Iterable[tuple[float, float]], **options: Any) -> Any:
            columns = zip(*seen, strict=True)
            for side, column in zip((one, other), columns, strict=True):
                seconds = itertools.cycle(column)
                patch.setattr(side, "calibrate", lambda at_least: 1)
                patch.setattr(side, "seconds", lambda number, s=seconds: next(s))
            return compare(one, other, budget=0.0, **options)

        yield compared


def test_pairs_of_a_busy_machine_do_not_count(
    told: Callable[..., Comparison],
) -> None:
    found = told([BUSY] * 5 + [QUIET] * 3, pairs=8)
    assert (found.ratio, found.pairs, found.quiet) == (0.5, 8, 3)
    assert (found.first, found.second, found.floor) == (2.0, 4.0, 4.0)


def test_one_time_that_a_clock_shortened_is_no_floor(
    told: Callable[..., Comparison],
) -> None:
    found = told([(2.0, 3.0), (1.0, 4.0), *[QUIET] * 6], pairs=8)
    assert (found.ratio, found.floor) == (0.5, 4.0)
    assert found.quiet == 8


def test_it_waits_for_a_quiet_machine(told: Callable[..., Comparison]) -> None:
    late = [BUSY] * 50 + [QUIET] * 3
    assert told(late, pairs=3).ratio == 0.3
    assert told(late, pairs=3, known=4.0).quiet == 0
    found = told(late, pairs=3, known=4.0, patience=60.0)
    assert (found.ratio, found.pairs, found.quiet) == (0.5, 53, 3)


def test_where_it_is_never_quiet_the_floors_count(
    told: Callable[..., Comparison],
) -> None:
    found = told([BUSY, (2.3, 9.0)] * 4, pairs=8, known=4.0, patience=0.2)
    assert found.quiet == 0
    assert found.pairs > 8
    assert found.ratio == 2.3 / 8.0


def test_a_first_call_is_not_warmed() -> None:
    source = """
import time
calls = 0
def run():
    global calls
    calls += 1
    time.sleep(0.05 if calls == 1 else 0)
"""
    with Worker(source) as worker:
        assert worker.first_call() >= 0.05
    with Worker(source) as worker:
        assert worker.seconds() < 0.05


def test_a_short_call_is_repeated() -> None:
    with Worker("def run(): pass") as worker:
        assert worker.calibrate(0.01) > 100


def test_what_the_code_prints_does_not_disturb() -> None:
    with Worker(
        "import os\ndef run():\n    print('x')\n    os.system('echo y')\n"
    ) as w:
        assert w.seconds() > 0


def test_an_exception_is_told_and_the_worker_goes_on() -> None:
    source = (
        "calls = []\ndef run():\n    calls.append(1)\n    if len(calls) == 1: 1 / 0\n"
    )
    with Worker(source) as worker:
        with pytest.raises(WorkerError, match="ZeroDivisionError"):
            worker.seconds()
        assert worker.seconds() >= 0


def test_code_that_does_not_start_is_told() -> None:
    with pytest.raises(WorkerError, match="no_such_module"):
        Worker("import no_such_module")


def test_a_process_that_ends_is_told_with_its_last_words() -> None:
    source = (
        "import os, sys\ndef run():\n    sys.stderr.write('bye\\n')\n    os._exit(3)"
    )
    with Worker(source) as worker, pytest.raises(WorkerError, match=r"status 3.*bye"):
        worker.seconds()


def test_a_call_that_hangs_is_ended() -> None:
    with (
        Worker(SLEEP, {"seconds": 60}, timeout=0.5) as worker,
        pytest.raises(WorkerError, match="ended"),
    ):
        worker.seconds()


def test_threads_are_limited() -> None:
    source = "import os\nassert os.environ['OMP_NUM_THREADS'] == '1'\ndef run(): pass"
    Worker(source, num_threads=1).close()
    if os.environ.get("OMP_NUM_THREADS") != "1":
        with pytest.raises(WorkerError):
            Worker(source)


def test_flops_count_the_products() -> None:
    assert Case("scores", 10, 20, 30).flops == 2 * 10 * 20 * 30
    assert Case("scores", 10, 20, 30, lead=(2, 3)).flops == 12 * 10 * 20 * 30
    assert Case("attention", 10, 20, 30, causal=True).flops == 2 * 10 * 20 * 30
    assert Case("attention", 10, 20, 30, d_v=5).flops == 2 * 10 * 20 * 35
    assert Case("attention", 90, 90, 30, causal=True, window=1).flops == 4 * 180 * 30


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("peer", ["numbattn", "numpy", "torch", "onnxruntime", "jax"])
def test_every_side_computes_the_same(peer: str, case: Case) -> None:
    why = installed_peers().get(peer)
    if why is not None:
        pytest.skip(why)
    if peer == "onnxruntime" and case.causal and case.operation != "attention":
        pytest.skip("no single operator")
    with Worker(program(peer) + COMPARED, variables(case, num_threads=1)) as worker:
        worker.seconds()


def test_the_fastest_way_is_timed() -> None:
    case = Case("scores", 8, 8, 8)
    source = ARRAYS + "ways = [lambda: time.sleep(0.01), lambda: 1, lambda: 2 / 0]"
    with pytest.raises(WorkerError, match="ZeroDivisionError"):
        Worker(source + FASTEST, variables(case))
    source = ARRAYS + "ways = [lambda: time.sleep(0.01), lambda: 1]"
    Worker(source + FASTEST + "assert run() == 1", variables(case)).close()


def test_a_side_starts_by_name() -> None:
    with start("numpy", Case("scores", 8, 8, 8), num_threads=1) as worker:
        assert worker.seconds() > 0
