"""Outputs by blocks, streams, overlap, rounding, progress, iter_scores."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import numbattn
from numbattn import MemoryLimitError, blocks, selector
from numbattn.backends.reference import ReferenceBackend
from numbattn.checks import check

RNG = np.random.default_rng(2)


def normal(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return RNG.standard_normal(shape).astype(dtype)


class Recorder(ReferenceBackend):
    """The reference, and every problem and execution that it got."""

    name = "recorder"

    def __init__(self) -> None:
        self.calls: list[SimpleNamespace] = []

    def run(self, problem: Any, out: Any, lse: Any, execution: Any) -> None:
        """Run, after looking whether the contract of `out` is kept."""
        assert type(out) is np.ndarray
        assert out.flags.writeable
        assert out.flags.aligned
        assert out.dtype == problem.acc_dtype
        assert out.dtype.isnative
        assert out.shape == problem.out_shape
        assert out.size or (lse is not None and lse.size)
        for name in ("query", "key", "value", "bias"):
            array = getattr(problem, name)
            if array is not None:
                assert type(array) is np.ndarray
                assert array.dtype == problem.acc_dtype
                assert array.flags.aligned
                assert not [s for s in array.strides if s % array.itemsize]
                assert not np.may_share_memory(array, out)
        self.calls.append(
            SimpleNamespace(problem=problem, out=out, lse=lse, execution=execution)
        )
        super().run(problem, out, lse, execution)


class Target:
    """Something that takes slice assignment, and nothing else: like a file's array."""

    def __init__(self, shape: tuple[int, ...], dtype: Any) -> None:
        self.shape = shape
        self.dtype = np.dtype(dtype)
        self.stored = np.full(shape, 99, dtype)
        self.writes: list[tuple[int, ...]] = []

    def __setitem__(self, place: tuple[slice, ...], block: np.ndarray) -> None:
        """Store a block that has to fit exactly."""
        assert all(isinstance(each, slice) for each in place)
        assert len(place) == len(self.shape)
        assert self.stored[place].shape == block.shape
        assert block.dtype == self.dtype
        self.stored[place] = block
        self.writes.append(block.shape)


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    """A backend by the name "recorder"."""
    found = Recorder()
    selector._loaded["recorder"] = found
    yield found
    del selector._loaded["recorder"]


Q, K, V = normal(2, 4, 40, 8), normal(2, 2, 50, 8), normal(2, 2, 50, 5)
OPTIONS: list[dict[str, Any]] = [
    {},
    {"is_causal": True, "q_offset": [[3], [-4]], "softcap": 3.0},
    {
        "bias": normal(4, 1, 50),
        "mask": RNG.random((40, 50)) < 0.7,
        "kv_lengths": [[0], [33]],
        "window_size": (9, None),
        "scale": -0.5,
    },
]
OPERATIONS = ("scores", "weights", "attention")


def run(operation: str, arrays: Any = (Q, K, V), **how: Any) -> Any:
    count = 3 if operation == "attention" else 2
    return getattr(numbattn, operation)(*arrays[:count], **how)


def shape(operation: str) -> tuple[int, ...]:
    return (2, 4, 40, 5 if operation == "attention" else 50)


