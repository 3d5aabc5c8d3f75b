"""The problems that the benchmarks time."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from numbattn._peers import Case, program, variables

CASES = {
    str(case): case
    for case in (
        Case("scores", 512, 512, 64),
        Case("scores", 2048, 2048, 64),
        Case("scores", 8192, 8192, 64),
        Case("scores", 2048, 2048, 128),
        Case("scores", 8192, 8192, 128),
        Case("scores", 2048, 2048, 2048),
        Case("scores", 1024, 1024, 64, lead=(16,)),
        Case("scores", 513, 1025, 80),
        Case("scores", 1000, 3001, 96),
        Case("scores", 1, 8192, 128),
        Case("scores", 2048, 2048, 64, dtype="float64"),
        Case("weights", 2048, 2048, 64, lead=(8,)),
    )
}


def namespace(case: Case) -> dict[str, Any]:
    """Return what the timed program of a case leaves: its arrays, `out` and `run`."""
    found = variables(case)
    exec(program("numbattn"), found)
    return found


# asv runs setup() before every single timed call: what it needs is made, and the
# kernel compiled or loaded, once in each process
@lru_cache(maxsize=1)
def prepared(case: Case) -> Callable[[], object]:
    """Return the call of a case, warmed."""
    run: Callable[[], object] = namespace(case)["run"]
    run()
    return run
