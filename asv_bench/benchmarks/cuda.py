"""CUDA kernels: what their machine code takes, and where there is a GPU, how long.

The first half needs no GPU, only numba-cuda with its compilers (`numbattn[cuda]`) and
nvdisasm. Registers and spills that grow are steps upwards.
"""

from __future__ import annotations

from functools import lru_cache

import numbattn
from numbattn._devices import GOALS, arrays, measured, ours, seconds
from numbattn.backends.cuda import codegen
from numbattn.backends.cuda.budgets import BUDGETS, targets
from numbattn.backends.cuda.codegen import Figures

_GOALS = {f"{goal.case} {goal.than}": goal for goal in GOALS}


# asv runs setup() before every sample, and each benchmark in a process of its own
@lru_cache(maxsize=1)
def _figures(name: str) -> dict[str, Figures]:
    return {each.target: each for each in codegen.figures_of(name)}


class MachineCode:
    """Of every kernel and target, as compiled without a GPU."""

    params = (list(BUDGETS), list(codegen.TARGETS))
    param_names = ("kernel", "target")
    timeout = 300

    def setup(self, name: str, target: str) -> None:
        """Leave it out where something is missing."""
        why = codegen.missing()
        if target not in targets(name):
            why = f"{name} is not for {target}"
        if why is not None:
            raise NotImplementedError(why)

    def track_registers(self, name: str, target: str) -> int:
        """Registers of a thread."""
        return _figures(name)[target].registers

    def track_spills(self, name: str, target: str) -> int:
        """Bytes of registers that are stored and loaded again: none."""
        found = _figures(name)[target]
        return found.spill_stores + found.spill_loads

    def track_empty(self, name: str, target: str) -> float:
        """Part of a multiprocessor's threads that the kernel's blocks leave empty."""
        return 1.0 - _figures(name)[target].occupancy.share

    track_registers.unit = "registers"
    track_spills.unit = "bytes"
    track_empty.unit = "of the threads"
    track_registers.version = track_spills.version = track_empty.version = "1"


class OnDevice:
    """The problems of `numbattn._devices`, against PyTorch or a plain copy."""

    params = (list(_GOALS),)
    param_names = ("case",)
    timeout = 300

    def setup(self, name: str) -> None:
        """Leave it out where there is no GPU."""
        why = numbattn.list_backends()["cuda"]
        if why is not None:
            raise NotImplementedError(why)
        try:
            import torch
        except ImportError as error:
            raise NotImplementedError("torch is not installed") from error
        if not torch.cuda.is_available():
            raise NotImplementedError("torch finds no GPU")

    def track_ratio(self, name: str) -> float:
        """Our time over theirs."""
        return 1.0 / measured(_GOALS[name])["ratio"]

    def track_milliseconds(self, name: str) -> float:
        """Our time on the device, by its own events."""
        case = _GOALS[name].case
        return seconds(ours(case, arrays(case))) * 1e3

    track_ratio.unit = "time / their time"
    track_milliseconds.unit = "milliseconds"
    track_ratio.version = track_milliseconds.version = "1"
