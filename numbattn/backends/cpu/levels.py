"""Vector instruction sets, and which one this process uses.

The width is chosen from the features that Numba really targets: an instruction
that the target lacks aborts the process. ``NUMBATTN_SIMD`` forces a narrower one.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from numba.core.registry import cpu_target

from numbattn import config
from numbattn.errors import OptionError


class Simd(NamedTuple):
    """A vector instruction set: register width, fused multiply-add."""

    name: str
    width: int  # bytes in a register; 0: one element, no vectors
    fma: bool
    features: frozenset[str]  # what the target must have


LEVELS = {
    level.name: level
    for level in (
        Simd("avx512", 64, True, frozenset({"avx512f", "avx512vl", "avx512dq"})),
        Simd("avx2", 32, True, frozenset({"avx2", "fma"})),
        Simd("neon", 16, True, frozenset({"neon"})),
        Simd("sse2", 16, False, frozenset({"sse2"})),
        Simd("plain", 0, False, frozenset()),
    )
}


def target_features() -> frozenset[str]:
    """Features Numba compiles for (it honours NUMBA_CPU_NAME and _FEATURES)."""
    features = cpu_target.target_context.codegen().magic_tuple()[2].split(",")
    return frozenset(name[1:] for name in features if name.startswith("+"))


@cache
def chosen() -> Simd:
    """Return the widest level of the target, or the one NUMBATTN_SIMD forces.

    Raises
    ------
    OptionError
        The forced level needs features that the target lacks.
    """
    features = target_features()
    possible = [name for name, level in LEVELS.items() if level.features <= features]
    name = config.simd() or possible[0]
    if name not in possible:
        raise OptionError(
            f"NUMBATTN_SIMD={name!r} needs "
            f"{', '.join(sorted(LEVELS[name].features - features))}, which this "
            f"processor or Numba's target does not have; possible here: "
            f"{', '.join(possible)}"
        )
    return LEVELS[name]
