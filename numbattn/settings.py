"""The public functions for settings; `config` keeps them, `selector` knows backends."""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
import sys
from collections.abc import Iterator
from typing import TextIO

from . import config, selector
from .errors import BackendUnavailableError, NumbattnError

_VERSIONS = ("numbattn", "numpy", "numba", "llvmlite", "numba-cuda", "ml_dtypes")
_UNSET = object()


def _parsed(
    backend: object, num_threads: object, max_memory: object, precision: object
) -> dict[str, object]:
    given = {
        "backend": backend,
        "num_threads": num_threads,
        "max_memory": max_memory,
        "precision": precision,
    }
    values = {
        name: None if value is None else config.parse(name, value)
        for name, value in given.items()
        if value is not _UNSET
    }
    name = values.get("backend")
    if isinstance(name, str):
        selector.check_runs(name)
    return values


def set_config(
    *,
    backend: str | None = _UNSET,  # type: ignore[assignment]
    num_threads: int | None = _UNSET,  # type: ignore[assignment]
    max_memory: int | str | None = _UNSET,  # type: ignore[assignment]
    precision: str | None = _UNSET,  # type: ignore[assignment]
) -> None:
    """Set what calls in this process use where they say nothing themselves.

    What is not passed stays as it is. An argument of a call goes before
    `config_context`, that before `set_config`, that before the environment
    (NUMBATTN_BACKEND, NUMBATTN_NUM_THREADS, NUMBATTN_MAX_MEMORY, NUMBATTN_PRECISION),
    that before the default.

    Parameters
    ----------
    backend : str or None
        As for `set_backend`; None forgets what was set.
    num_threads : int or None
        Threads of a call at most, 1 or more; None forgets what was set.
    max_memory : int, str or None
        Bytes that a call may allocate, or text such as "2 GB"; None forgets what was
        set.
    precision : {"float32", "tf32", None}
        The least exact arithmetic that is allowed for float32, "float32" unless set:
        "tf32" lets CUDA round to TF32 what it multiplies; other backends are more
        exact anyway. None forgets what was set.

    Raises
    ------
    OptionError
        An impossible value; nothing is set then.
    BackendUnavailableError
        The backend cannot run here; nothing is set then.

    Examples
    --------
    >>> import numbattn
    >>> numbattn.set_config(max_memory="2 GB")
    >>> numbattn.get_config()["max_memory"]
    2000000000
    >>> numbattn.set_config(max_memory=None)
    """
    config.update(_parsed(backend, num_threads, max_memory, precision))


@contextlib.contextmanager
def config_context(
    *,
    backend: str | None = _UNSET,  # type: ignore[assignment]
    num_threads: int | None = _UNSET,  # type: ignore[assignment]
    max_memory: int | str | None = _UNSET,  # type: ignore[assignment]
    precision: str | None = _UNSET,  # type: ignore[assignment]
) -> Iterator[None]:
    """Set what calls use within a ``with`` block, or a decorated function.

    As with `use_backend`, asyncio tasks started inside inherit the settings; other
    tasks and threads do not see them.

    Parameters
    ----------
    backend : str or None
        As for `set_backend`; None forgets what contexts around this one set.
    num_threads : int or None
        Threads of a call at most, 1 or more; None as above.
    max_memory : int, str or None
        Bytes that a call may allocate, or text such as "2 GB"; None as above.
    precision : {"float32", "tf32", None}
        As for `set_config`; None as above.

    Yields
    ------
    None
        Nothing.

    Raises
    ------
    OptionError
        An impossible value.
    BackendUnavailableError
        The backend cannot run here.

    Examples
    --------
    >>> import numbattn
    >>> with numbattn.config_context(num_threads=1):
    ...     numbattn.get_config()["num_threads"]
    1
    """
    with config.override(_parsed(backend, num_threads, max_memory, precision)):
        yield


def get_config() -> dict[str, str | int | None]:
    """Return the settings in force here.

    Returns
    -------
    dict
        "backend", "num_threads" (None: left to the backend), "max_memory" in bytes
        (None: what the machine has free) and "precision".

    Examples
    --------
    >>> import numbattn
    >>> list(numbattn.get_config())
    ['backend', 'num_threads', 'max_memory', 'precision']
    """
    return dict(config.current()._asdict())


def show_config(file: TextIO | None = None) -> None:
    """Print settings and where they come from, versions, backends and directories.

    Parameters
    ----------
    file : file object, optional
        Where to print; standard output unless given.

    Examples
    --------
    >>> import numbattn
    >>> numbattn.show_config()  # doctest: +ELLIPSIS
    settings
      backend      ...
    """
    lines = []
    for title, entries in report().items():
        lines.append(title)
        width = max(map(len, entries))
        lines += [f"  {name:<{width}}  {text}" for name, text in entries.items()]
    print("\n".join(lines), file=file or sys.stdout)


def report() -> dict[str, dict[str, str]]:
    """Return what `show_config` prints, by section and line.

    A value that cannot be, as from the environment, is reported, not raised.
    """
    return {
        "settings": _settings(),
        "versions": _versions(),
        "backends": _backends(),
        "kernels": {
            "cache directory": _said(lambda: str(config.cache_dir() or "none")),
            "vectors": _said(lambda: config.simd() or "the widest there are"),
        },
        **details(),
    }


def details() -> dict[str, dict[str, str]]:
    """Return what the backends that can run say of themselves, by backend."""
    found = {}
    for name, reason in selector.list_backends().items():
        ask = None if reason else getattr(selector.load(name), "details", None)
        if ask is not None:
            try:
                found[name] = dict(ask())
            except NumbattnError as error:
                found[name] = {"error": str(error)}
    return found


def _said(ask: object) -> str:
    try:
        return str(ask())  # type: ignore[operator]
    except NumbattnError as error:
        return f"error: {error}"


def _settings() -> dict[str, str]:
    try:
        values = config.current()._asdict()
    except NumbattnError as error:
        return {"error": str(error)}
    return {
        name: f"{'not set' if value is None else value} ({config.origin(name)})"
        for name, value in values.items()
    }


def _versions() -> dict[str, str]:
    found = {"python": f"{platform.python_version()}, {platform.platform()}"}
    for name in _VERSIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _backends() -> dict[str, str]:
    found = {}
    for name, reason in selector.list_backends().items():
        if reason is not None:
            found[name] = f"no: {reason}"
            continue
        try:
            found[name] = selector.load(name).describe()
        except (NumbattnError, BackendUnavailableError) as error:
            found[name] = f"error: {error}"
    return found
