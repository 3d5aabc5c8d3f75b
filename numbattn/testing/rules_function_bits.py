"""Checks of same bits where a score_mod or a mask object takes part."""

from __future__ import annotations

import itertools
from typing import Any, cast

import numpy as np

import numbattn
from numbattn import masks
from numbattn.testing.bounds import assert_same_bits
from numbattn.testing.calls import call
from numbattn.testing.layouts import guarded_empty
from numbattn.testing.problems import (
    OPERATIONS,
    SHORT,
    Array,
    batch,
    check_of_functions,
    count_of,
    inputs,
)
from numbattn.testing.registry import require

KINDS = ("score_mod", "mask", "function", "both")
FEW_AND_MANY = (1, 2, 9, 16, 17, 40, 70)


def sloped(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any, slopes: Any) -> Any:
    """Penalise distance, and bend a little."""
    return score - slopes[h] * abs(q_idx - kv_idx) + 0.1 * np.tanh(score)


def patched(b: Any, h: Any, q_idx: Any, kv_idx: Any, width: Any) -> Any:
    """Attend patches: no window, so that every block is looked at."""
    return (q_idx // width + kv_idx // width) % 3 != 1


def kind_of(kind: str) -> dict[str, Any]:
    """Return options with a score_mod, a mask object, or both."""
    mod: dict[str, Any] = {
        "score_mod": sloped,
        "score_mod_args": (np.linspace(0.01, 0.2, 8).astype(np.float32),),
    }
    window = masks.causal(9) & ~masks.dilated(3) | masks.prefix(5)
    function = masks.from_function(patched, (6,))
    return {
        "score_mod": mod,
        "mask": {"mask": window},
        "function": {"mask": function},
        "both": {**mod, "mask": window | function},
    }[kind]


@check_of_functions(11, operation=OPERATIONS, kind=KINDS)
def functions_of_heads_keep_bits(backend: str, operation: str, kind: str) -> None:
    """A head has the same bits alone and in a batch, on both sides of the limit."""
    for n in FEW_AND_MANY:
        arrays = batch(n=n, heads=2)[: count_of(operation)]
        want = call(operation, backend, *arrays, **kind_of(kind))
        for b, h in np.ndindex(2, 2):
            alone = [arrays[0][b, h], *(a[b, 0] for a in arrays[1:])]
            options = kind_of(kind)
            if "score_mod" in options:
                options["score_mod_args"] = (options["score_mod_args"][0][h:],)
            got = call(operation, backend, *alone, **options)
            assert_same_bits(got, want[b, h], f"{operation} {n}, head {b}, {h}")


@check_of_functions(11, level="full", operation=OPERATIONS, kind=KINDS)
def functions_keep_bits_by_threads(backend: str, operation: str, kind: str) -> None:
    """Threads, repetition and memory limits change no bit."""
    for n, dtype in ((130, "float32"), (9, "float32"), (130, "float16")):
        arrays = inputs(dtype, n=n, m=150, d=33)[: count_of(operation)]
        options = kind_of(kind)
        want = call(operation, backend, *arrays, num_threads=1, **options)
        for more in ({"num_threads": 2}, {}, {"max_memory": "900 kB"}):
            try:
                got = call(operation, backend, *arrays, **options, **more)
            except numbattn.MemoryLimitError:
                continue  # a backend may need more
            assert_same_bits(got, want, f"{operation} of {dtype} with {more}")


@check_of_functions(11, operation=OPERATIONS, kind=KINDS)
def functions_keep_bits_when_cut(backend: str, operation: str, kind: str) -> None:
    """Pieces along the queries, above the short limit, have the bits of one shot."""
    n = 4 * SHORT + 9
    for dtype in ("float32", "float64"):
        arrays = inputs(dtype, n=n)[: count_of(operation)]
        options = kind_of(kind)
        want = call(operation, backend, *arrays, **options)
        for cuts in ((0, SHORT + 1, n), (0, 50, 2 * SHORT + 20, n)):
            pieces = [
                call(
                    operation, backend, arrays[0][a:b], *arrays[1:], q_offset=a,
                    **options,
                )
                for a, b in itertools.pairwise(cuts)
            ]  # fmt: skip
            assert_same_bits(np.concatenate(pieces), want, f"{operation} at {cuts}")


class Slices:
    """The least that `out` may be: a shape, a dtype and assignment to slices."""

    def __init__(self, like: Array) -> None:
        self.shape, self.dtype, self.ndim = like.shape, like.dtype, like.ndim
        self.inner = np.full_like(like, np.nan)

    def __setitem__(self, at: Any, block: Array) -> None:
        self.inner[at] = block


@check_of_functions(11, level="full", operation=OPERATIONS, kind=KINDS)
def functions_keep_bits_into_out(backend: str, operation: str, kind: str) -> None:
    """Whatever out is, and in whatever blocks it is written."""
    for n, dtype in ((9, "float32"), (90, "float64"), (90, "float16")):
        arrays = inputs(dtype, n=n, m=130)[: count_of(operation)]
        options = kind_of(kind)
        want = call(operation, backend, *arrays, **options)
        target = Slices(want)
        least = numbattn.estimate_memory(
            *arrays, operation=cast("Any", operation), backend=backend, out=target,
            max_memory=1, **options,
        ).total  # fmt: skip
        call(
            operation,
            backend,
            *arrays,
            out=target,
            max_memory=least + 20_000,
            **options,
        )
        assert_same_bits(target.inner, want, f"{operation} into slices")
        for layout in ("fortran", "reversed_all", "rows_of_wider", "memmap"):
            guard = guarded_empty(want.shape, want.dtype, layout)
            call(operation, backend, *arrays, out=guard.array, **options)
            require(guard.intact(), f"{operation} wrote outside of out, {layout}")
            got = np.array(guard.array.view(np.ndarray))
            assert_same_bits(got, want, f"{operation} into {layout}")


@check_of_functions(11, n=(5, 70), kind=KINDS)
def functions_keep_bits_when_iterated(backend: str, n: int, kind: str) -> None:
    """The blocks of iter_scores have the bits of scores: places count on."""
    query, key, _ = inputs(n=n)
    options: dict[str, Any] = {"q_offset": 4, "softcap": 3.0, **kind_of(kind)}
    want = call("scores", backend, query, key, **options)
    for shape in (None, (40, 30), (33, 70), (3, 7)):
        got = np.empty_like(want)
        for rows, columns, block in numbattn.iter_scores(
            query, key, block_shape=shape, backend=backend, **options
        ):
            got[rows, columns] = block
        assert_same_bits(got, want, f"blocks of {shape}")


def by_sequence(
    score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any, slopes: Any, first: Any
) -> Any:
    """Look at every number that a function gets."""
    return score - slopes[b + first] * abs(q_idx - kv_idx) + 0.25 * h


def of_sequence(b: Any, h: Any, q_idx: Any, kv_idx: Any, steps: Any, first: Any) -> Any:
    """Hide other keys in each sequence."""
    return (q_idx + kv_idx + h) % steps[b + first] != 1


@check_of_functions(11, kind=KINDS, dtype=("float32", "float16"))
def sequences_keep_bits(backend: str, kind: str, dtype: str) -> None:
    """Attention of packed sequences has the bits of calls of its own for each."""
    rows, keys = [0, 5, 5, 40, 57, 60], [0, 30, 41, 41, 90, 160]
    query, key, value = (
        np.stack([inputs(dtype, seed=s, n=60, m=160)[i] for s in range(2)])
        for i in range(3)
    )
    slopes = np.array([0.1, 0.3, 0.0, 0.2, 0.05], np.float32)
    steps = np.array([2, 3, 4, 5, 2])

    def options(first: int) -> dict[str, Any]:
        mod: dict[str, Any] = {
            "score_mod": by_sequence,
            "score_mod_args": (slopes, first),
        }
        mask = masks.causal(20) & masks.from_function(of_sequence, (steps, first))
        if kind == "score_mod":
            return mod
        if kind == "mask":
            return {"mask": masks.causal(20) | masks.prefix(3)}
        return {"mask": mask, **(mod if kind == "both" else {})}

    got = numbattn.attention_varlen(
        query, key, value, rows, keys, q_offset=[0, 3, 1, 9, 2], return_lse=True,
        backend=backend, **options(0),
    )  # fmt: skip
    for s, offset in enumerate((0, 3, 1, 9, 2)):
        i, j = slice(*rows[s : s + 2]), slice(*keys[s : s + 2])
        want = call(
            "attention", backend, query[:, i], key[:, j], value[:, j],
            q_offset=offset, return_lse=True, **options(s),
        )  # fmt: skip
        assert_same_bits(got[0][:, i], want[0], f"sequence {s}")
        assert_same_bits(got[1][:, i], want[1], f"lse of sequence {s}")
