"""Random problems within the error bound: the bulk of the evidence.

``NUMBATTN_RANDOM_CASES`` sets how many each backend gets in all. A failure names its
case; ``random_case(numpy.random.default_rng([SEED, chunk, k]))`` makes it again.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
import pytest

from numbattn.testing import random_case, run_case
from numbattn.testing.oracle import result_dtype

SEED = 20_26
CHUNKS = 40
CASES = {"reference": 400}
"""Fewer where a backend is slow; the others get `DEFAULT`."""
DEFAULT = 2000
HEAVY = 10_000

Record = Callable[[str, float], None]


def _run(backend: str, seed: int, chunk: int, cases: int, record: Record) -> None:
    worst: dict[str, float] = {}
    for k in range(cases):
        case = random_case(np.random.default_rng([seed, chunk, k]))
        try:
            used = run_case(case, backend)
        except Exception as error:
            error.add_note(f"made by random_case(default_rng({[seed, chunk, k]}))")
            raise
        dtype = result_dtype(*case.arrays).name
        for quantity, c in used.items():
            name = f"{backend} {quantity} {dtype}"
            worst[name] = max(worst.get(name, 0.0), c)
    for name, c in worst.items():
        record(name, c)


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_random_problems(backend: str, chunk: int, record_worst: Record) -> None:
    asked = os.environ.get("NUMBATTN_RANDOM_CASES")
    total = int(asked) if asked else CASES.get(backend, DEFAULT)
    _run(backend, SEED, chunk, -(-total // CHUNKS), record_worst)


@pytest.mark.heavy
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_many_random_problems(backend: str, chunk: int, record_worst: Record) -> None:
    _run(backend, SEED + 1, chunk, HEAVY // CHUNKS, record_worst)
