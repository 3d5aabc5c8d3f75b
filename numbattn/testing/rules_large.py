"""Checks at sizes that are cut into blocks and slabs, of long sums, of extremes."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from numbattn.testing.bounds import (
    assert_result,
    assert_same_bits,
    assert_scores,
    assert_weights,
)
from numbattn.testing.calls import call
from numbattn.testing.cases import Case, run_case
from numbattn.testing.oracle import exact, visible_keys
from numbattn.testing.problems import held, worst_of
from numbattn.testing.registry import check, require

Array = np.ndarray[Any, Any]
OPERATIONS = ("scores", "weights", "attention")
POSITIONS = ("is_causal", "window_size", "q_offset", "kv_lengths")


def normal(dtype: Any, *shapes: tuple[int, ...], seed: int = 1) -> list[Array]:
    """Return arrays of normal numbers."""
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def sampled(
    operation: str, backend: str, arrays: list[Array], rows: Array, **options: Any
) -> dict[str, float]:
    """Run 2-D arrays whole, and hold some rows to the bound.

    The oracle is too slow for all rows, and needs only those that it compares.
    """
    more = {"return_lse": True} if operation == "attention" else {}
    got = call(operation, backend, *arrays, **options, **more)
    query, key = arrays[:2]
    n, m = query.shape[0], key.shape[0]
    sees = visible_keys(
        n,
        m,
        window_size=options.get("window_size"),
        is_causal=options.get("is_causal", False),
        offset=options.get("q_offset", 0),
        length=options.get("kv_lengths", m),
    )[rows]
    kept = {k: v for k, v in options.items() if k not in POSITIONS}
    for name in ("mask", "bias"):
        if name in kept:
            kept[name] = np.broadcast_to(kept[name], (n, m))[rows]
    kept["mask"] = sees & kept.get("mask", np.True_)
    want = exact(operation, query[rows], *arrays[1:], **kept)
    if isinstance(got, tuple):
        return assert_result((got[0][rows], got[1][rows]), want)
    return assert_result(got[rows], want)


@check(13, level="full", operation=OPERATIONS, dtype=("float32", "float64"))
def many_blocks(backend: str, operation: str, dtype: str) -> dict[str, float]:
    """Problems of many blocks, with every kind of option, are within the bound."""
    n, m, d = (1100, 1303, 40) if dtype == "float32" else (600, 701, 24)
    count = 3 if operation == "attention" else 2
    arrays = normal(dtype, (n, d), (m, d), (m, d + 8))[:count]
    rows = np.array([0, 1, 15, 16, 255, 256, 511, 512, n - 2, n - 1])
    (bias,) = normal(dtype, (n, m), seed=2)
    worst: dict[str, float] = {}
    mask = np.random.default_rng(3).random((n, m)) < 0.5
    for options in (
        {},
        {"is_causal": True},
        {"is_causal": True, "q_offset": 150, "window_size": (300, None)},
        {"window_size": (40, 30), "q_offset": 77},
        {"kv_lengths": 700, "bias": bias},
        {"mask": mask, "softcap": 6.0},
    ):
        used = sampled(operation, backend, arrays, rows, **options)
        for name, c in used.items():
            worst[name] = max(worst.get(name, 0.0), c)
    return worst


@check(13, level="full", n=(1, 2, 17), dtype=("float32", "float16"))
def many_keys(backend: str, n: int, dtype: str) -> dict[str, float]:
    """Few queries against 20,000 keys, as in decoding, are within the bound."""
    m, d = 20_021, 16
    arrays = normal(dtype, (n, d), (m, d), (m, d))
    rows = np.unique([0, n - 1])
    worst = sampled("attention", backend, arrays, rows, kv_lengths=m - 3)
    for operation in ("scores", "weights"):
        worst |= sampled(operation, backend, arrays[:2], rows)
    return worst


@check(13)
def many_heads(backend: str) -> dict[str, float]:
    """More heads than threads, each of its own length, are within the bound."""
    arrays = normal(np.float32, (3, 24, 19, 12), (3, 8, 40, 12), (3, 8, 40, 12))
    options: dict[str, Any] = {
        "kv_lengths": np.random.default_rng(0).integers(0, 41, (3, 24)),
        "q_offset": "lower_right",
        "is_causal": True,
    }
    got = call("attention", backend, *arrays, return_lse=True, **options)
    return assert_result(got, exact("attention", *arrays, **options))


@check(11, level="full", operation=OPERATIONS)
def large_blocks_keep_bits(backend: str, operation: str) -> None:
    """Pieces of a problem of many blocks have the bits of the whole."""
    n, m, d = 900, 1100, 33
    count = 3 if operation == "attention" else 2
    arrays = normal(np.float32, (2, n, d), (2, m, d), (2, m, d))[:count]
    options: dict[str, Any] = {"is_causal": True, "window_size": (500, None)}
    want = call(operation, backend, *arrays, **options)
    got = np.empty_like(want)
    for head, (a, b) in itertools.product((0, 1), ((0, 397), (397, 700), (700, n))):
        part = [arrays[0][head, a:b], *(x[head] for x in arrays[1:])]
        got[head, a:b] = call(
            operation, backend, *part, q_offset=a, num_threads=1 + head, **options
        )
    assert_same_bits(got, want, operation)


@check(4)
def one_nan_in_many_blocks(backend: str) -> None:
    """A NaN in one query of many changes no bit of another row."""
    arrays = normal(np.float32, (700, 16), (900, 16), (900, 20))
    want = call("attention", backend, *arrays, return_lse=True)
    arrays[0][300, 3] = np.nan
    got = call("attention", backend, *arrays, return_lse=True)
    others = np.arange(700) != 300
    for a, b, name in zip(got, want, ("output", "lse"), strict=True):
        require(np.isnan(a[300]).all(), f"{name} of the row is not NaN")
        assert_same_bits(a[others], b[others], name)


@check(3)
def padding_in_many_blocks(backend: str) -> None:
    """NaN padding of keys beyond the lengths changes no bit, in any block."""
    arrays = normal(np.float32, (2, 1, 65, 16), (2, 1, 900, 16), (2, 1, 900, 20))
    lengths = np.array([[301], [640]])
    want = call("attention", backend, *arrays, kv_lengths=lengths, return_lse=True)
    for b in range(2):
        arrays[1][b, :, lengths[b, 0] :] = np.nan
        arrays[2][b, :, lengths[b, 0] :] = np.nan
    got = call("attention", backend, *arrays, kv_lengths=lengths, return_lse=True)
    for a, b, name in zip(got, want, ("output", "lse"), strict=True):
        assert_same_bits(a, b, name)


@check(13, dtype=("float32", "float64"))
def huge_scores(backend: str, dtype: str) -> None:
    """Scores far apart give a weight of 1 and the rest 0, not an overflow."""
    m = 40
    top = 1e15 if dtype == "float32" else 1e150
    key = (np.arange(m)[:, None] % 23 - 11).astype(dtype) * np.array(top, dtype)
    query = np.array([[top], [-top], [0.0]], dtype)
    (value,) = normal(dtype, (m, 3))
    value[:] = np.round(value * 8) / 8
    out, lse = call("attention", backend, query, key, value, return_lse=True, scale=1.0)
    scores = call("scores", backend, query, key)
    weights = call("weights", backend, query, key, scale=1.0)
    for i, best in ((0, 22), (1, 0)):
        # 40 keys hold each remainder once or twice: these two are there once, twice.
        (at,) = np.nonzero(key[:, 0] == key[best, 0])
        require(
            np.all(weights[i, at] == 1 / len(at)), f"weights of row {i}: {weights[i]}"
        )
        require(np.count_nonzero(weights[i]) == len(at), "another weight is not 0")
        require(np.all(out[i] == value[at].mean(axis=0)), f"output of row {i}")
        require(lse[i] == scores[i, best], f"lse of row {i}: {lse[i]}")
    require(np.isfinite(out[2]).all() and np.isfinite(lse[2]), "the row of zeros")


@check(13, lowest=(-1e4, -1e9, -1e30))
def large_negative_bias(backend: str, lowest: float) -> dict[str, float]:
    """A large negative bias, as others mask with, hides keys among ordinary ones."""
    query, key, value = normal(np.float32, (20, 8), (50, 8), (50, 8))
    bias = np.zeros((20, 50), np.float32)
    bias[:, ::4] = lowest
    got = call("attention", backend, query, key, value, bias=bias)
    # exp of -1e4 is 0 in the accumulation dtype: the same as a mask.
    want = exact("attention", query, key, value, mask=bias == 0)
    return assert_result(got, want)


@check(13, dtype=("float32", "float64"), d=(128, 512, 2048))
def positive_sums(backend: str, dtype: str, d: int) -> dict[str, float]:
    """Sums of equal positive products, where rounding errors add up, stay in bound."""
    # Which way each sum rounds depends on the numbers: many of them at once.
    rng = np.random.default_rng(d)
    query = np.repeat(rng.uniform(1, 2, (33, 1)).astype(dtype), d, axis=1)
    key = np.repeat(rng.uniform(1, 2, (70, 1)).astype(dtype), d, axis=1)
    return run_case(Case("scores", query, key), backend)


@check(13, dtype=("float32", "float64"), d=(64, 96, 512, 2048), n=(5, 33))
def softmax_of_positive_sums(
    backend: str, dtype: str, d: int, n: int
) -> dict[str, float]:
    """So do the weights of such sums, which have the errors of two scores each."""
    rng = np.random.default_rng(d + n)
    query = np.repeat(rng.uniform(1, 2, (n, 1)).astype(dtype), d, axis=1)
    key = np.repeat(rng.uniform(1, 2, (96, 1)).astype(dtype), d, axis=1)
    value = np.eye(96, dtype=dtype)  # the output is the weights themselves
    return held(backend, [query, key, value], ("weights", "attention"))


@check(13, dtype=("float32", "float64"), m=(8192, 65_536))
def constant_value(backend: str, dtype: str, m: int) -> dict[str, float]:
    """A constant V comes back as that constant, however many keys there are."""
    query, key = normal(dtype, (3, 8), (m, 8))
    value = np.full((m, 5), 0.1, dtype)
    # Of equal weights every partial sum rounds the same way; others hide the drift.
    return worst_of(
        run_case(Case("attention", q, key, value, return_lse=True), backend)
        for q in (query, query * 0)
    )


@check(13, level="full", dtype=("float32", "float64"), m=(8192, 65_536), n=(3, 20))
def sums_of_equal_weights(backend: str, dtype: str, m: int, n: int) -> dict[str, float]:
    """Equal weights but one, a third of it: their sum does not drift."""
    query = np.full((n, 1), np.log(3), dtype)
    key, value = np.zeros((m, 1), dtype), np.full((m, 2), 0.7, dtype)
    key[m // 2] = 1
    return held(backend, [query, key, value], ("weights", "attention"), scale=1.0)


@check(13)
def uniform_weights(backend: str) -> dict[str, float]:
    """Equal scores give weights of 1/m and an lse of log(m)."""
    m = 4099
    query, key = normal(np.float32, (20, 8), (m, 8))
    weights = call("weights", backend, query * 0, key)
    want = exact("weights", query * 0, key)
    require(abs(float(want.lse[0]) - math.log(m)) < np.finfo(float).eps * 99, "oracle")
    return {
        "weights": assert_weights(weights, want),
        "scores": assert_scores(
            call("scores", backend, query * 0, key), exact("scores", query * 0, key)
        ),
    }
