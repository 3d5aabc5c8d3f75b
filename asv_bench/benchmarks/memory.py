"""What calls take beside their arrays, and the peak of their processes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from . import attention, decode, scores
from .common import Case, namespace, prepared
from .sides import kept, lacking

ROWS = {
    **{
        name: scores.CASES[name]
        for name in ("2048x2048 d64", "8192x8192 d64", "1000x3001 d96")
    },
    **{
        name: attention.ROWS[name]
        for name in ("8 heads 2048", "causal", "d 128", "bool mask", "float64")
    },
    **{name: decode.ROWS[name] for name in ("decode 32 of 32", "decode 32 of 8")},
}


class Call:
    """One call, `out` given."""

    params = (list(ROWS),)
    param_names = ("row",)
    version = "1"

    def setup(self, row: str) -> None:
        """Make the arrays."""
        with lacking():
            self.row = namespace(ROWS[row])

    def peakmem_call(self, row: str) -> None:
        """Call, in a process that holds the arrays too."""
        self.row["run"]()


class Estimate:
    """What a call is held to before it allocates, `out` given."""

    params = (list(ROWS),)
    param_names = ("row",)

    def setup(self, row: str) -> None:
        """Estimate."""
        case = ROWS[row]
        options = {"is_causal": case.causal, "operation": case.operation}
        with lacking():
            from numbattn import estimate_memory

            made = namespace(case)
            given = {"out": made["out"], **made["given"], **options}
            self.found = estimate_memory(*made["arrays"], **given)

    @kept("bytes")
    def track_workspace(self, row: str) -> float:
        """Return the bytes that are taken beside the arrays."""
        return float(self.found.total)


class Blocks:
    """A matrix of 256 MiB formed, in blocks, and not at all; the inputs are 4 MiB."""

    version = "1"

    def setup(self) -> None:
        """Make the inputs."""
        rng = np.random.default_rng(0)
        self.query, self.key = rng.standard_normal((2, 8192, 64), dtype=np.float32)
        with lacking():
            from numbattn import attention, iter_scores, scores

            self.attention, self.scores, self.blocks = attention, scores, iter_scores

    def peakmem_scores(self) -> None:
        """Form it."""
        self.scores(self.query, self.key)

    def peakmem_iter_scores(self) -> None:
        """Go through the same in blocks of at most 16 MiB, none of them kept."""
        for _ in self.blocks(self.query, self.key, max_memory="16 MiB"):
            pass

    def peakmem_attention(self) -> None:
        """Compute attention of the same size, which never forms the matrix."""
        self.attention(self.query, self.key, self.key)


class LongMemory:
    """65,536 queries and keys, whose scores would be 16 GiB."""

    timeout = 300

    def setup(self) -> None:
        """Make the arrays."""
        if not Path("/proc/self/clear_refs").exists():
            raise NotImplementedError("only Linux tells the peak of a single call")
        with lacking():
            # loads the kernel
            self.run = prepared(Case("attention", 512, 512, 64))
            self.long = namespace(Case("attention", 65_536, 65_536, 64))
        self.long["out"].fill(1)  # its memory is taken before the call

    @kept("bytes")
    def track_peak(self) -> float:
        """Return how much the process grew in a call, `out` given."""
        self.run()
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        before = _status("VmRSS")
        self.long["run"]()
        return float(_status("VmHWM") - before)


def _status(name: str) -> int:
    """Return a size in bytes that Linux knows of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise NotImplementedError(name)
