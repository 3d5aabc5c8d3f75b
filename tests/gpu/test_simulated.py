"""The tests in `simulated`, each file in a process where the CUDA simulator is on."""

from __future__ import annotations

from pathlib import Path

import pytest

from .children import needs_simulator, simulated

FILES = sorted((Path(__file__).parent / "simulated").glob("test_*.py"))


@needs_simulator
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_in_the_simulator(file: Path) -> None:
    said = simulated("-m", "pytest", "-q", "-n0", str(file))
    assert " passed" in said
    assert "skipped" not in said


def test_there_are_such_files() -> None:
    assert len(FILES) >= 4
