"""The kernel sources that this process runs, as one hash.

The package imports this module before any kernel, and the hash is taken here and
now: a source that is edited while a process runs must not give the old code the new
code's name. `unchanged` asks again before a kernel is published.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

FOLDER = Path(__file__).parent


def _digest() -> str | None:
    """Hash every file that kernels are made of; None where they cannot be read."""
    digest = hashlib.sha256()
    try:
        # options.py: kernels have its UNBOUNDED inside
        files = [*sorted(FOLDER.glob("*.py")), FOLDER.parents[1] / "options.py"]
        for path in files:
            digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    except OSError:  # in a zip file, frozen, or compiled files only
        return None
    return digest.hexdigest()[:32] if len(files) > 1 else None


DIGEST = _digest()


def unchanged() -> bool:
    """Whether the files are still those that this process has imported."""
    return _digest() == DIGEST
