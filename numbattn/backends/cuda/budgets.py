"""What each kernel may take of a multiprocessor, and what has to be in its code.

Written by hand, for every target at once, and held by tests/gpu/test_codegen.py. Of
no kernel may registers be spilled, nor anything lie in local memory: that is not here.
A budget that has to grow is raised in the change that needs it, with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .codegen import Figures

KIB = 1024
STATIC = 48 * KIB
"""Bytes of shared memory that a block may have without asking for more."""


class Budget(NamedTuple):
    """Limits of one kernel."""

    registers: int
    """Of a thread, at most."""
    shared: int
    """Bytes of static shared memory, at most."""
    blocks: int
    """On a multiprocessor at a time, at least."""
    least: Mapping[str, int]
    """How often an instruction is in the code, at least."""


def _products(opcode: str, count: int, vectors: int) -> Mapping[str, int]:
    """What a step of a register tile needs; three loops copy Q, K and V."""
    return {"LDGSTS.128": 3, opcode: count, "LDS.128": vectors}


def _fragments(multiplied: int, loaded: int) -> Mapping[str, int]:
    """What a step on tensor cores needs; two loops copy pieces."""
    return {"LDGSTS.128": 2, "HMMA": multiplied, "LDSM": loaded}


_ONCE = Budget(128, 4 * KIB, 4, {})  # outputs that are not finite: it has to be right

BUDGETS: dict[str, Budget] = {
    "attention_float32_64_sm_90a": Budget(168, 40 * KIB, 3, _products("FFMA", 256, 24)),
    "attention_float32_128_sm_90a": Budget(
        255, 40 * KIB, 2, _products("FFMA", 384, 28)
    ),
    "attention_float64_64_sm_90a": Budget(255, STATIC, 2, _products("DFMA", 256, 32)),
    "attention_float64_128_sm_90a": Budget(255, STATIC, 2, _products("DFMA", 256, 28)),
    "attention_float32_64_sm_80": Budget(255, 40 * KIB, 2, _products("FFMA", 256, 24)),
    "attention_float64_64_sm_80": Budget(255, STATIC, 2, _products("DFMA", 256, 32)),
    "scores_float32": Budget(
        128, 40 * KIB, 4, {"LDGSTS.128": 2, "FFMA": 128, "LDS.128": 12}
    ),
    "scores_float64": Budget(
        128, STATIC, 3, {"LDGSTS.128": 2, "DFMA": 128, "LDS.128": 16}
    ),
    "careful_float32": _ONCE,
    "careful_float64": _ONCE,
    "careful_float16": _ONCE,
    "careful_bfloat16": _ONCE,
    "careful_tf32": _ONCE,
    **{
        f"attention_{kind}_64_sm_80": Budget(240, 16 * KIB, 1, _fragments(32, least))
        for kind, least in (("bfloat16", 16), ("tf32", 8))
    },
    # float16 multiplies weights twice, in two parts
    "attention_float16_64_sm_80": Budget(240, 16 * KIB, 1, _fragments(48, 16)),
    "attention_float16_64_sm_90a": Budget(255, 24 * KIB, 2, _fragments(192, 32)),
    "attention_float16_128_sm_90a": Budget(240, STATIC, 1, _fragments(192, 64)),
    "attention_bfloat16_64_sm_90a": Budget(255, 24 * KIB, 2, _fragments(128, 32)),
    "attention_bfloat16_128_sm_90a": Budget(240, STATIC, 1, _fragments(128, 64)),
    "attention_tf32_64_sm_90a": Budget(200, STATIC, 1, _fragments(128, 32)),
    "attention_tf32_128_sm_90a": Budget(255, STATIC, 1, _fragments(128, 32)),
    **{
        f"scores_{kind}_sm_80": Budget(100, 40 * KIB, 2, _fragments(16, 8))
        for kind in ("float16", "bfloat16", "tf32")
    },
    **{
        f"scores_{kind}_sm_90a": Budget(128, STATIC, 2, _fragments(32, 12))
        for kind in ("float16", "bfloat16", "tf32")
    },
}
"""By the name of the kernel: see `codegen.variants`."""


def targets(name: str) -> list[str]:
    """Return what a kernel is compiled for: its name says so where it is one target."""
    both = ("sm_80", "sm_90a")
    return [target for target in both if name.endswith(target)] or list(both)


def complaints(figures: Figures, budget: Budget) -> list[str]:
    """Return in words where a kernel's figures are not within its budget."""
    where = f"{figures.name} for {figures.target}"
    found = []
    for what, got in (
        ("bytes of registers that are spilled (stores)", figures.spill_stores),
        ("bytes of registers that are spilled (loads)", figures.spill_loads),
        ("bytes of stack", figures.stack),
        ("bytes of local memory", figures.local),
        ("loads from local memory", figures.opcodes["LDL"]),
        ("stores to local memory", figures.opcodes["STL"]),
    ):
        if got:
            found.append(f"{where}: {got} {what}, and there may be none")
    for what, got, most in (
        ("registers", figures.registers, budget.registers),
        ("bytes of shared memory", figures.shared, budget.shared),
    ):
        if got > most:
            found.append(f"{where}: {got} {what}; the budget is {most}")
    fits = figures.occupancy
    if fits.blocks < budget.blocks:
        found.append(
            f"{where}: {fits.blocks} blocks on a multiprocessor (by {fits.limit}); "
            f"the budget is {budget.blocks}"
        )
    for opcode, least in budget.least.items():
        if figures.opcodes[opcode] < least:
            found.append(
                f"{where}: {figures.opcodes[opcode]} {opcode}; there have to be {least}"
            )
    return found
