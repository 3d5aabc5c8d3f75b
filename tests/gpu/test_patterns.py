"""Tiles of mask objects: what is called empty or full is, and memory is kept apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from numbattn import masks
from numbattn.backends.cuda import layout, patterns
from numbattn.backends.cuda.layout import EMPTY, FULL, PARTIAL
from numbattn.masks.blocks import blocks
from numbattn.problem import AttentionProblem
from numbattn.testing.rules_masks import kinds

B, H, N, M = 2, 4, 21, 70
Q, KV = 4, 8


def problem_of(mask: Any, offset: Any = 3) -> AttentionProblem:
    kind = np.dtype("f4")
    return AttentionProblem(
        "scores", np.zeros((B, H, N, 1), kind), np.zeros((B, H, M, 1), kind), None,
        (B, H), N, M, 1, 0, kind, kind, 1.0, q_offset=offset, kv_lengths=M,
        pattern=mask, n_total=N,
        indices=np.stack(np.indices((B, H)), axis=-1).reshape(-1, 2),
    )  # fmt: skip


def tiles_of(problem: AttentionProblem) -> Any:
    out = np.zeros(problem.out_shape, np.float32)
    leads = layout.lead_table(problem, out, {})
    found, starts = patterns.blocks(problem, leads, Q, KV)
    shape = -(-problem.n // Q), -(-problem.m // KV)
    assert found.dtype == np.int8
    assert starts.dtype == np.int64
    size = shape[0] * shape[1]
    assert all(start % max(1, size) == 0 for start in starts)
    return np.stack([found[start : start + size].reshape(shape) for start in starts])


def squares(seen: Any) -> Any:
    """Yield the tiles of (..., n, m) by row and column."""
    for i in range(-(-seen.shape[-2] // Q)):
        for j in range(-(-seen.shape[-1] // KV)):
            rows, keys = slice(i * Q, i * Q + Q), slice(j * KV, j * KV + KV)
            yield i, j, seen[..., rows, keys]


@pytest.mark.parametrize("kind", [*kinds(1, 1), "~", "both"])
def test_tiles_are_exactly_what_the_mask_is(kind: str) -> None:
    known = kinds(N, M)
    known["~"] = ~known["prefixes"]
    known["both"] = known["causal"] & known["no prefix"] | known["documents"]
    got = tiles_of(problem_of(known[kind]))
    seen = known[kind].materialize(N, M, batch=B, heads=H, q_offset=3)
    seen = np.broadcast_to(seen, (B, H, N, M)).reshape(B * H, N, M)
    for i, j, part in squares(seen):
        want = np.where(part.any((1, 2)), PARTIAL, EMPTY)
        want[part.all((1, 2))] = FULL
        assert np.array_equal(got[:, i, j], want), (i, j)


def test_offsets_and_parts_of_a_call_are_counted() -> None:
    offset = np.arange(B * H).reshape(B, H) * 5
    whole = problem_of(masks.causal() & masks.from_array(np.ones((N, M), bool)), offset)
    part = whole.block(5, 18, 10, 51)
    got = tiles_of(part)
    for lead, (b, h) in enumerate(np.ndindex(B, H)):
        seen = np.arange(M) <= np.arange(N)[:, None] + offset[b, h]
        for i, j, square in squares(seen[5:18, 10:51]):
            want = FULL if square.all() else PARTIAL if square.any() else EMPTY
            assert got[lead, i, j] == want


def hidden(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    return kv_idx > 1000


def test_functions_are_not_asked_about_too_many_scores(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mask = masks.causal() & masks.from_function(hidden)
    assert np.all(tiles_of(problem_of(mask)) == EMPTY)
    monkeypatch.setattr(patterns, "EVALUATED", N * M - 1)
    fresh = masks.causal() & masks.from_function(hidden)
    got = tiles_of(problem_of(fresh))
    assert np.array_equal(got == EMPTY, tiles_of(problem_of(masks.causal())) == EMPTY)
    assert not np.any(got == FULL)


def test_what_nobody_asked_a_function_is_remembered_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mask = masks.from_function(hidden)
    monkeypatch.setattr(patterns, "EVALUATED", 0)
    assert np.all(tiles_of(problem_of(mask)) == PARTIAL)
    rows, keys = (np.append(np.arange(0, x, y), x) for x, y in ((N, Q), (M, KV)))
    assert not blocks(mask, rows, keys, 3, 0, 0).last.any()


@pytest.mark.parametrize(("n", "m"), [(0, 5), (5, 0), (0, 0)])
def test_nothing_has_no_tiles(n: int, m: int) -> None:
    problem = problem_of(masks.causal())._replace(
        query=np.zeros((B, H, n, 1)), key=np.zeros((B, H, m, 1)), n=n, m=m
    )
    assert tiles_of(problem).size == 0
