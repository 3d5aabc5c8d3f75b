"""Random problems within the error bound: the bulk of the evidence.

``NUMBATTN_RANDOM_CASES`` sets how many each backend gets in all. A failure names its
case; ``random_case(numpy.random.default_rng([SEED, chunk, k]))`` makes it again.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from numbattn.testing import Case, random_case, run_case
from numbattn.testing.oracle import result_dtype

SEED = 20_26
CHUNKS = 40
CASES = {"reference": 400}
"""Fewer where a backend is slow; the others get `DEFAULT`."""
DEFAULT = 2000
HEAVY = 10_000

Record = Callable[[str, float], None]


def _run(
    backend: str,
    seed: int,
    chunk: int,
    cases: int,
    record: Record,
    draw: Callable[[np.random.Generator], Case] = random_case,
) -> None:
    for k in range(cases):
        case = draw(np.random.default_rng([seed, chunk, k]))
        try:
            used = run_case(case, backend)
        except Exception as error:
            name = draw.__name__
            error.add_note(f"made by {name}(default_rng({[seed, chunk, k]}))")
            raise
        dtype = result_dtype(*case.arrays).name
        for quantity, c in used.items():
            record(f"{backend} {quantity} {dtype}", c)


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_random_problems(backend: str, chunk: int, record_worst: Record) -> None:
    asked = os.environ.get("NUMBATTN_RANDOM_CASES")
    total = int(asked) if asked else CASES.get(backend, DEFAULT)
    _run(backend, SEED, chunk, -(-total // CHUNKS), record_worst)


@pytest.mark.heavy
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_many_random_problems(backend: str, chunk: int, record_worst: Record) -> None:
    _run(backend, SEED + 1, chunk, HEAVY // CHUNKS, record_worst)


def case_with_functions(rng: np.random.Generator) -> Case:
    """A small problem with a score_mod, a mask object, or both."""
    return random_case(rng, work=1_000_000, modified=1.0)


@pytest.mark.parametrize("chunk", range(4))
def test_problems_with_functions(
    backend: str, chunk: int, record_worst: Record
) -> None:
    _run(backend, SEED, chunk, 20, record_worst, case_with_functions)


@pytest.mark.heavy
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_many_problems_with_functions(
    backend: str, chunk: int, record_worst: Record
) -> None:
    _run(backend, SEED + 3, chunk, HEAVY // CHUNKS, record_worst, case_with_functions)


def _along_keys(rng: np.random.Generator, m: int) -> Any:
    """A bias that makes a running maximum work: scores that grow, shrink or jump."""
    size = 10.0 ** rng.uniform(-1, 4)
    kind = rng.integers(5)
    if kind < 2:
        return np.linspace(0, size, m)[:: 1 if kind else -1].copy()
    bias = np.zeros(m)
    if kind == 2 and m:
        bias[rng.integers(m)] = size
    elif kind == 3:
        bias[:] = size * np.sort(rng.standard_normal(m))
    else:
        bias[:] = size * rng.standard_normal(m)
    return bias


def attention_case(rng: np.random.Generator) -> Case:
    """Attention as it errs most: long rows, constant values, a large bias."""
    n = int(rng.choice([1, 2, 4, 15, 16, 17, 20, 33, 48, 49, 70]))
    m = int(math.exp(rng.uniform(0, math.log(8193))))
    d_k, d_v = (int(rng.choice([1, 2, 5, 16, 17, 33, 64, 80, 81, 97])) for _ in "kv")
    heads, group = int(rng.choice([1, 1, 2])), int(rng.choice([1, 1, 2, 4]))
    while heads * group * n * m * (d_k + d_v) > 4_000_000:
        heads, group, n = 1, max(1, group // 2), max(1, n // 2 if group == 1 else n)
        d_k, d_v = max(1, d_k // 2), max(1, d_v // 2)
    dtype = np.dtype(rng.choice(["float32", "float64"]))
    query = rng.standard_normal((heads * group, n, d_k)) * 10.0 ** rng.uniform(-2, 1)
    key = rng.standard_normal((heads, m, d_k))
    if rng.random() < 0.2:  # every rounding of a score goes the same way
        query[...], key[...] = query.flat[0], key.flat[0]
    value = np.full((heads, m, d_v), rng.uniform(0.5, 2))
    if rng.random() < 0.5:
        value = rng.standard_normal(value.shape)
    options: dict[str, Any] = {}
    if rng.random() < 0.5:
        options["bias"] = _along_keys(rng, m)[None].astype(dtype)
    if rng.random() < 0.2:
        options |= {"is_causal": True, "q_offset": "lower_right"}
    if rng.random() < 0.2:
        options["mask"] = rng.random((n, m)) < 0.5
    if rng.random() < 0.2:
        options["window_size"] = (int(rng.integers(m + 1)), None)
    arrays = (array.astype(dtype) for array in (query, key, value))
    return Case("attention", *arrays, options=options, return_lse=True)


@pytest.mark.parametrize("chunk", range(4))
def test_attention_problems(backend: str, chunk: int, record_worst: Record) -> None:
    _run(backend, SEED, chunk, 25, record_worst, attention_case)


@pytest.mark.heavy
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_many_attention_problems(
    backend: str, chunk: int, record_worst: Record
) -> None:
    """10,000 of them, half with a bias of up to 1e4, half with a constant value."""
    _run(backend, SEED + 2, chunk, HEAVY // CHUNKS, record_worst, attention_case)
