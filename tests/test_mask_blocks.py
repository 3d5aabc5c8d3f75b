"""What blocks are under a mask: never wrong, exact where promised, quick and small."""

from __future__ import annotations

import threading
import time
import tracemalloc
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from numbattn import masks
from numbattn.masks import blocks as mask_blocks
from numbattn.masks.blocks import Blocks, blocks

SEEDS = st.integers(0, 2**32 - 1)


def edges(size: int, step: int) -> np.ndarray:
    return np.append(np.arange(0, size, step), size)


def random_edges(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return edges from 0 to size, some of them twice, or of a part only."""
    inner = rng.integers(0, size + 1, rng.integers(0, 7))
    ends = [0, size] if rng.random() < 0.8 else []
    found = np.sort(np.concatenate([inner, ends])).astype(np.int64)
    return found if len(found) else np.array([0], np.int64)


def random_ids(rng: np.random.Generator, size: int) -> np.ndarray:
    ids = rng.integers(-2, rng.integers(0, 9), size)
    kind = rng.integers(3)
    if kind == 0:
        return np.sort(ids)
    return np.repeat(ids, 3)[:size] if kind == 1 else ids


def squares(b: Any, h: Any, q_idx: Any, kv_idx: Any, size: Any) -> Any:
    return q_idx // size == kv_idx // size + h


def random_leaf(rng: np.random.Generator, n: int, m: int) -> masks.Mask:
    side = [None, -1, *range(7)]
    makers: list[Callable[[], masks.Mask]] = [
        lambda: masks.causal(int(rng.integers(-9, 9))),
        lambda: masks.sliding_window(*(side[x] for x in rng.integers(0, 9, 2))),
        lambda: masks.prefix(int(rng.integers(0, m + 3))),
        lambda: masks.prefix(rng.integers(0, m + 3, (2, 3))),
        lambda: masks.dilated(int(rng.integers(1, 9))),
        lambda: masks.document(random_ids(rng, n), random_ids(rng, m)),
        lambda: masks.from_array(rng.random((n, m)) < rng.random()),
        lambda: masks.from_function(squares, (int(rng.integers(1, 9)),)),
    ]
    return makers[rng.integers(len(makers))]()


def random_mask(rng: np.random.Generator, n: int, m: int, depth: int) -> masks.Mask:
    kind = rng.integers(4) if depth else 3
    if kind == 3:
        return random_leaf(rng, n, m)
    one = random_mask(rng, n, m, depth - 1)
    if kind == 2:
        return ~one
    other = random_mask(rng, n, m, depth - 1)
    return one & other if kind else one | other


def compare(
    found: Blocks, seen: np.ndarray, rows: np.ndarray, keys: np.ndarray, exact: bool
) -> None:
    """Hold blocks to the whole mask."""
    assert [x.shape for x in found] == [(len(rows) - 1, len(keys) - 1)] * 3
    assert [x.dtype for x in found] == [np.int32, np.int32, bool]
    for a, (r0, r1) in enumerate(pairwise(rows)):
        for c, (k0, k1) in enumerate(pairwise(keys)):
            first, last, full = (x[a, c] for x in found)
            block = seen[r0:r1, k0:k1]
            some = np.flatnonzero(block.any(axis=0))
            assert 0 <= first <= last <= k1 - k0
            assert first < last or not full
            assert all((first <= some) & (some < last))
            if full:
                assert block[:, first:last].all()
                assert r0 < r1
            if exact:
                hull = (some[0], some[-1] + 1) if len(some) else (0, 0)
                assert (first, last) == hull
                assert full == (len(some) and block[:, slice(*hull)].all())


@settings(max_examples=300, deadline=None)
@given(SEEDS)
def test_blocks_of_single_masks_are_exact(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, m = (int(x) for x in rng.integers(0, 40, 2))
    mask = random_leaf(rng, n, m)
    rows, keys = random_edges(rng, n), random_edges(rng, m)
    q_offset, b, h = (int(x) for x in (rng.integers(-30, 30), *rng.integers(0, 2, 2)))
    whole = mask.materialize(n, m, batch=2, heads=3, q_offset=q_offset)[b, h]
    compare(blocks(mask, rows, keys, q_offset, b, h), whole, rows, keys, exact=True)


@settings(max_examples=300, deadline=None)
@given(SEEDS)
@example(0)
def test_blocks_of_combinations_are_never_wrong(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, m = (int(x) for x in rng.integers(0, 40, 2))
    mask = random_mask(rng, n, m, 3)
    rows, keys = random_edges(rng, n), random_edges(rng, m)
    q_offset, b, h = (int(x) for x in (rng.integers(-30, 30), *rng.integers(0, 2, 2)))
    whole = mask.materialize(n, m, batch=2, heads=3, q_offset=q_offset)[b, h]
    compare(blocks(mask, rows, keys, q_offset, b, h), whole, rows, keys, exact=False)


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_counts_are_those_of_the_whole_mask(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, m = (int(x) for x in rng.integers(1, 40, 2))
    mask = random_mask(rng, n, m, 2)
    rows, keys = edges(n, 7), edges(m, 5)
    whole = mask.materialize(n, m, batch=2, heads=3, q_offset=4)[1, 2]
    by_row = np.add.reduceat(whole.astype(int), rows[:-1], axis=0)
    expected = np.add.reduceat(by_row, keys[:-1], axis=1)
    np.testing.assert_array_equal(mask.counted(rows, keys, 4, 1, 2), expected)


def known(first: int, last: int, full: bool) -> Blocks:
    one = np.array([[first]]), np.array([[last]]), np.array([[full]])
    return mask_blocks.made(*one)


def values(found: Blocks) -> tuple[int, int, bool]:
    return tuple(x[0, 0].item() for x in found)  # type: ignore[return-value]


def test_the_rules_of_hulls() -> None:
    whole, none = known(0, 8, True), known(0, 0, False)
    start, end, middle = known(0, 5, True), known(5, 8, True), known(2, 6, False)
    assert values(mask_blocks.both(start, middle)) == (2, 5, False)
    assert values(mask_blocks.both(start, known(3, 8, True))) == (3, 5, True)
    assert values(mask_blocks.both(start, end)) == (0, 0, False)
    assert values(mask_blocks.either(start, end)) == (0, 8, True)
    assert values(mask_blocks.either(start, known(6, 8, True))) == (0, 8, False)
    assert values(mask_blocks.either(middle, whole)) == (0, 8, True)
    assert values(mask_blocks.either(none, end)) == (5, 8, True)
    assert values(mask_blocks.either(middle, none)) == (2, 6, False)
    rows, keys = np.array([0, 3]), np.array([16, 24])
    expected = [
        (none, (0, 8, True)),
        (whole, (0, 0, False)),
        (start, (5, 8, True)),
        (end, (0, 5, True)),
        (middle, (0, 8, False)),
        (known(2, 6, True), (0, 8, False)),
    ]
    for operand, result in expected:
        assert values(mask_blocks.inverse(operand, rows, keys)) == result


SORTED = np.arange(8192) // 256
LARGE = {
    "causal": (masks.causal(), 1e-3),
    "window": (masks.sliding_window(256, 0), 1e-3),
    "prefix": (masks.prefix(1000), 1e-3),
    "dilated": (masks.dilated(7), 1e-3),
    "document": (masks.document(SORTED, SORTED), 5e-3),
}


@pytest.mark.parametrize("name", LARGE)
def test_blocks_are_found_in_the_time_promised(name: str) -> None:
    mask, promised = LARGE[name]
    rows, keys = edges(8192, 48), edges(8192, 256)
    times = []
    for _ in range(7):
        start = time.perf_counter()
        mask.hulls(rows, keys, 0, 0, 0, mask_blocks.by_pieces)
        times.append(time.perf_counter() - start)
    assert min(times) < 4 * promised


@pytest.mark.parametrize(
    "mask",
    [
        masks.causal() & masks.sliding_window(5000, 0),
        masks.document(np.arange(10**5) // 300, np.arange(10**5) // 300),
        masks.document(np.arange(10**5) // 300 % 7, np.arange(10**5) // 300 % 7),
        ~masks.dilated(3) | masks.prefix(50_000),
    ],
    ids=repr,
)
def test_blocks_take_memory_by_the_block_and_not_by_the_pair(mask: Any) -> None:
    rows, keys = edges(10**5, 48), edges(10**5, 256)
    count = (len(rows) - 1) * (len(keys) - 1)
    tracemalloc.start()
    try:
        blocks(mask, rows, keys, 0, 0, 0)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # the pairs would be 10**10 bytes
    assert peak < 12 * 8 * count + 32 * 10**5


def test_evaluation_goes_by_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mask_blocks, "PIECE", 64)
    array = np.random.default_rng(0).random((50, 70)) < 0.3
    array[:, 10:30] = True
    mask = masks.from_array(array)
    sizes = []
    attended = type(mask).attended

    def watched(self: Any, b: int, h: int, i: Any, j: Any, q: int) -> Any:
        sizes.append(len(i) * len(j))
        return attended(self, b, h, i, j, q)

    monkeypatch.setattr(type(mask), "attended", watched)
    rows, keys = np.array([0, 45, 50]), edges(70, 9)
    compare(blocks(mask, rows, keys, 0, 0, 0), array, rows, keys, exact=True)
    assert sum(sizes) == array.size
    assert max(sizes) <= 64


def test_results_are_remembered_by_what_they_depend_on() -> None:
    asked: list[tuple[Any, ...]] = []

    def evaluate(leaf: Any, *call: Any) -> Blocks:
        asked.append((leaf, *call[2:]))
        return mask_blocks.by_pieces(leaf, *call)

    by_head = np.random.default_rng(0).random((3, 8, 9)) < 0.5
    leaf = masks.from_array(by_head)
    mask = leaf & masks.causal()
    rows, keys = edges(8, 3), edges(9, 4)
    first = blocks(mask, rows, keys, 0, 0, 1, evaluate)
    assert blocks(mask, rows, keys, 0, 5, 1, evaluate) is first  # not by b
    assert blocks(mask, rows.copy(), list(keys), 0, 0, 1, evaluate) is first  # type: ignore[arg-type]
    assert len(asked) == 1
    assert blocks(mask, rows, keys, 0, 0, 2, evaluate) is not first
    blocks(mask, rows, keys, 1, 0, 1, evaluate)
    blocks(mask, rows, edges(9, 5), 0, 0, 1, evaluate)
    assert asked == [(leaf, 0, 0, 1), (leaf, 0, 0, 2), (leaf, 1, 0, 1), (leaf, 0, 0, 1)]
    blocks(leaf | masks.dilated(2), rows, keys, 0, 0, 1, evaluate)
    assert len(asked) == 4  # what the part knows serves another combination
    assert not any(array.flags.writeable for array in first)


def test_memory_of_results_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = masks.causal()
    rows, keys = edges(100, 3), edges(100, 4)
    for q_offset in range(40):
        blocks(mask, rows, keys, q_offset, 0, 0)
    assert len(mask.memo) == mask_blocks.MAX_ENTRIES
    kept = blocks(mask, rows, keys, 39, 0, 0)
    assert kept is blocks(mask, rows, keys, 39, 0, 0)
    one = 9 * 34 * 25 + 8 * (35 + 26)
    monkeypatch.setattr(mask_blocks, "MAX_BYTES", 3 * one)
    blocks(mask, rows, keys, 50, 0, 0)
    assert len(mask.memo) == 3
    monkeypatch.setattr(mask_blocks, "MAX_BYTES", one - 1)
    other = masks.causal()
    blocks(other, rows, keys, 0, 0, 0)
    assert len(other.memo) == 0


def test_threads_share_what_is_remembered() -> None:
    mask = masks.sliding_window(5, 2)
    rows, keys = edges(64, 5), edges(64, 7)
    expected = [
        blocks(masks.sliding_window(5, 2), rows, keys, q, 0, 0) for q in range(24)
    ]
    wrong: list[int] = []

    def ask(seed: int) -> None:
        for q in np.random.default_rng(seed).integers(0, 24, 200):
            found = blocks(mask, rows, keys, int(q), 0, 0)
            if any((x != y).any() for x, y in zip(found, expected[q], strict=True)):
                wrong.append(q)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(mask.memo) == mask_blocks.MAX_ENTRIES
