"""What the kit checks in small, in large numbers: overlaps, empty axes, one input."""

from __future__ import annotations

import hashlib
import itertools
from typing import Any

import numpy as np
import pytest

import numbattn
from numbattn.testing import call, random_case
from numbattn.testing.rules_memory import random_overlap

OVERLAPS = 1000


@pytest.mark.parametrize("chunk", range(4))
def test_random_overlaps_of_out(backend: str, chunk: int) -> None:
    """As if they did not overlap: 1,000 draws from one block of memory."""
    for k in range(OVERLAPS // 4):
        random_overlap(np.random.default_rng([2026, chunk, k]), backend)


def digest(arrays: list[np.ndarray]) -> list[str]:
    """Return a hash of the whole memory that each array is a view of."""
    found = []
    for array in arrays:
        base = array
        while isinstance(base.base, np.ndarray):
            base = base.base
        found.append(hashlib.sha256(base.tobytes()).hexdigest())
    return found


def test_no_input_changes_nor_what_lies_around_it(backend: str) -> None:
    for k in range(300):
        case = random_case(np.random.default_rng([77, k]), work=100_000)
        arrays = [*case.arrays]
        arrays += [a for a in case.options.values() if isinstance(a, np.ndarray)]
        before = digest(arrays)
        call(case.operation, backend, *case.arrays, **case.options)
        assert digest(arrays) == before, f"an input of {case} changed"


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_empty_axes_in_other_dtypes(backend: str, dtype: Any) -> None:
    """The kit's 243 combinations are float64; explain answers for them, too."""
    for sizes in itertools.product((0, 1, 2), repeat=5):
        lead, (n, m, d) = sizes[:2], sizes[2:]
        query, key = np.ones((*lead, n, d), dtype), np.ones((*lead, m, d), dtype)
        value = np.ones((*lead, m, 3), dtype)
        out, lse = numbattn.attention(
            query, key, value, return_lse=True, backend=backend, num_threads=1
        )
        assert out.shape == (*lead, n, 3)
        assert np.all(out == (1 if m else 0)), sizes
        assert np.all(np.isneginf(lse)) if not m else np.all(np.isfinite(lse))
        assert numbattn.scores(query, key, backend=backend).shape == (*lead, n, m)
        for operation in ("scores", "weights", "attention"):
            arrays = (query, key, value)[: 3 if operation == "attention" else 2]
            told = numbattn.explain(*arrays, operation=operation, backend=backend)
            assert str(told)


@pytest.mark.parametrize("n", [3, 40])
def test_no_heads_share_keys(backend: str, n: int) -> None:
    """An axis of no queries meets keys whose axis has length 1, or that have none."""
    for lead, own in (((0,), (1,)), ((0,), ()), ((3, 0), (3, 1)), ((0, 2), (1, 2))):
        query, key = np.ones((*lead, n, 8)), np.ones((*own, 5, 8))
        out = numbattn.attention(query, key, key, backend=backend)
        assert out.shape == query.shape
        for tell in (numbattn.explain, numbattn.estimate_memory):
            assert str(tell(query, key, key, operation="attention", backend=backend))
