"""The exceptions of numbattn; each is also the built-in error that it resembles."""

from __future__ import annotations

import reprlib

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 80


class NumbattnError(Exception):
    """Anything that numbattn itself complains about."""


class ShapeError(NumbattnError, ValueError):
    """Axes that do not fit each other."""


class DTypeError(NumbattnError, TypeError):
    """A kind of array, or a dtype, that cannot be computed with."""


class OptionError(NumbattnError, ValueError):
    """An option, a setting or an environment variable with an impossible value."""


class BackendUnavailableError(NumbattnError, RuntimeError):
    """A backend that cannot run here, or not on these arrays."""


class MemoryLimitError(NumbattnError, MemoryError):
    """A call that would need more memory than it may use; nothing was allocated."""

    wanted = 0
    """Bytes that the call would allocate."""
    free = 0
    """Bytes that the machine, or the cgroup, had free."""


def shown(value: object) -> str:
    """Return what a message quotes: one short line, whatever the value is."""
    try:
        text = _short.repr(value)
    except Exception:  # an int of 5,000 digits; someone else's __repr__
        text = f"an object of type {type(value).__name__}"
        if isinstance(value, int):
            text = f"an int of {value.bit_length()} bits"
    return " ".join(text.split())
