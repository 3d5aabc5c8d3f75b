"""Real places that cannot be used: full, read-only, without a home."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from numbattn.backends.cpu import store

ROOT = Path(store.__file__).parents[3]
CODE = """
import numpy as np, numbattn
q, k = np.random.default_rng(0).standard_normal((2, 40, 24))
got = numbattn.scores(q, k, backend="cpu", num_threads=1)
assert np.allclose(got, q @ k.T)
got = numbattn.scores(q.astype(np.float32), k.astype(np.float32), backend="cpu")
assert np.allclose(got, q @ k.T, atol=1e-4)
"""
pytestmark = pytest.mark.heavy


BECOME = """
# Everything is loaded before: this user may not be able to read Python's own files.
import os, platformdirs, psutil, numba, numbattn.backends.cpu.engine
import numpy as np, numbattn
numba.njit(lambda x: x + 1)(1.0)
numbattn.scores(np.ones((2, 2)), np.ones((2, 2)), backend="reference")
os.setuid(54321)
"""


def said(tmp_path: Path, code: str = CODE, **environment: str) -> list[str]:
    """Compile two kernels in a process of its own; what it warned about."""
    kept = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH")
    known = {name: os.environ[name] for name in kept if name in os.environ}
    known["PYTHONPATH"] = os.pathsep.join([str(ROOT), known.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**known, **environment},
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return [line for line in done.stderr.splitlines() if "Warning" in line]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    options = ["mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "none", str(place)]
    try:
        made = subprocess.run(options, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount here; test_files.py has a stand-in")
    if made.returncode != 0:
        pytest.skip(f"cannot mount here ({made.stderr.strip()}); see test_files.py")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_full_disk(small_disk: Path, tmp_path: Path) -> None:
    (warning,) = said(tmp_path, NUMBATTN_CACHE_DIR=str(small_disk))
    assert "No space left" in warning
    left = [path for path in small_disk.rglob("*") if path.is_file()]
    assert {path.suffix for path in left} <= {store.LOCK}


def test_read_only_disk(small_disk: Path, tmp_path: Path) -> None:
    again = ["mount", "-o", "remount,ro", str(small_disk)]
    subprocess.run(again, check=True)
    (warning,) = said(tmp_path, NUMBATTN_CACHE_DIR=str(small_disk))
    assert "Read-only file system" in warning


def test_user_without_a_home() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user; test_files.py has a stand-in")
    for environment in ({}, {"HOME": "/"}, {"HOME": "/nonexistent"}):
        (warning,) = said(Path("/"), BECOME + CODE, **environment)
        assert "NUMBATTN_CACHE_DIR" in warning


def test_no_home_for_a_user_that_is_known(tmp_path: Path) -> None:
    """The system's list of users has the folder; nothing to warn about."""
    assert said(tmp_path, XDG_CACHE_HOME=str(tmp_path / "xdg")) == []
    assert list((tmp_path / "xdg" / "numbattn").rglob("*.kernel"))


def test_folder_of_another_user(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder away; test_files.py has a stand-in")
    place = tmp_path / "cache"
    assert said(tmp_path, NUMBATTN_CACHE_DIR=str(place)) == []
    (folder,) = place.iterdir()
    os.chown(folder, 54321, 54321)
    (warning,) = said(tmp_path, NUMBATTN_CACHE_DIR=str(place))
    assert "belongs to another user" in warning
