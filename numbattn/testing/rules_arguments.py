"""Checks of the arrays and numbers that score functions read."""

from __future__ import annotations

from typing import Any

import numpy as np

from numbattn.score_mods import ScoreMod
from numbattn.testing.bounds import assert_same_bits
from numbattn.testing.calls import call
from numbattn.testing.cases import float_dtypes
from numbattn.testing.layouts import LAYOUTS, relayout
from numbattn.testing.problems import (
    BAD,
    OPERATIONS,
    Array,
    check_of_functions,
    count_of,
    held,
    inputs,
    worst_of,
)
from numbattn.testing.registry import require
from numbattn.testing.rules_poison import inside

N, M = 20, 37
INTS = (
    "bool",
    "int8",
    "uint8",
    "int16",
    "uint16",
    "int32",
    "uint32",
    "int64",
    "uint64",
)
FLOATS = ("float16", "bfloat16", "float32", "float64")


def rank_1(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any, a: Any) -> Any:
    """Read along the keys."""
    return score + a[kv_idx]


def rank_2(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any, a: Any) -> Any:
    """Read a matrix."""
    return score + a[q_idx, kv_idx]


def rank_3(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any, a: Any) -> Any:
    """Read in two steps, the last index from the end."""
    return score + a[1, q_idx][kv_idx - a.shape[2]]


def rank_4(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any, a: Any) -> Any:
    """Read with four indices, two of them negative."""
    return score + a[-1, h, q_idx, -1 - kv_idx] * len(a)


RANKS = {
    1: (rank_1, (M,)),
    2: (rank_2, (N, M)),
    3: (rank_3, (2, N, M)),
    4: (rank_4, (3, 1, N, M)),
}


def of_dtype(name: str, shape: tuple[int, ...]) -> Array:
    """Return an array with small and, for ints, the largest numbers."""
    rng = np.random.default_rng(len(shape))
    if name in FLOATS:
        values: Array = rng.standard_normal(shape).astype(float_dtypes()[name])
        return values
    if name == "bool":
        return np.asarray(rng.random(shape) < 0.5)
    low = -128 if np.dtype(name).kind == "i" else 0
    top = 127 if name == "int8" else 255
    return rng.integers(low, top + 1, shape).astype(name)


@check_of_functions(14, dtype=(*INTS, *FLOATS))
def arguments_of_dtype(backend: str, dtype: str) -> dict[str, float]:
    """Arrays of every dtype are read, by functions of float32 and float64 scores."""
    if dtype in FLOATS and dtype not in float_dtypes():
        return {}
    array = of_dtype(dtype, (M,))
    return worst_of(
        held(
            backend, inputs(each, n=n, m=M), ("scores", "attention"),
            score_mod=rank_1, score_mod_args=(array,),
        )
        for each, n in (("float32", N), ("float64", 3))
    )  # fmt: skip


@check_of_functions(14, rank=RANKS, dtype=("float32", "int16"))
def arguments_of_rank(backend: str, rank: int, dtype: str) -> dict[str, float]:
    """Arrays of one to four axes are read, with negative indices, too."""
    function, shape = RANKS[rank]
    return held(
        backend, inputs(n=N, m=M), score_mod=function,
        score_mod_args=(of_dtype(dtype, shape),),
    )  # fmt: skip


def _moved(array: Array, layout: str) -> Array:
    if layout == "transposed":
        return np.ascontiguousarray(array.T).T
    if layout == "poisoned":
        return inside(array, np.nan)
    if layout == "repeated":
        return np.broadcast_to(array[:1], array.shape)
    return relayout(array, layout)


@check_of_functions(14, layout=(*LAYOUTS, "transposed", "poisoned", "repeated"))
def arguments_in_memory(backend: str, layout: str) -> None:
    """However an argument lies in memory: the bits of the contiguous copy."""
    arrays = inputs(n=N, m=M)
    for dtype in ("float32", "float64", "float16"):
        array = of_dtype(dtype, (N, M))
        if layout == "repeated":
            array = np.ascontiguousarray(np.broadcast_to(array[:1], (N, M)))
        moved = _moved(array, layout)
        for operation in OPERATIONS:
            given = arrays[: count_of(operation)]
            want, got = (
                call(operation, backend, *given, score_mod=rank_2, score_mod_args=(a,))
                for a in (array, moved)
            )
            assert_same_bits(got, want, f"{operation} with {dtype}")


def guarded_read(
    score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any, a: Any, c: Any
) -> Any:
    """Read arrays only where they have something."""
    if len(a) > 0:
        score = score + a[kv_idx % len(a)]
    if c.shape[1] > 0:
        score = score - c[0, kv_idx % c.shape[1]]
    return score


