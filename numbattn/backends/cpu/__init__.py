"""The CPU backend: Numba kernels on vectors of the processor, in parallel.

levels, emitter, simd, pointers (vectors) -> tiles (register tiles) -> rows, scores,
weights, few_rows, softmax, attention (kernels) -> matrix, fused (tile sizes and
arguments) -> launch (threads) with cache (disk).
"""

from __future__ import annotations

import functools
import importlib.util
import os
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING

from . import sources as _sources  # noqa: F401 - before any kernel; it says why

if TYPE_CHECKING:
    import numpy as np

    from numbattn.backends import Execution
    from numbattn.problem import AttentionProblem


@functools.cache
def _engine() -> ModuleType:
    """The module that imports Numba; kept, as even a repeated import costs 0.4 us."""
    from . import engine

    return engine


class CpuBackend:
    """Blocked kernels compiled by Numba; see `numbattn.backends.Backend`."""

    name = "cpu"

    def unavailable_reason(self) -> str | None:
        """None, or that Numba is missing or told not to compile."""
        if "numba" in sys.modules:
            numba = sys.modules["numba"]
            found = numba is not None
            off = getattr(getattr(numba, "config", None), "DISABLE_JIT", 0)
        else:
            found = importlib.util.find_spec("numba") is not None
            off = os.environ.get("NUMBA_DISABLE_JIT", "0").strip() not in ("", "0")
        if off:
            return "NUMBA_DISABLE_JIT is set, and its kernels have to be compiled"
        return None if found else "Numba is not installed; run: pip install numba"

    def run(
        self,
        problem: AttentionProblem,
        out: np.ndarray,
        lse: np.ndarray | None,
        execution: Execution,
    ) -> None:
        """Compute the problem into `out` (and `lse`)."""
        _engine().run(problem, out, lse, execution)

    def check_functions(self, problem: AttentionProblem) -> None:
        """Compile users' functions, or say why they cannot be."""
        from . import modified

        modified.compile_functions(problem)

    def workspace_bytes(self, problem: AttentionProblem, execution: Execution) -> int:
        """Bytes beyond inputs and output."""
        from . import engine

        return engine.workspace_bytes(problem, execution)

    def plan(
        self, problem: AttentionProblem, execution: Execution
    ) -> Mapping[str, object]:
        """Tiles, threads and vector width, for `explain`."""
        from . import engine

        return engine.plan(problem, execution)

    def describe(self) -> str:
        """One line on what runs here."""
        from . import engine

        return engine.describe()

    def details(self) -> Mapping[str, str]:
        """Vectors, threads and the kernel cache, for reports of faults."""
        from . import engine

        return engine.details()

    def warmup(self, dtypes: tuple[str, ...]) -> list[str]:
        """Compile every kernel or load it from the disk cache; return their names."""
        from . import engine

        return engine.warmup(dtypes)


backend = CpuBackend()
