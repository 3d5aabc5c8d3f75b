"""Score functions and masks by rule: our processes, and FlexAttention's."""

from __future__ import annotations

import shutil

from .common import ARRAYS, Case, Worker, installed_peers, variables
from .sides import Start

HEADS = Case("attention", 2048, 2048, 64, lead=(1, 8))

_OURS = """
import numbattn
try:
    from numbattn import masks
except ImportError as error:  # a commit from before them
    if row in ("causal", "window", "documents"):
        raise

slopes = (2.0 ** -np.arange(1, 9)).astype(dtype)
ids = np.arange(m) // 256

def rule(score, b, h, q_idx, kv_idx, slopes):
    return score + slopes[h] * (kv_idx - q_idx)

def cap(score, b, h, q_idx, kv_idx):
    return 20 * math.tanh(score / 20)

options = {
    "nothing": lambda: {},
    "alibi": lambda: {"score_mod": rule, "score_mod_args": (slopes,)},
    "tanh": lambda: {"score_mod": cap},
    "causal": lambda: {"mask": masks.causal()},
    "window": lambda: {"mask": masks.sliding_window(256, 0)},
    "window_size": lambda: {"window_size": (256, 0)},
    "documents": lambda: {"mask": masks.document(ids, ids)},
}[row]()

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


def worker(source: str, case: Case, row: str = "") -> Worker:
    """Start a process with the arrays of a case, and a row's code."""
    return Worker(ARRAYS + source, {**variables(case), "row": row})


def ours(case: Case, row: str) -> Worker:
    """Start our attention with a row's options."""
    return worker(_OURS, case, row)


def against_ours(case: Case, row: str, other: str) -> tuple[Start, Start]:
    """Return two rows of ours."""
    return lambda: ours(case, row), lambda: ours(case, other)


def against_flex(row: str) -> tuple[Start, Start]:
    """Return our side of a row and that of ``torch.compile(flex_attention)``."""
    why = installed_peers()["torch"]
    if why is None and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        why = "no C++ compiler, which torch.compile needs"
    if why is not None:
        raise NotImplementedError(why)
    return lambda: ours(HEADS, row), lambda: worker(_FLEX, HEADS, row)
