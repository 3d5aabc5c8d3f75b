"""The problems that the benchmarks time."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

import numbattn
from numbattn._peers import Case

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


# asv runs setup() before every single timed call: what it needs is made, and the
# kernel compiled or loaded, once in each process
@lru_cache(maxsize=1)
def prepared(name: str) -> tuple[Callable[..., object], np.ndarray, np.ndarray, object]:
    """Return the warmed function of a case, query, key and an output."""
    case = CASES[name]
    rng = np.random.default_rng(0)
    query = rng.standard_normal((*case.lead, case.n, case.d)).astype(case.dtype)
    key = rng.standard_normal((*case.lead, case.m, case.d)).astype(case.dtype)
    out = np.zeros((*case.lead, case.n, case.m), case.dtype)
    operate = getattr(numbattn, case.operation)
    operate(query, key, out=out)
    return operate, query, key, out
