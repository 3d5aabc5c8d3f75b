"""Checks of mask objects: each kind, combined, with every other option, and none."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

import numbattn
from numbattn import masks
from numbattn.errors import OptionError
from numbattn.testing.bounds import assert_same_bits
from numbattn.testing.calls import call
from numbattn.testing.problems import (
    BAD,
    OPERATIONS,
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
from numbattn.testing.rules_options import value_of

M = 37
SEVERAL = (5, 21)
"""Queries below and above the short limit."""


def odd_one_out(b: Any, h: Any, q_idx: Any, kv_idx: Any, marks: Any) -> Any:
    """Attend by everything that a function is told."""
    return (q_idx + kv_idx + h) % 3 != b or marks[b, kv_idx]


def kinds(n: int, m: int) -> dict[str, Any]:
    """Return a mask object of each kind for a batch of (2, 4) heads."""
    rng = np.random.default_rng(n)
    ids = [np.sort(rng.integers(0, 4, x)) for x in (n, m)]
    each = [rng.integers(0, 3, (2, 4, x)) for x in (n, m)]
    return {
        "causal": masks.causal(),
        "causal ahead": masks.causal(9),
        "causal behind": masks.causal(-4),
        "window": masks.sliding_window(7, 2),
        "window to the left": masks.sliding_window(None, 3),
        "prefix": masks.prefix(11),
        "prefixes": masks.prefix(rng.integers(0, m + 1, (2, 4))),
        "no prefix": masks.prefix(0),
        "documents": masks.document(*ids),
        "documents in any order": masks.document(*each),
        "dilated": masks.dilated(3),
        "array": masks.from_array(rng.random((2, 1, n, m)) < 0.6),
        "row of an array": masks.from_array(rng.random((4, 1, m)) < 0.6),
        "function": masks.from_function(odd_one_out, (rng.random((2, m)) < 0.3,)),
    }


KINDS = tuple(kinds(1, 1))


@check_of_functions(15, kind=KINDS)
def one_mask_object(backend: str, kind: str) -> dict[str, float]:
    """One mask object alone gives what its definition says, at every offset."""
    return worst_of(
        held(backend, batch(dtype, n=n, m=M, d=9), mask=kinds(n, M)[kind], q_offset=o)
        for n, dtype, o in (
            (5, "float64", 0),
            (5, "float32", 30),
            (21, "float32", 4),
            (21, "float16", "lower_right"),
            (60, "float64", -11),
        )
    )


@check_of_functions(15, kind=KINDS)
def a_mask_object_is_its_array(backend: str, kind: str) -> None:
    """Where it hides, a mask object hides as the array of `materialize` does."""
    for n, offset in itertools.product(SEVERAL, (0, 9)):
        query, key, value = batch(n=n, m=M, d=9)
        mask = kinds(n, M)[kind]
        array = mask.materialize(n, M, batch=2, heads=4, q_offset=offset)
        plain = call("scores", backend, query, key)
        got = call("scores", backend, query, key, mask=mask, q_offset=offset)
        require(np.array_equal(got != -np.inf, array), "scores are hidden elsewhere")
        assert_same_bits(got[array], plain[array], "scores that are not hidden")
        for each in (mask, array):
            one = results(backend, [query, key, value], mask=each, q_offset=offset)
            hidden = ~array.any(-1)
            require(np.all(one["output"][hidden] == 0), "rows without keys")
            require(np.all(one["lse"][hidden] == -np.inf), "lse of rows without keys")
            require(np.all(one["weights"][~array] == 0), "weights of hidden keys")


FIRST = ("causal behind", "prefixes", "documents", "dilated", "array", "function")


@check_of_functions(15, first=FIRST, sign=("&", "|", "~"))
def combined_mask_objects(backend: str, first: str, sign: str) -> dict[str, float]:
    """Combinations by &, | and ~ are those of the definitions."""

    def masked(n: int) -> Any:
        found = kinds(n, M)
        mask = found[first]
        if sign == "~":
            return ~mask & found["dilated"] | ~(mask | found["window"])
        others = (found["causal ahead"], found["documents"], ~found["array"])
        for other in others[: 1 if n > 16 else 3]:
            mask = mask & other if sign == "&" else mask | other
        return mask

    return worst_of(
        held(backend, batch(dtype, n=n, m=M, d=9), mask=masked(n), q_offset=3)
        for n, dtype in zip(SEVERAL, ("float64", "float32"), strict=True)
    )


OTHERS = ("bias", "is_causal", "window_size", "q_offset", "kv_lengths", "sinks")


@check_of_functions(15, option=OTHERS, kind=("window", "documents", "function", "~"))
def mask_object_with(backend: str, option: str, kind: str) -> dict[str, float]:
    """A mask object with each option that moves it or hides more."""

    def masked(n: int) -> Any:
        found = kinds(n, M)
        return ~found["prefixes"] if kind == "~" else found[kind]

    return worst_of(
        held(
            backend, batch(dtype, n=n, m=M, d=9), mask=masked(n),
            **{option: value_of(option, n)},
        )
        for n, dtype in zip(SEVERAL, ("float64", "float32"), strict=True)
    )  # fmt: skip


@check_of_functions(15, dtype=("float32", "float64"))
def mask_object_with_everything(backend: str, dtype: str) -> dict[str, float]:
    """A mask object with a score_mod and every option at once."""

    def bent(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        return score - 0.1 * abs(q_idx - kv_idx) * (h + 1)

    return worst_of(
        held(
            backend, batch(dtype, n=n, m=M, d=9), score_mod=bent,
            softcap=2.0, scale=0.4, mask=kinds(n, M)["causal ahead"] | masks.prefix(4),
            **{option: value_of(option, n) for option in OTHERS},
        )
        for n in SEVERAL
    )  # fmt: skip


@check_of_functions(3, n=(1, 3, 16, 20, 40), kind=("window", "documents", "function"))
def what_a_mask_object_hides_is_not_read(backend: str, n: int, kind: str) -> None:
    """NaN or inf in keys that a mask object hides changes no bit of its rows."""
    m = 300
    chosen = {
        "window": masks.sliding_window(20, 9),
        "documents": masks.document(np.arange(n) // 8, np.arange(m) // 50),
        "function": masks.from_function(lambda b, h, q, k: (q + k) % 5 > 1),
    }
    options: dict[str, Any] = {"mask": chosen[kind], "q_offset": 60}
    seen = chosen[kind].materialize(n, m, q_offset=60)
    clean = inputs(n=n, m=m)
    want = results(backend, clean, **options)
    rng = np.random.default_rng(n)
    for bad in BAD:
        for j in rng.choice(np.flatnonzero(~seen.all(axis=0)), 3):
            query, key, value = (a.copy() for a in clean)
            key[j], value[j] = bad, bad
            got = results(backend, [query, key, value], **options)
            safe = ~seen[:, j]
            for name in want:
                what = f"{name} with {bad} in hidden key {j}"
                assert_same_bits(got[name][safe], want[name][safe], what)


@check_of_functions(2, dtype=("float32", "float64", "float16"))
def mask_objects_without_keys(backend: str, dtype: str) -> None:
    """Rows that a mask object hides are 0 and -inf, whatever is in them."""
    for n in (1, 4, 16, 20, 70):
        for mask, empty in (
            (masks.prefix(0), n),
            (masks.causal(-n), n),
            (masks.from_function(lambda b, h, q, k: q > 2), 3),
            (~masks.document(np.arange(n) // 3, np.zeros(33, int)), 3),
        ):
            query, key, value = inputs(dtype, n=n, m=33)
            query[:empty] = np.nan
            got = results(backend, [query, key, value], mask=mask)
            for name, number in (
                ("scores", -np.inf), ("weights", 0), ("output", 0), ("lse", -np.inf),
            ):  # fmt: skip
                part, rest = got[name][:empty], got[name][empty:]
                require(np.all(part == number), f"{name} of {mask!r} is not {number}")
                require(not np.isnan(rest).any(), f"{name} of other rows is NaN")


def long_masks(n: int, m: int) -> dict[str, Any]:
    """Return masks of long rows: empty, full and partial blocks in every order."""
    ids = np.arange(max(n, m)) // 100
    return {
        "window": masks.sliding_window(150, 20),
        "documents": masks.document(ids[:n], ids[:m]) & masks.causal(),
        "sinks": masks.sliding_window(64, 0) | masks.prefix(4),
        "function": masks.from_function(lambda b, h, q, k: q // 128 != k // 128),
        "hole": masks.causal(300) & ~masks.sliding_window(90, 90),
    }


@check_of_functions(
    15, level="full", kind=tuple(long_masks(1, 1)), dtype=("float32", "float64")
)
def long_rows_of_a_mask_object(backend: str, kind: str, dtype: str) -> None:
    """Many blocks, of which most are empty or full, for many queries and for few."""
    for n, m in ((500, 700), (7, 3000)):
        query, key, value = inputs(dtype, n=n, m=m, d=8)
        mask, offset = long_masks(n, m)[kind], m - n
        array = mask.materialize(n, m, q_offset=offset)
        for operation in OPERATIONS:
            given = [query, key, value][: count_of(operation)]
            want = call(operation, backend, *given, mask=array, q_offset=offset)
            got = call(operation, backend, *given, mask=mask, q_offset=offset)
            close = 1e-5 if dtype == "float32" else 1e-13
            require(np.allclose(got, want, close, close), f"{operation} of {n} x {m}")


@check_of_functions(15, n=(5, 40), kind=("array", "documents in any order", "function"))
def cut_mask_objects_count_on(backend: str, n: int, kind: str) -> None:
    """In blocks of iter_scores, and of a memory limit, rows and keys are the call's."""
    query, key, value = batch(n=n, m=M, d=9)
    options: dict[str, Any] = {"mask": kinds(n, M)[kind], "q_offset": 7}
    want = call("scores", backend, query, key, **options)
    for shape in ((3, 40), (40, 3), (7, 11)):
        got = np.empty_like(want)
        for rows, columns, block in numbattn.iter_scores(
            query, key, block_shape=shape, backend=backend, **options
        ):
            got[..., rows, columns] = block
        assert_same_bits(got, want, f"blocks of {shape}")
    halves = [a.astype(np.float16) for a in (query, key, value)]
    want = call("attention", backend, *halves, **options)
    least = numbattn.estimate_memory(
        *halves, operation="attention", backend=backend, max_memory=1, **options
    ).total
    got = call("attention", backend, *halves, max_memory=least + 2000, **options)
    assert_same_bits(got, want, "attention by blocks")


