"""Backends that take half precision as it comes, and those that get float32."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import numbattn
from numbattn import selector
from numbattn.backends.reference import ReferenceBackend
from numbattn.checks import check
from numbattn.problem import in_halves, prepared

RNG = np.random.default_rng(7)
Q, K, V = (RNG.standard_normal(shape) for shape in ((4, 20, 8), (2, 30, 8), (2, 30, 5)))
HALVES = [np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)]


class Halved(ReferenceBackend):
    """The reference, taking halves as they come; it looks whether they do."""

    name = "halved"
    halves = True

    def __init__(self) -> None:
        self.calls: list[SimpleNamespace] = []

    def run(self, problem: Any, out: Any, lse: Any, execution: Any) -> None:
        """Compute and round."""
        self.calls.append(SimpleNamespace(problem=problem, out=out, lse=lse))
        assert problem.copies == ()
        changed = {}
        for name in ("query", "key", "value"):
            array = getattr(problem, name)
            if array is not None:
                assert array.dtype == problem.array_dtype
                assert array.flags.aligned
                assert array.dtype.isnative
                assert not [s for s in array.strides if s % array.itemsize]
                assert not np.may_share_memory(array, out)
                changed[name] = array.astype(problem.acc_dtype)
        assert problem.bias is None or problem.bias.dtype == problem.acc_dtype
        assert out.dtype == problem.array_dtype
        assert lse is None or lse.dtype == problem.acc_dtype
        result = np.empty(problem.out_shape, problem.acc_dtype)
        wide = problem._replace(**changed, halves=False)
        super().run(wide, result, lse, execution)
        with np.errstate(over="ignore"):
            out[...] = result


@pytest.fixture
def halved(monkeypatch: pytest.MonkeyPatch) -> Halved:
    backend = Halved()
    monkeypatch.setitem(selector._loaded, "halved", backend)
    return backend


def same(got: Any, want: np.ndarray) -> None:
    assert got.dtype == want.dtype
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_halves_are_neither_copied_nor_rounded_in_between(
    dtype: Any, halved: Halved
) -> None:
    query, key, value = (array.astype(dtype) for array in (Q, K, V))
    for operation in ("scores", "weights", "attention"):
        arrays = (query, key, value)[: 2 + (operation == "attention")]
        call = getattr(numbattn, operation)
        want = call(*arrays, backend="reference", is_causal=True)
        out = np.zeros_like(want)
        for given in (None, out):
            got = call(*arrays, backend="halved", is_causal=True, out=given)
            same(got, want)
            last = halved.calls[-1]
            assert got is last.out
            for array in arrays:
                assert any(array is x for x in last.problem[1:4])
    want, want_lse = numbattn.attention(
        query, key, value, return_lse=True, backend="reference"
    )
    got, lse = numbattn.attention(query, key, value, return_lse=True, backend="halved")
    same(got, want)
    same(lse, want_lse)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_what_is_irregular_is_copied_in_its_own_dtype(
    dtype: Any, halved: Halved
) -> None:
    raw = np.zeros(20 * 8 * 2 + 1, np.uint8)
    query = raw[1:].view(dtype).reshape(20, 8)  # unaligned
    query[...] = Q[0].astype(dtype)
    key = K[0].astype(dtype)
    want = numbattn.scores(query, key, backend="reference")
    same(numbattn.scores(query, key, backend="halved"), want)
    problem = in_halves(check("scores", query, key))
    assert problem.copies == ("query",)
    assert problem.copied_bytes == query.size * 2
    assert prepared(problem).query.dtype == dtype
    wide = check("scores", query, key)
    assert wide.copies == ("query", "key")
    assert wide.copied_bytes == (query.size + key.size) * 4
    assert prepared(wide).query.dtype == np.float32
    # the order of bytes
    swapped = Q[0].astype(">f2")
    same(
        numbattn.scores(swapped, swapped, backend="halved"),
        numbattn.scores(swapped, swapped, backend="reference"),
    )
    assert (
        in_halves(check("scores", swapped, swapped)).copied_bytes == 2 * Q[0].size * 2
    )


def test_what_is_not_of_one_half_goes_as_before(halved: Halved) -> None:
    for one, other in (
        (np.float16, ml_dtypes.bfloat16), (np.float16, np.float32), (int, np.float16)
    ):  # fmt: skip
        query, key = Q.astype(one), K.astype(other)
        want = numbattn.scores(query, key, backend="reference")
        same(numbattn.scores(query, key, backend="halved"), want)
        problem = halved.calls[-1].problem
        assert not problem.halves
        assert problem.query.dtype == problem.acc_dtype == want.dtype


def test_a_bias_is_of_the_accumulation_dtype(halved: Halved) -> None:
    query, key = Q.astype(np.float16), K.astype(np.float16)
    for bias in (RNG.standard_normal((20, 30)), np.full((20, 30), 1e5)):
        for dtype in (np.float16, np.float32, np.float64):
            with np.errstate(over="ignore"):
                given = bias.astype(dtype)
            want = numbattn.weights(query, key, bias=given, backend="reference")
            got = numbattn.weights(query, key, bias=given, backend="halved")
            same(got, want)


def test_an_input_under_out_is_copied_in_its_own_dtype(halved: Halved) -> None:
    query, key, value = (
        array.astype(np.float16) for array in (Q[:2, :, :5], K[..., :5], V)
    )
    want = numbattn.attention(query, key, value, backend="reference")
    numbattn.attention(query, key, value, out=query, backend="halved")
    same(query, want)
    assert halved.calls[-1].problem.query.dtype == np.float16


class Target:
    """Something that takes slice assignment, and nothing else."""

    def __init__(self, shape: tuple[int, ...], dtype: Any) -> None:
        self.array, self.shape, self.dtype = np.zeros(shape, dtype), shape, dtype

    def __setitem__(self, place: Any, block: Any) -> None:
        assert block.dtype == self.dtype
        self.array[place] = block


@pytest.mark.parametrize("limit", [None, 1200])
def test_outputs_that_it_cannot_write_go_by_blocks_of_halves(
    limit: int | None, halved: Halved, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(halved, "workspace_bytes", lambda *_: 0, raising=False)
    arrays = [array.astype(np.float16) for array in (Q, K, V)]
    want, want_lse = numbattn.attention(*arrays, return_lse=True, backend="reference")
    for out in (
        Target(want.shape, want.dtype),
        np.zeros(want.shape, ">f2"),
        np.zeros((*want.shape[:-1], 10), np.float16)[..., ::2],
    ):
        how = {"return_lse": True, "max_memory": limit, "backend": "halved", "out": out}
        got, lse = numbattn.attention(*arrays, **how)
        assert got is out
        np.testing.assert_array_equal(getattr(out, "array", out), want)
        same(lse, want_lse)
        assert halved.calls[-1].out.dtype == np.float16
        assert (halved.calls[-1].out.size < want.size) == (limit is not None)


def test_streams_and_packed_sequences_are_of_halves(halved: Halved) -> None:
    query, key, value = (array.astype(np.float16) for array in (Q, K, V))
    want = numbattn.scores(query, key, backend="reference")
    how: dict[str, Any] = {"backend": "halved", "block_shape": (7, 11)}
    for rows, columns, block in numbattn.iter_scores(query, key, **how):
        same(block, want[..., rows, columns])
        assert block is halved.calls[-1].out
    cuts = [0, 8, 20], [0, 9, 30]
    packed = (query, key, value, *cuts)
    for out in (None, np.zeros((4, 20, 10), np.float16)[..., ::2]):
        plain: dict[str, Any] = {"return_lse": True}
        want, want_lse = numbattn.attention_varlen(
            *packed, backend="reference", **plain
        )
        got, lse = numbattn.attention_varlen(
            *packed, backend="halved", out=out, **plain
        )
        same(got, want)
        same(lse, want_lse)


def test_estimates_say_what_is_saved(
    halved: Halved, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(halved, "workspace_bytes", lambda *_: 0, raising=False)
    query, key, value = (array.astype(np.float16) for array in (Q, K, V))
    found = numbattn.estimate_memory(query, key, value, backend="halved")
    assert found.parts == {"result": 4 * 20 * 5 * 2}
    numbattn.attention(query, key, value, backend="halved", max_memory=found.total)
    streamed: dict[str, Any] = {"operation": "iter_scores", "block_shape": (20, 30)}
    found = numbattn.estimate_memory(query, key, backend="halved", **streamed)
    assert found.parts == {"blocks": 4 * 20 * 30 * 2}
    with pytest.raises(numbattn.MemoryLimitError, match="aligned float16 arrays"):
        numbattn.scores(
            query.astype(">f2"), key, backend="halved", max_memory=4 * 20 * 30 * 2
        )
    plan = numbattn.explain(query, key, backend="halved").plan
    assert "rounding" not in plan
    assert "rounding" in numbattn.explain(query, key, backend="reference").plan
