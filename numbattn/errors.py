"""The exceptions of numbattn; each is also the built-in error that it resembles."""

from __future__ import annotations

import reprlib

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 80


class NumbattnError(Exception):
    """Anything that numbattn itself complains about.

    Examples
    --------
    >>> import numbattn
    >>> try:
    ...     numbattn.scores([[1.0, 2.0]], [[1.0]])
    ... except numbattn.NumbattnError as error:
    ...     print(type(error).__name__)
    ShapeError
    """


class ShapeError(NumbattnError, ValueError):
    """Axes that do not fit each other.

    Examples
    --------
    >>> import numbattn
    >>> numbattn.scores([[1.0, 2.0]], [[1.0]])
    Traceback (most recent call last):
    numbattn.errors.ShapeError: query ...
    """


class DTypeError(NumbattnError, TypeError):
    """A kind of array, or a dtype, that cannot be computed with.

    Examples
    --------
    >>> import numbattn
    >>> numbattn.scores([[1j]], [[1.0]])
    Traceback (most recent call last):
    numbattn.errors.DTypeError: query has dtype complex128 ...
    """


class OptionError(NumbattnError, ValueError):
    """An option, a setting or an environment variable with an impossible value.

    Examples
    --------
    >>> import numbattn
    >>> numbattn.scores([[1.0]], [[1.0]], softcap=-1)
    Traceback (most recent call last):
    numbattn.errors.OptionError: softcap ...
    """


class BackendUnavailableError(NumbattnError, RuntimeError):
    """A backend that cannot run here, or not on these arrays.

    Examples
    --------
    `list_backends` says beforehand which ones can run, and why not the others.

    >>> import numbattn
    >>> for name, reason in numbattn.list_backends().items():
    ...     if reason is not None:
    ...         try:
    ...             numbattn.set_backend(name)
    ...         except numbattn.BackendUnavailableError as error:
    ...             assert reason in str(error)
    """


class MemoryLimitError(NumbattnError, MemoryError):
    """A call that would need more memory than it may use; nothing was allocated.

    Attributes
    ----------
    wanted : int
        Bytes that the call would allocate.
    free : int
        Bytes that the machine, or the cgroup, had free.

    Examples
    --------
    >>> import numpy as np
    >>> import numbattn
    >>> query = key = np.ones((1000, 2))
    >>> try:
    ...     numbattn.scores(query, key, max_memory="1 MB")
    ... except numbattn.MemoryLimitError as error:
    ...     print(error.wanted >= 8_000_000)
    True
    """

    wanted = 0
    free = 0


def shown(value: object) -> str:
    """Return what a message quotes: one short line, whatever the value is."""
    try:
        text = _short.repr(value)
    except Exception:  # an int of 5,000 digits; someone else's __repr__
        text = f"an object of type {type(value).__name__}"
        if isinstance(value, int):
            text = f"an int of {value.bit_length()} bits"
    return " ".join(text.split())