def odd_outs(dims: tuple[int, ...], dtype: Any, folder: Any) -> dict[str, np.ndarray]:
    """Return outputs of every kind, full of NaN."""
    item = np.dtype(dtype).itemsize
    room = np.zeros(int(np.prod(dims)) * item + 1, np.uint8)
    wide = np.zeros((*dims[:-1], 2 * dims[-1] + 3), dtype)
    table = np.zeros(dims, np.dtype([("x", dtype), ("y", "u1")]))
    found = {
        "fortran": np.zeros(dims[::-1], dtype).transpose(),
        "backwards": wide[..., 2 * dims[-1] : 0 : -2],
        "unaligned": room[1:].view(dtype).reshape(dims),
        "swapped": np.zeros(dims, np.dtype(dtype).newbyteorder()),
        "field": table["x"],
        "memmap": np.memmap(folder / "out", dtype, "w+", shape=dims),
    }
    for out in found.values():
        assert out.shape == dims
        out[...] = np.nan
    return found


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_any_out_has_the_same_bits(
    operation: str, dtype: Any, options: Any, backend: str, tmp_path: Any
) -> None:
    arrays = [x.astype(dtype) for x in (Q, K, V)]
    expected = run(operation, arrays, backend=backend, **options)
    assert expected.dtype == dtype
    for name, out in odd_outs(shape(operation), dtype, tmp_path).items():
        assert run(operation, arrays, out=out, backend=backend, **options) is out
        assert np.array_equal(out, expected), name


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_streams_into_an_object(
    operation: str, dtype: Any, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "SCRATCH_BYTES", 8 * 7 * 50 * 4)
    arrays = [x.astype(dtype) for x in (Q, K, V)]
    expected = run(operation, arrays, backend=backend, is_causal=True)
    out = Target(shape(operation), dtype)
    assert run(operation, arrays, out=out, backend=backend, is_causal=True) is out
    assert out.stored.dtype == dtype
    assert np.array_equal(out.stored.astype("f4"), expected.astype("f4"))
    if operation != "attention":
        assert len(out.writes) > 1
    most = max(int(np.prod(each)) for each in out.writes)
    assert most * 4 <= blocks.SCRATCH_BYTES


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_is_rounded_once(dtype: Any, backend: str) -> None:
    arrays = [x.astype(dtype) for x in (Q, K, V)]
    wide = [x.astype(np.float32) for x in arrays]
    for operation in OPERATIONS:
        found = run(operation, arrays, backend=backend)
        assert found.dtype == dtype
        exact = run(operation, wide, backend=backend)
        assert np.array_equal(found.astype("f4"), exact.astype(dtype).astype("f4"))
    out, lse = run("attention", arrays, backend=backend, return_lse=True)
    assert (out.dtype, lse.dtype) == (dtype, np.float32)
    expected = run("attention", wide, backend=backend, return_lse=True)[1]
    assert np.array_equal(lse, expected)


def test_rounding_to_infinity_is_silent(backend: str) -> None:
    x = np.full((2, 8), 200, np.float16)
    assert np.isposinf(numbattn.scores(x, x, backend=backend)).all()
    out = Target((2, 2), np.float16)
    assert np.isposinf(numbattn.scores(x, x, out=out, backend=backend).stored).all()


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("which", ["query", "key", "bias"])
@pytest.mark.parametrize("shift", [-3, 0, 5])
def test_out_may_overlap_an_input(
    operation: str, which: str, shift: int, backend: str
) -> None:
    # everything 12x12, so that any input can lie within the output's memory
    room = normal(12 * 12 + 16)
    inside = room[8 + shift : 8 + shift + 144].reshape(12, 12)
    out = room[8:152].reshape(12, 12)
    arrays = [normal(12, 12) for _ in range(3)]
    bias = normal(12, 12)
    if which == "bias":
        bias = inside
    else:
        arrays[which == "key"] = inside
    expected = run(operation, arrays, bias=bias.copy(), backend=backend)
    assert run(operation, arrays, bias=bias, out=out, backend=backend) is out
    assert np.array_equal(out, expected)


def test_out_may_be_the_value_and_the_mask_s_memory(backend: str) -> None:
    arrays = [normal(12, 12) for _ in range(3)]
    expected = run("attention", arrays, backend=backend)
    assert run("attention", arrays, out=arrays[2], backend=backend) is arrays[2]
    assert np.array_equal(arrays[2], expected)
    room = np.zeros((12, 12), np.float32)
    mask = room.view(np.uint8).reshape(-1)[:144].reshape(12, 12).view(bool)
    mask[...] = RNG.random((12, 12)) < 0.5
    expected = run("scores", arrays, mask=mask.copy(), backend=backend)
    run("scores", arrays, mask=mask, out=room, backend=backend)
    assert np.array_equal(room, expected)


