"""Cache files: never a wrong kernel, never a traceback, at most one warning."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import platformdirs
import pytest

from numbattn import config
from numbattn.backends.cpu import sources, store

from .small import (
    kernel,
    loaded,
    loaded_with_one_warning,
    no_space,
)


def test_kernel_is_loaded_by_whoever_comes_next(root: Path) -> None:
    path = kernel(root)
    assert loaded()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for folder in (path.parent, root):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_empty_cache_dir_turns_it_off(root: Path, fresh: pytest.MonkeyPatch) -> None:
    fresh.setenv("NUMBATTN_CACHE_DIR", "")
    config.forget_environment()
    assert not loaded()
    assert not loaded()
    assert not root.exists()


@pytest.mark.parametrize("keep", [0.0, 0.5, 1.0])
def test_truncated_file_is_recompiled_with_one_warning(root: Path, keep: float) -> None:
    path = kernel(root)
    whole = path.read_bytes()
    path.write_bytes(whole[: min(int(len(whole) * keep), len(whole) - 1)])
    assert loaded_with_one_warning("is damaged")  # the second time: whole again


def test_no_bit_can_flip_unseen(root: Path) -> None:
    path = kernel(root)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for bit in (0, len(whole) * 8 - 1, *rng.integers(0, len(whole) * 8, 198)):
        path.write_bytes(flipped(whole, int(bit)))
        with pytest.raises(store.DamagedError):
            store.read(path)
    assert loaded_with_one_warning("is damaged")


EVERY_KERNEL = """
import numpy as np, numbattn
numbattn.warmup()
rng = np.random.default_rng(0)
for dtype in (np.float32, np.float64):
    for n in (5, 70, 200):
        q, k, v = rng.standard_normal((3, n, 24)).astype(dtype)
        for operation, arrays in (
            ("scores", (q, k)), ("weights", (q, k)), ("attention", (q, k, v)),
        ):
            call = getattr(numbattn, operation)
            want = call(*arrays, backend="reference")
            for threads in (1, 2):
                got = call(*arrays, backend="cpu", num_threads=threads)
                assert np.allclose(got, want, rtol=1e-3, atol=1e-3)
"""


def warnings_of_a_run(root: Path) -> list[str]:
    """Use every kernel in a process of its own; what it warned about."""
    done = subprocess.run(
        [sys.executable, "-c", EVERY_KERNEL],
        env=dict(os.environ, NUMBATTN_CACHE_DIR=str(root), NUMBA_NUM_THREADS="2"),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return [line for line in done.stderr.splitlines() if "Warning" in line]


def flipped(whole: bytes, bit: int) -> bytes:
    damaged = bytearray(whole)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


@pytest.mark.heavy
@pytest.mark.timeout(3600)
def test_every_real_file_may_be_damaged(tmp_path: Path) -> None:
    """Truncated at 0, at half, at the last byte; 200 flipped bits in each file."""
    assert warnings_of_a_run(tmp_path) == []
    files = {path: path.read_bytes() for path in tmp_path.rglob("*.kernel")}
    assert len(files) >= 20
    rng = np.random.default_rng(0)
    for path, whole in files.items():
        for bit in rng.integers(0, len(whole) * 8, 200):
            path.write_bytes(flipped(whole, int(bit)))
            with pytest.raises(store.DamagedError):
                store.read(path)
    assert len(warnings_of_a_run(tmp_path)) == 1  # the last flip of each
    for damage in (lambda w: b"", lambda w: w[: len(w) // 2], lambda w: w[:-1]):
        for path, whole in files.items():
            path.write_bytes(damage(whole))
        assert len(warnings_of_a_run(tmp_path)) == 1
        assert warnings_of_a_run(tmp_path) == []  # whole again


def test_file_under_another_kernel_s_name_is_not_used(root: Path) -> None:
    """As a careless copy or a hard link makes it: sound, but of something else."""
    path = kernel(root)
    other = path.with_name(path.name.replace("tiny", "other"))
    other.hardlink_to(path)
    with pytest.raises(store.DamagedError):
        store.read(other)
    moved = root / f"{store.PREFIX}of-other-sources"
    path.parent.rename(moved)
    with pytest.raises(store.DamagedError):
        store.read(moved / path.name)


def test_sound_file_that_is_no_kernel_is_recompiled(root: Path) -> None:
    path = kernel(root)
    for content in (b"", b"not a pickle", b"N."):
        store.write(path, content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert not loaded()
        assert loaded()


def test_file_too_large_for_a_kernel_is_not_read(root: Path) -> None:
    path = kernel(root)
    os.truncate(path, store.LARGEST + 1)
    with pytest.raises(store.DamagedError):
        store.read(path)


def make_foreign(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a path belong to somebody else than this user and root."""
    if os.geteuid() == 0:
        os.chown(path, 54321, -1, follow_symlinks=False)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 54321)


def link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


