"""The cache does not grow without bound, and counts only what is its own."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path

import pytest

from numbattn.backends.cpu import store

from .small import (
    kernel,
    loaded,
)


def test_what_nobody_uses_goes_and_the_rest_stays(root: Path) -> None:
    path = kernel(root)
    now = time.time()
    other = root / f"{store.PREFIX}{'0' * 32}"
    other.mkdir()
    ages = {
        other / f"old{store.SUFFIX}": store.UNUSED + 60,
        other / f"recent{store.SUFFIX}": store.UNUSED - 3600,
        other / f"killed{store.PART}": store.ABANDONED + 60,
        other / f"at-work{store.PART}": 0.0,
        other / f"held{store.LOCK}": store.ABANDONED + 60,
        other / "notes.txt": 10 * store.UNUSED,
        root / "mine" / f"old{store.SUFFIX}": 10 * store.UNUSED,
    }
    for file, age in ages.items():
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"x")
        os.utime(file, (now - age, now - age))
    store.sweep(root)
    left = {file.name for file in (*other.iterdir(), *(root / "mine").iterdir())}
    assert left == {"recent.kernel", "at-work.part", "notes.txt", "old.kernel"}
    assert path.exists()


def test_the_least_recently_used_go_above_the_limit(
    root: Path, fresh: pytest.MonkeyPatch
) -> None:
    folder = root / f"{store.PREFIX}{'0' * 32}"
    folder.mkdir(parents=True)
    now = time.time()
    for age in range(5):
        file = folder / f"{age}{store.SUFFIX}"
        file.write_bytes(bytes(100))
        os.utime(file, (now - age, now - age))
    fresh.setattr(store, "LIMIT", 320)
    store.sweep(root)
    assert sorted(file.stem for file in folder.iterdir()) == ["0", "1", "2"]


def test_empty_folders_of_old_versions_go(root: Path) -> None:
    old, new = root / f"{store.PREFIX}old", root / f"{store.PREFIX}new"
    for folder in (old, new):
        folder.mkdir(parents=True)
    os.utime(old, (0, 0))
    store.sweep(root)
    assert new.exists()
    assert not old.exists()


def test_use_keeps_a_kernel_young(root: Path) -> None:
    path = kernel(root)
    os.utime(path, (0, 0))
    assert loaded()
    assert time.time() - path.stat().st_mtime < 60
    loaded("another")  # sweeps
    assert path.exists()


def test_only_its_own_files_count(root: Path) -> None:
    path = kernel(root)
    (root / "photo.jpg").write_bytes(bytes(1000))
    (root / "folder").mkdir()
    (root / "folder" / f"x{store.SUFFIX}").write_bytes(bytes(1000))
    found = [each for each in store.entries(root) if each.path.suffix == store.SUFFIX]
    assert [each.path for each in found] == [path]
    assert found[0].bytes == path.stat().st_size
    assert math.isclose(found[0].used, path.stat().st_mtime)
