"""What the benchmarks share: how two sides are timed, and our calls.

The measuring is this checkout's, the measured numbattn is the installed one: asv runs
today's benchmarks on old commits, which timed otherwise or not at all. So `_timing` and
`_peers` are loaded by path, under a name of their own.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

_measuring = sys.modules.setdefault("measuring", ModuleType("measuring"))
_measuring.__path__ = [str(Path(__file__).resolve().parents[2] / "numbattn")]
_peers = importlib.import_module("measuring._peers")
_timing = importlib.import_module("measuring._timing")

ARRAYS = _peers.ARRAYS
Case = _peers.Case
SOURCES = _peers.SOURCES
installed_peers = _peers.installed_peers
program = _peers.program
start = _peers.start
variables = _peers.variables
Comparison = _timing.Comparison
ENOUGH = _timing.ENOUGH
Worker = _timing.Worker
WorkerError = _timing.WorkerError
compare = _timing.compare


def namespace(case: Any) -> dict[str, Any]:
    """Return what the timed program of a case leaves: its arrays, `out` and `run`."""
    found: dict[str, Any] = variables(case)
    exec(program("numbattn"), found)
    return found


# asv runs setup() before every single timed call: what it needs is made, and the
# kernel compiled or loaded, once in each process
@lru_cache(maxsize=1)
def prepared(case: Any) -> Callable[[], object]:
    """Return the call of a case, warmed."""
    run: Callable[[], object] = namespace(case)["run"]
    run()
    return run
