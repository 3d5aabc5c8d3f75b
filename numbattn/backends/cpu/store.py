"""The kernel cache's files: whom to trust, how to read and write, what to throw away.

Nothing here knows Numba. A file is read only where nobody but its owner, who is this
user or root, can have written it (unpickling runs code), and only with a digest over
its name and content in front: a damaged, renamed or copied file is never used.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from numbattn import config

from . import sources

try:
    import fcntl
except ImportError:  # Windows: there, processes do not wait for each other
    fcntl = None  # type: ignore[assignment]

PREFIX, SUFFIX, LOCK, PART = "kernels-", ".kernel", ".lock", ".part"
DIGEST = 32  # bytes of sha256 in front of the content
LARGEST = 2**26  # bytes of a file; the largest kernel has 0.4 MiB
LIMIT = 2**28  # bytes of all files; a version of numbattn keeps about 3 MiB
DAY = 86400.0
UNUSED = 90 * DAY  # seconds after which a kernel that nobody loaded goes
ABANDONED = DAY  # the same for what a killed process left behind


class RefusedError(Exception):
    """The place or a file is not to be used; says why, and what to do."""


class DamagedError(Exception):
    """A file that is not what was written."""


def folder() -> Path | None:
    """Where kernels of these sources are; None: the cache was turned off.

    Raises
    ------
    RefusedError
        There is no place for it.
    """
    root = config.cache_dir()
    if root is None:
        return None
    if not root.is_absolute():
        raise RefusedError("no home directory is known; set NUMBATTN_CACHE_DIR")
    if sources.DIGEST is None:
        raise RefusedError(
            "numbattn's sources cannot be read here (a zip file?), so that kernels of "
            "different versions could not be told apart"
        )
    return root / f"{PREFIX}{sources.DIGEST}"


def _check(status: os.stat_result, path: Path, kind: int) -> None:
    """Refuse what somebody else may have written."""
    if stat.S_IFMT(status.st_mode) != kind:
        raise RefusedError(f"{path} is a link or something else unexpected; delete it")
    if not hasattr(os, "geteuid"):  # Windows: its user folders are private
        return
    if status.st_uid not in (0, os.geteuid()):
        raise RefusedError(
            f"{path} belongs to another user, and a cached kernel runs as code; "
            "set NUMBATTN_CACHE_DIR to a folder of your own"
        )
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise RefusedError(
            f"others can write to {path}, and a cached kernel runs as code; run "
            "`chmod -R go-w` on it, or set NUMBATTN_CACHE_DIR to a folder of your own"
        )


def exists(path: Path) -> bool:
    """Whether a file has been published under this name."""
    return os.path.lexists(path)


def _seal(path: Path, content: bytes) -> bytes:
    name = f"{path.parent.name}/{path.name}\0".encode()
    return hashlib.sha256(name + content).digest()


def read(path: Path) -> bytes | None:
    """Return what was written under this name; None where there is nothing.

    Raises
    ------
    RefusedError
        Somebody else may have written it.
    DamagedError
        It is not what was written.
    OSError
        It cannot be read.
    """
    # The file's own owner is checked on the open file: whoever can swap folders
    # above it still cannot make a file of this user's.
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    flags |= getattr(os, "O_BINARY", 0)
    try:
        _check(path.parent.lstat(), path.parent, stat.S_IFDIR)
        if stat.S_ISLNK(path.lstat().st_mode):
            raise RefusedError(f"{path} is a link; delete it")
        handle = os.open(path, flags)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        status = os.fstat(handle)
        _check(status, path, stat.S_IFREG)
        if status.st_size > LARGEST:
            raise DamagedError
        with os.fdopen(handle, "rb", closefd=False) as file:
            blob = file.read()
    finally:
        os.close(handle)
    content = blob[DIGEST:]
    if _seal(path, content) != blob[:DIGEST]:
        raise DamagedError
    if time.time() - status.st_mtime > DAY:  # for `sweep`: it is in use
        with contextlib.suppress(OSError):
            os.utime(path)
    return content


def prepare(place: Path) -> None:
    """Make the folder for kernels, for this user only.

    Raises
    ------
    RefusedError
        It exists, and others can write there.
    OSError
        It cannot be made.
    """
    place.parent.parent.mkdir(parents=True, exist_ok=True)
    for path in (place.parent, place):
        path.mkdir(mode=0o700, exist_ok=True)
    _check(place.lstat(), place, stat.S_IFDIR)


def write(path: Path, content: bytes) -> None:
    """Publish a file: it appears whole, under its name, or not at all.

    Raises
    ------
    RefusedError
        Others can write to the folder.
    OSError
        No room, no permission, no such place.
    """
    prepare(path.parent)
    handle, part = tempfile.mkstemp(PART, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(_seal(path, content) + content)
        os.replace(part, path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def lock(path: Path, patience: float) -> Iterator[bool]:
    """Keep other processes out who lock the same name; give whether that succeeded.

    It goes on without the lock after `patience` seconds. Not by the package filelock:
    that stops a fork until its locks are free, and `launch` until the compiler is.

    Raises
    ------
    RefusedError
        Others can write to the folder.
    OSError
        No permission, no such place, or no locks there.
    """
    prepare(path.parent)
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    handle = os.open(path.with_suffix(LOCK), flags, 0o600)
    try:
        until = time.monotonic() + patience
        while not (free := _flock(handle)) and time.monotonic() < until:
            time.sleep(0.02)
        yield free
    finally:
        if fcntl is not None:  # closing alone would leave it to a forked child
            with contextlib.suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_UN)
        os.close(handle)


def _flock(handle: int) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class Entry(NamedTuple):
    """A file of the cache."""

    path: Path
    bytes: int
    used: float  # seconds since the epoch


def entries(root: Path) -> list[Entry]:
    """Return the cache's own files that can be seen, not others that lie there."""
    found: list[Entry] = []
    for place in _folders(root):
        with contextlib.suppress(OSError):
            for path in place.iterdir():
                with contextlib.suppress(OSError):  # others may be cleaning up
                    status = path.lstat()
                    ours = path.suffix in (SUFFIX, LOCK, PART)
                    if ours and stat.S_ISREG(status.st_mode):
                        found.append(Entry(path, status.st_size, status.st_mtime))
    return found


def _folders(root: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        found = [path for path in root.iterdir() if path.name.startswith(PREFIX)]
        return [path for path in found if path.is_dir() and not path.is_symlink()]
    return []


def sweep(root: Path) -> None:
    """Delete what no process used for long, and the oldest above the limit."""
    now, total = time.time(), 0
    for path, size, used in sorted(entries(root), key=lambda entry: -entry.used):
        kept = UNUSED if path.suffix == SUFFIX else ABANDONED
        total += size
        if total > LIMIT or now - used > kept:
            with contextlib.suppress(OSError):
                path.unlink()
    for place in _folders(root):
        with contextlib.suppress(OSError):  # one that is not empty stays
            if now - place.lstat().st_mtime > ABANDONED:
                place.rmdir()


def summary() -> str:
    """Say where kernels are, how many, how large, and how many are of these sources."""
    try:
        place = folder()
    except RefusedError as error:
        return f"off: {error}"
    if place is None:
        return "off (NUMBATTN_CACHE_DIR is empty)"
    kernels = [each for each in entries(place.parent) if each.path.suffix == SUFFIX]
    size = sum(each.bytes for each in kernels) / 2**20
    mine = sum(each.path.parent == place for each in kernels)
    return (
        f"{place.parent}: {len(kernels)} files, {size:.1f} MiB, {mine} of them of "
        "these sources"
    )
