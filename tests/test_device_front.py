"""Calls with arrays on a CUDA device: taken as they lie, and never read.

There is no device here: the arrays are host memory that says otherwise, or memory that
may not be touched at all; `FakeCuda` stands for the backend.
"""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
import pytest

import numbattn
from numbattn import (
    BackendUnavailableError,
    DTypeError,
    MemoryLimitError,
    OptionError,
    ShapeError,
    selector,
)
from numbattn.device_arrays import DeviceArray

from .device_fakes import (
    BIAS,
    MASK,
    RNG,
    ByDlpack,
    FakeCuda,
    Forbidden,
    K,
    OnDevice,
    Q,
    V,
    there,
)

HALVES = ["float16", "bfloat16"]
POSIX = pytest.mark.skipif(not hasattr(mmap, "PROT_READ"), reason="needs mprotect")


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    """A backend of that name that computes what lies in fake arrays."""
    backend = FakeCuda()
    monkeypatch.setitem(selector._loaded, "cuda", backend)  # type: ignore[arg-type]
    return backend


def near(got: Any, want: np.ndarray) -> None:
    assert isinstance(got, OnDevice)
    assert got.array.dtype == want.dtype
    np.testing.assert_array_equal(got.array, want)


OPTIONS: dict[str, dict[str, Any]] = {
    "none": {},
    "views": {"is_causal": True, "q_offset": np.array([[1], [2]]), "softcap": 3.0},
    "lengths": {"kv_lengths": np.array([[2], [6]]), "window_size": (2, 1)},
    "arrays": {"bias": BIAS, "mask": MASK},
    "functions": {
        "score_mod": lambda s, b, h, q, k, table: s + table[h],
        "score_mod_args": (np.arange(4.0),),
        "mask": numbattn.masks.sliding_window(2, 0),
    },
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("operation", ["scores", "weights", "attention"])
def test_a_call_has_the_meaning_of_the_call_on_the_host(
    operation: str, options: dict[str, Any], cuda: FakeCuda
) -> None:
    arrays = (Q, K, V)[: 2 + (operation == "attention")]
    call = getattr(numbattn, operation)
    want = call(*arrays, backend="reference", **options)
    near(call(*there(*arrays), **options), want)
    # what may be on the device is not read there, the rest by the backend
    moved = {
        name: OnDevice(value) if isinstance(value, np.ndarray) else value
        for name, value in options.items()
    }
    if "score_mod_args" in moved:
        moved["score_mod_args"] = (OnDevice(options["score_mod_args"][0]),)
    near(call(*there(*arrays), **moved), want)
    problem = cuda.calls[-1].problem
    for name in ("bias", "mask"):
        kept = type(moved.get(name)) is OnDevice
        assert (type(getattr(problem, name)) is DeviceArray) == kept
    assert (problem.copies, problem.copied_bytes) == ((), 0)


def test_sinks_and_the_log_sum_exp_come_along(cuda: FakeCuda) -> None:
    sinks = np.array([0.5, -np.inf, 1.0, 2.0])
    how: dict[str, Any] = {"return_lse": True}
    want, want_lse = numbattn.attention(
        Q, K, V, sinks=sinks, backend="reference", **how
    )
    for given in (sinks, OnDevice(sinks)):
        out, lse = numbattn.attention(*there(Q, K, V), sinks=given, **how)
        near(out, want)
        near(lse, want_lse)


@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision_stays_as_it_is(dtype: str, cuda: FakeCuda) -> None:
    arrays = [array.astype(dtype) for array in (Q, K, V)]
    want, want_lse = numbattn.attention(*arrays, backend="reference", return_lse=True)
    out, lse = numbattn.attention(*there(*arrays), return_lse=True)
    near(out, want)
    near(lse, want_lse)
    assert lse.array.dtype == np.float32
    problem = cuda.calls[-1].problem
    assert problem.query.address == arrays[0].__array_interface__["data"][0]


def test_results_are_made_for_the_query_and_its_stream(cuda: FakeCuda) -> None:
    query = OnDevice(Q, stream=5)
    out = numbattn.scores(query, OnDevice(K), stream=7, precision="tf32", num_threads=3)
    assert out.made_for == (query, 7)
    call = cuda.calls[-1]
    assert call.problem.query.stream == 5
    execution = call.execution
    assert (execution.stream, execution.precision, execution.num_threads) == (
        7,
        "tf32",
        3,
    )
    numbattn.scores(query, OnDevice(K))
    assert cuda.calls[-1].execution == (None, None, None, "float32", None)


def test_out_is_filled_where_it_lies(cuda: FakeCuda) -> None:
    want = numbattn.attention(Q, K, V, backend="reference")
    memory = np.zeros((2, 4, 5, 6), np.float32)
    for place in (memory[..., :3], memory[..., ::2], memory[:, :, ::-1, 3:]):
        out = OnDevice(place)
        assert numbattn.attention(*there(Q, K, V), out=out) is out
        np.testing.assert_array_equal(place, want)
    numbattn.attention(*there(Q, K, V), out=ByDlpack(memory[..., :3]))
    np.testing.assert_array_equal(memory[..., :3], want)


@pytest.mark.parametrize(
    ("out", "error", "words"),
    [
        (
            np.zeros((2, 4, 5, 6), np.float32),
            DTypeError,
            "query and key are on.*out is in",
        ),
        ([0.0], DTypeError, "out is in host memory"),
        (OnDevice(np.zeros((4, 5, 6), "f4")), ShapeError, r"out has shape \(4, 5, 6\)"),
        (OnDevice(np.zeros((2, 4, 5, 6), "f8")), DTypeError, "out has dtype float64"),
        (
            OnDevice(np.zeros((2, 4, 5, 6), "f4"), data=(64, True)),
            OptionError,
            "out is read-only",
        ),
        (
            OnDevice(np.broadcast_to(np.float32(), (2, 4, 5, 6)), data=(64, False)),
            OptionError,
            "out repeats its elements",
        ),
        (
            OnDevice(np.zeros((2, 4, 5, 6), "f4"), data=(66, False)),
            DTypeError,
            "out is .* multiples of their 4 bytes",
        ),
    ],
)
def test_an_out_that_does_not_fit_is_refused(
    out: Any, error: type[Exception], words: str, cuda: FakeCuda
) -> None:
    with pytest.raises(error, match=words):
        numbattn.scores(*there(Q, K), out=out)
    assert not cuda.calls


def test_an_out_over_an_input_is_refused_and_one_between_its_elements_is_not(
    cuda: FakeCuda,
) -> None:
    packed = RNG.standard_normal((5, 24)).astype(np.float32)
    query, key, value = packed[:, :8], packed[:, 8:16], packed[:, 16:]
    want = numbattn.attention(query, key, value, backend="reference")
    with pytest.raises(OptionError, match=r"^out overlaps key; .*a copy of key$"):
        numbattn.attention(*there(query, key, value), out=OnDevice(packed[:, 9:17]))
    apart = packed.copy()
    arrays = there(apart[:, :8], apart[:, 8:16].copy(), apart[:, 16:])
    numbattn.attention(*arrays, out=OnDevice(apart[:, 8:16]))
    np.testing.assert_array_equal(apart[:, 8:16], want)
    bias = np.zeros((5, 5), np.float32)
    with pytest.raises(OptionError, match="out overlaps bias"):
        numbattn.scores(*there(query, key), bias=OnDevice(bias), out=OnDevice(bias))


def test_blocks_of_scores_stay_on_the_device(cuda: FakeCuda) -> None:
    want = numbattn.scores(Q, K, is_causal=True, backend="reference")
    got = np.zeros_like(want)
    blocks = numbattn.iter_scores(
        *there(Q, K), is_causal=True, block_shape=(2, 4), precision="tf32"
    )
    for rows, columns, block in blocks:
        near(block, want[..., rows, columns])
        got[..., rows, columns] = block.array
    np.testing.assert_array_equal(got, want)
    assert len(cuda.calls) == 6
    assert cuda.calls[0].execution.precision == "tf32"
    with pytest.raises(MemoryLimitError, match="max_memory allows 100 "):
        numbattn.iter_scores(*there(Q, K), block_shape=(2, 4), max_memory=100)


def test_pytorchs_call_takes_them(cuda: FakeCuda) -> None:
    sdpa = numbattn.scaled_dot_product_attention
    arrays = Q[:, :2], K, V[:, None]
    for mask in (MASK, BIAS[0]):
        want = numbattn.attention(
            *arrays, **{"mask" if mask is MASK else "bias": mask}, backend="reference"
        )
        near(sdpa(*there(*arrays), attn_mask=OnDevice(mask)), want)
        near(sdpa(*there(*arrays), attn_mask=mask), want)
    with pytest.raises(
        BackendUnavailableError, match="attn_mask is an array on a CUDA"
    ):
        sdpa(*arrays, attn_mask=OnDevice(MASK))


def test_empty_results_are_returned_without_a_run(cuda: FakeCuda) -> None:
    out, lse = numbattn.attention(*there(Q[..., :0, :], K, V), return_lse=True)
    assert (out.array.shape, lse.array.shape) == ((2, 4, 0, 3), (2, 4, 0))
    near(numbattn.scores(*there(Q, K[..., :0, :])), np.zeros((2, 4, 5, 0), np.float32))
    assert not cuda.calls
    near(
        numbattn.attention(*there(Q, K[..., :0, :], V[..., :0, :])),
        np.zeros((2, 4, 5, 3), "f4"),
    )


def test_progress_is_reported(cuda: FakeCuda) -> None:
    said: list[tuple[int, int]] = []
    numbattn.scores(*there(Q, K), progress=lambda *now: said.append(now))
    assert said[-1] == (240, 240)


def test_max_memory_counts_what_the_device_gives(cuda: FakeCuda) -> None:
    arrays = there(Q, K, V)
    wanted = numbattn.estimate_memory(*arrays, return_lse=True)
    assert (wanted.backend, wanted.copies) == ("cuda", 0)
    assert (wanted.result, wanted.lse) == (2 * 4 * 5 * 3 * 4, 2 * 4 * 5 * 4)
    numbattn.attention(*arrays, return_lse=True, max_memory=wanted.total)
    with pytest.raises(
        MemoryLimitError, match=r"max_memory allows .* on the device"
    ) as e:
        numbattn.attention(*arrays, return_lse=True, max_memory=wanted.total - 1)
    assert e.value.wanted == wanted.total
    out = OnDevice(np.zeros((2, 4, 5, 3), np.float32))
    assert numbattn.estimate_memory(*arrays, out=out).result == 0


@POSIX
def test_nothing_reads_what_is_on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = FakeCuda(reads=False)
    monkeypatch.setitem(selector._loaded, "cuda", backend)  # type: ignore[arg-type]
    memory = Forbidden()
    arrays = [memory.array(each.shape) for each in (Q, K, V)]
    options: dict[str, Any] = {
        "bias": memory.array((4, 5, 6)), "mask": memory.array((5, 6), bool),
        "is_causal": True, "kv_lengths": 3,
    }  # fmt: skip
    out = memory.array((2, 4, 5, 3))
    for dtype in ("float32", "float16"):
        if dtype == "float16":
            arrays = [memory.array(each.shape, dtype) for each in (Q, K, V)]
            out = memory.array((2, 4, 5, 3), dtype)
        how = {"out": out, "return_lse": True, **options}
        numbattn.attention(*arrays, **how)
        numbattn.weights(*arrays[:2], **options)
        numbattn.estimate_memory(*arrays, **how)
        str(numbattn.explain(*arrays, **options))
        list(numbattn.iter_scores(*arrays[:2], block_shape=(2, 3), **options))
        wide = memory.array((2, 6, 8), dtype)
        with pytest.raises(OptionError, match="out overlaps query"):
            numbattn.attention(*arrays[:2], wide, out=arrays[0], **options)
    assert len(backend.calls) == 16
    problem = backend.calls[0].problem
    part = problem.at((slice(1, 2), slice(2, 4))).rows(1, 3)
    assert part.query.address - problem.query.address == 4 * (1 * 160 + 2 * 40 + 8)
    assert (part.bias.shape, part.mask.shape) == ((2, 2, 6), (2, 6))


@POSIX
def test_complaints_do_not_read_either() -> None:
    memory = Forbidden()
    array = memory.array((3, 4))
    for call in (
        lambda: numbattn.scores(array, array, backend="cpu"),
        lambda: numbattn.scores(array, array),
        lambda: numbattn.scores(array, Q),
        lambda: numbattn.scores(Q, K, kv_lengths=array),
        lambda: numbattn.merge_states(array, array, array, array),
        lambda: numbattn.scores(array, array, scale=array),
        lambda: numbattn.scores(array, array, score_mod_args=array),
    ):
        with pytest.raises(numbattn.NumbattnError):
            call()
