"""Checks of sinks: an extra logit for each head, in the softmax's sum only."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from numbattn.testing.bounds import assert_same_bits
from numbattn.testing.calls import call
from numbattn.testing.cases import float_dtypes
from numbattn.testing.problems import (
    SHORT,
    Array,
    batch,
    held,
    inputs,
    results,
    worst_of,
)
from numbattn.testing.registry import check, require

SOFTMAX = ("weights", "attention")
M = 37
SEVERAL = (5, 21)
"""Queries below and above the short limit."""


@check(13, sink=(0.0, 3.0, -3.0, 80.0, -80.0, 1e4, -1e4, -np.inf))
def sink_of(backend: str, sink: float) -> dict[str, float]:
    """A sink near, far above and far below the scores, which are large and small."""
    return worst_of(
        held(backend, inputs(dtype, n=n), SOFTMAX, sinks=[sink], scale=scale)
        for n, dtype in itertools.product(SEVERAL, ("float32", "float64"))
        for scale in (0.2, 4.0)
    )


@check(13, heads=("4:4", "4:2", "4:1", "1:4"))
def sinks_of_heads(backend: str, heads: str) -> dict[str, float]:
    """Every head of the result has its own sink, in groups and batches, too."""
    of_query, of_key = (int(x) for x in heads.split(":"))
    rng = np.random.default_rng(8)
    sinks = rng.standard_normal(4) * 3
    return worst_of(
        held(
            backend,
            [
                rng.standard_normal((2, heads, *core)).astype(np.float32)
                for heads, core in (
                    (of_query, (n, 6)), (of_key, (M, 6)), (of_key, (M, 3)),
                )
            ],
            SOFTMAX,
            sinks=sinks,
        )
        for n in SEVERAL
    )  # fmt: skip


@check(13, m=(1, 15, 16, 17, 255, 256, 257, 1000, 70_000))
def sinks_of_long_rows(backend: str, m: int) -> dict[str, float]:
    """Rows of any length have their sink once, however they are cut."""
    worst = []
    for n in SEVERAL if m < 70_000 else (3,):
        arrays = inputs(n=n, m=m, d=4)
        worst.append(held(backend, arrays, SOFTMAX, sinks=[np.log(m)], scale=0.1))
    return worst_of(worst)


@check(7, dtype=("float16", "bfloat16", "float32", "float64", "int8", "list"))
def sinks_of_dtype(backend: str, dtype: str) -> dict[str, float]:
    """Sinks of any real dtype are cast, and promote nothing."""
    if dtype == "bfloat16" and dtype not in float_dtypes():
        return {}
    sinks: Any = [0, 2, -1, 3]
    if dtype != "list":
        sinks = np.array(sinks).astype(dtype)
    return worst_of(
        held(backend, batch(each, m=M, d=9), SOFTMAX, sinks=sinks)
        for each in float_dtypes()
    )


@check(2, sink=(0.0, -7.5, 1e4, np.inf, np.nan))
def sink_of_a_row_without_keys(backend: str, sink: float) -> None:
    """A row without keys: output 0, weights 0, lse the sink itself."""
    for n, dtype in itertools.product(SEVERAL, ("float32", "float64")):
        arrays = inputs(dtype, n=n)
        mask = np.arange(n)[:, None] % 3 != 0
        for options in ({"mask": mask}, {"kv_lengths": 0}):
            empty = ~mask[:, 0] if "mask" in options else np.ones(n, bool)
            got = results(backend, arrays, SOFTMAX, sinks=[sink], **options)
            for name, want in (("weights", 0), ("output", 0), ("lse", sink)):
                rows = got[name][empty]
                same = np.array_equal(rows, np.full_like(rows, want), equal_nan=True)
                require(same, f"{name} of an empty row is not {want}")


@check(2, dtype=("float32", "float64"))
def sink_without_any_key(backend: str, dtype: str) -> None:
    """No keys at all, m == 0: output 0, lse the sink."""
    query, key, value = inputs(dtype, m=0)
    out, lse = call(
        "attention", backend, query, key, value, sinks=[1.5], return_lse=True
    )
    require(np.all(out == 0), "the output of no keys is not 0")
    require(np.all(lse == 1.5), "the lse of no keys is not the sink")


@check(4, sink=(np.nan, np.inf))
def sink_that_is_not_finite(backend: str, sink: float) -> None:
    """NaN and inf make NaN of the rows of their head, and leave the other heads."""
    for n in SEVERAL:
        arrays = batch(n=n, m=M)
        good = results(backend, arrays, SOFTMAX, sinks=[0, 1, 2, 3])
        got = results(backend, arrays, SOFTMAX, sinks=[0, sink, 2, 3])
        for name, array in got.items():
            require(np.isnan(array[:, 1]).all(), f"{name} of the head is not NaN")
            for head in (0, 2, 3):
                what = f"{name} of head {head}"
                assert_same_bits(array[:, head], good[name][:, head], what)


@check(6, m=(1, 70))
def lse_of_equal_scores_and_a_sink(backend: str, m: int) -> None:
    """Scores of 0 and a sink of log(m): lse log(2 m), half of the weight."""
    for n, dtype in itertools.product(SEVERAL, ("float32", "float64")):
        query, key, value = inputs(dtype, n=n, m=m)
        value[...] = 1
        got = results(backend, [query * 0, key, value], SOFTMAX, sinks=[np.log(m)])
        close: dict[str, Any] = {"rtol": 32 * np.finfo(dtype).eps}
        for name, want in (
            ("lse", np.log(2 * m)), ("output", 0.5), ("weights", 0.5 / m),
        ):  # fmt: skip
            require(np.allclose(got[name], want, **close), f"{name} is not {want}")


@check(6, by=("scale", "softcap"))
def sinks_are_not_scores(backend: str, by: str) -> None:
    """A sink is neither scaled nor capped: without scores to speak of, lse is it."""
    options: dict[str, Any] = {"scale": 1e-6} if by == "scale" else {"softcap": 1e-6}
    for n in SEVERAL:
        got = results(backend, inputs(n=n, m=1), SOFTMAX, sinks=[9.0], **options)
        want = np.logaddexp(9, 0)
        require(np.allclose(got["lse"], want, rtol=1e-6), "the sink was changed")


@check(11, n=(5, 21))
def sinks_of_minus_infinity_keep_bits(backend: str, n: int) -> None:
    """Sinks of -inf have the bits of none."""
    for dtype in ("float32", "float64", "float16"):
        arrays = batch(dtype, n=n, m=M)
        want = results(backend, arrays, SOFTMAX, is_causal=True)
        got = results(
            backend, arrays, SOFTMAX, is_causal=True, sinks=np.full(4, -np.inf)
        )
        for name, array in got.items():
            assert_same_bits(array, want[name], f"{name} of {dtype}")


@check(11, n=(3, 20))
def heads_with_sinks_keep_bits(backend: str, n: int) -> None:
    """A head with its sink has the bits that it has alone."""
    arrays = batch(n=n, m=M)
    sinks = np.array([0.5, -2, 9, -np.inf])
    got = results(backend, arrays, SOFTMAX, sinks=sinks)
    for b, h in np.ndindex(2, 4):
        alone = [arrays[0][b, h], *(a[b, h // 2] for a in arrays[1:])]
        want = results(backend, alone, SOFTMAX, sinks=sinks[h : h + 1])
        for name, array in want.items():
            assert_same_bits(got[name][b, h], array, f"{name} of {b}, {h}")


@check(11, operation=SOFTMAX)
def query_blocks_with_sinks_keep_bits(backend: str, operation: str) -> None:
    """Pieces along the queries, each above the short limit, have the same bits."""
    n, cut = 3 * SHORT, SHORT + 7
    arrays: list[Array] = inputs(n=n)[: 3 if operation == "attention" else 2]
    want = call(operation, backend, *arrays, sinks=[0.3])
    pieces = [
        call(operation, backend, part, *arrays[1:], sinks=[0.3])
        for part in (arrays[0][:cut], arrays[0][cut:])
    ]
    assert_same_bits(np.concatenate(pieces), want, operation)
