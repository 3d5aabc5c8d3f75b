"""What the first call of a process takes, and what compiling leaves on the disk."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import TypedDict

from .sides import kept

_START = "import numpy, numbattn; x = numpy.ones((64, 64), numpy.float32)\n"
CALLS = {
    "scores": "numbattn.scores(x, x)",
    "weights": "numbattn.weights(x, x)",
    "attention": "numbattn.attention(x, x, x)",
    "decode": "numbattn.attention(x[:1], x, x)",
    "score_mod": "numbattn.attention(x, x, x, score_mod=lambda s, b, h, i, j: s - i)",
    "mask": "numbattn.attention(x, x, x, mask=numbattn.masks.causal())",
    "warmup": "numbattn.warmup(['float32'])",
}
FIRST = ["scores", "weights", "attention"]

_TIMED = """
from time import perf_counter
start = perf_counter()
{call}
print(perf_counter() - start)
"""


class Trace(TypedDict):
    """What one call compiled."""

    seconds: float
    files: int
    bytes: int


@lru_cache(maxsize=1)
def _filled_cache(call: str) -> tempfile.TemporaryDirectory[str]:
    """Return a folder that a first call has filled; it goes when this process ends."""
    folder = tempfile.TemporaryDirectory(prefix="numbattn-asv-")
    _seconds(call, folder.name)
    return folder


def _seconds(call: str, folder: str) -> float:
    """Return the seconds of the call in a new process with its kernels in `folder`."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", _START + _TIMED.format(call=CALLS[call])],
        env={**os.environ, "NUMBATTN_CACHE_DIR": folder},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return float(done.stdout.splitlines()[-1])


class FirstCall:
    """Import and first call of a new process."""

    params = (FIRST,)
    param_names = ("call",)
    version = "1"
    number = 1
    repeat = (2, 3, 40.0)
    rounds = 1
    warmup_time = 0
    timeout = 300

    def timeraw_cold(self, call: str) -> tuple[str, str]:
        """Compile everything: each process has an empty cache of its own."""
        setup = "import tempfile\nfolder = tempfile.TemporaryDirectory()\n"
        setup += "import os\nos.environ['NUMBATTN_CACHE_DIR'] = folder.name"
        return _START + CALLS[call], setup

    def timeraw_cached(self, call: str) -> tuple[str, str]:
        """Load everything from a cache that a first call has filled."""
        folder = _filled_cache(call).name
        return (
            _START + CALLS[call],
            f"import os\nos.environ['NUMBATTN_CACHE_DIR'] = {folder!r}",
        )


class Compiled:
    """What each first call compiles, beside what it takes from the disk."""

    params = (list(CALLS),)
    param_names = ("call",)
    timeout = 300

    def setup_cache(self) -> dict[str, Trace]:
        """Make each call in two new processes, the first with an empty cache."""
        found: dict[str, Trace] = {}
        for call in CALLS:
            with tempfile.TemporaryDirectory(prefix="numbattn-asv-") as folder:
                try:
                    seconds = _seconds(call, folder) - _seconds(call, folder)
                except subprocess.CalledProcessError as error:
                    sys.stderr.write(f"{call}: {error}\n")
                    continue  # a commit from before it
                files = [each for each in Path(folder).rglob("*") if each.is_file()]
                found[call] = {
                    "seconds": seconds,
                    "files": len(files),
                    "bytes": sum(each.stat().st_size for each in files),
                }
        return found

    setup_cache.timeout = 600  # type: ignore[attr-defined]

    def setup(self, found: dict[str, Trace], call: str) -> None:
        """Leave out what failed."""
        if call not in found:
            raise NotImplementedError("this commit does not have it")

    @kept("seconds")
    def track_compile_seconds(self, found: dict[str, Trace], call: str) -> float:
        """Return how much longer the call takes with an empty cache."""
        return found[call]["seconds"]

    @kept("bytes")
    def track_cache_bytes(self, found: dict[str, Trace], call: str) -> float:
        """Return what it leaves on the disk."""
        return float(found[call]["bytes"])

    @kept("files")
    def track_cache_files(self, found: dict[str, Trace], call: str) -> float:
        """Return how many compiled kernels that is, one a file."""
        return float(found[call]["files"])
