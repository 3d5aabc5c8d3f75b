"""What ending work by the clock costs: long calls with slabs over without."""

from __future__ import annotations

from statistics import median
from time import perf_counter

import numpy as np

from .sides import kept, lacking

PAIRS = 15


class Slabs:
    """One process, in turns, median of the pairwise ratios; 1.03 is allowed."""

    params = (["scores", "weights", "attention", "one row of attention"],)
    param_names = ("call",)
    timeout = 300

    def setup(self, call: str) -> None:
        """Make the arrays."""
        self.usual = None
        rng = np.random.default_rng(0)
        rows, keys = (1, 2_000_000) if call.startswith("one") else (4096, 8192)
        query = rng.standard_normal((rows, 64), np.float32)
        key = rng.standard_normal((keys, 64), np.float32)
        arrays = (query, key, key) if "attention" in call else (query, key)
        out = np.zeros((rows, 64 if "attention" in call else keys), np.float32)
        with lacking():
            import numbattn
            from numbattn.backends.cpu import launch, matrix

            operation = getattr(numbattn, call.split()[-1])
            self.launch, self.forget = launch, matrix._plan.cache_clear
            self.usual = launch.SLAB_FLOPS
        self.run = lambda: operation(*arrays, out=out)
        self.seconds(True)
        self.seconds(False)

    def seconds(self, slabs: bool) -> float:
        """Time of one call."""
        self.launch.SLAB_FLOPS = self.usual if slabs else float("inf")
        self.forget()  # the plan knows what has slabs
        start = perf_counter()
        self.run()
        return perf_counter() - start

    @kept("time / time without slabs")
    def track_ratio(self, call: str) -> float:
        """Time with slabs of 50 ms over the time of one launch."""
        ratios = []
        for turn in range(PAIRS):
            first = self.seconds(turn % 2 == 0)
            second = self.seconds(turn % 2 == 1)
            ratios.append(first / second if turn % 2 == 0 else second / first)
        return median(ratios)

    def teardown(self, call: str) -> None:
        """Restore the module."""
        if self.usual is not None:
            self.launch.SLAB_FLOPS = self.usual
