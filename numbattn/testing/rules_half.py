"""Checks of float16 and bfloat16: accumulated in float32, rounded once."""

from __future__ import annotations

from typing import Any

import numpy as np

from numbattn.testing.bounds import assert_result
from numbattn.testing.calls import call
from numbattn.testing.cases import float_dtypes
from numbattn.testing.oracle import exact
from numbattn.testing.problems import (
    OPERATIONS,
    batch,
    count_of,
    held,
    inputs,
    options_for,
)
from numbattn.testing.registry import check, require

HALVES = ("float16", "bfloat16")


def installed(dtype: str) -> bool:
    """Whether the dtype exists here: bfloat16 needs ml_dtypes."""
    return dtype in float_dtypes()


@check(7, dtype=HALVES, operation=OPERATIONS, n=(3, 20))
def half_of_every_option(
    backend: str, dtype: str, operation: str, n: int
) -> dict[str, float]:
    """A batch with every option at once is within the bound, in the input's dtype."""
    if not installed(dtype):
        return {}
    arrays = batch(dtype, n=n)[: count_of(operation)]
    options = options_for(n, 40, (2, 4), operation)
    got = call(operation, backend, *arrays, **options)
    require(got.dtype == arrays[0].dtype, f"the result is {got.dtype}")
    return assert_result(got, exact(operation, *arrays, **options))


@check(7, dtype=HALVES)
def half_sums_over_keys(backend: str, dtype: str) -> dict[str, float]:
    """4,096 equal weights: a sum in half precision would stop growing."""
    if not installed(dtype):
        return {}
    query, key, value = inputs(dtype, n=3, m=4096, d=8)
    value[:] = np.abs(value)
    return held(backend, [query * 0, key, value])


@check(7, dtype=HALVES)
def half_sums_over_d(backend: str, dtype: str) -> dict[str, float]:
    """2,048 equal products: a sum in half precision would stop growing."""
    if not installed(dtype):
        return {}
    one = np.full((20, 2048), 0.1, float_dtypes()[dtype])
    value = np.eye(20, 3).astype(one.dtype)
    return held(backend, [one, one, value], scale=0.25)


@check(7)
def half_scores_beyond_the_range(backend: str) -> None:
    """A dot product beyond 65,504 is inf in float16, and fine once scaled down."""
    query = np.full((18, 64), 60.0, np.float16)
    key = np.full((9, 64), 60.0, np.float16)
    key[4:] *= -1
    raw = call("scores", backend, query, key)
    require(np.all(raw[:, :4] == np.inf), "230,400 is not inf in float16")
    require(np.all(raw[:, 4:] == -np.inf), "-230,400 is not -inf in float16")
    scaled = call("scores", backend, query, key, scale=0.125)
    require(np.all(scaled[:, :4] == 28_800), "the scaled score is not 28,800")
    # Only the result is rounded: the softmax sees the numbers themselves.
    value = np.arange(27, dtype=np.float16).reshape(9, 3)
    held(backend, [query, key, value], ("weights", "attention"))
    got = call("attention", backend, query, key, value, scale=1.0)
    require(np.all(np.isfinite(got)), "float32 scores of 230,400 gave no finite output")


@check(7, dtype=HALVES)
def half_subnormals(backend: str, dtype: str) -> dict[str, float]:
    """Subnormal halves count: they are normal numbers of float32."""
    if not installed(dtype):
        return {}
    kind = float_dtypes()[dtype]
    least = 2.0**-24 if dtype == "float16" else 2.0**-133
    query = (np.arange(1, 21)[:, None] * least * np.ones((1, 4))).astype(kind)
    key = (np.arange(1, 8)[:, None] * 2.0**12 * np.ones((1, 4))).astype(kind)
    require(np.all(query.astype(np.float64) > 0), "the query has no subnormals")
    value = query[:7]
    return held(backend, [query, key, value], scale=2.0**10)


@check(7, dtype=HALVES)
def half_of_one_key(backend: str, dtype: str) -> None:
    """With one key the output is its value: nothing is rounded twice."""
    if not installed(dtype):
        return
    query, _, value = inputs(dtype, n=20)
    for j in range(len(value)):
        got = call("attention", backend, query, query[:1], value[j : j + 1])
        require(np.all(got == value[j]), f"the value of row {j} changed: {got[0]}")


@check(7, dtype=HALVES)
def half_lse_is_float32(backend: str, dtype: str) -> None:
    """The lse of half precision is float32, with the digits of float32."""
    if not installed(dtype):
        return
    query, key, value = inputs(dtype, m=3000)
    _, lse = call("attention", backend, query, key, value, return_lse=True)
    require(lse.dtype == np.float32, f"the lse is {lse.dtype}")
    require(
        np.any(lse != lse.astype(query.dtype).astype(np.float32)),
        "the lse has no more digits than half precision",
    )


@check(7, dtype=HALVES, lowest=(-1e4, -1e30))
def half_with_a_wide_bias(backend: str, dtype: str, lowest: float) -> dict[str, float]:
    """A float32 bias beyond the range of the half dtype masks in float32."""
    if not installed(dtype):
        return {}
    query, key, value = inputs(dtype, n=20)
    bias = np.zeros((20, key.shape[0]), np.float32)
    bias[:, ::3] = lowest
    got = call("attention", backend, query, key, value, bias=bias)
    want = exact("attention", query, key, value, mask=bias == 0)
    return assert_result(got, want)


@check(7, pair=("float16 bfloat16", "float16 float32", "bfloat16 float64"))
def mixed_halves(backend: str, pair: str) -> dict[str, float]:
    """Two dtypes promote: both halves to float32, one of them to the wider."""
    if not all(installed(name) for name in pair.split()):
        return {}
    one, other = (float_dtypes()[name] for name in pair.split())
    arrays: list[Any] = inputs(n=20)
    worst = {}
    for kinds in ((one, other, one), (other, one, one), (one, one, other)):
        given = [a.astype(kind) for a, kind in zip(arrays, kinds, strict=True)]
        got = call("attention", backend, *given, return_lse=True)
        worst = assert_result(got, exact("attention", *given))
    return worst
