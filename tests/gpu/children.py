"""Processes of their own in which the CUDA simulator is on."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MISSING = [
    name
    for name in ("numba_cuda", "greenlet")
    if importlib.util.find_spec(name) is None
]
needs_simulator = pytest.mark.skipif(
    bool(MISSING), reason=f"the CUDA simulator needs {', '.join(MISSING)}"
)


def simulated(*arguments: str, **variables: str) -> str:
    """Run Python in the simulator; return what it printed, fail where it fails."""
    around = {
        **os.environ,
        "NUMBA_ENABLE_CUDASIM": "1",
        "NUMBATTN_REQUIRE_BACKENDS": "cuda",
        "PYTHONPATH": os.pathsep.join(
            [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        ),
        **variables,
    }
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True, text=True, env=around, cwd=ROOT, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-6000:]}"
    return done.stdout
