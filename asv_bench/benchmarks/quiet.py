"""Comparisons on a machine that others use: what it can do when they do not.

The other side of a comparison is pinned, so its seconds on a quiet machine are a
constant of that machine. They are kept between comparisons, beside asv's description
of the machine in the home folder: a comparison then knows whether it sees a quiet
machine or one that is equally slow for as long as it lasts.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from .common import SOURCES, Comparison, Worker, compare

# Path.home() raises where there is none, which is no reason to measure nothing
FILE = Path(os.path.expanduser("~/.asv-numbattn-quiet.json"))
LIBRARIES = ("numpy", "numba", "torch", "onnxruntime", "jax")


def measure(
    ours: Worker,
    theirs: Worker,
    *,
    patience: float,
    pairs: int = 7,
    budget: float = 2.0,
) -> Comparison:
    """Compare, for as long as patience lasts; learn what is quiet."""
    key = _key(theirs)
    known = None if key is None else _read().get(key)
    found = compare(
        ours, theirs, pairs=pairs, budget=budget, patience=patience, known=known
    )
    if key is not None:
        _learn(key, found.floor)
    return found


def _key(side: Worker) -> str | None:
    """Return what tells one pinned program from another; None for ours."""
    if SOURCES["numbattn"] in side.program[0]:
        return None
    versions = {"python": platform.python_version(), "cores": os.cpu_count()}
    for name in LIBRARIES:
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    told = json.dumps([side.program, versions], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def _read() -> dict[str, float]:
    try:
        found: dict[str, float] = json.loads(FILE.read_text())
    except (OSError, ValueError):
        return {}
    return found


def _learn(key: str, floor: float) -> None:
    """Keep the seconds if they are the fewest so far."""
    known = _read()
    if floor >= known.get(key, float("inf")):
        return
    whole = FILE.with_suffix(f".{os.getpid()}")
    with contextlib.suppress(OSError):  # without a home, each learns for itself
        whole.write_text(json.dumps({**known, key: floor}, indent=1, sort_keys=True))
        whole.replace(FILE)
