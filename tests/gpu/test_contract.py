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


def onnx_cases(selected: str) -> str:
    return simulated(
        "-m", "pytest", "-q", "-n0", "-k", f"cuda and {selected}", "tests/conformance"
    )


@needs_simulator
def test_the_onnx_cases_pass_in_the_simulator() -> None:
    assert "failed" not in onnx_cases("not 4d_causal_fp16 and not 4d_fp16")


@needs_simulator
@pytest.mark.xfail(
    strict=True,
    reason="float16: of two cases three outputs are one unit of float16 off, which is "
    "more than ONNX allows: tensor cores get weights rounded to float16",
)
def test_the_onnx_cases_of_causal_float16_pass_in_the_simulator() -> None:
    onnx_cases("(4d_causal_fp16 or 4d_fp16)")


@needs_simulator
@pytest.mark.heavy
def test_the_whole_contract_passes_in_the_simulator() -> None:
    simulated("-m", "pytest", "-q", "-k", "cuda", "-n0", "tests/contract")
