"""merge_states: any split of the keys is one call, within the promised bound."""

from __future__ import annotations

from functools import reduce
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import numbattn
from numbattn import merge_states
from numbattn.testing import (
    assert_lse,
    assert_output,
    assert_same_bits,
    exact,
    float_dtypes,
)

FIXED = settings(
    max_examples=60,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
State = tuple[np.ndarray, np.ndarray]


def state(
    seed: int, shape: tuple[int, ...] = (2, 5, 3), dtype: Any = np.float32
) -> State:
    """Return a state of ordinary size; some rows have no keys."""
    rng = np.random.default_rng(seed)
    out = rng.standard_normal(shape).astype(dtype)
    lse = rng.standard_normal(shape[:-1]) * 5
    lse = lse.astype(np.float64 if out.dtype == np.float64 else np.float32)
    empty = rng.random(lse.shape) < 0.2
    out[empty], lse[empty] = 0, -np.inf
    return out, lse


@FIXED
@given(data=st.data())
def test_any_split_of_the_keys_is_one_call(backend: str, data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    dtype = data.draw(st.sampled_from([np.float32, np.float64]))
    n, m = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 300))
    query = rng.standard_normal((4, n, 8)).astype(dtype) * data.draw(
        st.sampled_from([0.1, 1, 5])
    )
    key, value = (rng.standard_normal((2, m, 8)).astype(dtype) for _ in range(2))
    options: dict[str, Any] = {"mask": rng.random((n, m)) < 0.7}
    options["mask"][rng.random(n) < 0.1] = False
    sinks = rng.standard_normal(4) * 3 if data.draw(st.booleans()) else None
    cuts = data.draw(st.lists(st.integers(0, m), max_size=4))
    edges = [0, *sorted(cuts), m]
    parts = []
    for first, last in pairwise(edges):
        some = slice(first, last)
        parts.append(
            numbattn.attention(
                query, key[:, some], value[:, some], mask=options["mask"][:, some],
                sinks=None if parts else sinks, return_lse=True, backend=backend,
            )
        )  # fmt: skip
    for at in data.draw(st.permutations(range(len(parts)))):
        if len(parts) > 1:  # any two at a time, in any order
            one = parts.pop(at % len(parts))
            other = parts.pop(at % len(parts))
            parts.append(merge_states(*one, *other))
    ((out, lse),) = parts
    want = exact("attention", query, key, value, sinks=sinks, **options)
    assert_output(out, want)
    assert_lse(lse, want)


@FIXED
@given(seeds=st.lists(st.integers(0, 10**6), min_size=3, max_size=6))
def test_associative_up_to_rounding(seeds: list[int]) -> None:
    states = [state(seed) for seed in seeds]
    left = reduce(lambda x, y: merge_states(*x, *y), states)
    right = reduce(lambda x, y: merge_states(*y, *x), states[::-1])
    u = 2.0**-24
    finite = np.where(np.isfinite(left[1]), abs(left[1]), 0)
    largest = max(abs(out).max() for out, _ in states)
    assert (left[1] == -np.inf).tolist() == (right[1] == -np.inf).tolist()
    with np.errstate(invalid="ignore"):
        apart = np.nan_to_num(abs(left[1] - right[1]))
    assert (apart <= 4 * u * (1 + finite) * len(states)).all()
    # the shares are as exact as the differences of the log-sum-exps, up to 30 here
    bound = 4 * u * (1 + 30) * len(states) * largest
    assert (abs(left[0] - right[0]) <= bound).all()


@pytest.mark.parametrize("dtype", list(float_dtypes()))
def test_the_order_of_two_changes_no_bit(dtype: str) -> None:
    a, b = (state(seed, (400, 3), float_dtypes()[dtype]) for seed in (1, 2))
    for got, want in zip(merge_states(*a, *b), merge_states(*b, *a), strict=True):
        assert_same_bits(got, want)


@pytest.mark.parametrize("dtype", list(float_dtypes()))
def test_an_empty_state_changes_no_bit(dtype: str) -> None:
    out, lse = state(3, (2, 50, 3), float_dtypes()[dtype])
    out[0, :5] = np.nan, np.inf, -0.0
    lse[0, 1:3] = np.nan, np.inf
    out[lse == -np.inf] = 0
    nothing = np.full_like(lse, -np.inf)
    for garbage in (0, np.nan):  # not read
        other = np.full_like(out, garbage)
        for merged in (
            merge_states(out, lse, other, nothing),
            merge_states(other, nothing, out, lse),
        ):
            assert_same_bits(merged[0], out)
            assert_same_bits(merged[1], lse)
    both = merge_states(other, nothing, other, nothing)
    assert (both[0] == 0).all()
    assert (both[1] == -np.inf).all()


def test_nan_stays_where_it_belongs() -> None:
    (out_a, lse_a), (out_b, lse_b) = state(4, (6, 3)), state(5, (6, 3))
    lse_a[:], lse_b[:] = 1, 2
    out_a[0, 1] = np.nan  # an element
    lse_b[1] = np.nan  # a row
    lse_a[2] = np.inf  # a row, as of a score of inf
    out, lse = merge_states(out_a, lse_a, out_b, lse_b)
    bad = np.zeros((6, 3), bool)
    bad[0, 1] = bad[1] = bad[2] = True
    np.testing.assert_array_equal(np.isnan(out), bad)
    np.testing.assert_array_equal(np.isnan(lse), [False, True, True, *[False] * 3])


