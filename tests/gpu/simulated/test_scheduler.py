"""The simulator's threads: what is wrong with a kernel shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import numbattn
from numbattn.backends.cuda import ptx, simulator
from numbattn.backends.cuda.device import cuda, device_function

THREADS = 40


def run(kernel: Callable[..., None], *arrays: np.ndarray, grid: int = 1) -> None:
    simulator.launch(kernel, grid, THREADS, arrays)


def reversed_in_shared_memory(out: Any) -> None:
    shared = cuda.shared.array(THREADS, np.float64)
    t = cuda.threadIdx.x
    shared[t] = t + cuda.blockIdx.x
    cuda.syncthreads()
    out[cuda.blockIdx.x * THREADS + t] = shared[THREADS - 1 - t]


def without_a_barrier(out: Any) -> None:
    shared = cuda.shared.array(THREADS, np.float64)
    t = cuda.threadIdx.x
    shared[t] = t
    out[t] = shared[THREADS - 1 - t]


def two_arrays(out: Any) -> None:
    first = cuda.shared.array(1, np.int64)
    second = cuda.shared.array(1, np.int64)
    if cuda.threadIdx.x == 0:
        first[0], second[0] = 1, 2
    cuda.syncthreads()
    out[cuda.threadIdx.x] = 10 * first[0] + second[0]


def test_a_barrier_makes_writes_seen() -> None:
    out = np.zeros(3 * THREADS)
    run(reversed_in_shared_memory, out, grid=3)
    want = np.arange(THREADS)[::-1] + np.arange(3)[:, None]
    np.testing.assert_array_equal(out.reshape(3, THREADS), want)


def test_a_missing_barrier_shows() -> None:
    out = np.zeros(THREADS)
    run(without_a_barrier, out)
    assert np.isnan(out).any()  # shared memory is poison until it is written


def test_arrays_of_two_lines_are_two() -> None:
    out = np.zeros(THREADS, np.int64)
    run(two_arrays, out)
    assert (out == 12).all()


def test_the_order_of_threads_changes() -> None:
    orders: list[list[int]] = []

    def noting(out: Any) -> None:
        orders[-1].append(cuda.threadIdx.x)

    noting.__globals__["cuda"] = cuda
    for _ in range(12):
        orders.append([])
        run(noting, np.zeros(1))
    assert len({tuple(order) for order in orders}) > 3
    assert all(sorted(order) == list(range(THREADS)) for order in orders)


def test_a_barrier_that_some_threads_never_reach_is_an_error() -> None:
    def diverging(out: Any) -> None:
        if cuda.threadIdx.x > 3:
            cuda.syncthreads()

    with pytest.raises(RuntimeError, match="a barrier that some threads never reach"):
        run(diverging, np.zeros(1))


def test_an_index_outside_is_an_error() -> None:
    for at in (-1, THREADS):
        with pytest.raises(IndexError, match="of 40"):
            run(lambda out, at=at: ptx.read(out, at), np.zeros(THREADS))
        with pytest.raises(IndexError, match="of 40"):
            run(lambda out, at=at: ptx.write(out, at, 0.0), np.zeros(THREADS))


@device_function
def butterfly(value: Any) -> Any:
    for step in (16, 8, 4, 2, 1):
        value += ptx.shuffle_xor(value, step)
    return value


def test_lanes_of_a_warp_exchange() -> None:
    def summing(out: Any) -> None:
        out[cuda.threadIdx.x] = butterfly(cuda.threadIdx.x)

    out = np.zeros(64, np.int64)
    simulator.launch(summing, 1, 64, (out,))
    assert (out[:32] == sum(range(32))).all()
    assert (out[32:] == sum(range(32, 64))).all()


def test_a_copy_arrives_when_it_was_waited_for() -> None:
    def copying(source: Any, out: Any) -> None:
        shared = cuda.shared.array(32, np.float32)
        if cuda.threadIdx.x == 0:
            ptx.copy16(shared, 0, source, 0, 3)
            ptx.copy_commit()
            out[0] = shared[0]
            ptx.copy_wait()
            out[1:6] = shared[0:5]

    source = np.zeros(64, np.float32)
    source = source[-source.__array_interface__["data"][0] % 16 // 4 :]
    source[:4] = 1, 2, 3, 4
    out = np.zeros(6)
    run(copying, source, out)
    np.testing.assert_array_equal(out, [np.nan, 1, 2, 3, 0, 0])


def test_a_copy_from_an_odd_place_is_an_error() -> None:
    def copying(source: Any) -> None:
        shared = cuda.shared.array(32, np.float32)
        ptx.copy16(shared, 0, source, 0, 4)

    memory = np.zeros(64, np.float32)
    odd = (-memory.__array_interface__["data"][0] % 16) // 4 + 1
    with pytest.raises(ValueError, match="not aligned"):
        run(copying, memory[odd:])


@pytest.mark.parametrize("left_out", ["syncthreads", "copy_wait"])
def test_results_are_wrong_where_a_kernel_does_not_wait(
    monkeypatch: pytest.MonkeyPatch, left_out: str
) -> None:
    rng = np.random.default_rng(0)
    query, key, value = rng.standard_normal((3, 40, 64), dtype=np.float32)
    want = numbattn.attention(query, key, value, backend="reference")
    got = numbattn.attention(query, key, value, backend="cuda")
    np.testing.assert_allclose(got, want, atol=1e-5)
    if left_out == "syncthreads":
        monkeypatch.setattr(simulator.Module, "syncthreads", lambda self: None)
    else:
        monkeypatch.setattr(ptx, "copy_wait", lambda: None)
    got = numbattn.attention(query, key, value, backend="cuda")
    assert not np.allclose(got, want, atol=1e-5)
