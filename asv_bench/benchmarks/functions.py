"""Score functions and masks by rule: against FlexAttention, and what they cost.

A ratio is time over time, ours first: lower is better. `torch.compile(flex_attention)`
needs PyTorch and a C++ compiler; without them its rows are left out.
"""

from __future__ import annotations

import shutil
from statistics import median

from .common import (
    ARRAYS,
    Case,
    Comparison,
    Worker,
    compare,
    installed_peers,
    variables,
)

HEADS = Case("attention", 2048, 2048, 64, lead=(1, 8))
LONG = Case("attention", 8192, 8192, 64, lead=(1, 1))
SMALL = Case("attention", 64, 64, 64)
ROWS = ("alibi", "tanh", "causal", "window", "documents")

_OURS = """
import numbattn
from numbattn import masks

slopes = (2.0 ** -np.arange(1, 9)).astype(dtype)
ids = np.arange(m) // 256

def rule(score, b, h, q_idx, kv_idx, slopes):
    return score + slopes[h] * (kv_idx - q_idx)

def cap(score, b, h, q_idx, kv_idx):
    return 20 * math.tanh(score / 20)

options = {
    "nothing": {},
    "alibi": {"score_mod": rule, "score_mod_args": (slopes,)},
    "tanh": {"score_mod": cap},
    "causal": {"mask": masks.causal()},
    "window": {"mask": masks.sliding_window(256, 0)},
    "window_size": {"window_size": (256, 0)},
    "documents": {"mask": masks.document(ids, ids)},
}[row]

def run():
    return numbattn.attention(q, k, v, out=out, **options)
"""

_FLEX = """
import torch
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

tq, tk, tv = (torch.from_numpy(a) for a in (q, k, v))
slopes = 2.0 ** -torch.arange(1, 9)
ids = torch.arange(m) // 256
mods = {
    "alibi": lambda s, b, h, i, j: s + slopes[h] * (j - i),
    "tanh": lambda s, b, h, i, j: 20 * torch.tanh(s / 20),
}
rules = {
    "causal": lambda b, h, i, j: i >= j,
    "window": lambda b, h, i, j: (i >= j) & (i - j <= 256),
    "documents": lambda b, h, i, j: ids[i] == ids[j],
}
rule = rules.get(row)
block_mask = rule and create_block_mask(rule, None, None, n, m, device="cpu")
compiled = torch.compile(flex_attention)
torch.inference_mode().__enter__()

def run():
    return compiled(tq, tk, tv, score_mod=mods.get(row), block_mask=block_mask)
"""

# The process has run attention; `run` is new to it.
_NEW = """
import numbattn

numbattn.attention(q, k, v, out=out)

def rule(score, b, h, q_idx, kv_idx):
    return score - 0.125 * abs(q_idx - kv_idx)

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


def worker(source: str, case: Case, row: str = "") -> Worker:
    """Start a process with the arrays of a case, and a row's code."""
    return Worker(ARRAYS + source, {**variables(case), "row": row})


def against(case: Case, row: str, other: str) -> Comparison:
    """Compare two rows of ours."""
    with worker(_OURS, case, row) as ours, worker(_OURS, case, other) as theirs:
        return compare(ours, theirs, at_least=0.2)


def _needs_flex() -> None:
    why = installed_peers()["torch"]
    if why is None and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        why = "no C++ compiler, which torch.compile needs"
    if why is not None:
        raise NotImplementedError(why)


class AgainstFlexAttention:
    """8 heads 2048², d 64, float32; each side in its own process, compiled before."""

    params = (ROWS,)
    param_names = ("row",)
    timeout = 600

    def setup(self, row: str) -> None:
        """Leave it out where it cannot run."""
        _needs_flex()

    def track_ratio(self, row: str) -> float:
        """Our time over that of ``torch.compile(flex_attention)``."""
        with worker(_OURS, HEADS, row) as ours, worker(_FLEX, HEADS, row) as theirs:
            return compare(ours, theirs, at_least=0.2).ratio

    def track_first_call(self, row: str) -> float:
        """Seconds of FlexAttention's first call, which compiles."""
        with worker(_FLEX, HEADS, row) as theirs:
            return theirs.seconds()

    track_ratio.unit = "time / FlexAttention's time"
    track_first_call.unit = "seconds"
    track_ratio.version = track_first_call.version = "1"


class Cost:
    """What a function or a mask object takes more than the call without it."""

    timeout = 300

    def track_function(self, row: str) -> float:
        """A user's function over the plain kernel, 8 heads 2048², d 64."""
        return against(HEADS, row, "nothing").ratio

    def track_window(self) -> float:
        """``masks.sliding_window(256, 0)`` over ``window_size=(256, 0)``, 8192²."""
        return against(LONG, "window", "window_size").ratio

    track_function.params = (("alibi", "tanh"),)
    track_function.param_names = ("row",)
    track_function.unit = "time / plain time"
    track_window.unit = "time / time with window_size"
    track_function.version = track_window.version = "1"


class New:
    """A function's first call, and its next ones."""

    timeout = 300
    rounds = 3

    def track_first_call(self) -> float:
        """Seconds of a new function's first call, in a process that has attended."""
        found = []
        for _ in range(self.rounds):
            with worker(_NEW, HEADS) as process:
                found.append(process.seconds())
        return median(found)

    def track_overhead(self) -> float:
        """Seconds that a lambda made anew adds to a call of 64², once it is known."""
        ours, plain = (worker(_AGAIN, SMALL, row) for row in ("lambda", "plain"))
        with ours, plain:
            found = compare(ours, plain, at_least=0.1)
        return found.first - found.second

    track_first_call.unit = track_overhead.unit = "seconds"
    track_first_call.version = track_overhead.version = "1"
