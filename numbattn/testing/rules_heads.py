"""Checks of leading axes: grouped heads, broadcast batches, positions by heads."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from numbattn.testing.bounds import assert_result, assert_same_bits
from numbattn.testing.calls import call
from numbattn.testing.oracle import exact
from numbattn.testing.problems import OPERATIONS, count_of, held, worst_of
from numbattn.testing.registry import check

GROUPS = ("1:1", "3:3", "4:1", "4:2", "6:3", "8:2", "1:3", "12:4")
LEADS = {
    "a key for all heads": ((2, 4), (), ()),
    "a query for all heads": ((), (2, 4), (2, 4)),
    "a batch of 1": ((2, 4), (1, 2), (2, 2)),
    "a query batch of 1": ((1, 4), (3, 4), (3, 4)),
    "a value head for all": ((2, 4), (2, 2), (2, 1)),
    "a key head for all": ((2, 4), (2, 1), (2, 2)),
    "three axes": ((2, 1, 4), (1, 3, 2), (2, 3, 2)),
    "unequal axes": ((3, 1, 2, 2), (2, 2), (1, 2, 1)),
}


def arrays_of(leads: Any, dtype: Any, n: int, m: int, d: int) -> list[np.ndarray]:
    """Return a query, a key and a value under leading shapes of their own."""
    rng = np.random.default_rng(5)
    cores = ((n, d), (m, d), (m, d + 3))
    return [
        rng.standard_normal((*lead, *core)).astype(dtype)
        for lead, core in zip(leads, cores, strict=True)
    ]


@check(13, heads=GROUPS)
def grouped_heads(backend: str, heads: str) -> dict[str, float]:
    """Query head h reads key head h // (H_q // H_kv), within the bound."""
    of_query, of_key = (int(x) for x in heads.split(":"))
    return worst_of(
        held(
            backend,
            arrays_of(((2, of_query), (2, of_key), (2, of_key)), dtype, n, 33, 10),
            is_causal=True,
            q_offset="lower_right",
        )
        for n, dtype in itertools.product((1, 20), ("float32", "float64"))
    )


@check(11, heads=GROUPS)
def grouped_heads_keep_bits(backend: str, heads: str) -> None:
    """A head of a group has the bits that it has alone."""
    of_query, of_key = (int(x) for x in heads.split(":"))
    for n, operation in itertools.product((3, 20), OPERATIONS):
        leads = ((of_query,), (of_key,), (of_key,))
        arrays = arrays_of(leads, "float32", n, 33, 10)[: count_of(operation)]
        got = call(operation, backend, *arrays)
        total = max(of_query, of_key)
        for h in range(total):
            alone = [a[h * a.shape[0] // total] for a in arrays]
            want = call(operation, backend, *alone)
            assert_same_bits(got[h], want, f"{operation} of head {h}, n = {n}")


@check(13, kind=LEADS)
def broadcast_leads(backend: str, kind: str) -> dict[str, float]:
    """Leading axes of length 1, or absent, serve all that they meet."""
    worst = []
    for n, operation in itertools.product((2, 19), OPERATIONS):
        arrays = arrays_of(LEADS[kind], np.float32, n, 23, 6)[: count_of(operation)]
        more = {"return_lse": True} if operation == "attention" else {}
        got = call(operation, backend, *arrays, **more)
        worst.append(assert_result(got, exact(operation, *arrays)))
    return worst_of(worst)


POSITIONS = {"B 1": (2, 1), "1 H": (1, 4), "B H": (2, 4), "1 1": (1, 1)}


@check(13, shape=POSITIONS)
def offsets_by_heads(backend: str, shape: str) -> dict[str, float]:
    """q_offset as an array: a position for every batch, head or both."""
    rng = np.random.default_rng(6)
    return worst_of(
        held(
            backend,
            arrays_of(((2, 4), (2, 2), (2, 2)), np.float32, n, 33, 7),
            q_offset=rng.integers(-n, 36, POSITIONS[shape]),
            **options,
        )
        for n in (1, 5, 20)
        for options in ({"is_causal": True}, {"window_size": (6, 3)})
    )


@check(13, shape=POSITIONS)
def lengths_by_heads(backend: str, shape: str) -> dict[str, float]:
    """kv_lengths as an array: 0, m and between, for every batch, head or both."""
    rng = np.random.default_rng(7)
    worst = []
    for n in (1, 5, 20):
        lengths = rng.integers(0, 34, POSITIONS[shape])
        lengths.flat[0] = 33
        if lengths.size > 1:
            lengths.flat[-1] = 0
        for options in ({}, {"is_causal": True, "q_offset": "lower_right"}):
            arrays = arrays_of(((2, 4), (2, 2), (2, 2)), np.float32, n, 33, 7)
            worst.append(held(backend, arrays, kv_lengths=lengths, **options))
    return worst_of(worst)


@check(13, dtype=("int8", "int16", "int32", "int64", "uint8", "uint64", "list"))
def positions_of_dtype(backend: str, dtype: str) -> None:
    """Offsets and lengths of any integer dtype, and lists, mean the same."""
    arrays = arrays_of(((2, 4), (2, 2), (2, 2)), np.float32, 6, 33, 7)
    offsets, lengths = np.array([[3], [20]]), np.array([[33], [17]])
    want = call(
        "attention", backend, *arrays, return_lse=True, is_causal=True,
        q_offset=offsets, kv_lengths=lengths,
    )  # fmt: skip
    moved: list[Any] = [
        x.tolist() if dtype == "list" else x.astype(dtype) for x in (offsets, lengths)
    ]
    got = call(
        "attention", backend, *arrays, return_lse=True, is_causal=True,
        q_offset=moved[0], kv_lengths=moved[1],
    )  # fmt: skip
    for a, b, name in zip(got, want, ("output", "lse"), strict=True):
        assert_same_bits(a, b, f"{name} with {dtype}")


@check(13, n=(1, 4, 17))
def decoding_step(backend: str, n: int) -> dict[str, float]:
    """New queries behind caches of several lengths, as a model decodes."""
    arrays = arrays_of(((3, 8), (3, 2), (3, 2)), np.float32, n, 130, 16)
    lengths = np.array([[n], [77], [130]])
    return held(
        backend, arrays, kv_lengths=lengths, is_causal=True, q_offset=lengths - n
    )
