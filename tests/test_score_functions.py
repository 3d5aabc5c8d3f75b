"""What a score_mod may compute, and what it means on the CPU and in the reference."""

from __future__ import annotations

import math
from math import exp as exponential
from typing import Any

import numpy as np
import pytest
from numpy import tanh as numpy_tanh

import numbattn
from numbattn import OptionError

GAIN = 2.5
TABLE = np.random.default_rng(5).standard_normal((64, 3))


def faded(x: Any, length: Any = 2.0) -> Any:
    return exponential(-x / length)


def three_times(score: Any) -> Any:
    total = score * 0
    for factor in range(3):
        total += score * factor
    return total


def branches(score: Any, b: int, h: int, q_idx: int, kv_idx: int) -> Any:
    if q_idx > kv_idx and score > 0:
        score = score * 2
    elif kv_idx > 3 * q_idx:
        return -1
    return score


FUNCTIONS: dict[str, Any] = {
    "branches": branches,
    "a helper with a default": lambda s, b, h, i, j: s * faded(abs(i - j)),
    "a helper with a loop": lambda s, b, h, i, j: three_times(s),
    "a global number": lambda s, b, h, i, j: numpy_tanh(s) * GAIN,
    "max and min": lambda s, b, h, i, j: max(0, min(s, 3)) + max(i, j) - min(i, j, 3),
    "maximum, minimum, abs, square": lambda s, b, h, i, j: (
        np.maximum(s, 0.1) + np.minimum(s, i) + np.abs(s) + np.square(s)
    ),
    "where": lambda s, b, h, i, j: np.where(i > j, s, -1),
    "clip and sign": lambda s, b, h, i, j: np.clip(s, -1, 1) + np.sign(s),
    "int and round": lambda s, b, h, i, j: int(s) + round(s * 3),
    "floor, ceil, rint": lambda s, b, h, i, j: (
        math.floor(s) + np.floor(s) + math.ceil(s) + np.rint(s * 3)
    ),
    "float of an index": lambda s, b, h, i, j: s + float(i) / 3,
    "powers of written ints": lambda s, b, h, i, j: (
        s**2 + s**3 + (abs(s) + 1) ** -1 - (i - j) ** 2 * 0.01
    ),
    "powers of numbers": lambda s, b, h, i, j: (
        abs(s) ** 0.5 + abs(s) ** 1.7 + 2.0**-h + (i + 1.0) ** -0.5
    ),
    "pow three ways": lambda s, b, h, i, j: (
        math.pow(abs(s), 1.5) + pow(abs(s), 2) + np.power(2.0, s)
    ),
    "exponentials and logarithms": lambda s, b, h, i, j: (
        math.exp(-0.01 * (i - j) ** 2) + math.exp2(s) + math.log1p(abs(s))
        + math.expm1(s) + math.log2(abs(s) + 1) + math.log10(abs(s) + 1)
        + math.sqrt(abs(s)) + math.fabs(s) + math.log(abs(s) + 1, 10)
    ),
    "angles": lambda s, b, h, i, j: (
        math.sin(i * 0.1) + math.cos(s) + math.atan2(s, 1.0) + math.hypot(s, 2)
        + np.tan(s * 0.1) + np.arctan(s)
    ),
    "infinity as text": lambda s, b, h, i, j: s if i >= j else -float("inf"),
    "membership": lambda s, b, h, i, j: s * 2 if (i - j) in (1, 2, 5) else s,
    "erf": lambda s, b, h, i, j: math.erf(s),
    "floor division and remainder": lambda s, b, h, i, j: s // 0.5 + s % 0.3 + j % 3,
    "divmod": lambda s, b, h, i, j: divmod(i, 3)[1] * s,
    "division by zero": lambda s, b, h, i, j: s / 0 + 1 / (i - j),
    "no score at all": lambda s, b, h, i, j: i * j,
    "NumPy's types": lambda s, b, h, i, j: s * np.float32(0.1) * np.float64(3),
    "float32 of a score": lambda s, b, h, i, j: np.float32(s),
    "bools as numbers": lambda s, b, h, i, j: (
        (i % 3 == 0) * s + (not i > j) * 1.0 + math.isnan(s) + True
    ),
    "logical functions": lambda s, b, h, i, j: np.logical_and(i > j, s > 0) * s,
    "and, or": lambda s, b, h, i, j: (i & 1 and s) or s * 2,
    "bits": lambda s, b, h, i, j: (i << 1) + (j >> 1) + (i ^ j) + (i | 3) + s,
    "signs": lambda s, b, h, i, j: -(s - 1) + (+s) * 3,
}  # fmt: skip


def both(function: Any, dtype: str, *args: Any) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    query, key = (rng.standard_normal((2, 33, 8)).astype(dtype) for _ in range(2))
    options = {"score_mod": function, "score_mod_args": args}
    return tuple(
        numbattn.scores(query, key, backend=backend, **options)  # type: ignore[call-overload]
        for backend in ("cpu", "reference")
    )


def assert_close(found: Any, wanted: Any) -> None:
    assert found.dtype == wanted.dtype
    with np.errstate(invalid="ignore", over="ignore"):
        off = abs(found - wanted) / (1 + abs(wanted))
    same = (found == wanted) | (np.isnan(found) & np.isnan(wanted))
    allowed = 32 * np.finfo(wanted.dtype).eps
    assert np.where(same, 0, off).max() < allowed


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_means_the_same_compiled(name: str, dtype: str) -> None:
    assert_close(*both(FUNCTIONS[name], dtype))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_arrays_and_numbers_as_arguments(dtype: str) -> None:
    def looked_up(s: Any, b: int, h: int, i: int, j: int, t: Any, x: float) -> Any:
        return t[i, j % 3] * x + t[-1][0] + len(t) + t.shape[1] + t.size + s

    assert_close(*both(looked_up, dtype, TABLE, 1.5))


@pytest.mark.parametrize(
    "function",
    [
        lambda s, b, h, i, j: s * 2 ** -(h + 1),
        lambda s, b, h, i, j: s * (i + 1) ** -1,
        lambda s, b, h, i, j: s * 2**h,
    ],
)
def test_powers_of_ints_that_may_be_fractions_are_refused(function: Any) -> None:
    with pytest.raises(OptionError, match=r"int to the power of an int.*2\.0 \*\* -h"):
        numbattn.scores(np.ones((3, 2)), np.ones((3, 2)), score_mod=function)


@pytest.mark.parametrize("factor", [math.inf, -math.inf, 1e30])
def test_an_index_beyond_all_ints_reads_nothing_foreign(factor: float) -> None:
    def looked_up(s: Any, b: int, h: int, i: int, j: int, t: Any, x: float) -> Any:
        return t[int(x * s)]

    query = np.ones((20, 2), np.float32)
    with pytest.raises(OptionError, match="reads outside an argument array"):
        numbattn.scores(
            query, query, score_mod=looked_up, score_mod_args=(np.ones(3), factor)
        )
