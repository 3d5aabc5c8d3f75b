"""The history: twelve figures of every commit, all taken in one go of a minute or so.

Nothing here asks the measured numbattn for more than `scores`, `weights` and
`attention`, so that every commit since the first can be measured. A figure that a
commit cannot give is NaN, with the reason on stderr. Lower is better in all of them.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache, partial
from statistics import median
from time import perf_counter
from typing import TypeVar

import numpy as np

from .common import ENOUGH, Case, Comparison, Worker, program, start, variables
from .machine import fma_peak
from .quiet import measure
from .sides import kept

PATIENCE = 60.0
"""Seconds of comparing, after which no ratio is measured once more."""
IMPORTS = 20
"""New interpreters, of each side."""
_HEADS = Case("attention", 2048, 2048, 64, lead=(1, 8))
PEAK = "fma_peak_lost"
_SIDES: dict[str, tuple[Case, Callable[[Case], Worker]]] = {
    PEAK: (Case("scores", 2048, 2048, 128), fma_peak),
    "scores_2048_over_numpy": (Case("scores", 2048, 2048, 64), partial(start, "numpy")),
    "scores_ragged_over_numpy": (
        Case("scores", 1000, 3001, 96),
        partial(start, "numpy"),
    ),
    "weights_over_numpy": (
        Case("weights", 1024, 1024, 64, lead=(8,)),
        partial(start, "numpy"),
    ),
    "attention_2048_over_torch": (_HEADS, partial(start, "torch")),
    "attention_causal_over_torch": (
        Case("attention", 2048, 2048, 64, lead=(1, 8), causal=True),
        partial(start, "torch"),
    ),
    "attention_512_over_onnxruntime": (
        Case("attention", 512, 512, 64, lead=(1, 8)),
        partial(start, "onnxruntime"),
    ),
    "decode_over_numpy": (
        Case("attention", 1, 8192, 128, lead=(1, 32), kv_heads=8),
        partial(start, "numpy"),
    ),
}
_Figures = dict[str, float]
_T = TypeVar("_T")
_FIRST_CALL = """
import numpy, numbattn
x = numpy.ones((64, 64), numpy.float32)
numbattn.scores(x, x)
"""


def setup_cache() -> _Figures:
    """Return every figure of the commit that is installed."""
    return figures_of(NAMES)


setup_cache.timeout = 300


def figures_of(names: Iterable[str]) -> _Figures:
    """Return some figures of the numbattn that a new process imports."""
    figures: _Figures = defaultdict(_no_figure)
    wanted = list(names)
    for name in filter(_PARTS.__contains__, wanted):
        if (value := _tried(name, _PARTS[name])) is not None:
            figures[name] = value
    compared = _compared(filter(_SIDES.__contains__, wanted))
    figures.update({name: each.ratio for name, each in compared.items()})
    if PEAK in compared:
        figures[PEAK] = 1.0 - 1.0 / figures[PEAK]
    return figures


def over_another(names: Iterable[str], package: str) -> _Figures:
    """Return the time of each ratio's call over that of the numbattn in a folder.

    What disturbs them disturbs both alike, so that this needs no quiet machine.
    """
    figures: _Figures = defaultdict(_no_figure)
    there = f"import sys\nsys.path.insert(0, {package!r})\n"

    def other(case: Case) -> Worker:
        return Worker(there + program("numbattn"), variables(case))

    for name in names:
        part = partial(_import_over, f"{there}import numbattn")
        if name in _SIDES:
            part = partial(_compare, _SIDES[name][0], other)
        if (found := _tried(name, part)) is not None:
            figures[name] = getattr(found, "ratio", found)
    return figures


def _no_figure() -> float:
    return math.nan


def _tried(name: str, part: Callable[[], _T]) -> _T | None:
    """Return a figure, or say why the commit has none."""
    try:
        return part()
    except Exception as error:  # whatever it is that this commit cannot do
        sys.stderr.write(f"{name}: {error}\n")
        return None


def _compared(names: Iterable[str]) -> dict[str, Comparison]:
    """Compare, and once more where the machine was not quiet: that may be over then."""
    found: dict[str, Comparison] = {}
    left = list(names)
    begin = perf_counter()
    while left:
        for name in list(left):
            if name in found and perf_counter() - begin > PATIENCE:
                return found
            one = _tried(name, partial(_compare, *_SIDES[name]))
            if one is None or one.quiet >= ENOUGH:
                left.remove(name)
            # of restless minutes, the one in which the other side lost least
            before = found.get(name)
            if one and (before is None or name not in left or one.floor < before.floor):
                found[name] = one
    return found


def _compare(case: Case, other: Callable[[Case], Worker]) -> Comparison:
    with other(case) as theirs, start("numbattn", case) as ours:
        return measure(ours, theirs, pairs=5, budget=1.0, patience=3.0)


def _wall(code: str, env: Mapping[str, str] | None = None) -> float:
    """Return the seconds of a new interpreter that runs `code`."""
    begin = perf_counter()
    subprocess.run([sys.executable, "-P", "-c", code], check=True, env=env)
    return perf_counter() - begin


@lru_cache(maxsize=1)
def _first_calls() -> tuple[float, float]:
    """Return the seconds with an empty cache of kernels, and with the one it fills."""
    with tempfile.TemporaryDirectory(prefix="numbattn-asv-") as folder:
        env = {**os.environ, "NUMBATTN_CACHE_DIR": folder}
        cold, *cached = (_wall(_FIRST_CALL, env) for _ in range(4))
    return cold, median(cached)


def _import_over(other: str) -> float:
    """Return the ratio of the shortest: a new process is disturbed by everything."""
    walls = [(_wall("import numbattn"), _wall(other)) for _ in range(IMPORTS)]
    ours, theirs = map(min, zip(*walls, strict=True))
    return ours / theirs


def _max_error() -> float:
    """Return the C that float32 attention needs in docs/numerics.md's bound.

    float64 stands in for the exact result: its own error is a 2**-29th of float32's.
    """
    import numbattn

    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((r, 96), np.float32) for r in (500, 3001, 3001)]
    wide = [array.astype(np.float64) for array in arrays]
    logits = wide[0] @ wide[1].T / math.sqrt(96)
    size = (np.abs(wide[0]) @ np.abs(wide[1]).T / math.sqrt(96)).max(-1, keepdims=True)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    exact = weights @ wide[2]
    found = numbattn.attention(*arrays)
    spread = 1.0 + size + math.log2(1.0 + 3001 / 64)
    bound = 2.0**-24 * spread * (weights @ np.abs(wide[2]))
    rounded = 0.5 * np.spacing(np.abs(exact).astype(np.float32))
    return float(((np.abs(found - exact) - rounded) / bound).max())


_PARTS: dict[str, Callable[[], float]] = {
    "first_call_cold": lambda: _first_calls()[0],
    "first_call_cached": lambda: _first_calls()[1],
    "import_over_numpy": partial(_import_over, "import numpy"),
    "max_error": _max_error,
}
NAMES = (*_PARTS, *_SIDES)


@kept("time / NumPy's time")
def track_scores_2048_over_numpy(figures: _Figures) -> float:
    """Scores 2048², d 64."""
    return figures["scores_2048_over_numpy"]


@kept("time / NumPy's time")
def track_scores_ragged_over_numpy(figures: _Figures) -> float:
    """Scores 1000×3001, d 96: no size is a multiple of a tile."""
    return figures["scores_ragged_over_numpy"]


@kept("time / NumPy's time")
def track_weights_over_numpy(figures: _Figures) -> float:
    """Softmax weights, 8 heads 1024², d 64."""
    return figures["weights_over_numpy"]


@kept("time / PyTorch's time")
def track_attention_2048_over_torch(figures: _Figures) -> float:
    """Attention, 8 heads 2048², d 64."""
    return figures["attention_2048_over_torch"]


@kept("time / PyTorch's time")
def track_attention_causal_over_torch(figures: _Figures) -> float:
    """The same, causal."""
    return figures["attention_causal_over_torch"]


@kept("time / ONNX Runtime's time")
def track_attention_512_over_onnxruntime(figures: _Figures) -> float:
    """Attention, 8 heads 512², d 64, by ONNX Runtime's fastest operator."""
    return figures["attention_512_over_onnxruntime"]


@kept("time / NumPy's time")
def track_decode_over_numpy(figures: _Figures) -> float:
    """One query in each of 32 heads over 8 heads of 8192 keys, d 128."""
    return figures["decode_over_numpy"]


@kept("1 - share of the FMA peak")
def track_fma_peak_lost(figures: _Figures) -> float:
    """Scores 2048², d 128, against multiplications and additions in registers."""
    return figures["fma_peak_lost"]


@kept("seconds")
def track_first_call_cold(figures: _Figures) -> float:
    """A new process that computes scores, nothing compiled."""
    return figures["first_call_cold"]


@kept("seconds")
def track_first_call_cached(figures: _Figures) -> float:
    """The same, compiled before."""
    return figures["first_call_cached"]


@kept("time / NumPy's import")
def track_import_over_numpy(figures: _Figures) -> float:
    """A new process that imports numbattn."""
    return figures["import_over_numpy"]


@kept("C of the error bound")
def track_max_error(figures: _Figures) -> float:
    """Attention 500×3001, d 96; 16 is allowed."""
    return figures["max_error"]