@check_of_functions(15, operation=OPERATIONS)
def mask_objects_own_their_arrays(backend: str, operation: str) -> None:
    """What becomes of an array after the mask was made changes nothing."""
    arrays = inputs(n=20, m=M)[: count_of(operation)]
    shown, ids = np.random.default_rng(0).random((20, M)) < 0.5, np.arange(M) // 9
    marks = shown[0].copy()
    made = masks.from_array(shown) | masks.document(ids[:20], ids) & masks.prefix(
        np.array(30)
    )
    made = made | masks.from_function(lambda b, h, q, k, marks: marks[k], (marks,))
    want = call(operation, backend, *arrays, mask=made)
    shown[...], ids[...], marks[...] = True, 0, True
    got = call(operation, backend, *arrays, mask=made)
    assert_same_bits(got, want, operation)


def above_one(b: Any, h: Any, q_idx: Any, kv_idx: Any, table: Any) -> Any:
    """Compare with a number that float32 does not tell from those of the table."""
    return table[kv_idx] > 1.0


@check_of_functions(15, dtype=("float32", "float64"))
def floats_of_a_mask_are_double(backend: str, dtype: str) -> None:
    """Whatever the call's dtype, a mask object means what `materialize` shows."""
    table = 1 + np.resize([1e-12, 0, -1e-12], M)
    mask = masks.from_function(above_one, (table,))
    for n in SEVERAL:
        got = call("scores", backend, *inputs(dtype, n=n, m=M)[:2], mask=mask)
        want = mask.materialize(n, M)
        require(np.array_equal(got != -np.inf, want), f"n = {n}: other keys are hidden")


def beyond(b: Any, h: Any, q_idx: Any, kv_idx: Any, table: Any) -> Any:
    """Read at the key."""
    return table[kv_idx]


@check_of_functions(15, operation=OPERATIONS, n=(3, 20))
def masks_that_do_not_fit(backend: str, operation: str, n: int) -> None:
    """Arrays of another shape, and reads outside of args, are refused; out stays."""
    arrays = inputs(n=n, m=M)[: count_of(operation)]
    out = np.full_like(call(operation, backend, *arrays), 7)
    short = masks.from_function(beyond, (np.ones(M - 1, bool),))
    for mask, error in (
        (masks.from_array(np.ones((n, M + 1), bool)), numbattn.ShapeError),
        (masks.document(np.zeros(n + 1, int), np.zeros(M, int)), numbattn.ShapeError),
        (masks.prefix(np.ones(3, int)), numbattn.ShapeError),
        (short, OptionError),
    ):
        given: tuple[Any, ...] = (operation, backend, *arrays)
        refused(error, (), call, *given, mask=mask)
        if mask is not short:
            refused(error, (), call, *given, mask=mask, out=out)
            require(np.all(out == 7), "out was touched")
