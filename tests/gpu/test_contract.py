"""The contract of backends, kept by the CUDA kernels in the simulator."""

from __future__ import annotations

import pytest

from numbattn.testing import CHECKS

from .children import needs_simulator, simulated

PARTS = 8
"""Processes among which the checks are dealt out: xdist runs them side by side."""

_CHECKS = """
import sys, warnings
warnings.simplefilter("error")
from numbattn.testing import CHECKS, run_check
part, of = int(sys.argv[1]), int(sys.argv[2])
small = [c for c in CHECKS if c.level == "small"]
failed = []
for check in small[part::of]:
    try:
        check.run("cuda")
    except Exception as error:
        failed.append(f"{check.rule}, {check.name}: {type(error).__name__}: {error}")
print("\\n".join(failed) or f"ran {len(small[part::of])} checks")
sys.exit(bool(failed))
"""


@needs_simulator
@pytest.mark.parametrize("part", range(PARTS))
def test_the_small_kit_passes_in_the_simulator(part: int) -> None:
    count = len([c for c in CHECKS if c.level == "small"][part::PARTS])
    said = simulated("-c", _CHECKS, str(part), str(PARTS))
    assert said.strip() == f"ran {count} checks"


@needs_simulator
def test_the_onnx_cases_pass_in_the_simulator() -> None:
    said = simulated("-m", "pytest", "-q", "-n0", "-k", "cuda", "tests/conformance")
    assert "93 passed" in said


@needs_simulator
@pytest.mark.heavy
def test_the_whole_contract_passes_in_the_simulator() -> None:
    simulated("-m", "pytest", "-q", "-k", "cuda", "-n0", "tests/contract")
