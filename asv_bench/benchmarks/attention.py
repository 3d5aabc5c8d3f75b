"""Attention of many queries: speed against peers and machine, time, and growth."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from time import perf_counter

import numpy as np

from .common import Case, prepared, start
from .machine import fma_peak
from .sides import PEERS, EachPeer, EachTime, Sides, Start, kept, lacking

ROWS = {
    "8 heads 2048": Case("attention", 2048, 2048, 64, lead=(1, 8)),
    "causal": Case("attention", 2048, 2048, 64, lead=(1, 8), causal=True),
    "d 128": Case("attention", 2048, 2048, 128, lead=(1, 8)),
    "causal 8192": Case("attention", 8192, 8192, 64, lead=(1, 4), causal=True),
    "8 heads 512": Case("attention", 512, 512, 64, lead=(1, 8)),
    "8x12 heads 128": Case("attention", 128, 128, 64, lead=(8, 12)),
    "d 80": Case("attention", 2048, 2048, 80, lead=(1, 8)),
    "d_k 192 d_v 128": Case("attention", 2048, 2048, 192, lead=(1, 8), d_v=128),
    "bool mask": Case("attention", 2048, 2048, 64, lead=(1, 8), mask=True),
    "float64": Case("attention", 2048, 2048, 64, lead=(1, 8), dtype="float64"),
    "window 256": Case(
        "attention", 8192, 8192, 64, lead=(1, 1), causal=True, window=256
    ),
}
PRODUCTS = ["8 heads 2048", "causal", "d 128"]


class AgainstPeers(EachPeer):
    """The peers' fused operators where they have one, else their products."""

    cases = ROWS
    params = (list(ROWS), PEERS)
    param_names = ("row", "peer")
    timeout = 600


class AgainstTheArithmetic(Sides):
    """The multiplications and additions of both products, in registers."""

    params = (PRODUCTS,)
    param_names = ("row",)

    def sides(self, row: str) -> tuple[Start, Start]:  # noqa: D102
        return lambda: start("numbattn", ROWS[row]), lambda: fma_peak(ROWS[row])

    @kept("1 - share of the FMA peak")
    def track_fma_peak_lost(self, row: str) -> float:
        """What the processor could have computed in our time, and we did not."""
        return self.lost()


class Time(EachTime):
    """One call with `out` given."""

    cases = ROWS
    params = (list(ROWS),)
    param_names = ("row",)


class Growth:
    """Time grows with the square of the length, and with nothing else."""

    timeout = 300
    lengths = (1024, 2048, 4096, 8192)
    turns = 3

    def setup(self) -> None:
        """Take the calls."""
        with lacking():
            self.calls = {
                n: prepared.__wrapped__(Case("attention", n, n, 64, lead=(8,)))
                for n in self.lengths
            }

    @kept("deviation from the fit")
    def track_deviation_from_square(self) -> float:
        """Return how far a length is from the fit, 8 heads, d 64: 0.1 is 10 %."""
        found = []
        for _ in range(self.turns):
            each = np.array([_seconds(call) / n**2 for n, call in self.calls.items()])
            found.append(each / np.exp(np.log(each).mean()))
        return float(np.abs(np.median(found, axis=0) - 1).max())


def _seconds(call: Callable[[], object]) -> float:
    """Return the time of a call, as the median of what fits into 0.2 s."""
    times: list[float] = []
    while sum(times) < 0.2:
        begin = perf_counter()
        call()
        times.append(perf_counter() - begin)
    return median(times)
