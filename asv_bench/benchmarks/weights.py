"""Softmax weights: speed against peers, over scores, and time."""

from __future__ import annotations

from .common import Case, start
from .sides import PEERS, EachPeer, EachTime, Sides, Start, kept

CASES = {
    "8x1024x1024 d64": Case("weights", 1024, 1024, 64, lead=(8,)),
    "8x2048x2048 d64": Case("weights", 2048, 2048, 64, lead=(8,)),
    "2048x2048 d128": Case("weights", 2048, 2048, 128),
    "8x1024x1024 d64 causal": Case("weights", 1024, 1024, 64, lead=(8,), causal=True),
    "2048x2048 d64 float64": Case("weights", 2048, 2048, 64, dtype="float64"),
}


class AgainstPeers(EachPeer):
    """Product, scale and softmax, `out` given to both."""

    cases = CASES
    params = (list(CASES), PEERS)
    param_names = ("case", "peer")


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


class Time(EachTime):
    """One call with `out` given."""

    cases = CASES
    params = (list(CASES),)
    param_names = ("case",)
