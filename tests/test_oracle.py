"""The oracle against other arithmetic, and the helpers against what they must catch."""

from __future__ import annotations

import itertools
from typing import Any

import mpmath
import numpy as np
import pytest

from numbattn.masks import Mask
from numbattn.testing import (
    LAYOUTS,
    OUT_LAYOUTS,
    C,
    assert_lse,
    assert_output,
    assert_result,
    assert_same_bits,
    assert_scores,
    assert_weights,
    exact,
    float_dtypes,
    guarded_empty,
    random_case,
    relayout,
)

LONG = np.longdouble
U32 = 2.0**-24


def arrays(dtype: Any = "float32", n: int = 5, m: int = 7) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    dtype = float_dtypes()[dtype]
    shapes = ((n, 4), (m, 4), (m, 3))
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def rounded(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    return values.astype(dtype)


def test_oracle_agrees_with_mpmath() -> None:
    query, key, value = arrays("float64")
    bias = np.linspace(-2, 2, 7)
    want = exact("attention", query, key, value, scale=-0.4, softcap=1.5, bias=bias)
    mpmath.mp.prec = 200
    top = mpmath.mpf
    for i, c in itertools.product(range(5), range(3)):
        s = []
        for j in range(7):
            dot = sum(top(float(query[i, x])) * top(float(key[j, x])) for x in range(4))
            s.append(1.5 * mpmath.tanh(top(-0.4) * dot / 1.5) + top(float(bias[j])))
        total = sum(mpmath.exp(x) for x in s)
        out = sum(
            mpmath.exp(x) * top(float(value[j, c])) for j, x in enumerate(s)
        ) / total  # fmt: skip
        # Each long double splits exactly into two doubles.
        for got, true in (
            (want.output[i, c], out),
            (want.lse[i], mpmath.log(total)),
            (want.scores[i, 3], s[3]),
            (want.weights[i, 3], mpmath.exp(s[3]) / total),
        ):
            high = float(got)
            error = abs(top(high) + top(float(got - LONG(high))) - true)
            assert error < 64 * np.finfo(LONG).eps


def test_oracle_agrees_with_plain_numpy() -> None:
    query, key, value = arrays("float64")
    mask = np.random.default_rng(1).random((5, 7)) < 0.7
    s = np.where(mask, query @ key.T / 2.0, -np.inf)
    p = np.exp(s - s.max(axis=1, keepdims=True))
    w = p / p.sum(axis=1, keepdims=True)
    want = exact("attention", query, key, value, mask=mask)
    assert_weights(w, want)
    assert_output(w @ value, want)
    assert_scores(
        np.where(mask, query @ key.T, -np.inf), exact("scores", query, key, mask=mask)
    )


def test_random_cases_repeat_and_vary() -> None:
    seen = set()
    for k in range(40):
        first, again = (random_case(np.random.default_rng([7, k])) for _ in range(2))
        assert str(first) == str(again)
        for a, b in zip(first.arrays, again.arrays, strict=True):
            assert a.tobytes() == b.tobytes()
        seen.add((first.operation, first.query.dtype, *first.options))
    assert len(seen) > 20


def test_random_cases_reach_every_option_and_dtype() -> None:
    cases = [random_case(np.random.default_rng([8, k])) for k in range(400)]
    assert {c.operation for c in cases} == {"scores", "weights", "attention"}
    assert {a.dtype.name for c in cases for a in c.arrays} >= set(float_dtypes())
    assert {name for c in cases for name in c.options} == {
        "scale", "softcap", "bias", "mask", "is_causal", "window_size", "q_offset",
        "kv_lengths", "sinks", "score_mod", "score_mod_args",
    }  # fmt: skip
    assert any(isinstance(c.options.get("mask"), Mask) for c in cases)
    strides = [s for c in cases for a in c.arrays for s in a.strides if a.size]
    assert min(strides) < 0
    assert 0 in strides
    assert any(c.query.ndim > 2 and c.query.shape[-3] > c.key.shape[-3] > 1
               for c in cases if c.key.ndim > 2)  # fmt: skip
    assert any(0 in a.shape for c in cases for a in c.arrays)
    assert any(not c.exact().attended.any(axis=-1).all() for c in cases[:50])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4), (0, 3), (2, 1, 3, 5)])