REFUSED: dict[str, tuple[str, Callable[[Path], object]]] = {
    "folder of a writing group": ("others can write", lambda f: f.parent.chmod(0o770)),
    "folder of everybody": ("others can write", lambda f: f.parent.chmod(0o707)),
    "file of a writing group": ("others can write", lambda f: f.chmod(0o660)),
    "file of everybody": ("others can write", lambda f: f.chmod(0o606)),
    "linked folder": ("unexpected", lambda f: link(f.parent)),
    "linked file": ("is a link", link),
    "fifo": ("unexpected", fifo),
    "directory": ("unexpected", directory),
}


@pytest.mark.parametrize("how", REFUSED)
def test_what_others_can_write_is_not_loaded(root: Path, how: str) -> None:
    words, change = REFUSED[how]
    change(kernel(root))
    assert not loaded_with_one_warning(words)


@pytest.mark.parametrize("which", ["folder", "file"])
def test_what_belongs_to_another_user_is_not_loaded(
    root: Path, fresh: pytest.MonkeyPatch, which: str
) -> None:
    path = kernel(root)
    make_foreign(path.parent if which == "folder" else path, fresh)
    assert not loaded_with_one_warning("belongs to another user")


def test_what_root_prepared_is_loaded_by_a_user(
    root: Path, fresh: pytest.MonkeyPatch
) -> None:
    """An image is built by root and run by somebody else."""
    path = kernel(root)
    if os.geteuid() == 0:
        fresh.setattr(os, "geteuid", lambda: 54321)
        assert loaded()
    assert store.read(path)


def full_file(fresh: pytest.MonkeyPatch, step: str) -> None:
    """Let the file that is written fail at `step`."""
    opened = os.fdopen

    class Full:
        def __init__(self, handle: int, mode: str) -> None:
            self.file = opened(handle, mode)

        def __enter__(self) -> Any:
            return SimpleNamespace(write=no_space if step == "write" else len)

        def __exit__(self, *_: object) -> None:
            self.file.close()
            if step == "close":
                no_space()

    def maybe_full(handle: int, mode: str) -> Any:
        return Full(handle, mode) if mode == "wb" else opened(handle, mode)

    fresh.setattr(os, "fdopen", maybe_full)


@pytest.mark.parametrize("step", ["mkdir", "mkstemp", "write", "close", "replace"])
def test_full_disk_at_any_step_is_no_obstacle(
    root: Path, fresh: pytest.MonkeyPatch, step: str
) -> None:
    if step == "mkdir":
        fresh.setattr(os, "mkdir", no_space)
    elif step == "mkstemp":
        fresh.setattr(tempfile, "mkstemp", no_space)
    elif step == "replace":
        fresh.setattr(os, "replace", no_space)
    else:
        full_file(fresh, step)
    assert not loaded_with_one_warning("No space left.*NUMBATTN_CACHE_DIR")
    assert not [path for path in root.rglob("*") if path.suffix in (".part", ".kernel")]


def test_file_in_the_way_is_no_obstacle(
    root: Path, fresh: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    fresh.setenv("NUMBATTN_CACHE_DIR", str(tmp_path / "file" / "cache"))
    config.forget_environment()
    assert not loaded_with_one_warning("NUMBATTN_CACHE_DIR")


@pytest.mark.parametrize("text", ["x" * 5000, "/proc/1/x", "/dev/full/x", "a\nb", "é "])
def test_odd_cache_dir_is_no_obstacle(
    root: Path, fresh: pytest.MonkeyPatch, tmp_path: Path, text: str
) -> None:
    fresh.chdir(tmp_path)
    fresh.setenv("NUMBATTN_CACHE_DIR", text)
    config.forget_environment()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        loaded()
        loaded()
    assert len(said) <= 1


def no_home(*_: object, **__: object) -> str:
    raise RuntimeError("could not determine the home directory")


@pytest.mark.parametrize("answer", [no_home, lambda *_, **__: "~/.cache/numbattn"])
def test_unknown_home_is_no_obstacle(
    root: Path, fresh: pytest.MonkeyPatch, tmp_path: Path, answer: Callable[..., str]
) -> None:
    """A user without HOME and without an entry in the system's list of users."""
    fresh.delenv("NUMBATTN_CACHE_DIR")
    fresh.setattr(platformdirs, "user_cache_dir", answer)
    fresh.chdir(tmp_path)
    config.forget_environment()
    assert not loaded_with_one_warning(r"no home directory.*NUMBATTN_CACHE_DIR")
    assert not (tmp_path / "~").exists()


def test_sources_that_cannot_be_read_turn_it_off(
    root: Path, fresh: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In a zip file, say: kernels of different versions would look the same."""
    fresh.setattr(sources, "FOLDER", tmp_path / "nothing" / "here")
    assert sources._digest() is None
    fresh.setattr(sources, "DIGEST", None)
    assert not loaded_with_one_warning("sources cannot be read")
    assert not root.exists()
