"""Softmax weights: speed against peers, over scores, and time."""

from __future__ import annotations

from .common import Case, prepared, start
from .sides import PEERS, Sides, Start, against, kept, lacking

CASES = {
    "8x1024x1024 d64": Case("weights", 1024, 1024, 64, lead=(8,)),
    "8x2048x2048 d64": Case("weights", 2048, 2048, 64, lead=(8,)),
    "2048x2048 d128": Case("weights", 2048, 2048, 128),
    "8x1024x1024 d64 causal": Case("weights", 1024, 1024, 64, lead=(8,), causal=True),
    "2048x2048 d64 float64": Case("weights", 2048, 2048, 64, dtype="float64"),
}


class AgainstPeers(Sides):
    """Product, scale and softmax, `out` given to both."""

    params = (list(CASES), PEERS)
    param_names = ("case", "peer")

    def sides(self, case: str, peer: str) -> tuple[Start, Start]:  # noqa: D102
        return against(CASES[case], peer)

    @kept("time / the peer's time")
    def track_ratio(self, case: str, peer: str) -> float:
        """Our time over the peer's, by the fastest way that it offers."""
        return self.compared().ratio


class OverScores(Sides):
    """What the softmax adds to the scores of the same shape."""

    def sides(self) -> tuple[Start, Start]:  # noqa: D102
        case = CASES["8x1024x1024 d64"]
        scores = Case("scores", case.n, case.m, case.d, lead=case.lead)
        return lambda: start("numbattn", case), lambda: start("numbattn", scores)

    @kept("time / time of the scores")
    def track_ratio(self) -> float:
        """Time of the weights over that of the scores, 8 heads 1024², d 64."""
        return self.compared().ratio


class Time:
    """Time of one call with `out` given, compiled before."""

    params = (list(CASES),)
    param_names = ("case",)
    version = "1"
    rounds = 1
    timeout = 300

    def setup(self, case: str) -> None:
        """Take the call; the first use makes it."""
        with lacking():
            self.run = prepared(CASES[case])

    def time_call(self, case: str) -> None:
        """Call."""
        self.run()
