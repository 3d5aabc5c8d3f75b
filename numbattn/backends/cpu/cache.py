"""Compiled kernels on disk: one file a kernel, nothing shared, nothing to race.

Numba's own disk cache is not used: its index file can hand out the wrong machine
code when two processes fill it at once, and it misses edits in other files. Here
the folder's name is the hash of the sources and a file's name that of everything
else that the machine code depends on; `store` has the files.

Whatever goes wrong on the disk, the kernel is compiled, and one warning a process
says so. The cache rests on private names of Numba (`_parts`); where they are not as
known here, kernels are compiled in every process.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import itertools
import os
import pickle
import sys
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import llvmlite
import llvmlite.binding
import numba
import numpy as np

from . import sources, store

# Of numba.config: everything else may change the machine code, and is in the key.
HARMLESS = (
    "CACHE_", "COLOR_SCHEME", "CUDA", "DEBUG_CACHE", "DISABLE_CUDA", "DUMP_",
    "ENABLE_CUDASIM", "FORCE_CUDA", "FULL_TRACEBACKS", "FUNCTION_CACHE_SIZE",
    "GDB_BINARY", "HTML", "NUMBA_", "SHOW_HELP", "THREADING_LAYER",
)  # fmt: skip
PATIENCE = 20.0  # seconds; a kernel compiles in 0.4 to 3
METHODS = {
    "load_overload": ["self", "sig", "target_context"],
    "save_overload": ["self", "sig", "data"],
}
_patient = True  # until another process's compiler did not end in time
_warned = False
_swept = False


def _warn(message: object) -> None:
    """Warn about the cache, once in a process: what follows has the same cause."""
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(f"numbattn's kernel cache: {message}", RuntimeWarning, 2)


@cache
def _parts() -> SimpleNamespace | None:
    """What the cache needs from inside Numba; None where it is not as known."""
    try:
        from numba.core.bytecode import FunctionIdentity
        from numba.core.caching import CompileResultCacheImpl, _Cache
        from numba.core.serialize import dumps

        known = all(
            list(inspect.signature(getattr(_Cache, name)).parameters) == expected
            for name, expected in METHODS.items()
        )
        known &= _Cache.__abstractmethods__ <= set(dir(_KernelCache))
        known &= not CompileResultCacheImpl.__abstractmethods__
        known &= isinstance(FunctionIdentity._unique_ids, itertools.count)
        # only its reduce and rebuild are wanted, not its locators
        results = CompileResultCacheImpl.__new__(CompileResultCacheImpl)
        parts = SimpleNamespace(
            base=_Cache,
            reduce=results.reduce,
            rebuild=results.rebuild,
            dumps=dumps,
            numbers=FunctionIdentity,
        )
    except Exception:  # a later Numba may have moved anything
        return None
    return parts if known else None


@cache
def _versions() -> tuple[str, ...]:
    """The compiler and its surroundings; for Python with how it was built."""
    packages = (numba, llvmlite, np)
    llvm = llvmlite.binding.llvm_version_info
    return (sys.version, repr(llvm), *(p.__version__ for p in packages))


def _settings() -> str:
    """Numba's settings, from NUMBA_... or set by a program, that may change code."""
    numba.config.reload_config()  # as the compiler does, if the environment changed
    found = vars(numba.config)
    names = [name for name in found if name.isupper() and name[0] != "_"]
    plain = (int, float, str, tuple, list, type(None))  # no object with its address
    return repr(
        [
            (name, found[name] if isinstance(found[name], plain) else "")
            for name in sorted(names)
            if not name.startswith(HARMLESS)
        ]
    )


