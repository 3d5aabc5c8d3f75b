"""A kernel that compiles in no time, for what does not depend on the kernel."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numba
import pytest
from numba import types

from numbattn.backends.cpu import cache

SIGNATURE = types.int64(types.int64)


def times_three(x: int) -> int:
    return x * 3


def loaded(name: str = "tiny") -> bool:
    """Compile a small kernel, and use it; whether it came from the disk."""
    dispatcher = numba.njit(times_three)
    cache.compile_kernel(dispatcher, name, "", SIGNATURE)
    assert dispatcher(14) == 42
    return sum(dispatcher.stats.cache_hits.values()) == 1


def loaded_with_one_warning(match: str) -> bool:
    """The same twice: it warns once, in these words."""
    with pytest.warns(RuntimeWarning, match=match) as said:
        found = loaded() or loaded()
    assert len(said) == 1
    return found


def kernel(root: Path) -> Path:
    """The one file that the small kernel has."""
    assert not loaded()
    (path,) = root.rglob("*.kernel")
    return path


def place(signature: Any = SIGNATURE, options: str = "") -> Path:
    """Where the small kernel would lie now."""
    found = cache._attach(numba.njit(times_three), "tiny", options, signature)
    assert found is not None
    return found.path


def no_space(*_: object, **__: object) -> Any:
    """Stand in for a call of the system on a full disk."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def run_python(code: str, root: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start a process of its own, warnings being errors."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        env=dict(os.environ, NUMBATTN_CACHE_DIR=str(root), NUMBA_NUM_THREADS="2"),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def output(process: subprocess.Popen[str]) -> list[str]:
    """What it printed; it has to end well, and to say nothing else."""
    printed, said = process.communicate(timeout=600)
    assert process.returncode == 0, said
    assert not said
    return printed.split()