def test_relayout_keeps_values(layout: str, shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    moved = relayout(array, layout)
    np.testing.assert_array_equal(moved, array)
    assert not np.shares_memory(moved, array)
    dense = ("contiguous", "byte_swapped", "unaligned", "subclass", "memmap")
    if array.size and layout not in dense:
        assert moved.strides != array.strides
    if layout == "unaligned" and array.size:
        assert not moved.flags.aligned


@pytest.mark.parametrize("dtype", list(float_dtypes()))
@pytest.mark.parametrize("layout", OUT_LAYOUTS)
def test_guard_sees_any_byte_written_outside(layout: str, dtype: str) -> None:
    guard = guarded_empty((3, 4), float_dtypes()[dtype], layout)
    base = guard.array
    while isinstance(base.base, np.ndarray):
        base = base.base
    memory = base.reshape(-1, copy=False).view(np.uint8)
    guard.array[...] = 5
    inside = memory.copy()
    guard.array[...] = -3e-3
    inside = inside != memory
    assert guard.intact()
    outside = np.flatnonzero(~inside)
    assert outside.size >= 16  # bytes on both sides, and those of unlucky numbers
    seen = 0
    for at in outside:
        memory[at] ^= 1
        seen += not guard.intact()
        memory[at] ^= 1
        assert guard.intact()
    assert seen == memory.size - guard.array.nbytes


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_lies_between_guards(layout: str) -> None:
    moved = relayout(np.ones((2, 3)), layout)
    base = moved
    while isinstance(base.base, np.ndarray):
        base = base.base
    if layout == "byte_swapped":
        return
    if layout == "structured_field":
        base = base["number"]
    elif layout == "unaligned":
        base = base[1 : 1 + (base.size - 1) // 8 * 8].view(np.float64)
    flat = base.reshape(-1)
    assert np.count_nonzero(~np.isnan(flat)) == moved.size
    assert np.isnan(flat[[0, 1, -2, -1]]).all()


def test_layouts_are_what_they_say() -> None:
    array = np.ones((2, 3, 4), np.float32)
    kinds = {name: relayout(array, name) for name in LAYOUTS}
    assert len(kinds) == 14
    assert isinstance(kinds["memmap"], np.memmap)
    assert type(kinds["subclass"]) is not np.ndarray
    assert not kinds["read_only"].flags.writeable
    assert kinds["byte_swapped"].dtype == np.dtype("f4").newbyteorder("S")
    assert not kinds["unaligned"].flags.aligned
    assert any(s % 4 for s in kinds["structured_field"].strides)
    assert kinds["fortran"].strides[0] == 4
    assert min(kinds["reversed_all"].strides) < 0


def right_results(dtype: str) -> dict[str, tuple[Any, np.ndarray, Any]]:
    """Return, by name, the assertion, a correctly rounded result and its oracle."""
    options: dict[str, Any] = {"mask": np.arange(7) != 2}
    made = arrays(dtype)
    want = {
        name: exact(name, *made[: 3 if name == "attention" else 2], **options)
        for name in ("scores", "weights", "attention")
    }
    out = want["attention"]
    return {
        "scores": (
            assert_scores,
            rounded(want["scores"].scores, out.dtype),
            want["scores"],
        ),
        "weights": (
            assert_weights,
            rounded(want["weights"].weights, out.dtype),
            want["weights"],
        ),
        "lse": (assert_lse, rounded(out.lse, out.acc_dtype), out),
        "output": (assert_output, rounded(out.output, out.dtype), out),
    }


QUANTITIES = ("scores", "weights", "lse", "output")


@pytest.mark.parametrize("dtype", list(float_dtypes()))
@pytest.mark.parametrize("what", QUANTITIES)
class TestAssertions:
    """Each helper passes what is right and fails on each thing that is wrong."""

    def test_passes_correct_rounding(self, what: str, dtype: str) -> None:
        check, right, want = right_results(dtype)[what]
        assert 0 <= check(right, want) <= 1

    def test_fails_on_nan_against_a_number(self, what: str, dtype: str) -> None:
        check, wrong, want = right_results(dtype)[what]
        wrong.flat[0] = np.nan
        with pytest.raises(AssertionError, match="worst C inf"):
            check(wrong, want)

    def test_fails_on_a_number_against_nan(self, what: str, dtype: str) -> None:
        made = arrays(dtype)
        made[0][1, 0] = np.nan
        operation = what if what in ("scores", "weights") else "attention"
        want = exact(operation, *made[: 3 if operation == "attention" else 2])
        check, wrong, _ = right_results(dtype)[what]
        with pytest.raises(AssertionError, match="worst C inf"):
            check(np.where(np.isinf(wrong), 0, wrong).astype(wrong.dtype), want)

    def test_fails_on_infinity(self, what: str, dtype: str) -> None:
        check, wrong, want = right_results(dtype)[what]
        wrong.flat[0] = np.inf
        with pytest.raises(AssertionError, match="worst C inf"):
            check(wrong, want)

    def test_fails_on_wrong_dtype(self, what: str, dtype: str) -> None:
        check, right, want = right_results(dtype)[what]
        other = np.float32 if right.dtype == np.float64 else np.float64
        with pytest.raises(AssertionError, match="dtype"):
            check(right.astype(other), want)

    def test_fails_on_wrong_byte_order(self, what: str, dtype: str) -> None:
        check, right, want = right_results(dtype)[what]
        if right.dtype.kind != "f":
            with pytest.raises(AssertionError, match="dtype"):
                check(right.view(np.uint16), want)
            return
        with pytest.raises(AssertionError, match="dtype"):
            check(right.astype(right.dtype.newbyteorder("S")), want)

    def test_fails_on_wrong_shape(self, what: str, dtype: str) -> None:
        check, right, want = right_results(dtype)[what]
        for wrong in (right[None], right[:1], right[..., :0]):
            with pytest.raises(AssertionError, match="shape"):
                check(wrong, want)

    def test_fails_on_another_type(self, what: str, dtype: str) -> None:
        check, right, want = right_results(dtype)[what]
        with pytest.raises(AssertionError, match=r"numpy\.ndarray"):
            check(right.tolist(), want)
        with pytest.raises(AssertionError, match=r"numpy\.ndarray"):
            check(np.ma.masked_array(right), want)

    def test_names_the_worst_constant_and_place(self, what: str, dtype: str) -> None:
        check, right, want = right_results(dtype)[what]
        at = (3,) if what == "lse" else (3, 1)
        wrong = right.copy()
        # Both terms of every bound are far below 2**-2 of these numbers.
        wrong[at] *= 1.25
        with pytest.raises(AssertionError) as caught:
            check(wrong, want)
        assert f"at {at}" in str(caught.value)
        assert "worst C" in str(caught.value)
        assert what in str(caught.value)


@pytest.mark.parametrize("what", QUANTITIES)
def test_bound_is_sharp(what: str) -> None:
    """An error just above C units fails, and one just below it passes."""
    check, right, want = right_results("float64")[what]
    wide = right.astype(np.float64)
    at = (3,) if what == "lse" else (3, 1)
    low, high = wide.copy(), wide.copy()
    used = []
    for array, factor in ((low, 1e-14), (high, 2e-14)):
        array[at] += factor
        used.append(check(array, want, c=np.inf))
    # Linear in the error: so the constant for any error is known, C among them.
    slope = (used[1] - used[0]) / 1e-14
    for c, fails in ((0.9 * C, False), (1.1 * C, True)):
        array = wide.copy()
        array[at] += 1e-14 + (c - used[0]) / slope
        if fails:
            with pytest.raises(AssertionError, match="above 16"):
                check(array, want)
        else:
            assert check(array, want) <= C


def test_masked_weight_and_empty_row_are_exact() -> None:
    tiny = np.float32(1e-45)
    for what in ("weights", "output", "lse"):
        query, key, value = arrays()
        operation = "weights" if what == "weights" else "attention"
        made = (query, key, value)[: 3 if operation == "attention" else 2]
        want = exact(operation, *made, mask=np.arange(5)[:, None] != 1)
        check = {"weights": assert_weights, "output": assert_output, "lse": assert_lse}
        right = {"weights": want.weights, "output": want.output, "lse": want.lse}[what]
        right = right.astype(np.float32)
        check[what](right, want)
        right[1] = tiny
        with pytest.raises(AssertionError):
            check[what](right, want)


def test_half_precision_may_overflow_only_where_rounding_does() -> None:
    query = np.array([[256.0], [250.0]], np.float16)
    key = np.array([[256.0]], np.float16)
    want = exact("scores", query, key)
    assert_scores(np.array([[np.inf], [64000.0]], np.float16), want)
    for wrong in ([[65504.0], [64000.0]], [[np.inf], [np.inf]], [[-np.inf], [64000.0]]):
        with pytest.raises(AssertionError):
            assert_scores(np.array(wrong, np.float16), want)


def test_same_bits() -> None:
    one = np.array([0.0, 1.0, np.nan], np.float32)
    assert_same_bits(one.copy(), one)
    other_nan = one.copy()
    other_nan.view(np.uint32)[2] ^= 1
    assert_same_bits(other_nan, one)
    for wrong in (
        np.array([-0.0, 1.0, np.nan], np.float32),
        np.array([0.0, np.nextafter(np.float32(1), np.float32(2)), np.nan], np.float32),
        np.array([0.0, 1.0, 2.0], np.float32),
        one.astype(np.float64),
        one[None],
        one.tolist(),
    ):
        with pytest.raises(AssertionError):
            assert_same_bits(wrong, one)


def test_assert_result_takes_what_a_call_returns() -> None:
    made = arrays()
    want = exact("attention", *made)
    out, lse = want.output.astype(np.float32), want.lse.astype(np.float32)
    assert set(assert_result((out, lse), want)) == {"output", "lse"}
    assert set(assert_result(out, want)) == {"output"}
    with pytest.raises(AssertionError):
        assert_result((out, lse + 1), want)
    scores = exact("scores", *made[:2])
    assert set(assert_result(scores.scores.astype(np.float32), scores)) == {"scores"}


def test_sequential_sum_of_a_constant_fails() -> None:
    """The bound is sharp enough to refuse plain float32 sums over 65,536 keys."""
    m = 65_536
    query, key = np.zeros((1, 2), np.float32), np.zeros((m, 2), np.float32)
    value = np.full((m, 1), 0.1, np.float32)
    want = exact("attention", query, key, value)
    total = np.add.accumulate(value[:, 0], dtype=np.float32)[-1]
    plain = np.array([[total / np.float32(m)]], np.float32)
    with pytest.raises(AssertionError, match="output: worst C"):
        assert_output(plain, want)
    assert_output(np.full((1, 1), 0.1, np.float32), want)


def test_unknown_layout_names_the_layouts() -> None:
    with pytest.raises(ValueError, match="fortran"):
        relayout(np.zeros((2, 2)), "sideways")
    with pytest.raises(ValueError, match="structured_field"):
        guarded_empty((2, 2), np.float32, "read_only")


def test_an_infinite_key_needs_no_warning() -> None:
    """A score of -inf beside +inf: weights of NaN and 0, an infinite magnitude."""
    query, key = np.ones((2, 1), np.float32), np.zeros((3, 1), np.float32)
    key[0], key[1], query[1] = np.inf, -np.inf, -1
    want = exact("weights", query, key)
    got = np.where(want.attended, want.weights, 0).astype(np.float32)
    assert_weights(got, want)
    assert np.isinf(want.row_magnitude).all()
