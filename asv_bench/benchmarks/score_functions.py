"""Score functions: against FlexAttention, what they cost, and what a new one costs.

`torch.compile(flex_attention)` needs PyTorch and a C++ compiler; without them its rows
are left out.
"""

from __future__ import annotations

from statistics import median

from .common import Case
from .rules import HEADS, against_flex, against_ours, worker
from .sides import Sides, Start, kept, lacking

FUNCTIONS = ["alibi", "tanh"]

# The process has run attention; the function is new to it and, by a number of its
# own, to the disk.
_NEW = """
import time
import numbattn

numbattn.attention(q, k, v, out=out)
slope = time.time_ns() % 1_000_000_007 * 1e-10

def rule(score, b, h, q_idx, kv_idx):
    return score - slope * abs(q_idx - kv_idx)

def run():
    return numbattn.attention(q, k, v, out=out, score_mod=rule)
"""

# A lambda made anew in each call; one thread, since waking others takes longer.
_AGAIN = """
import numbattn

given = {
    "plain": lambda: {},
    "lambda": lambda: {"score_mod": lambda s, b, h, i, j: s - 0.125 * abs(i - j)},
}[row]

def run():
    return numbattn.attention(q, k, v, out=out, num_threads=1, **given())
"""


class AgainstFlexAttention(Sides):
    """8 heads 2048², d 64, float32; each side in its own process, compiled before."""

    params = (FUNCTIONS,)
    param_names = ("function",)
    timeout = 600

    def sides(self, function: str) -> tuple[Start, Start]:  # noqa: D102
        return against_flex(function)

    @kept("time / FlexAttention's time")
    def track_ratio(self, function: str) -> float:
        """Our time over that of ``torch.compile(flex_attention)``."""
        return self.compared().ratio

    @kept("first call / FlexAttention's first call")
    def track_first_call(self, function: str) -> float:
        """A new function's first call here, over what compiles it there."""
        with lacking(), worker(_NEW, HEADS) as ours:
            return ours.first_call() / self.theirs.first_call()


class Cost(Sides):
    """A user's function over the plain kernel, 8 heads 2048², d 64."""

    params = (FUNCTIONS,)
    param_names = ("function",)

    def sides(self, function: str) -> tuple[Start, Start]:  # noqa: D102
        return against_ours(HEADS, function, "nothing")

    @kept("time / plain time")
    def track_ratio(self, function: str) -> float:
        """Time with the function over the time without."""
        return self.compared().ratio


class New:
    """A function's first call, in a process that has attended."""

    timeout = 300
    turns = 3

    def setup(self) -> None:
        """Compile once, so that what the function needs of ours is on the disk."""
        with lacking(), worker(_NEW, HEADS) as process:
            process.first_call()

    @kept("seconds")
    def track_first_call(self) -> float:
        """Seconds of the call."""
        found = []
        for _ in range(self.turns):
            with worker(_NEW, HEADS) as process:
                found.append(process.first_call())
        return median(found)


class Again(Sides):
    """A lambda made anew in each call, once it is known."""

    def sides(self) -> tuple[Start, Start]:  # noqa: D102
        case = Case("attention", 64, 64, 64)
        return lambda: worker(_AGAIN, case, "lambda"), lambda: worker(
            _AGAIN, case, "plain"
        )

    @kept("seconds")
    def track_overhead(self) -> float:
        """Seconds that it adds to a call of 64²."""
        found = self.compared()
        return found.first - found.second
