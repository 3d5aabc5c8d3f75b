"""Users' functions on CUDA, on machines without a GPU: right, and well compiled.

Each child process tells what is wrong: in the simulator functions run as Python;
compiled for a GPU, LLVM's code of them runs on this machine's processor.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
BATCHES = ("ready", "recipes", "masks", "drawn", "names")


def found(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


needs_numba_cuda = pytest.mark.skipif(
    not found("numba_cuda") or not found("greenlet"),
    reason="numba-cuda and greenlet are not installed: pip install numbattn[cuda]",
)
needs_compiler = pytest.mark.skipif(
    not (found("cuda.bindings.nvjitlink") and found("nvidia.cu13")),
    reason="NVIDIA's compiler is not installed: pip install numbattn[cuda]",
)
pytestmark = needs_numba_cuda


def said(script: str, *words: str, simulated: bool = False) -> list[dict[str, Any]]:
    """Return the lines that a script prints, with warnings as errors."""
    around = {**os.environ, "NUMBA_ENABLE_CUDASIM": str(int(simulated))}
    done = subprocess.run(
        [sys.executable, "-W", "error", str(HERE / script), *words],
        env=around, capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_functions_in_the_simulator_give_what_numpy_gives() -> None:
    (line,) = said("simulated_users.py", simulated=True)
    assert line["wrong"] == {}
    assert line["count"] >= 140


def well(lines: list[dict[str, Any]], batch: str) -> None:
    assert {each["name"]: each["wrong"] for each in lines if each["wrong"]} == {}
    if batch != "names":  # far from 0, sin and cos look up 2 / pi in a local array
        for each in lines:
            room = each["local"], each["calls"], each["stack"], each["spilled"]
            assert room == (False, 0, 0, 0), each


@needs_compiler
@pytest.mark.parametrize("batch", BATCHES)
def test_compiled_functions_give_what_numpy_gives_in_registers(batch: str) -> None:
    lines = said("compiled_users.py", batch)
    assert len(lines) >= 6
    well(lines, batch)


@pytest.mark.heavy
@needs_compiler
@pytest.mark.parametrize("batch", BATCHES)
def test_every_compilation_does_so(batch: str) -> None:
    lines = said("compiled_users.py", "--every", batch)
    assert len(lines) >= 24
    well(lines, batch)


@needs_compiler
def test_compiled_functions_note_what_goes_wrong_and_are_kept() -> None:
    assert said("compiled_users.py", "edges") == [{}]


def small(lines: list[dict[str, Any]]) -> None:
    alone: dict[str, Any] = {}
    for each in lines:
        assert not each["local"]
        assert each["calls"] == 0
        if not each["name"]:
            alone = each
            continue
        assert each["spilled"] <= 1.1 * alone["spilled"], (alone, each)


@needs_compiler
def test_functions_take_no_room_in_the_attention_kernel() -> None:
    lines = said("compiled_users.py", "within")
    assert len(lines) == 2
    small(lines)


@pytest.mark.heavy
@needs_compiler
def test_no_function_takes_room_in_the_attention_kernel() -> None:
    lines = said("compiled_users.py", "--every", "within")
    assert len(lines) == 5
    small(lines)
