"""Checks of score functions: where they are called, with what, and what they return."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import numbattn
from numbattn.errors import OptionError
from numbattn.score_mods import ScoreMod
from numbattn.testing.bounds import assert_same_bits
from numbattn.testing.calls import call
from numbattn.testing.cases import float_dtypes, run_case
from numbattn.testing.drawing import random_case
from numbattn.testing.problems import (
    BAD,
    OPERATIONS,
    Array,
    batch,
    check_of_functions,
    count_of,
    held,
    inputs,
    refused,
    results,
    worst_of,
)
from numbattn.testing.registry import require

SEVERAL = (1, 9, 16, 17, 40)
"""Queries on both sides of the short limit."""
LEADS = {"none": (), "h": (3,), "b h": (2, 3), "a b h": (2, 1, 3), "4": (2, 1, 2, 4)}


def squared(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    """Tell whether softcap came before and bias after."""
    return score * score - 0.5 * score


@check_of_functions(14, others=("softcap", "bias", "mask", "all"))
def score_mod_comes_after_softcap(backend: str, others: str) -> dict[str, float]:
    """The order is scale, softcap, score_mod, bias, masks."""

    def used(n: int) -> dict[str, Any]:
        rng = np.random.default_rng(n)
        bias = rng.standard_normal((4, n, 40)).astype(np.float32) * 2
        bias[..., 3] = -np.inf
        found: dict[str, Any] = {
            "softcap": 1.5,
            "bias": bias,
            "mask": rng.random((n, 40)) < 0.7,
        }
        return found if others == "all" else {others: found[others]}

    return worst_of(
        held(backend, batch(dtype, n=n), score_mod=squared, scale=0.7, **used(n))
        for n, dtype in ((9, "float32"), (21, "float32"), (5, "float64"))
    )


def numbered(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    """Give each place a number of its own."""
    return ((b * 16 + h) * 1024 + q_idx + 300) * 1024 + kv_idx


def _offset(kind: str, lead: tuple[int, ...], n: int, m: int) -> tuple[Any, Array]:
    """Return a q_offset, and what it is for each leading index."""
    rng = np.random.default_rng(len(lead))
    if kind == "array":
        offset = rng.integers(-9, 90, lead)
        return (offset if lead else int(offset)), np.broadcast_to(offset, lead)
    if kind == "lower_right":
        return kind, np.full(lead, m - n)
    return int(kind), np.full(lead, int(kind))


@check_of_functions(14, lead=LEADS, offset=("0", "-7", "250", "array", "lower_right"))
def score_mod_gets_its_place(backend: str, lead: str, offset: str) -> None:
    """Flat b over the axes before the heads, and q_idx that counts from q_offset."""
    axes, m = LEADS[lead], 37
    for n in SEVERAL:
        query = np.zeros((*axes, n, 4))
        key_heads = (*axes[:-1], 1 if axes[-1] == 3 else 2) if axes else ()
        key = np.zeros((*key_heads, m, 4))
        given, positions = _offset(offset, axes, n, m)
        got = call("scores", backend, query, key, score_mod=numbered, q_offset=given)
        for at in np.ndindex(*axes):
            b = int(np.ravel_multi_index(at[:-1], axes[:-1])) if at[:-1] else 0
            h = at[-1] if at else 0
            q_idx = np.arange(n)[:, None] + positions[at]
            want = ((b * 16 + h) * 1024 + q_idx + 300) * 1024 + np.arange(m)
            require(
                np.array_equal(got[at], want),
                f"n = {n}: wrong b, h, q_idx or kv_idx at {at}",
            )


def pointed(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any, m: Any) -> Any:
    """Leave one key of a row: which, tells b, h and q_idx."""
    return 0.0 if kv_idx == (q_idx + 3 * b + 5 * h) % m else -math.inf


@check_of_functions(14, lead=LEADS, n=SEVERAL)
def attention_gets_its_place(backend: str, lead: str, n: int) -> None:
    """The same in weights and attention: each query reads the key that is meant."""
    axes, m = LEADS[lead], 70
    query, key = np.ones((*axes, n, 3)), np.ones((m, 3))
    value = np.arange(m, dtype=float)[:, None]
    offset = np.arange(math.prod(axes)).reshape(axes) * 7 if axes else 7
    options: dict[str, Any] = {
        "score_mod": pointed, "score_mod_args": (m,), "q_offset": offset,
    }  # fmt: skip
    weights = call("weights", backend, query, key, **options)
    out, lse = call("attention", backend, query, key, value, return_lse=True, **options)
    for at in np.ndindex(*axes):
        b = int(np.ravel_multi_index(at[:-1], axes[:-1])) if at[:-1] else 0
        first = np.asarray(offset)[at] if axes else 7
        want = (np.arange(n) + first + 3 * b + 5 * (at[-1] if at else 0)) % m
        require(np.array_equal(weights[at].argmax(-1), want), f"weights at {at}")
        require(np.allclose(out[at][:, 0], want, rtol=1e-12), f"output at {at}")
        require(np.all(lse[at] == 0), f"lse at {at}")


def exactly(
    score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any,
    by_b: Any, by_h: Any, by_q: Any, by_key: Any,
) -> Any:  # fmt: skip
    """Read arrays that have one entry for each valid index."""
    return score + by_b[b] + by_h[h] + by_q[q_idx - 5] + by_key[kv_idx]


@check_of_functions(14, level="full", operation=OPERATIONS)
def called_for_valid_places_only(backend: str, operation: str) -> None:
    """Arrays of exactly b, h, n and m entries are never read outside."""
    for n in (1, 2, 7, 15, 16, 17, 33, 50, 100):
        for m in (1, 3, 16, 33, 70, 257):
            arrays = batch(n=n, m=m, d=5)[: count_of(operation)]
            sizes = (2, 4, n, m)
            args = tuple(np.zeros(size, np.float32) for size in sizes)
            want = call(operation, backend, *arrays)
            got = call(
                operation, backend, *arrays, q_offset=5, score_mod=exactly,
                score_mod_args=args,
            )  # fmt: skip
            require(np.allclose(got, want, 1e-5, 1e-6), f"n = {n}, m = {m}")


@check_of_functions(14, operation=OPERATIONS, short=("by_b", "by_h", "by_q", "by_key"))
def reads_outside_are_refused(backend: str, operation: str, short: str) -> None:
    """An array that is one entry short is an OptionError, unless unchecked."""
    for n in (3, 16, 40):
        arrays = batch(n=n)[: count_of(operation)]
        args = [np.zeros(size + 1, np.float32)[:size] for size in (2, 4, n, 40)]
        which = ("by_b", "by_h", "by_q", "by_key").index(short)
        right = tuple(args)
        args[which] = args[which][:-1]
        given: tuple[Any, ...] = (operation, backend, *arrays)
        wrong = ScoreMod(exactly, tuple(args))
        words = ("exactly", "outside")
        refused(OptionError, words, call, *given, score_mod=wrong, q_offset=5)
        unchecked, checked = (
            call(*given, score_mod=ScoreMod(exactly, right, unchecked=u), q_offset=5)
            for u in (True, False)
        )
        assert_same_bits(unchecked, checked, operation)


def hides(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any, step: Any) -> Any:
    """Mask keys by returning -inf, and all keys of query 2."""
    if kv_idx % step == 1 or q_idx == 2:
        return -math.inf
    return score


@check_of_functions(2, n=SEVERAL, dtype=("float32", "float64"))
def minus_infinity_masks(backend: str, n: int, dtype: str) -> dict[str, float]:
    """A score that a score_mod makes -inf is not attended; NaN there is not read."""
    options: dict[str, Any] = {"score_mod": hides, "score_mod_args": (3,)}
    clean = inputs(dtype, n=n, m=90)
    used = held(backend, clean, **options)
    want = results(backend, clean, **options)
    if n > 2:
        require(np.all(want["output"][2] == 0), "a row without keys is not 0")
        require(want["lse"][2] == -np.inf, "lse of a row without keys")
    for bad in BAD:
        query, key, value = (a.copy() for a in clean)
        key[1::3], value[1::3] = bad, bad
        got = results(backend, [query, key, value], **options)
        for name in want:
            assert_same_bits(got[name], want[name], f"{name} with {bad}")
    return used


def lowest(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any, number: Any) -> Any:
    """Return a finite number, however low."""
    return number


@check_of_functions(2, n=SEVERAL, dtype=("float32", "float64", "float16"))
def the_lowest_number_is_no_mask(backend: str, n: int, dtype: str) -> None:
    """Rows of -finfo.max, from a score_mod, are ordinary rows."""
    arrays = inputs(dtype, n=n, m=50)
    acc = np.float64 if dtype == "float64" else np.float32
    number = float(np.finfo(acc).min)
    got = results(backend, arrays, score_mod=lowest, score_mod_args=(number,))
    require(np.allclose(got["weights"].astype(float), 1 / 50, 1e-2), "weights")
    mean = arrays[2].astype(float).mean(axis=0)
    require(np.allclose(got["output"].astype(float), mean, 1e-2, 1e-2), "output")
    require(np.isfinite(got["lse"]).all(), "the lse is not finite")
    if dtype != "float16":
        require(np.all(got["scores"] == number), "scores are not the number")


def lost(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    """Return NaN at one place."""
    return math.nan if q_idx == 1 and kv_idx == 33 else score


@check_of_functions(4, n=(3, 16, 20), dtype=("float32", "float64"))
def nan_of_a_function(backend: str, n: int, dtype: str) -> None:
    """NaN that a score_mod returns goes to its row, and no other bit changes."""
    arrays = inputs(dtype, n=n, m=50)
    want, got = (
        results(backend, arrays, score_mod=function) for function in (same, lost)
    )
    other = np.arange(n) != 1
    for name in ("weights", "output", "lse"):
        require(np.isnan(got[name][1]).all(), f"{name} of the row is not NaN")
        assert_same_bits(got[name][other], want[name][other], name)
    nan = np.isnan(got["scores"])
    require(np.array_equal(np.argwhere(nan), [[1, 33]]), "scores are NaN elsewhere")
    assert_same_bits(got["scores"][~nan], want["scores"][~nan], "scores")


def same(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    """Return the score."""
    return score


@check_of_functions(14, dtype=("float32", "float64", "float16", "bfloat16"))
def an_identity_changes_nothing(backend: str, dtype: str) -> None:
    """A score_mod that returns the score gives the scores without one."""
    if dtype not in float_dtypes():
        return
    for n in SEVERAL:
        arrays = inputs(dtype, n=n)[:2]
        want = call("scores", backend, *arrays, is_causal=True)
        got = call("scores", backend, *arrays, is_causal=True, score_mod=same)
        assert_same_bits(got, want, f"scores, n = {n}")


def tenth(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    """Mix the score with literals, indices and functions."""
    weak = 0.1 * score + 1e-3 * (q_idx - kv_idx) + kv_idx / 7
    return weak + math.exp(-(score**2)) * np.log1p(abs(score)) + score**3 / 100


@check_of_functions(14, dtype=("float32", "float64", "float16", "bfloat16"))
def numbers_are_weak(backend: str, dtype: str) -> dict[str, float]:
    """Literals and indices take the score's dtype: what comes out has it, exactly."""
    if dtype not in float_dtypes():
        return {}
    worst = [held(backend, inputs(dtype, n=n), score_mod=tenth) for n in SEVERAL]
    got = call("scores", backend, *inputs(dtype)[:2], score_mod=tenth)
    require(got.dtype == float_dtypes()[dtype], f"the scores are {got.dtype}")
    return worst_of(worst)