def test_backends_get_what_the_contract_says(recorder: Recorder, tmp_path: Any) -> None:
    for operation in OPERATIONS:
        for out in odd_outs(shape(operation), np.float32, tmp_path).values():
            run(operation, out=out, backend="recorder")
        run(operation, (Q.T.copy().T, K[:, ::-1], V.astype(">f4")), backend="recorder")
    # what a backend can fill itself, it gets whole: three of the six, and no out
    whole = [c for c in recorder.calls if c.problem.n == 40]
    assert len(whole) == len(recorder.calls) == 3 * 7
    mapped = np.memmap(tmp_path / "direct", np.float32, "w+", shape=(2, 4, 40, 50))
    run("scores", out=mapped, backend="recorder")
    assert np.shares_memory(recorder.calls[-1].out, mapped)


def test_only_attention_has_lse(recorder: Recorder) -> None:
    for operation in OPERATIONS:
        run(operation, backend="recorder")
    run("attention", return_lse=True, backend="recorder")
    assert [c.lse is None for c in recorder.calls] == [True, True, True, False]
    lse = recorder.calls[-1].lse
    assert lse.shape == (2, 4, 40)
    assert lse.flags.c_contiguous


EMPTY = [
    ((0, 8), (6, 8), (6, 3), 0),
    ((5, 8), (0, 8), (0, 3), 1),
    ((5, 8), (6, 8), (6, 0), 1),
    ((5, 0), (6, 0), (6, 3), 1),
    ((0, 2, 5, 8), (2, 6, 8), (2, 6, 3), 0),
    ((5, 8), (0, 8), (0, 0), 1),
]


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(("query", "key", "value", "runs"), EMPTY)
def test_empty_axes(
    query: Any, key: Any, value: Any, runs: int, half: bool, recorder: Recorder
) -> None:
    dtype = np.float16 if half else np.float32
    arrays = [np.ones(each, dtype) for each in (query, key, value)]
    out, lse = run("attention", arrays, return_lse=True, backend="recorder")
    assert len(recorder.calls) == runs
    assert out.shape == (*query[:-1], value[-1])
    assert lse.shape == query[:-1]
    if not key[-2]:
        assert (out == 0).all()
        assert np.isneginf(lse).all()
    else:
        assert (out == 1).all()
        assert np.isfinite(lse).all()
    for operation in ("scores", "weights"):
        assert run(operation, arrays, backend="recorder").shape == (
            *query[:-1],
            key[-2],
        )
    assert sum(1 for _ in numbattn.iter_scores(*arrays[:2], backend="recorder")) <= 1


def test_iter_scores_fits_max_memory(recorder: Recorder) -> None:
    query, key = normal(300, 8), normal(4000, 8)
    sizes = []
    for limit in ("100 kB", "1 MB", "10 MB", "1 GB"):
        found = 0
        for rows, keys, block in numbattn.iter_scores(
            query, key, max_memory=limit, backend="recorder"
        ):
            found += block.size
            assert (rows.stop - rows.start) * (keys.stop - keys.start) == block.size
        assert found == 300 * 4000
        last = recorder.calls[0]
        used = recorder.workspace_bytes(last.problem, last.execution) + last.out.nbytes
        assert used <= numbattn.memory.parse_bytes(limit)
        sizes.append(last.out.nbytes)
        recorder.calls.clear()
    assert all(some < more for some, more in pairwise(sizes))


def test_iter_scores_keeps_the_backend_of_its_call(recorder: Recorder) -> None:
    with numbattn.config_context(num_threads=3):
        selected = numbattn.iter_scores(Q, K, block_shape=(20, 50), backend="recorder")
    assert len(list(selected)) == len(recorder.calls) == 2
    assert {c.execution.num_threads for c in recorder.calls} == {3}


# progress and memory


