"""Scores: speed against NumPy, time, memory and error.

A ratio is time over time, ours first: lower is better, so that a regression is an
upward step. The versions are pinned: editing a benchmark must not orphan its history.
"""

from __future__ import annotations

import numpy as np

import numbattn

from .common import CASES, Case, compare, prepared, start


class AgainstNumpy:
    """Each side in its own process, in turns, median of the pairwise ratios."""

    params = (list(CASES),)
    param_names = ("case",)
    timeout = 300

    def track_ratio(self, name: str) -> float:
        """Our time over NumPy's, `out` given to both."""
        case = CASES[name]
        with start("numbattn", case) as ours, start("numpy", case) as theirs:
            return compare(ours, theirs).ratio

    track_ratio.unit = "time / NumPy's time"
    track_ratio.version = "1"


class Causal:
    """Masked tiles are skipped, not computed."""

    timeout = 300

    def track_ratio(self) -> float:
        """Time of causal scores over the time of all of them, 4096², d 128."""
        causal = Case("scores", 4096, 4096, 128, causal=True)
        full = Case("scores", 4096, 4096, 128)
        with start("numbattn", causal) as one, start("numbattn", full) as all_of_it:
            return compare(one, all_of_it).ratio

    track_ratio.unit = "time / full time"
    track_ratio.version = "1"


class Time:
    """Time of one call with `out` given, compiled before."""

    params = (list(CASES),)
    param_names = ("case",)

    def setup(self, name: str) -> None:
        """Take the call; the first use makes it."""
        self.run = prepared(CASES[name])

    def time_call(self, name: str) -> None:
        """Call."""
        self.run()

    time_call.version = "1"


class SmallCall:
    """What a call costs over the arithmetic."""

    number = 1000

    def setup(self) -> None:
        """Make the arrays, and call once."""
        self.x = np.zeros((16, 64), np.float32)
        self.out = np.zeros((16, 16), np.float32)
        self.time_small_call()

    def time_small_call(self) -> None:
        """Call on 16×16, d 64."""
        numbattn.scores(self.x, self.x, out=self.out)

    time_small_call.version = "1"


class Memory:
    """Peak memory of the process; the inputs are 4 MiB."""

    def setup(self) -> None:
        """Make the inputs."""
        rng = np.random.default_rng(0)
        self.query, self.key = rng.standard_normal((2, 8192, 64), dtype=np.float32)

    def peakmem_scores(self) -> None:
        """Form a matrix of 256 MiB."""
        numbattn.scores(self.query, self.key)

    def peakmem_iter_scores(self) -> None:
        """Go through the same in blocks of at most 16 MiB, none of them kept."""
        for _ in numbattn.iter_scores(self.query, self.key, max_memory="16 MiB"):
            pass

    def peakmem_attention(self) -> None:
        """Compute attention of the same size, which never forms the matrix."""
        numbattn.attention(self.query, self.key, self.key)

    peakmem_scores.version = "1"
    peakmem_iter_scores.version = "1"
    peakmem_attention.version = "1"


def track_max_error() -> float:
    """Return the largest error of float32 scores, in units of the error bound's u."""
    rng = np.random.default_rng(0)
    query, key = rng.standard_normal((2, 512, 128), dtype=np.float32)
    wide_query, wide_key = query.astype(np.float64), key.astype(np.float64)
    exact = wide_query @ wide_key.T
    size = np.abs(wide_query) @ np.abs(wide_key).T + np.abs(exact)
    error = np.abs(numbattn.scores(query, key) - exact)
    return float((error / size).max() * 2**24)


track_max_error.unit = "u"
track_max_error.version = "1"