def infinite(
    score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any, zero: Any, nothing: Any
) -> Any:
    """Divide by zero in every way, each at keys of its own."""
    kind = kv_idx % 8
    if kind == 0:
        return (score - score + 1) / zero
    if kind == 1:
        return 1 / (q_idx - q_idx)
    if kind == 2:
        return -1.0 / nothing
    if kind == 3:
        return nothing / zero
    if kind == 4:
        return math.log(nothing * score)
    if kind == 5:
        return math.sqrt(-1.0 - abs(score))
    if kind == 6:
        return math.exp(1e6 + abs(score))
    return kv_idx / (b + h)


@check_of_functions(14, dtype=("float32", "float64"))
def division_by_zero_has_an_answer(backend: str, dtype: str) -> None:
    """It gives inf or NaN, and so do logarithms and roots; nothing raises."""
    arrays = inputs(dtype, m=48)[:2]
    for n in (3, 37):
        got = call(
            "scores", backend, arrays[0][:n], arrays[1], score_mod=infinite,
            score_mod_args=(0, 0.0),
        )  # fmt: skip
        inf, nan = np.inf, np.nan
        want = np.resize([inf, inf, -inf, nan, -inf, nan, inf, inf], 48)
        equal = (got == want) | (np.isnan(got) & np.isnan(want))
        require(equal.all(), f"{dtype}: {got[0][:8]} instead of {want[:8]}")


