"""Attention: speed against peers and machine, time, growth, memory and error.

A ratio is time over time, ours first: lower is better, so that a regression is an
upward step. The versions are pinned: editing a benchmark must not orphan its history.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np

import numbattn
from numbattn.testing import assert_output, exact

from .common import (
    Case,
    WorkerError,
    compare,
    installed_peers,
    namespace,
    prepared,
    start,
)
from .machine import fma_peak, plain_read

ROWS = {
    "8 heads 2048": Case("attention", 2048, 2048, 64, lead=(1, 8)),
    "causal": Case("attention", 2048, 2048, 64, lead=(1, 8), causal=True),
    "d 128": Case("attention", 2048, 2048, 128, lead=(1, 8)),
    "causal 8192": Case("attention", 8192, 8192, 64, lead=(1, 4), causal=True),
    "8 heads 512": Case("attention", 512, 512, 64, lead=(1, 8)),
    "8x12 heads 128": Case("attention", 128, 128, 64, lead=(8, 12)),
    "d 80": Case("attention", 2048, 2048, 80, lead=(1, 8)),
    "d_k 192 d_v 128": Case("attention", 2048, 2048, 192, lead=(1, 8), d_v=128),
    "bool mask": Case("attention", 2048, 2048, 64, lead=(1, 8), mask=True),
    "float64": Case("attention", 2048, 2048, 64, lead=(1, 8), dtype="float64"),
    "window 256": Case(
        "attention", 8192, 8192, 64, lead=(1, 1), causal=True, window=256
    ),
    "decode 32 of 32": Case("attention", 1, 8192, 128, lead=(1, 32)),
    "decode 32 of 8": Case("attention", 1, 8192, 128, lead=(1, 32), kv_heads=8),
}
DECODES = [name for name in ROWS if name.startswith("decode")]
PEERS = ["torch", "onnxruntime", "numpy"]


class AgainstPeers:
    """Each side in its own process, in turns, median of the pairwise ratios."""

    params = (list(ROWS), PEERS)
    param_names = ("row", "peer")
    timeout = 600

    def setup(self, row: str, peer: str) -> None:
        """Leave out what is not installed."""
        why = installed_peers()[peer]
        if why is not None:
            raise NotImplementedError(why)

    def track_ratio(self, row: str, peer: str) -> float:
        """Our time over the peer's, by the fastest way that it offers."""
        case = ROWS[row]
        try:
            theirs = start(peer, case)
        except WorkerError:  # it has no operator for this row
            return math.nan
        with theirs, start("numbattn", case) as ours:
            return compare(ours, theirs, at_least=0.2).ratio

    track_ratio.unit = "time / the peer's time"
    track_ratio.version = "1"


class AgainstTheMachine:
    """Our time over that of the arithmetic, or of the reading, alone."""

    timeout = 300

    def track_fma_peak(self) -> float:
        """8 heads 2048², d 64, over its multiplications and additions at the peak."""
        case = ROWS["8 heads 2048"]
        with start("numbattn", case) as ours, fma_peak(case) as peak:
            return compare(ours, peak, at_least=0.2).ratio

    def track_plain_read(self, row: str) -> float:
        """Decoding, over one read of the same keys and values."""
        case = ROWS[row]
        with start("numbattn", case) as ours, plain_read(case) as read:
            return compare(ours, read, at_least=0.2).ratio

    track_plain_read.params = (DECODES,)
    track_plain_read.param_names = ("row",)
    track_fma_peak.unit = "time / time at the FMA peak"
    track_plain_read.unit = "time / time of a plain read"
    track_fma_peak.version = track_plain_read.version = "1"


class Time:
    """Time of one call with `out` given, compiled before."""

    params = (list(ROWS),)
    param_names = ("row",)
    timeout = 300

    def setup(self, row: str) -> None:
        """Take the call; the first use makes it."""
        self.run = prepared(ROWS[row])

    def time_call(self, row: str) -> None:
        """Call."""
        self.run()

    time_call.version = "1"


class Growth:
    """Time grows with the square of the length, and with nothing else."""

    timeout = 300
    lengths = (1024, 2048, 4096, 8192, 16384)
    rounds = 3

    def track_deviation_from_square(self) -> float:
        """Return how far a length is from the fit, 8 heads, d 64: 0.1 is 10 %."""
        calls = {
            n: prepared.__wrapped__(Case("attention", n, n, 64, lead=(8,)))
            for n in self.lengths
        }
        found = []
        for _ in range(self.rounds):
            each = np.array([_seconds(call) / n**2 for n, call in calls.items()])
            found.append(each / np.exp(np.log(each).mean()))
        return float(np.abs(np.median(found, axis=0) - 1).max())

    track_deviation_from_square.unit = "time / fitted time - 1"
    track_deviation_from_square.version = "1"


def _seconds(call: Callable[[], object]) -> float:
    """Return the time of a call, as the median of what fits into 0.2 s."""
    times: list[float] = []
    while sum(times) < 0.2:
        begin = perf_counter()
        call()
        times.append(perf_counter() - begin)
    return median(times)


class Memory:
    """What calls take beside their arrays, and the peak of their processes."""

    params = (list(ROWS),)
    param_names = ("row",)

    def setup(self, row: str) -> None:
        """Make the arrays."""
        self.row = namespace(ROWS[row])

    def peakmem_call(self, row: str) -> None:
        """Call, in a process that holds the arrays too."""
        self.row["run"]()

    def track_workspace(self, row: str) -> float:
        """Return the estimate, `out` given."""
        given = self.row["given"] | {"is_causal": ROWS[row].causal}
        arrays, out = self.row["arrays"], self.row["out"]
        return float(numbattn.estimate_memory(*arrays, out=out, **given).total)

    peakmem_call.version = "1"
    track_workspace.unit = "bytes"
    track_workspace.version = "1"


class LongMemory:
    """65,536 queries and keys, whose scores would be 16 GiB."""

    timeout = 300

    def setup(self) -> None:
        """Make the arrays."""
        if not Path("/proc/self/clear_refs").exists():
            raise NotImplementedError("only Linux tells the peak of a single call")
        self.run = prepared(Case("attention", 512, 512, 64))  # loads the kernel
        self.long = namespace(Case("attention", 65_536, 65_536, 64))
        self.long["out"].fill(1)  # its memory is taken before the call

    def track_peak(self) -> float:
        """Return how much the process grew in a call, `out` given."""
        self.run()
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        before = _status("VmRSS")
        self.long["run"]()
        return float(_status("VmHWM") - before)

    track_peak.unit = "bytes"
    track_peak.version = "1"


def _status(name: str) -> int:
    """Return a size in bytes that Linux knows of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise NotImplementedError(name)


class Error:
    """The largest error of 32 queries in the middle, against long double."""

    params = (list(ROWS),)
    param_names = ("row",)
    timeout = 300

    def track_max_error(self, row: str) -> float:
        """Return the C of the error bound that was needed; 16 is allowed."""
        case, made = ROWS[row], namespace(ROWS[row])
        found = made["run"]()
        first = case.n // 2
        some = slice(first, first + 32)
        query, key, value = made["arrays"]
        options = {"is_causal": case.causal, "q_offset": first}
        if case.mask:
            options["mask"] = made["mask"][some]
        if case.window is not None:
            options["window_size"] = (case.window, None)
        want = exact("attention", query[..., some, :], key, value, **options)
        return assert_output(np.ascontiguousarray(found[..., some, :]), want, math.inf)

    track_max_error.unit = "C"
    track_max_error.version = "1"