@pytest.mark.parametrize("way", ["whole", "by blocks", "iter"])
def test_progress_counts_score_elements(
    way: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "SCRATCH_BYTES", 8 * 9 * 50 * 4)
    seen: list[tuple[int, int]] = []
    threads = set()

    def progress(done: int, total: int) -> None:
        threads.add(threading.get_ident())
        seen.append((done, total))

    if way == "iter":
        list(numbattn.iter_scores(Q, K, progress=progress, backend=backend))
    else:
        out = Target(shape("weights"), "f4") if way == "by blocks" else None
        numbattn.weights(Q, K, out=out, progress=progress, backend=backend)
    total = 2 * 4 * 40 * 50
    assert {each for _, each in seen} == {total}
    done = [each for each, _ in seen]
    assert done == sorted(done)
    assert done[-1] == total
    assert threads == {threading.get_ident()}
    if way != "whole":
        assert len(seen) >= 5


def test_progress_bar(capfd: pytest.CaptureFixture[str]) -> None:
    numbattn.attention(Q, K, V, progress=True, backend="reference")
    list(numbattn.iter_scores(Q, K, progress=True, backend="reference"))
    printed = capfd.readouterr()
    assert printed.out == ""
    assert "attention" in printed.err
    assert "100%" in printed.err
    numbattn.attention(Q, K, V, progress=False, backend="reference")
    assert capfd.readouterr().err == ""


def test_an_error_in_progress_reaches_the_caller(backend: str) -> None:
    def progress(done: int, total: int) -> None:
        raise KeyError("mine")

    for out in (None, Target(shape("scores"), "f4")):
        with pytest.raises(KeyError, match="mine"):
            numbattn.scores(Q, K, out=out, progress=progress, backend=backend)
    assert numbattn.scores(Q, K, backend=backend).shape == shape("scores")


@pytest.mark.parametrize("operation", OPERATIONS)
def test_blocks_shrink_to_max_memory(operation: str, recorder: Recorder) -> None:
    arrays = (normal(3, 200, 8), normal(300, 8), normal(300, 300))
    out = Target((3, 200, 300), np.float32)
    expected = run(operation, arrays, backend="recorder")
    recorder.calls.clear()
    run(operation, arrays, out=out, max_memory=10**6, backend="recorder")
    assert np.array_equal(out.stored, expected)
    assert len(recorder.calls) > 1
    for call in recorder.calls:
        used = recorder.workspace_bytes(call.problem, call.execution)
        assert used + call.out.nbytes <= 10**6
    with pytest.raises(MemoryLimitError, match=f"^{operation} of shape"):
        run(operation, arrays, out=out, max_memory=100, backend="recorder")


@pytest.mark.parametrize(
    ("operation", "shapes", "budget"),
    [
        ("scores", ((1000, 8), (100000, 8)), 2**20),
        ("scores", ((1000, 8), (100, 8)), 2**16),
        ("scores", ((7, 8), (100, 8)), 1),
        ("scores", ((3, 12, 20, 8), (3, 4, 30, 8)), 30_000),
        ("weights", ((3, 12, 20, 8), (1, 4, 30, 8)), 17_000),
        ("attention", ((5, 12, 20, 8), (1, 30, 8), (5, 3, 30, 8)), 5_000),
        ("weights", ((1000, 8), (1000, 8)), 2**20),
        ("attention", ((16, 1000, 8), (9, 8), (9, 8)), 2**18),
    ],
)
def test_blocks_cover_the_result_once(operation: Any, shapes: Any, budget: int) -> None:
    problem = check(operation, *(np.zeros(each, np.float32) for each in shapes))
    for by_lead in (False, True):
        cut = blocks.fitting(problem, budget, by_lead)
        pieces = list(blocks.cut_up(problem, cut))
        covered = np.zeros((*problem.lead, problem.n, problem.m), np.int8)
        for lead, q0, q1, k0, k1 in pieces:
            covered[(*lead, slice(q0, q1), slice(k0, k1))] += 1
        assert (covered == 1).all()
        if budget > 1:
            assert blocks.elements(blocks.first(problem, cut)) * 4 <= budget
        else:
            assert (cut.rows, cut.keys) == (1, 1)
