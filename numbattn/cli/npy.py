"""Read and write .npy files: memory-mapped, no pickles, complete or not at all."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import numpy as np
from numpy.typing import DTypeLike

from numbattn.errors import DTypeError, NumbattnError

_MAGIC = b"\x93NUMPY"


class FileError(NumbattnError):
    """A file that cannot be read or written as asked."""


def load(path: Path, argument: str) -> np.ndarray:
    """Map the array of a .npy file.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    argument : str
        What the array is, for messages: "query", say.

    Returns
    -------
    numpy.ndarray
        A read-only view of the file; nothing is read yet.

    Raises
    ------
    FileError
        Where there is no such file, or it is not a complete .npy file.
    DTypeError
        Where its values are Python objects: reading those would run code.
    """
    try:
        with path.open("rb") as file:
            magic = file.read(len(_MAGIC))
    except OSError as error:
        reason = error.strerror or str(error)
        raise FileError(f"{argument}: cannot read {path}: {reason}") from error
    if magic[:2] == b"PK":
        raise FileError(
            f"{argument}: {path} is an .npz archive; save each array on its own with "
            "numpy.save"
        )
    if magic != _MAGIC:
        raise FileError(
            f"{argument}: {path} is not a .npy file; write one with numpy.save"
        )
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except EOFError as error:
        raise FileError(f"{argument}: {path} is cut short") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise FileError(f"{argument}: cannot read {path}: {reason}") from error
    except Exception as error:  # a header may be any text, and numpy evaluates it
        if "object" in str(error).lower():
            raise DTypeError(
                f"{argument}: {path} holds Python objects, which are not read (a "
                "pickle can run any code); save a floating array"
            ) from error
        why = " ".join(str(error).split())[:200]
        raise FileError(
            f"{argument}: {path} is damaged or cut short ({why})"
        ) from error
    result: np.ndarray = np.asarray(array)
    return result


def write(
    path: Path,
    shape: tuple[int, ...],
    dtype: DTypeLike,
    fill: Callable[[np.ndarray], object],
) -> None:
    """Write a .npy file that appears under its name only when it is complete.

    The array is a mapping of a temporary file in the target's folder, so it may be
    larger than memory. The temporary file goes away on every failure, Ctrl-C too.

    Parameters
    ----------
    path : pathlib.Path
        The file; one that exists is replaced.
    shape : tuple of int
        Shape of the array.
    dtype : dtype-like
        Its dtype.
    fill : callable
        Is given the array, zeroed, and writes it.

    Raises
    ------
    FileError
        Where the folder does not exist or the disk is full.
    """
    path = path.resolve()  # a link stays a link; what it points at is replaced
    if path.is_dir():
        raise FileError(f"output: {path} is a folder")
    try:
        handle, name = tempfile.mkstemp(".part", f".{path.name}.", path.parent)
    except OSError as error:
        raise FileError(
            f"output: cannot write in {path.parent}: {error.strerror}"
        ) from error
    temporary = Path(name)
    try:
        with _termination_raises():
            _fill(handle, temporary, shape, dtype, fill)
            os.replace(temporary, path)
            _sync_folder(path.parent)
    except OSError as error:
        raise FileError(f"output: writing {path} failed: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _fill(
    handle: int,
    temporary: Path,
    shape: tuple[int, ...],
    dtype: DTypeLike,
    fill: Callable[[np.ndarray], object],
) -> None:
    with os.fdopen(handle, "r+b") as file:
        array = np.lib.format.open_memmap(
            temporary, mode="w+", dtype=np.dtype(dtype), shape=shape
        )
        # a full disk is an OSError here; met while the mapping is written, it would
        # be a SIGBUS that ends the process
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, temporary.stat().st_size)
        fill(array)
        array.flush()
        del array
        os.chmod(temporary, 0o666 & ~_umask())
        os.fsync(file.fileno())


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _termination_raises() -> Iterator[None]:
    """Let SIGTERM unwind like Ctrl-C does, so that the temporary file is removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