@check_of_functions(14, n=(5, 30))
def score_mods_compose(backend: str, n: int) -> dict[str, float]:
    """``a @ b`` applies b first, each with its own arguments."""
    arrays = batch(n=n)
    table = np.linspace(-1, 1, 40).astype(np.float32)

    def shift(
        score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any, table: Any, size: Any
    ) -> Any:
        return score + size * table[kv_idx]

    first, second = ScoreMod(shift, (table, 3)), ScoreMod(squared)
    worst = [
        held(backend, arrays, score_mod=mod, is_causal=True)
        for mod in (first @ second, second @ first, first @ second @ first)
    ]

    def both(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any, table: Any) -> Any:
        return squared(score + 3 * table[kv_idx], b, h, q_idx, kv_idx)

    got = call("scores", backend, *arrays[:2], score_mod=second @ first)
    want = call("scores", backend, *arrays[:2], score_mod=both, score_mod_args=(table,))
    require(np.allclose(got, want, 1e-5, 1e-5), "second @ first is another function")
    return worst_of(worst)


@check_of_functions(13, operation=OPERATIONS, dtype=("float32", "float64"))
def random_functions(backend: str, operation: str, dtype: str) -> dict[str, float]:
    """Random problems with a score_mod or a mask object are within the bound."""
    rng = np.random.default_rng([14, OPERATIONS.index(operation), len(dtype)])
    return worst_of(
        run_case(random_case(rng, operation, dtype, 200_000, modified=1.0), backend)
        for _ in range(6)
    )