@check_of_functions(14, n=(4, 20))
def empty_arguments(backend: str, n: int) -> None:
    """Arrays without elements are arguments; their lengths are 0."""
    arrays = inputs(n=n)
    want = call("attention", backend, *arrays, score_mod=lambda s, b, h, q, k: s)
    empty = np.zeros(0, np.float32), np.zeros((3, 0), np.float32)
    some = np.ones(3, np.float32), np.ones((1, 2), np.float32)
    for args in (empty, some):
        got = call(
            "attention", backend, *arrays, score_mod=guarded_read, score_mod_args=args
        )
        require(np.allclose(got, want, 1e-5, 1e-6), f"with {args[0].size} elements")


@check_of_functions(14, operation=OPERATIONS)
def arguments_are_read_live(backend: str, operation: str) -> None:
    """A call sees what is in an array now, and other lengths; the next one as well."""
    arrays = inputs(n=N, m=M)[: count_of(operation)]
    table = of_dtype("float32", (M,))
    mod = ScoreMod(rank_1, (table,))
    for step in range(3):
        table += step
        table[step] = -9
        fresh = np.concatenate([table, np.zeros(step, np.float32)])
        want = call(
            operation, backend, *arrays, score_mod=rank_1, score_mod_args=(fresh,)
        )
        got = call(operation, backend, *arrays, score_mod=mod)
        assert_same_bits(got, want, f"{operation} after {step} changes")


@check_of_functions(9, operation=OPERATIONS)
def out_may_overlap_an_argument(backend: str, operation: str) -> None:
    """Where out is what a function reads, the result is as if it was not."""
    rng = np.random.default_rng(4)
    n = 24
    clean = [rng.standard_normal((n, n)).astype(np.float32) for _ in range(4)]
    arrays, table = clean[: count_of(operation)], clean[3]
    want = call(operation, backend, *arrays, score_mod=rank_2, score_mod_args=(table,))
    for shift in (0, 1, -5):
        memory = np.zeros((3 * n, n), np.float32)
        own = memory[n : 2 * n]
        own[...] = table
        out = memory[n + shift : 2 * n + shift]
        for mod in (
            {"score_mod": rank_2, "score_mod_args": (own,)},
            {"score_mod": ScoreMod(rank_2, (own,))},
        ):
            own[...] = table
            call(operation, backend, *arrays, out=out, **mod)
            assert_same_bits(np.array(out), want, f"{operation} shifted by {shift}")


def counted(
    score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any, size: Any, count: Any, on: Any
) -> Any:
    """Use numbers of three types."""
    return score + size * (kv_idx % count) if on else -score


@check_of_functions(14, n=(4, 20))
def number_arguments(backend: str, n: int) -> dict[str, float]:
    """Floats, ints and bools, NumPy's and arrays without axes, and other ones next."""
    arrays = inputs(n=n, m=M)
    return worst_of(
        held(backend, arrays, score_mod=counted, score_mod_args=args)
        for args in (
            (0.5, 3, True),
            (0.5, 3, False),
            (-1.25, 7, True),
            (np.float32(0.25), np.int16(5), np.bool_(True)),
            (np.array(1.5), np.array(2), np.array(True)),
            (2, 4, 1),
        )
    )


@check_of_functions(9, operation=OPERATIONS, poison=BAD)
def poison_around_with_a_function(backend: str, operation: str, poison: float) -> None:
    """What lies around inputs and arguments is not read where a score_mod is."""
    for n, dtype in ((5, "float32"), (18, "float64"), (40, "float32")):
        arrays = inputs(dtype, n=n, m=35, d=13)[: count_of(operation)]
        table = of_dtype(dtype, (n, 35))
        want = call(
            operation, backend, *arrays, score_mod=rank_2, score_mod_args=(table,)
        )
        got = call(
            operation, backend, *(inside(a, poison) for a in arrays),
            score_mod=rank_2, score_mod_args=(inside(table, poison),),
        )  # fmt: skip
        assert_same_bits(got, want, f"{operation}, n = {n}")


@check_of_functions(9, operation=OPERATIONS, n=(3, 21))
def arguments_are_not_written(backend: str, operation: str, n: int) -> None:
    """No byte of an argument changes, and read-only ones do."""
    arrays = inputs(n=n, m=M)[: count_of(operation)]
    table = of_dtype("float32", (n, M))
    before = table.tobytes()
    for writeable in (True, False):
        table.flags.writeable = writeable
        call(operation, backend, *arrays, score_mod=rank_2, score_mod_args=(table,))
        require(table.tobytes() == before, "an argument changed")
