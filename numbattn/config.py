"""Settings, their precedence, and the environment; a leaf that backends may read.

call > context (`config_context`) > set (`set_config`) > environment > default.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import threading
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, TypeVar

from .errors import OptionError, shown
from .memory import parse_bytes
from .options import positive

PRECISIONS = ("float32", "tf32")
SIMD_LEVELS = ("avx512", "avx2", "neon", "sse2", "plain")


class Settings(NamedTuple):
    """What a call uses where it says nothing itself."""

    backend: str = "auto"
    num_threads: int | None = None
    max_memory: int | None = None
    precision: str = PRECISIONS[0]


_T = TypeVar("_T")
_lock = threading.Lock()
_process: dict[str, object] = {}
_outside_contexts: Settings | None = None  # what calls see, until something is set


class _Overrides:
    """What a context sets, and the settings which that makes."""

    __slots__ = ("_made", "values")

    def __init__(self, values: Mapping[str, object]) -> None:
        self.values = values
        self._made: tuple[Settings, Settings] | None = None

    def over(self, outside: Settings) -> Settings:
        """Return the settings; made again where those outside have changed."""
        made = self._made  # a pair, read and written at once: threads may share this
        if made is None or made[0] is not outside:
            made = outside, outside._replace(**self.values)  # type: ignore[arg-type]
            self._made = made
        return made[1]


_context: ContextVar[_Overrides | None] = ContextVar("numbattn_settings", default=None)


def current() -> Settings:
    """Return the settings in force here."""
    here = _context.get()
    settings = _outside_contexts
    if settings is None:
        settings = _resolve()
    return settings if here is None else here.over(settings)


def _resolve() -> Settings:
    global _outside_contexts
    with _lock:
        values = {**environment(), **_process}
        _outside_contexts = Settings(**values)  # type: ignore[arg-type]
        return _outside_contexts


def origin(name: str) -> str:
    """Return where the value in force comes from, in words."""
    here = _context.get()
    if here is not None and name in here.values:
        return "context"
    if name in _process:
        return "set"
    if name in environment():
        return f"environment ({variable(name)})"
    return "default"


def variable(name: str) -> str:
    """Return the name of a setting's environment variable."""
    return f"NUMBATTN_{name.upper()}"


@lru_cache(maxsize=1)
def environment() -> Mapping[str, object]:
    """Return the settings from the environment, which is read once.

    Raises
    ------
    OptionError
        A value that cannot be; the message names the variable.
    """
    found: dict[str, object] = {}
    for name in Settings._fields:
        text = os.environ.get(variable(name), "").strip()
        if text:
            count = name == "num_threads" and text.isdecimal() and len(text) < 20
            number = int(text) if count else text
            found[name] = parse(name, number, variable(name))
    return found


def forget_environment() -> None:
    """Read the environment again at the next use."""
    global _outside_contexts
    for cached in (environment, cache_dir, simd):
        cached.cache_clear()
    with _lock:
        _outside_contexts = None


def parse(name: str, value: object, called: str | None = None) -> object:
    """Return a setting's value, checked; whether a backend exists is not known here."""
    called = called or name
    if name == "backend":
        if not isinstance(value, str) or not value:
            raise OptionError(
                f"{called} is {shown(value)}; it has to be a backend's name"
            )
        return value
    if name == "num_threads":
        return positive(value, called, "threads")
    if name == "max_memory":
        return parse_bytes(value, called)
    if name == "precision":
        return precise(value, called)
    near = difflib.get_close_matches(name, Settings._fields, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    raise OptionError(
        f"there is no setting {shown(name)}{hint} There are "
        f"{', '.join(Settings._fields)}"
    )


def precise(value: object, called: str = "precision") -> str:
    """Return a precision, checked."""
    if isinstance(value, str) and value in PRECISIONS:
        return PRECISIONS[PRECISIONS.index(value)]  # calls compare by identity
    raise OptionError(
        f"{called} is {shown(value)}; it has to be 'float32', or 'tf32', which allows "
        "TF32 tensor cores for float32 on CUDA"
    )


def update(values: Mapping[str, object]) -> None:
    """Set for the whole process; None forgets what was set. Values are parsed ones."""
    global _outside_contexts
    with _lock:
        for name, value in values.items():
            if value is None:
                _process.pop(name, None)
            else:
                _process[name] = value
        _outside_contexts = None


@contextlib.contextmanager
def override(values: Mapping[str, object]) -> Iterator[None]:
    """Set for this context; None forgets what outer contexts set."""
    around = _context.get()
    merged = {**(around.values if around else {}), **values}
    kept = {name: value for name, value in merged.items() if value is not None}
    token = _context.set(_Overrides(kept) if kept else None)
    try:
        yield
    finally:
        _context.reset(token)


@lru_cache(maxsize=1)
def cache_dir() -> Path | None:
    """Return where compiled kernels are kept; None for nowhere.

    NUMBATTN_CACHE_DIR, where it is set (empty: no cache); else the user's cache
    directory, which is no absolute path where no home directory is known. It need
    not exist yet.

    Raises
    ------
    OptionError
        What NUMBATTN_CACHE_DIR says cannot be a directory.
    """
    text = os.environ.get("NUMBATTN_CACHE_DIR")
    if text is None:
        import platformdirs

        try:
            return Path(platformdirs.user_cache_dir("numbattn", appauthor=False))
        except RuntimeError:  # as it says of a user without a home
            return Path("~/.cache/numbattn")
    if not text.strip():
        return None
    try:
        path = Path(text).expanduser().absolute()
    except RuntimeError:  # ~somebody who is not known here
        raise OptionError(
            f"NUMBATTN_CACHE_DIR is {shown(text)}, and there is no such home "
            "directory; name another, or leave it empty for no cache"
        ) from None
    except OSError as error:  # the current folder is gone
        raise OptionError(
            f"NUMBATTN_CACHE_DIR is {shown(text)}, which leads nowhere "
            f"({error.strerror}); write a path from the root, or leave it empty for "
            "no cache"
        ) from None
    # os.path, not Path: a place that may not be searched is no error here
    if os.path.exists(path) and not os.path.isdir(path):
        raise OptionError(
            f"NUMBATTN_CACHE_DIR is {shown(text)}, which is not a directory; name one, "
            "or leave it empty for no cache"
        )
    return path


@lru_cache(maxsize=1)
def simd() -> str | None:
    """Return the vector level that NUMBATTN_SIMD asks for; None for the best."""
    text = os.environ.get("NUMBATTN_SIMD", "").strip().lower()
    if not text:
        return None
    if text not in SIMD_LEVELS:
        near = difflib.get_close_matches(text, SIMD_LEVELS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise OptionError(
            f"NUMBATTN_SIMD is {shown(text)}{hint} Allowed are {', '.join(SIMD_LEVELS)}"
        )
    return text
