"""Compiled kernels on disk: one file a kernel, nothing shared, nothing to race.

Numba's own disk cache is not used: its index file can hand out the wrong machine
code when two processes fill it at once, and it misses edits in other files. Here
a file's name is the hash of everything that the machine code depends on, its
content is checked by a digest before it is unpickled, and it appears by an atomic
rename. A damaged file means a recompile, an unusable place means no cache, each
with one warning.

The attribute `Dispatcher._cache` and `CompileResultCacheImpl` are private names
of Numba; where they are not as known here, kernels are compiled in every process.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import stat
import sys
import tempfile
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite
import numba
import numpy as np

from numbattn import config

try:
    from numba.core.caching import CompileResultCacheImpl, _Cache
    from numba.core.serialize import dumps
except ImportError:  # pragma: no cover - a later Numba
    CompileResultCacheImpl = None
    _Cache = object

SUFFIX = ".kernel"
# of Numba, by environment variables NUMBA_...: they change the machine code
COMPILER_SETTINGS = (
    "OPT",
    "LOOP_VECTORIZE",
    "SLP_VECTORIZE",
    "BOUNDSCHECK",
    "DEBUGINFO_DEFAULT",
)
DIGEST = 32  # bytes of sha256 in front of the pickle
_warned: set[str] = set()


def warn_once(message: str) -> None:
    """Warn with this text once in a process."""
    if message not in _warned:
        _warned.add(message)
        warnings.warn(message, RuntimeWarning, stacklevel=2)


@cache
def sources_digest() -> str:
    """Hash of every source file that kernels are made of, and of the versions."""
    digest = hashlib.sha256(sys.implementation.cache_tag.encode())
    for setting in COMPILER_SETTINGS:
        digest.update(f"{setting}={getattr(numba.config, setting, None)}\n".encode())
    for package in (numba, llvmlite, np):
        digest.update(f"{package.__name__} {package.__version__}\n".encode())
    here = Path(__file__).parent
    # options.py: kernels have its UNBOUNDED inside
    for path in (*sorted(here.glob("*.py")), here.parents[1] / "options.py"):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:32]


def directory() -> Path | None:
    """Where kernels of these sources are kept; None: the cache is off."""
    root = config.cache_dir()
    return None if root is None else Path(root) / sources_digest()


def _owned(path: Path) -> bool:
    """Whether nobody else can have written there (unpickling runs code)."""
    if not hasattr(os, "getuid"):
        return True
    status = path.lstat()
    private = not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and private


class KernelCache(_Cache):  # type: ignore[misc]
    """Disk cache of one dispatcher; plugs in as ``dispatcher._cache``."""

    def __init__(self, name: str, options: str):
        self._name, self._options, self._on = name, options, True
        # only its reduce and rebuild are wanted, not its locators
        self._impl = CompileResultCacheImpl.__new__(CompileResultCacheImpl)

    @property
    def cache_path(self) -> str:
        """The folder, for Numba's statistics."""
        return str(directory())

    def enable(self) -> None:
        """Use the disk."""
        self._on = True

    def disable(self) -> None:
        """Leave the disk alone."""
        self._on = False

    def flush(self) -> None:
        """Numba asks for it when it recompiles; files are never stale here."""

    def _path(self, signature: Any, codegen: Any) -> Path | None:
        place = directory() if self._on else None
        if place is None:
            return None
        key = repr((self._options, str(signature), codegen.magic_tuple()))
        digest = hashlib.sha256(key.encode()).hexdigest()[:32]
        return place / f"{self._name}-{digest}{SUFFIX}"

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        """Return the compiled kernel, or None where there is none that is sound."""
        target_context.refresh()
        path = self._path(signature, target_context.codegen())
        try:
            if path is None or not path.parent.is_dir():
                return None
            owned = _owned(path.parent)
        except OSError:  # not to be searched; `save_overload` says so
            return None
        if not owned:
            warn_once(
                f"numbattn does not use the kernel cache {path.parent}: others can "
                "write there, and a cached kernel runs as code. Make it yours (mode "
                "0700) or set NUMBATTN_CACHE_DIR"
            )
            return None
        try:
            blob = path.read_bytes()
        except OSError:
            return None
        content = blob[DIGEST:]
        if hashlib.sha256(content).digest() != blob[:DIGEST]:
            warn_once(f"numbattn recompiles a damaged file of its cache: {path}")
            return None
        try:
            return self._impl.rebuild(target_context, pickle.loads(content))
        except Exception:  # whatever a pickle can raise
            warn_once(f"numbattn recompiles an unreadable file of its cache: {path}")
            return None

    def save_overload(self, signature: Any, data: Any) -> None:
        """Publish the compiled kernel under its key."""
        path = self._path(signature, data.codegen)
        # what Numba's own cache refuses, too: addresses inside, or lifted loops
        if path is None or data.lifted or data.library.has_dynamic_globals:
            return
        content = dumps(self._impl.reduce(data))
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not _owned(path.parent):
                return
            handle, temporary = tempfile.mkstemp(dir=path.parent)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(hashlib.sha256(content).digest() + content)
                os.replace(temporary, path)
            except BaseException:
                Path(temporary).unlink(missing_ok=True)
                raise
        except OSError as error:
            warn_once(
                f"numbattn cannot keep compiled kernels in {path.parent} ({error}); "
                "they are compiled anew in each process. Set NUMBATTN_CACHE_DIR to a "
                "writable folder, or to an empty value to keep none"
            )


def attach(dispatcher: Any, name: str, options: str) -> None:
    """Give a dispatcher the disk cache, where this Numba is as known."""
    known = hasattr(dispatcher, "_cache") and all(
        hasattr(CompileResultCacheImpl, wanted) for wanted in ("reduce", "rebuild")
    )
    if known:
        dispatcher._cache = KernelCache(name, options)
    else:  # pragma: no cover - a later Numba
        warn_once("this Numba is unknown to numbattn's kernel cache; it is off")


def size() -> tuple[int, int]:
    """Number of cached kernels of these sources, and their bytes."""
    place = directory()
    if place is None or not place.is_dir():
        return 0, 0
    sizes = [path.stat().st_size for path in place.glob(f"*{SUFFIX}")]
    return len(sizes), sum(sizes)
