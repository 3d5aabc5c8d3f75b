"""Sinks beyond the kit: what one means, and how calls are checked and cut."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

import numbattn
from numbattn.checks import check
from numbattn.testing import assert_output, assert_same_bits, exact

RNG = np.random.default_rng(0)
Q, K, V = (
    RNG.standard_normal((2, heads, rows, 8)).astype(np.float32)
    for heads, rows in ((4, 20), (2, 33), (2, 33))
)
SINKS = np.array([0.5, -1, 4, -np.inf])


@pytest.mark.parametrize("n", [3, 20])
def test_a_sink_is_one_more_key_whose_value_is_zero(backend: str, n: int) -> None:
    query, key, value = Q[0, 0, :n], K[0, 0], V[0, 0]
    got, lse = numbattn.attention(
        query, key, value, sinks=[1.5], return_lse=True, backend=backend
    )
    more_keys, more_values = (
        np.concatenate([x, np.zeros((1, 8), np.float32)]) for x in (key, value)
    )
    bias = np.append(np.zeros(len(key)), 1.5)
    want, want_lse = numbattn.attention(
        query, more_keys, more_values, bias=bias, return_lse=True, backend=backend
    )
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(lse, want_lse, rtol=1e-6)
    weights = numbattn.weights(query, key, sinks=[1.5], backend=backend)
    want = numbattn.weights(query, more_keys, bias=bias, backend=backend)
    np.testing.assert_allclose(weights, want[:, :-1], rtol=1e-5)
    assert (weights.sum(axis=-1) < 0.99).all()


def test_scores_do_not_have_them() -> None:
    for function in (numbattn.scores, numbattn.iter_scores):
        assert "sinks" not in inspect.signature(function).parameters


@pytest.mark.parametrize("given", [SINKS, list(SINKS), SINKS.astype(">f8"), SINKS[::1]])
def test_the_problem_has_a_plain_copy(given: Any) -> None:
    problem = check("attention", Q, K, V, sinks=given)
    assert problem.sinks is not None
    assert problem.sinks.dtype == np.float32
    assert problem.sinks.flags.c_contiguous
    assert not np.shares_memory(problem.sinks, given)
    assert check("weights", Q[0, 0], K[0, 0], sinks=[2]).sinks.tolist() == [2]


def test_leading_indices_take_their_sinks() -> None:
    problem = check("attention", Q, K, V, sinks=SINKS)
    cut = problem.at((slice(1, 2), slice(2, 4)))
    assert cut.sinks is not None
    np.testing.assert_array_equal(cut.sinks, SINKS[2:].astype(np.float32))
    assert problem.rows(2, 9).sinks is problem.sinks


@pytest.mark.parametrize("operation", ["weights", "attention"])
def test_blocks_along_the_heads_keep_bits(backend: str, operation: str) -> None:
    arrays = [x.astype(np.float16) for x in (Q, K, V)]
    arrays = arrays[: 3 if operation == "attention" else 2]
    call = getattr(numbattn, operation)
    want = call(*arrays, sinks=SINKS, backend=backend)
    least = numbattn.estimate_memory(
        *arrays, operation=operation, sinks=SINKS, backend=backend, max_memory=1
    ).total
    got = call(*arrays, sinks=SINKS, backend=backend, max_memory=least)
    assert_same_bits(got, want)


def test_out_may_overlap_the_sinks(backend: str) -> None:
    memory = np.zeros((2, 4, 20, 8), np.float32)
    sinks = memory.reshape(-1)[:4]
    sinks[:] = SINKS
    want = numbattn.attention(Q, K, V, sinks=sinks.copy(), backend=backend)
    got = numbattn.attention(Q, K, V, sinks=sinks, out=memory, backend=backend)
    assert_same_bits(got, want)


def test_no_heads_have_no_sinks(backend: str) -> None:
    empty = np.zeros((0, 5, 8), np.float32)
    got = numbattn.attention(empty, empty, empty, sinks=[], backend=backend)
    assert got.shape == (0, 5, 8)


def test_a_sink_beyond_the_range_is_infinite(backend: str) -> None:
    """1e300 is inf in float32, as in a bias: NaN, as of a score of inf."""
    got = numbattn.attention(
        Q[0, 0], K[0, 0], V[0, 0], sinks=np.array([1e300]), backend=backend
    )
    assert np.isnan(got).all()


def test_a_hundred_thousand_sinks(backend: str) -> None:
    count = 100_000 if backend == "cpu" else 1000
    query, key, value = (
        RNG.standard_normal((count, n, 2)).astype(np.float32) for n in (1, 2, 2)
    )
    sinks = RNG.standard_normal(count)
    got = numbattn.attention(query, key, value, sinks=sinks, backend=backend)
    some = slice(count - 50, count)
    want = exact("attention", query[some], key[some], value[some], sinks=sinks[some])
    assert_output(got[some], want)


def test_explain_and_estimate_take_them() -> None:
    found = numbattn.explain(Q, K, V, sinks=SINKS, backend="reference")
    assert found.operation == "attention"
    with pytest.raises(numbattn.OptionError, match="sinks"):
        numbattn.explain(Q, K, operation="scores", sinks=SINKS)
