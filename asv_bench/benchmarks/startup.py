"""What a new process pays: the import, and the first call with and without a cache."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from functools import lru_cache

_FIRST_CALL = """
import numpy, numbattn
x = numpy.ones((64, 64), numpy.float32)
numbattn.scores(x, x)
"""


def _use_cache(folder: str) -> str:
    """Return code that makes a process keep its compiled kernels in `folder`."""
    return f"import os\nos.environ['NUMBATTN_CACHE_DIR'] = {folder!r}"


@lru_cache(maxsize=1)
def _filled_cache() -> tempfile.TemporaryDirectory[str]:
    """Return a folder that a first call has filled; it goes when this process ends."""
    folder = tempfile.TemporaryDirectory(prefix="numbattn-asv-")
    subprocess.run(
        [sys.executable, "-c", _FIRST_CALL],
        env={**os.environ, "NUMBATTN_CACHE_DIR": folder.name},
        check=True,
    )
    return folder


class Import:
    """Seconds of an import in a new interpreter."""

    number = 1
    repeat = (3, 10, 20.0)

    def timeraw_import_numbattn(self) -> str:
        """Import the package."""
        return "import numbattn"

    def timeraw_import_numpy(self) -> str:
        """Import NumPy alone, to compare with."""
        return "import numpy"

    timeraw_import_numbattn.version = "1"
    timeraw_import_numpy.version = "1"


class FirstCall:
    """Import and first `scores` call in a new process."""

    number = 1
    repeat = (3, 5, 60.0)
    timeout = 300

    def timeraw_cold(self) -> tuple[str, str]:
        """Compile everything: each process has an empty cache of its own."""
        setup = "import tempfile\nfolder = tempfile.TemporaryDirectory()\n"
        setup += "import os\nos.environ['NUMBATTN_CACHE_DIR'] = folder.name"
        return _FIRST_CALL, setup

    def timeraw_cached(self) -> tuple[str, str]:
        """Load everything from a cache that a first call has filled."""
        return _FIRST_CALL, _use_cache(_filled_cache().name)

    timeraw_cold.version = "1"
    timeraw_cached.version = "1"
