"""CUDA kernels: what their machine code takes, compiled without a GPU.

It needs numba-cuda with its compilers (`numbattn[cuda]`) and nvdisasm. Registers and
spills that grow are steps upwards; tests/gpu/test_codegen.py holds them to budgets.
"""

from __future__ import annotations

import importlib
import sys
from typing import TypedDict

from . import common  # noqa: F401 - by it `measuring` has this checkout's modules
from .sides import kept, lacking

# names only: the table imports nothing
_budgets = importlib.import_module("measuring.backends.cuda.budgets")
KERNELS = [
    f"{name} for {target}"
    for name in sorted(_budgets.BUDGETS)
    for target in _budgets.targets(name)
]


class Code(TypedDict):
    """Of one kernel and target."""

    registers: int
    spills: int
    shared: int


class MachineCode:
    """Of every kernel and target."""

    params = (KERNELS,)
    param_names = ("kernel",)
    timeout = 300

    def setup_cache(self) -> dict[str, Code]:
        """Compile every kernel of the measured commit."""
        try:
            with lacking():
                from numbattn.backends.cuda import codegen

                why = codegen.missing()
                if why is not None:
                    raise NotImplementedError(why)
                figures = [codegen.figures_of(name) for name in codegen.names()]
        except NotImplementedError as error:
            sys.stderr.write(f"no machine code: {error}\n")
            return {}
        return {
            f"{each.name} for {each.target}": {
                "registers": each.registers,
                "spills": each.spill_stores + each.spill_loads,
                "shared": each.shared,
            }
            for targets in figures
            for each in targets
        }

    setup_cache.timeout = 600  # type: ignore[attr-defined]

    def setup(self, found: dict[str, Code], kernel: str) -> None:
        """Leave out what is not there."""
        if kernel not in found:
            raise NotImplementedError(f"{kernel} is not in this commit")

    @kept("registers")
    def track_registers(self, found: dict[str, Code], kernel: str) -> float:
        """Registers of a thread."""
        return float(found[kernel]["registers"])

    @kept("bytes")
    def track_spills(self, found: dict[str, Code], kernel: str) -> float:
        """Bytes of registers that are stored and loaded again: none."""
        return float(found[kernel]["spills"])

    @kept("bytes")
    def track_shared(self, found: dict[str, Code], kernel: str) -> float:
        """Bytes of shared memory of a block."""
        return float(found[kernel]["shared"])
