"""Checks of same bits: cuts, batches, heads, threads, memory limits, repetition."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

import numbattn
from numbattn.testing.bounds import assert_same_bits
from numbattn.testing.calls import call
from numbattn.testing.problems import (
    OPERATIONS,
    SHORT,
    batch,
    count_of,
    inputs,
    results,
)
from numbattn.testing.registry import check


@check(11, operation=OPERATIONS, dtype=("float32", "float64"))
def query_blocks_keep_bits(backend: str, operation: str, dtype: str) -> None:
    """Pieces along the queries, each above the short limit, have the same bits."""
    n = 4 * SHORT + 9
    count = count_of(operation)
    arrays = inputs(dtype, n=n)[:count]
    options: dict[str, Any] = {"is_causal": True, "window_size": (50, None)}
    want = call(operation, backend, *arrays, **options)
    for cuts in ((0, SHORT + 1, n), (0, 50, 2 * SHORT + 20, n)):
        pieces = [
            call(operation, backend, arrays[0][a:b], *arrays[1:], q_offset=a, **options)
            for a, b in itertools.pairwise(cuts)
        ]
        assert_same_bits(np.concatenate(pieces), want, f"{operation} cut at {cuts}")


@check(11, operation=OPERATIONS, n=(1, 20, 40))
def batches_keep_bits(backend: str, operation: str, n: int) -> None:
    """A row has the same bits alone, in a batch, and whatever the other heads are."""
    arrays = batch(n=n)[: count_of(operation)]
    want = call(operation, backend, *arrays)
    for b, h in np.ndindex(2, 4):
        alone = [arrays[0][b, h], *(a[b, h // 2] for a in arrays[1:])]
        got = call(operation, backend, *alone)
        assert_same_bits(got, want[b, h], f"{operation} of batch {b}, head {h}")


@check(11, operation=OPERATIONS, dtype=("float32", "float64"))
def threads_keep_bits(backend: str, operation: str, dtype: str) -> None:
    """The number of threads, and a second run, change no bit."""
    arrays = inputs(dtype, n=130, m=150, d=33)[: count_of(operation)]
    want = call(operation, backend, *arrays, num_threads=1)
    for threads in (1, 2):
        got = call(operation, backend, *arrays, num_threads=threads)
        assert_same_bits(got, want, f"{operation} on {threads} threads")


@check(11, operation=OPERATIONS, limit=("64 MiB", "800 kB"))
def memory_limit_keeps_bits(backend: str, operation: str, limit: str) -> None:
    """A memory limit that the call meets, if need be by blocks, changes no bit."""
    arrays = inputs("float16", n=130, m=150)[: count_of(operation)]
    want = call(operation, backend, *arrays)
    try:
        got = call(operation, backend, *arrays, max_memory=limit)
    except numbattn.MemoryLimitError:
        return  # a backend may need more
    assert_same_bits(got, want, operation)


@check(11, operation=OPERATIONS, dtype=("float32", "float64", "float16"))
def batch_compositions_keep_bits(backend: str, operation: str, dtype: str) -> None:
    """A head has the same bits whichever heads stand beside it, in any order."""
    _compositions(backend, operation, dtype, 10)


@check(11, level="full", operation=OPERATIONS, dtype=("float32",))
def many_batch_compositions_keep_bits(backend: str, operation: str, dtype: str) -> None:
    """A head has the same bits in 100 random batches."""
    _compositions(backend, operation, dtype, 100)


def _compositions(backend: str, operation: str, dtype: str, count: int) -> None:
    rng = np.random.default_rng(11)
    for n in (7, 39):
        heads = [
            inputs(dtype, seed=s, n=n, m=45, d=19)[: count_of(operation)]
            for s in range(5)
        ]
        want = [call(operation, backend, *arrays, is_causal=True) for arrays in heads]
        for _ in range(count):
            shape = tuple(int(x) for x in rng.integers(1, 4, int(rng.integers(1, 3))))
            chosen = rng.integers(len(heads), size=shape)
            arrays = [
                np.stack([heads[i][k] for i in chosen.flat]).reshape(
                    *shape, *heads[0][k].shape
                )
                for k in range(count_of(operation))
            ]
            got = call(operation, backend, *arrays, is_causal=True)
            for at in np.ndindex(*shape):
                what = f"{operation} of head {at} of {shape}, n = {n}"
                assert_same_bits(got[at], want[chosen[at]], what)


@check(11, operation=OPERATIONS, dtype=("float32", "float64"))
def random_cuts_keep_bits(backend: str, operation: str, dtype: str) -> None:
    """Random pieces along the queries, all above the short limit, have the bits."""
    rng = np.random.default_rng(12)
    n = 6 * SHORT
    arrays = inputs(dtype, n=n, m=77, d=21)[: count_of(operation)]
    want = call(operation, backend, *arrays)
    for _ in range(3):
        at, pieces = 0, []
        while at < n:
            stop = at + SHORT + 1 + int(rng.integers(60))
            stop = n if n - stop <= SHORT else stop
            pieces.append(call(operation, backend, arrays[0][at:stop], *arrays[1:]))
            at = stop
        assert_same_bits(np.concatenate(pieces), want, operation)


@check(11, operation=OPERATIONS, n=(9, 50))
def other_rows_keep_bits(backend: str, operation: str, n: int) -> None:
    """What the other queries are, NaN too, changes no bit of a row."""
    arrays = inputs(n=n)[: count_of(operation)]
    want = call(operation, backend, *arrays)
    for row in (0, n // 2, n - 1):
        for other in (0.0, 1e3, np.nan):
            query = np.full_like(arrays[0], other)
            query[row] = arrays[0][row]
            got = call(operation, backend, query, *arrays[1:])
            assert_same_bits(got[row], want[row], f"row {row} among rows of {other}")


@check(11, operation=OPERATIONS)
def shared_heads_keep_bits(backend: str, operation: str) -> None:
    """Grouped heads have the bits of keys and values repeated for every head."""
    for n in (5, 40):
        arrays = batch(n=n)[: count_of(operation)]
        repeated = [arrays[0], *(np.repeat(a, 2, axis=-3) for a in arrays[1:])]
        want = call(operation, backend, *repeated, is_causal=True)
        got = call(operation, backend, *arrays, is_causal=True)
        assert_same_bits(got, want, f"{operation}, n = {n}")


@check(11, operation=OPERATIONS)
def leading_shape_keeps_bits(backend: str, operation: str) -> None:
    """The same heads under other leading axes have the same bits."""
    rng = np.random.default_rng(13)
    shapes = ((6, 20, 9), (6, 33, 9), (6, 33, 4))[: count_of(operation)]
    arrays = [rng.standard_normal(shape) for shape in shapes]
    want = call(operation, backend, *arrays)
    for lead in ((1, 6), (2, 3), (6, 1), (3, 1, 2), (1, 1, 1, 6)):
        moved = [a.reshape(*lead, *a.shape[1:]) for a in arrays]
        got = call(operation, backend, *moved)
        assert_same_bits(got.reshape(want.shape), want, f"{operation} as {lead}")


@check(11, n=(5, 70))
def iterated_blocks_keep_bits(backend: str, n: int) -> None:
    """The blocks of iter_scores have the bits of scores."""
    query, key, _ = inputs(n=n)
    options: dict[str, Any] = {"is_causal": True, "q_offset": 9, "softcap": 3.0}
    want = call("scores", backend, query, key, **options)
    for shape in (None, (40, 30), (33, 70)):
        got = np.empty_like(want)
        for rows, columns, block in numbattn.iter_scores(
            query, key, block_shape=shape, backend=backend, **options
        ):
            got[rows, columns] = block
        assert_same_bits(got, want, f"blocks of {shape}")


@check(11, operation=OPERATIONS)
def progress_keeps_bits(backend: str, operation: str) -> None:
    """Watching the progress changes no bit."""
    arrays = inputs(n=150, m=200)[: count_of(operation)]
    want = call(operation, backend, *arrays)
    got = call(operation, backend, *arrays, progress=lambda done, total: None)
    assert_same_bits(got, want, operation)


@check(11, n=(1, 9, 50), dtype=("float32", "float64", "float16"))
def repetition_keeps_bits(backend: str, n: int, dtype: str) -> None:
    """Ten runs have the same bits."""
    arrays = inputs(dtype, n=n)
    want = results(backend, arrays)
    for _ in range(10):
        for name, got in results(backend, arrays).items():
            assert_same_bits(got, want[name], name)