def test_nan_of_a_call_reaches_the_merged_row(backend: str) -> None:
    query, key, value = np.random.default_rng(6).standard_normal((3, 8, 4))
    value[6, 2] = np.nan
    mask = np.arange(8) != 6
    mask = np.stack([mask] * 7 + [~mask])
    parts = [
        numbattn.attention(
            query, key[s], value[s], mask=mask[:, s], return_lse=True, backend=backend
        )
        for s in (slice(0, 5), slice(5, 8))
    ]
    out, _ = merge_states(*parts[0], *parts[1])
    assert_output(out, exact("attention", query, key, value, mask=mask))
    assert np.isnan(out).sum() == 1


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_rounded_once(dtype: str) -> None:
    a, b = (state(seed, (40, 50, 8), float_dtypes()[dtype]) for seed in (7, 8))
    out, lse = merge_states(*a, *b)
    assert (out.dtype, lse.dtype) == (float_dtypes()[dtype], np.float32)
    wide, _ = merge_states(a[0].astype(np.float32), a[1], b[0].astype("f4"), b[1])
    assert_same_bits(out, wide.astype(out.dtype))


def test_large_outputs_do_not_overflow() -> None:
    big, lse = np.full((3, 2), 3.3e38, np.float32), np.array([0, 5, -7], np.float32)
    out, _ = merge_states(big, lse, big, lse[::-1].copy())
    np.testing.assert_allclose(out, 3.3e38, rtol=1e-6)


def test_far_apart_log_sum_exps() -> None:
    one, two = np.ones((2, 1), np.float32), np.full((2, 1), 2, np.float32)
    lse = np.array([1e30, 5e4], np.float32)
    out, merged = merge_states(one, lse, two, -lse)
    np.testing.assert_array_equal(out, one)
    np.testing.assert_array_equal(merged, lse)


@pytest.mark.parametrize(
    ("of_outs", "of_lse", "out", "lse"),
    [
        ("float32", "float32", "float32", "float32"),
        ("float64", "float32", "float64", "float64"),
        ("float32", "float64", "float32", "float64"),
        ("float16", "float32", "float16", "float32"),
        ("float16", "float64", "float16", "float64"),
        ("int64", "int64", "float64", "float64"),
    ],
)
def test_dtypes(of_outs: str, of_lse: str, out: str, lse: str) -> None:
    arrays = np.ones((3, 2), of_outs), np.zeros(3, of_lse)
    merged = merge_states(*arrays, *arrays)
    assert (merged[0].dtype, merged[1].dtype) == (out, lse)
    np.testing.assert_array_equal(merged[0], 1)


def test_shapes_and_lists_and_strides() -> None:
    out, lse = merge_states([1.0, 2.0], 0.0, [3.0, 6.0], 0.0)
    assert out.tolist() == [2, 4]
    assert lse == pytest.approx(np.log(2))
    for shape in ((0, 4), (3, 0), (2, 0, 5, 3)):
        out, lse = merge_states(*state(9, shape), *state(10, shape))
        assert (out.shape, lse.shape) == (shape, shape[:-1])
    a, b = state(11, (6, 8)), state(12, (6, 8))
    want = merge_states(*a, *b)
    got = merge_states(a[0][::-1, ::-1], a[1][::-1], b[0][::-1, ::-1], b[1][::-1])
    assert_same_bits(got[0][::-1, ::-1].copy(), want[0])


def test_inputs_are_not_written() -> None:
    arrays = [*state(13), *state(14)]
    before = [array.tobytes() for array in arrays]
    for array in arrays:
        array.flags.writeable = False
    merge_states(*arrays)
    assert [array.tobytes() for array in arrays] == before


class OnDevice:
    __cuda_array_interface__ = {"shape": (5, 8), "typestr": "<f4", "version": 3}  # noqa: RUF012


@pytest.mark.parametrize(
    ("which", "bad", "error", "says"),
    [
        (0, np.ones((4, 2)), numbattn.ShapeError, "out_a and out_b differ"),
        (0, np.ones(()), numbattn.ShapeError, r"out_a is .* shape \(\)"),
        (1, np.ones((3, 1)), numbattn.ShapeError, r"lse_a has shape \(3, 1\).*\(3,\)"),
        (3, np.ones(4), numbattn.ShapeError, r"lse_b has shape \(4,\).*\(3, 2\)"),
        (2, np.ones((3, 2), complex), numbattn.DTypeError, "out_b has dtype complex"),
        (3, np.full(3, None), numbattn.DTypeError, "lse_b has dtype object"),
        (1, None, numbattn.DTypeError, "lse_a is None"),
        (0, OnDevice(), numbattn.DTypeError, "out_a is an array on a CUDA device"),
    ],
)
def test_refused_by_name(which: int, bad: Any, error: type, says: str) -> None:
    arrays: list[Any] = [np.ones((3, 2)), np.zeros(3)] * 2
    arrays[which] = bad
    with pytest.raises(error, match=says):
        merge_states(*arrays)
