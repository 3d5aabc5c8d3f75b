"""What ending work by the clock costs: long calls with slabs over without."""

from __future__ import annotations

from statistics import median
from time import perf_counter

import numpy as np

import numbattn
from numbattn.backends.cpu import launch, matrix

PAIRS = 15


class Slabs:
    """One process, in turns, median of the pairwise ratios; 1.03 is allowed."""

    params = (["scores", "weights", "attention", "one row of attention"],)
    param_names = ("call",)
    timeout = 300

    def setup(self, call: str) -> None:
        """Make the arrays."""
        rng = np.random.default_rng(0)
        rows, keys = (1, 2_000_000) if call.startswith("one") else (4096, 8192)
        query = rng.standard_normal((rows, 64), np.float32)
        key = rng.standard_normal((keys, 64), np.float32)
        operation = getattr(numbattn, call.split()[-1])
        arrays = (query, key, key) if "attention" in call else (query, key)
        out = np.zeros((rows, 64 if "attention" in call else keys), np.float32)
        self.run = lambda: operation(*arrays, out=out)
        self.usual = launch.SLAB_FLOPS
        self.seconds(True)
        self.seconds(False)

    def seconds(self, slabs: bool) -> float:
        """Time of one call."""
        launch.SLAB_FLOPS = self.usual if slabs else float("inf")
        matrix._plan.cache_clear()  # it knows what has slabs
        start = perf_counter()
        self.run()
        return perf_counter() - start

    def track_ratio(self, call: str) -> float:
        """Time with slabs of 50 ms over the time of one launch."""
        ratios = []
        for turn in range(PAIRS):
            first = self.seconds(turn % 2 == 0)
            second = self.seconds(turn % 2 == 1)
            ratios.append(first / second if turn % 2 == 0 else second / first)
        return median(ratios)

    track_ratio.unit = "time / time without slabs"
    track_ratio.version = "1"

    def teardown(self, call: str) -> None:
        """Restore the module."""
        launch.SLAB_FLOPS = self.usual
