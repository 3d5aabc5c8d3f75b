"""Scores: speed against peers and machine, and time."""

from __future__ import annotations

import numpy as np

from .common import Case, start
from .machine import fma_peak, plain_read
from .sides import PEERS, EachPeer, EachTime, Sides, Start, kept, lacking

CASES = {
    "512x512 d64": Case("scores", 512, 512, 64),
    "2048x2048 d64": Case("scores", 2048, 2048, 64),
    "8192x8192 d64": Case("scores", 8192, 8192, 64),
    "2048x2048 d128": Case("scores", 2048, 2048, 128),
    "2048x2048 d2048": Case("scores", 2048, 2048, 2048),
    "16x1024x1024 d64": Case("scores", 1024, 1024, 64, lead=(16,)),
    "1000x3001 d96": Case("scores", 1000, 3001, 96),
    "1x8192 d128": Case("scores", 1, 8192, 128),
    "2048x2048 d64 float64": Case("scores", 2048, 2048, 64, dtype="float64"),
}
PRODUCTS = ["2048x2048 d128", "2048x2048 d64 float64", "8192x8192 d64"]


class AgainstPeers(EachPeer):
    """The product of two matrices, `out` given to both."""

    cases = CASES
    params = (list(CASES), PEERS)
    param_names = ("case", "peer")


class AgainstTheArithmetic(Sides):
    """The multiplications and additions of the product, in registers."""

    params = (PRODUCTS,)
    param_names = ("case",)

    def sides(self, case: str) -> tuple[Start, Start]:  # noqa: D102
        return (
            lambda: start("numbattn", CASES[case]),
            lambda: fma_peak(CASES[case]),
        )

    @kept("1 - share of the FMA peak")
    def track_fma_peak_lost(self, case: str) -> float:
        """What the processor could have computed in our time, and we did not."""
        return self.lost()


class AgainstTheRead(Sides):
    """One query: the keys are read once, and hardly anything is computed."""

    def sides(self) -> tuple[Start, Start]:  # noqa: D102
        case = CASES["1x8192 d128"]
        return lambda: start("numbattn", case), lambda: plain_read(case)

    @kept("1 - share of the read bandwidth")
    def track_read_bandwidth_lost(self) -> float:
        """What could have been read in our time, and was not."""
        return self.lost()


class Causal(Sides):
    """Masked tiles are skipped, not computed."""

    def sides(self) -> tuple[Start, Start]:  # noqa: D102
        causal = Case("scores", 4096, 4096, 128, causal=True)
        full = Case("scores", 4096, 4096, 128)
        return lambda: start("numbattn", causal), lambda: start("numbattn", full)

    @kept("time / full time")
    def track_ratio(self) -> float:
        """Time of causal scores over the time of all of them, 4096², d 128."""
        return self.compared().ratio


class Time(EachTime):
    """One call with `out` given."""

    cases = CASES
    params = (list(CASES),)
    param_names = ("case",)


class SmallCall:
    """What a call costs over the arithmetic."""

    version = "1"
    number = 1000

    def setup(self) -> None:
        """Make the arrays, and call once."""
        with lacking():
            from numbattn import scores
        self.scores = scores
        self.x = np.zeros((16, 64), np.float32)
        self.out = np.zeros((16, 16), np.float32)
        self.time_small_call()

    def time_small_call(self) -> None:
        """Call on 16×16, d 64."""
        self.scores(self.x, self.x, out=self.out)