class _KernelCache:
    """Disk cache of one dispatcher; plugs in as ``dispatcher._cache``."""

    def __init__(self, parts: SimpleNamespace, path: Path):
        self._parts, self.path, self._on = parts, path, True

    @property
    def cache_path(self) -> str:
        """The folder, for Numba's statistics."""
        return str(self.path.parent)

    def enable(self) -> None:
        """Use the disk."""
        self._on = True

    def disable(self) -> None:
        """Leave the disk alone."""
        self._on = False

    def flush(self) -> None:
        """Numba asks for it when it recompiles; files are never stale here."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return the compiled kernel, or None where there is none that is sound."""
        if not self._on:
            return None
        try:
            content = store.read(self.path)
            if content is not None:
                target_context.refresh()
                return self._parts.rebuild(target_context, pickle.loads(content))
        except store.RefusedError as error:
            self._on = False
            _warn(f"not used, kernels are compiled in each process: {error}")
        except store.DamagedError:
            _warn(f"{self.path} is damaged; it is compiled again")
        except OSError:  # `save_overload` finds out, and says so
            pass
        except Exception as error:  # whatever a pickle can raise
            _warn(f"{self.path} cannot be loaded ({error!r}); it is compiled again")
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Publish the compiled kernel."""
        global _swept
        if not self._on:
            return
        try:
            # what Numba's own cache refuses, too: addresses inside, or lifted loops;
            # and what was compiled from sources that are no longer there
            inside = data.lifted or data.library.has_dynamic_globals
            if inside or not sources.unchanged():
                return
            store.write(self.path, self._parts.dumps(self._parts.reduce(data)))
            if not _swept:
                _swept = True
                store.sweep(self.path.parent.parent)
        except store.RefusedError as error:
            _warn(f"not used, kernels are compiled in each process: {error}")
        except Exception as error:
            _warn(
                f"nothing can be kept in {self.path.parent} ({error}), so that kernels "
                "are compiled in each process. Set NUMBATTN_CACHE_DIR to a folder that "
                "can be written, or to an empty value to keep none"
            )


def _attach(
    dispatcher: Any, name: str, options: str, signature: Any
) -> _KernelCache | None:
    """Give a dispatcher its file; None where there is no cache."""
    try:
        place = store.folder()
    except store.RefusedError as error:
        _warn(f"off, kernels are compiled in each process: {error}")
        return None
    if place is None:
        return None
    parts = _parts()
    if parts is None or not hasattr(dispatcher, "_cache"):
        _warn(
            f"off, kernels are compiled in each process: Numba {numba.__version__} is "
            "not as numbattn knows it"
        )
        return None
    try:
        processor = dispatcher.targetctx.codegen().magic_tuple()
        key = repr((options, str(signature), processor, _versions(), _settings()))
    except Exception as error:  # a later Numba; without all of it no key is safe
        _warn(f"off, kernels are compiled in each process: {error!r}")
        return None
    digest = hashlib.sha256(key.encode()).hexdigest()[:32]
    kind = type("KernelCache", (_KernelCache, parts.base), {})
    kernels = kind(parts, place / f"{name}-{digest}{store.SUFFIX}")
    dispatcher._cache = kernels
    return kernels  # type: ignore[no-any-return]


@contextlib.contextmanager
def _own_symbols(parts: SimpleNamespace) -> Iterator[None]:
    """Compile under symbols that no other compilation has.

    A symbol is made from a function's name, its argument types and a number counted
    in each process. Two processes give the same one to different functions, and a
    third that loads both kernels runs the first one's code for both. So numbers start
    at random here, each time: children of a fork would share a start.
    """
    before = parts.numbers._unique_ids
    start = int.from_bytes(os.urandom(7), "little")
    parts.numbers._unique_ids = itertools.count(start)
    try:
        yield
    finally:
        parts.numbers._unique_ids = before


@contextlib.contextmanager
def _turn(path: Path) -> Iterator[None]:
    """Wait while another process compiles this kernel, but not for long.

    It saves work and nothing rests on it. A holder that dies is released by the
    system; one that hangs costs `PATIENCE`, once.
    """
    global _patient
    with contextlib.ExitStack() as held:
        if _patient and not store.exists(path):
            # no such file system, no such place: then without
            with contextlib.suppress(OSError, store.RefusedError):
                _patient = held.enter_context(store.lock(path, PATIENCE))
        yield


def compile_kernel(dispatcher: Any, name: str, options: str, signature: Any) -> None:
    """Compile a dispatcher for one signature, or load it from the disk.

    Parameters
    ----------
    dispatcher : Dispatcher
        What ``numba.njit`` returned.
    name : str
        The kernel's name; its file begins so.
    options : str
        How it is compiled; another text means another kernel.
    signature : Signature
        Types of the result and the arguments.
    """
    kernels = _attach(dispatcher, name, options, signature)
    if kernels is None:
        dispatcher.compile(signature)
        return
    with _turn(kernels.path), _own_symbols(kernels._parts):
        dispatcher.compile(signature)
