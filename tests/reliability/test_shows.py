"""What the kit checks in small, in large numbers: overlaps, empty axes, one input."""

from __future__ import annotations

import hashlib
import itertools
import os
import subprocess
import sys
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


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="needs mprotect (POSIX)")
def test_nothing_is_read_beyond_a_page(backend: str) -> None:
    """Inputs end at a page that must not be read, or start behind one."""
    code = GUARD.format(backend=backend)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["600", "guarded", "calls"]


GUARD = """
import ctypes, itertools, mmap
import numpy as np
import numbattn
from numbattn.testing import assert_same_bits

libc = ctypes.CDLL(None, use_errno=True)
libc.mprotect.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
PAGE, kept = mmap.PAGESIZE, []

def guarded(array, at_end):
    pages = -(-max(array.nbytes, 1) // PAGE)
    memory = mmap.mmap(-1, (pages + 2) * PAGE)
    whole = np.frombuffer(memory, np.uint8)
    start = (pages + 1) * PAGE - array.nbytes if at_end else PAGE
    start -= start % array.itemsize
    view = whole[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    view[...] = array
    for page in (0, pages + 1):
        assert not libc.mprotect(whole.ctypes.data + page * PAGE, PAGE, 0)
    kept.append(memory)
    return view

rng, calls = np.random.default_rng(0), 0
for dtype, at_end in itertools.product((np.float32, np.float64), (True, False)):
    for k in range(50):
        n, m, d, d_v = (int(x) for x in rng.integers(1, (40, 90, 70, 70)))
        if k % 3 == 0:
            n = int(rng.integers(1, 17))
        q, k_, v = (
            rng.standard_normal(s).astype(dtype) for s in ((n, d), (m, d), (m, d_v))
        )
        bias, mask = rng.standard_normal((n, m)).astype(dtype), rng.random((n, m)) < 0.7
        options = dict(bias=bias, mask=mask, is_causal=bool(rng.random() < 0.5))
        for operation, arrays in (
            ("scores", (q, k_)), ("weights", (q, k_)), ("attention", (q, k_, v))
        ):
            run = getattr(numbattn, operation)
            want = run(*arrays, backend="{backend}", **options)
            close = [guarded(a, at_end) for a in arrays]
            near = dict(
                options, bias=guarded(bias, at_end), mask=guarded(mask, at_end)
            )
            out = guarded(np.zeros_like(want), at_end)
            run(*close, backend="{backend}", out=out, **near)
            assert_same_bits(out, want)
            calls += 1
print(calls, "guarded calls")
"""
