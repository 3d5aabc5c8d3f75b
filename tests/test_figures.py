"""Figures that do not depend on speed: memory, compiled kernels, imports.

Registers and spills of CUDA kernels are held by tests/gpu/test_codegen.py.
"""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from numbattn.backends.cpu.levels import LEVELS, target_features

ROOT = Path(__file__).resolve().parent.parent
FIGURES = SimpleNamespace(**runpy.run_path(str(ROOT / "tools" / "figures.py")))
TABLE = json.loads(FIGURES.TABLE.read_text())
COMMAND = "python tools/figures.py --write"


def test_no_figure_is_worse_than_in_the_table() -> None:
    if not LEVELS[FIGURES.LEVEL].features <= target_features():
        pytest.skip(f"the table is of {FIGURES.LEVEL}, which this processor lacks")
    found = FIGURES.figures()
    assert {part: set(rows) for part, rows in found.items()} == {
        part: set(rows) for part, rows in TABLE.items()
    }, f"other figures than in the table; {COMMAND}"
    worse = list(FIGURES.complaints(found, TABLE))
    assert not worse, "\n".join([*worse, f"where that is wanted: {COMMAND}"])


@pytest.mark.parametrize(
    ("now", "was", "said"),
    [
        (300, 200, "call: 300, where it was 200 (+50.0%)"),
        (1, 0, "call: 1, where it was 0 (+1)"),
        (["numba", "rich"], ["numba"], "call: rich came in"),
        (3, None, "call: 3 is not in the table"),
        (200, 200, None),
        (100, 200, None),
        ([], ["numba"], None),
    ],
)
def test_a_worse_figure_is_named(now: Any, was: Any, said: str | None) -> None:
    table = {} if was is None else {"part": {"call": was}}
    found = list(FIGURES.complaints({"part": {"call": now}}, table))
    assert found == ([] if said is None else [f"part: {said}"])
