"""Whole problems drawn by hypothesis, held to the error bound on every backend."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings

from numbattn.testing import Case, run_case
from numbattn.testing.oracle import result_dtype
from numbattn.testing.strategies import problems

ALL_CHECKS = list(HealthCheck)
FIXED = settings(
    max_examples=500,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=ALL_CHECKS,
)
HEAVY = settings(
    max_examples=20_000,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=ALL_CHECKS,
)
"""Without derandomize: every run is another 20,000."""


@FIXED
@given(case=problems())
def test_problems(backend: str, case: Case) -> None:
    run_case(case, backend)


@pytest.mark.heavy
@pytest.mark.timeout(7200)
@HEAVY
@given(case=problems())
def test_many_problems(backend: str, case: Case) -> None:
    run_case(case, backend)


def test_problems_vary() -> None:
    """The strategies reach every option, dtype, operation and kind of shape."""
    seen: set[str] = set()

    @settings(FIXED, max_examples=400)
    @given(case=problems())
    def draw(case: Case) -> None:
        seen.update((case.operation, result_dtype(*case.arrays).name, *case.options))
        seen.add(f"lead {case.query.ndim - 2}")
        seen.add("empty" if not all(case.query.shape) else "full")
        seen.add("few" if case.query.shape[-2] <= 16 else "many")
        for array in case.arrays:
            if array.size and min(array.strides) < 0:
                seen.add("negative")
            if array.size and 0 in array.strides:
                seen.add("repeats")

    draw()
    assert seen >= {
        "scores", "weights", "attention", "float16", "bfloat16", "float32", "float64",
        "scale", "softcap", "bias", "mask", "is_causal", "window_size", "q_offset",
        "kv_lengths", "sinks", "lead 0", "lead 1", "lead 2", "lead 3", "empty", "full",
        "few", "many", "negative", "repeats",
    }  # fmt: skip


def test_the_kit_does_not_load_hypothesis() -> None:
    code = "import sys, numbattn.testing; assert 'hypothesis' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
