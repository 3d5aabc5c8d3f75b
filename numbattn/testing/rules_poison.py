"""Checks of NaN and infinity: around arrays, inside what is masked, in one place."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from numbattn.testing.bounds import assert_same_bits
from numbattn.testing.calls import call
from numbattn.testing.problems import (
    BAD,
    MASKERS,
    OPERATIONS,
    Array,
    batch,
    count_of,
    hidden_by,
    inputs,
    masker,
    results,
)
from numbattn.testing.registry import check, require

ARRAYS = ("query", "key", "value")


def inside(array: Array, poison: float) -> Array:
    """Return a view of the same values in the middle of a larger, poisoned array."""
    around = np.full([size + 4 for size in array.shape], poison, array.dtype)
    view = around[tuple(slice(2, size + 2) for size in array.shape)]
    view[...] = array
    return view


@check(9, operation=OPERATIONS, poison=BAD)
def poison_around(backend: str, operation: str, poison: float) -> None:
    """What lies around the inputs, on every side, is not read."""
    for dtype, n in itertools.product(("float32", "float64"), (1, 5, 18, 40)):
        arrays = batch(dtype, n=n, m=35, d=13)[: count_of(operation)]
        bias = np.linspace(-1, 1, n * 35).reshape(n, 35).astype(dtype)
        want = call(operation, backend, *arrays, bias=bias)
        moved = [inside(a, poison) for a in arrays]
        got = call(operation, backend, *moved, bias=inside(bias, poison))
        assert_same_bits(got, want, f"{operation} of {dtype}, n = {n}")


@check(3, by=MASKERS, n=(1, 3, 16))
def masked_is_not_read_by_few(backend: str, by: str, n: int) -> None:
    """NaN or inf in what few queries do not see changes no bit."""
    m = 90
    hidden = hidden_by(by, n, m)
    options: dict[str, Any] = masker(by, hidden)
    clean = inputs(n=n, m=m)
    if by == "mask":
        hidden = np.broadcast_to(hidden[:1], (n, m))
        options = {"mask": ~hidden}
    elif by == "bias":
        hidden = np.broadcast_to(hidden[:1], (n, m))
        options = {"bias": np.where(hidden, np.float32(-np.inf), np.float32(0))}
    unseen = hidden.all(axis=0)
    require(unseen.any(), "nothing is hidden from all")
    want = results(backend, clean, **options)
    for bad in BAD:
        query, key, value = (a.copy() for a in clean)
        key[unseen], value[unseen] = bad, bad
        got = results(backend, [query, key, value], **options)
        for name in want:
            assert_same_bits(got[name], want[name], f"{name} with {bad}")


@check(3, by=MASKERS, dtype=("float32", "float64"))
def masked_is_not_read_in_blocks(backend: str, by: str, dtype: str) -> None:
    """The same in every block of many keys."""
    n, m = 20, 400
    hidden = hidden_by(by, n, m)
    options = masker(by, hidden)
    clean = inputs(dtype, n=n, m=m)
    want = results(backend, clean, **options)
    rng = np.random.default_rng(8)
    for bad in BAD:
        for j in rng.choice(np.flatnonzero(hidden.any(axis=0)), 2):
            query, key, value = (a.copy() for a in clean)
            key[j], value[j] = bad, bad
            got = results(backend, [query, key, value], **options)
            safe = hidden[:, j]
            for name in want:
                what = f"{name} with {bad} in masked key {j}"
                assert_same_bits(got[name][safe], want[name][safe], what)


@check(3, by=("mask", "bias", "kv_lengths", "is_causal"))
def empty_row_is_not_read(backend: str, by: str) -> None:
    """A row without keys is 0 and -inf, though its query and all keys are NaN."""
    for n, dtype in itertools.product((4, 20), ("float32", "float64", "float16")):
        arrays = inputs(dtype, n=n, m=33)
        for a in arrays:
            a[...] = np.nan
        choices: dict[str, dict[str, Any]] = {
            "mask": {"mask": np.zeros((1, 1), bool)},
            "bias": {"bias": np.full((n, 33), -np.inf, np.float32)},
            "kv_lengths": {"kv_lengths": 0},
            "is_causal": {"is_causal": True, "q_offset": -n},
        }
        got = results(backend, arrays, **choices[by])
        for name, number in (
            ("scores", -np.inf), ("weights", 0), ("output", 0), ("lse", -np.inf),
        ):  # fmt: skip
            require(np.all(got[name] == number), f"{name} of {dtype} is not {number}")


@check(4, which=ARRAYS, n=(3, 20))
def poison_in_one_head(backend: str, which: str, n: int) -> None:
    """NaN in one head changes no bit of the heads that do not read it."""
    arrays = batch(n=n)
    want = results(backend, arrays)
    at = ARRAYS.index(which)
    arrays[at] = arrays[at].copy()
    arrays[at][1, 1] = np.nan
    got = results(backend, arrays)
    hit = np.zeros((2, 4), bool)
    hit[1, 1 if which == "query" else slice(2, 4)] = True
    for name in got:
        assert_same_bits(got[name][~hit], want[name][~hit], f"{name} of other heads")
        lost = np.isnan(got[name][hit]).all()
        reads = name == "output" or which != "value"
        require(lost if reads else not lost, f"{name} of the head: NaN is wrong")


@check(4, which=ARRAYS, corner=("first", "last"), n=(2, 35))
def nan_at_a_corner(backend: str, which: str, corner: str, n: int) -> None:
    """A NaN at the very first or last element goes where it belongs."""
    clean = inputs(n=n, m=41, d=17)
    want = results(backend, clean)
    at = ARRAYS.index(which)
    arrays = [a.copy() for a in clean]
    end = 0 if corner == "first" else -1
    arrays[at][end, end] = np.nan
    got = results(backend, arrays)
    lost = {
        name: np.zeros(want[name].shape, bool)
        for name in ("scores", "weights", "output", "lse")
    }
    if which == "value":
        lost["output"][:, end] = True
    else:
        rows = end if which == "query" else slice(None)
        for name in ("weights", "output", "lse"):
            lost[name][rows] = True
        lost["scores"][(end, slice(None)) if which == "query" else (..., end)] = True
    for name, nan in lost.items():
        require(
            np.array_equal(np.isnan(got[name]), nan),
            f"{name} has NaN in the wrong places",
        )
        assert_same_bits(got[name][~nan], want[name][~nan], name)


@check(4, bad=(np.nan, np.inf), n=(3, 20))
def poison_in_the_bias(backend: str, bad: float, n: int) -> None:
    """NaN or +inf in the bias of an attended key loses its row, and no other."""
    arrays = inputs(n=n, m=50)
    bias = np.zeros((n, 50), np.float32)
    want = results(backend, arrays, bias=bias)
    bias[1, 33] = bad
    got = results(backend, arrays, bias=bias)
    other = np.arange(n) != 1
    for name in ("weights", "output", "lse"):
        require(np.isnan(got[name][1]).all(), f"{name} of the row is not NaN")
        assert_same_bits(got[name][other], want[name][other], name)
    changed = (got["scores"] != want["scores"]) | np.isnan(got["scores"])
    require(np.array_equal(np.argwhere(changed), [[1, 33]]), "other scores changed")


@check(4, n=(3, 20), dtype=("float32", "float64"))
def nan_in_a_value_of_weight_zero(backend: str, n: int, dtype: str) -> None:
    """A key far below the others is attended: NaN in its value reaches its column."""
    query, key, value = inputs(dtype, n=n, m=50)
    bias = np.zeros((1, 50), dtype)
    bias[0, 7] = -1e5
    value[7, 3] = np.nan
    got = call("attention", backend, query, key, value, bias=bias)
    lost = np.broadcast_to(np.arange(got.shape[1]) == 3, got.shape)
    require(np.array_equal(np.isnan(got), lost), "NaN in the wrong columns")


@check(4, n=(3, 20))
def infinite_key_reaches_its_rows(backend: str, n: int) -> None:
    """A key of inf gives +inf, -inf or NaN by the sign of the query, and no more."""
    query, key, value = inputs(n=n, m=50, d=6)
    key[4, 2] = np.inf
    query[0, 2], query[1, 2], query[2, 2] = 1.5, -1.5, 0.0
    with np.errstate(invalid="ignore"):
        score = np.sign(query[:, 2]) * np.float32(np.inf)
    got = results(backend, [query, key, value])
    same = (got["scores"][:, 4] == score) | (
        np.isnan(got["scores"][:, 4]) & np.isnan(score)
    )
    require(same.all(), f"scores of the key are {got['scores'][:4, 4]}")
    for name in ("weights", "output", "lse"):
        lost = np.isnan(got[name]).reshape(n, -1)
        require(lost[score != -np.inf].all(), f"{name} of a row is not NaN")
        require(not lost[score == -np.inf].any(), f"{name} of a row is NaN")
