"""Ctrl-C is answered, progress is told, and nothing is left behind, in long calls."""

from __future__ import annotations

import ctypes
import sys
import time

import numpy as np
import pytest

import numbattn
from numbattn.backends.cpu.launch import _hearing_interrupts

from .children import python

ALLOWED = 4 * 0.25  # seconds; 0.25 is promised

# Jobs of 20 s and more, whose keys hardly take memory: rows, or columns, are repeated.
JOBS = {
    "scores": "scores, wide(4096, 2**18), wide(4096, 2**18)",
    "weights": "weights, wide(4096, 2**18), wide(4096, 2**18)",
    "attention": "attention, rows(4096, 64), keys(4_000_000, 64), keys(4_000_000, 64)",
    "attention of one row": (
        "attention, rows(900, 64)[:, None], keys(10**7, 64), keys(10**7, 64)"
    ),
    "weights of one row": "weights, rows(1, 2**17), keys(10**7, 2**17)",
}

CODE = """
import os, signal, threading, time
import numpy as np, numbattn
from numbattn import scores, weights, attention

rng = np.random.default_rng(0)
def rows(n, d): return rng.standard_normal((n, d)).astype(np.float32)
def keys(m, d): return np.broadcast_to(rows(1, d), (m, d))
def wide(n, d): return np.broadcast_to(rows(n, 1), (n, d))

call, query, *others = {job}
class Enough(Exception): pass
def enough(done, total):
    assert 0 <= done < total, (done, total)
    if done:  # a slab that the machine gave no core to has done nothing
        raise Enough
shape = *query.shape[:-1], others[-1].shape[0 if len(others) == 1 else 1]
out = np.zeros(shape, np.float32)
try:  # compiled now, if not before
    call(query, *others, out=out, progress=enough)
    raise AssertionError("over at once")
except Enough:
    pass

def interrupt():
    global sent
    time.sleep({moment})
    sent = time.perf_counter()
    os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=interrupt).start()
try:
    call(query, *others, out=out)
    raise AssertionError("over before its time")
except KeyboardInterrupt:
    print(time.perf_counter() - sent)

small = [rows(n, 24) for n in (40, 3000, 3000)][: 1 + len(others)]
for threads in (None, 1):
    got = call(*small, num_threads=threads)
    np.testing.assert_allclose(got, call(*small, backend="reference"), 1e-3, 1e-5)
assert threading.active_count() == 1
"""


def check(job: str, moment: float, request: pytest.FixtureRequest) -> None:
    waited = float(python(CODE.format(job=JOBS[job], moment=moment)))
    request.node.user_properties.append(("seconds until KeyboardInterrupt", waited))
    assert waited < ALLOWED


@pytest.mark.parametrize("job", JOBS)
def test_ctrl_c_is_answered_and_the_next_call_is_right(
    job: str, request: pytest.FixtureRequest
) -> None:
    check(job, 0.2, request)


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("job", "moment"), [*zip(JOBS, (1.5, 5, 10, 14, 18), strict=True)]
)
def test_ctrl_c_is_answered_at_any_moment_of_20_s(
    job: str, moment: float, request: pytest.FixtureRequest
) -> None:
    check(job, moment, request)


def test_no_ctrl_c_is_lost_in_a_callback_of_the_compiler() -> None:
    """What is raised inside of a ctypes callback Python reports, and goes on."""

    @ctypes.CFUNCTYPE(None)
    def callback() -> None:
        raise KeyboardInterrupt

    before = sys.unraisablehook
    with pytest.raises(KeyboardInterrupt), _hearing_interrupts():
        callback()
    assert sys.unraisablehook is before


def test_slabs_answer_within_their_time_whatever_the_tasks_last() -> None:
    """The first key lengths are 0, so that tasks look short until they are long."""
    rng = np.random.default_rng(0)
    query = rng.standard_normal((6, 1500, 32)).astype(np.float32)
    key = rng.standard_normal((20_000, 32)).astype(np.float32)
    numbattn.attention(query[:, :100], key, key)
    times = [time.perf_counter()]
    numbattn.attention(
        query,
        key,
        key,
        kv_lengths=np.array([0, 0, 0, 0, 20_000, 20_000]),
        progress=lambda done, total: times.append(time.perf_counter()),
    )
    assert max(np.diff(times)) < ALLOWED


@pytest.mark.parametrize("n", [1, 40])
@pytest.mark.parametrize("operation", ["scores", "weights", "attention"])
def test_progress_rises_to_the_end(operation: str, n: int) -> None:
    query = np.ones((n, 16), np.float32)
    key = np.broadcast_to(np.ones((1, 16), np.float32), (4_000_000 // n, 16))
    others = (key, key) if operation == "attention" else (key,)
    told: list[tuple[int, int]] = []

    def tell(done: int, total: int) -> None:
        told.append((done, total))

    getattr(numbattn, operation)(query, *others, backend="cpu", progress=tell)
    total = n * key.shape[0]
    assert told[-1] == (total, total)
    assert {each for _, each in told} == {total}
    assert told == sorted(told)


@pytest.mark.parametrize("n", [1, 40])
def test_progress_never_falls_where_rows_are_done_with_care(
    monkeypatch: pytest.MonkeyPatch, n: int
) -> None:
    """NaN among the values is found at a row's end; then it is walked once more."""
    from numbattn.backends.cpu import launch

    monkeypatch.setattr(launch, "SLAB_SECONDS", 1e-3)
    query = np.ones((n, 16), np.float32)
    key = np.broadcast_to(np.ones((1, 16), np.float32), (4_000_000 // n, 16))
    value = np.broadcast_to(np.array([[1, np.nan]], np.float32), (key.shape[0], 2))
    told: list[int] = []

    def tell(done: int, total: int) -> None:
        told.append(done)

    out = numbattn.attention(query, key, value, backend="cpu", progress=tell)
    assert np.isnan(out).tolist() == [[False, True]] * n
    assert len(told) > 4
    assert told == sorted(told)


class RefusedError(Exception):
    pass


@pytest.mark.parametrize("operation", ["scores", "weights", "attention"])
def test_a_progress_callback_may_raise_or_call_again(operation: str) -> None:
    rng = np.random.default_rng(1)
    query = rng.standard_normal((300, 64)).astype(np.float32)
    key = rng.standard_normal((30_000, 64)).astype(np.float32)
    others = (key, key) if operation == "attention" else (key,)
    call = getattr(numbattn, operation)
    want = call(query, *others, backend="cpu")

    def refuse(done: int, total: int) -> None:
        raise RefusedError

    def again(done: int, total: int) -> None:
        part = call(query[:100], *others, backend="cpu")
        assert np.array_equal(part, want[:100])

    with pytest.raises(RefusedError):
        call(query, *others, backend="cpu", progress=refuse)
    got = call(query, *others, backend="cpu", progress=again)
    assert np.array_equal(got, want)