def of_text(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    """Return no number."""
    return "0.0"


def of_none(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    """Return nothing."""


def of_array(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any, table: Any) -> Any:
    """Return an array instead of one of its elements."""
    return table[0]


def of_bool(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    """Return what a mask returns."""
    return kv_idx <= q_idx


@check_of_functions(14, operation=OPERATIONS)
def bad_functions_leave_out(backend: str, operation: str) -> None:
    """What returns no number is an OptionError before any work; iter_scores, too."""
    arrays = inputs()[: count_of(operation)]
    want = call(operation, backend, *arrays)
    for function, args in (
        (of_text, ()), (of_none, ()), (of_array, (np.ones((2, 2)),)), (of_bool, ()),
    ):  # fmt: skip
        out = np.full_like(want, 7)
        options: dict[str, Any] = {"score_mod": function, "score_mod_args": args}

        given: tuple[Any, ...] = (operation, backend, *arrays)
        words = (function.__name__, "return")
        refused(OptionError, words, call, *given, out=out, **options)
        require(np.all(out == 7), f"out was touched by {function.__name__}")
        refused(
            OptionError, words[:1], numbattn.iter_scores, *arrays[:2], backend=backend,
            **options,
        )  # fmt: skip
    assert_same_bits(call(operation, backend, *arrays), want, "the next call")
