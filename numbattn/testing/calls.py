"""Calls of the public functions by name, and what they were, for reports."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np

__all__ = ["call", "describe_call", "recording"]

_KEPT = 3
_calls: ContextVar[deque[tuple[Any, ...]] | None] = ContextVar("calls", default=None)


def call(operation: str, backend: str, *arrays: Any, **options: Any) -> Any:
    """Call a public operation by name on one backend.

    Parameters
    ----------
    operation : {"scores", "weights", "attention"}
        The function.
    backend : str
        The name of the backend.
    *arrays : array_like
        The query, the key and, for attention, the value.
    **options
        Passed on.

    Returns
    -------
    numpy.ndarray or tuple of numpy.ndarray
        What the function returned.

    Examples
    --------
    >>> from numbattn.testing import call
    >>> call("scores", "reference", [[1.0, 2.0]], [[3.0, 4.0]], scale=2.0)
    array([[22.]])
    """
    import numbattn

    kept = _calls.get()
    if kept is not None:
        kept.append((operation, backend, arrays, options))
    return getattr(numbattn, operation)(*arrays, backend=backend, **options)


@contextmanager
def recording() -> Iterator[deque[tuple[Any, ...]]]:
    """Keep the last calls made within the block, to describe them in a report."""
    kept: deque[tuple[Any, ...]] = deque(maxlen=_KEPT)
    token = _calls.set(kept)
    try:
        yield kept
    finally:
        _calls.reset(token)


def describe_array(array: Any) -> str:
    """Return "float32[3, 4]", and what is special about the array."""
    if not isinstance(array, np.ndarray):
        return repr(array) if np.isscalar(array) else type(array).__name__
    text = f"{array.dtype}{list(array.shape)}"
    notes = []
    if not array.flags.c_contiguous:
        notes.append(f"strides {array.strides}")
    if not array.flags.aligned:
        notes.append("unaligned")
    if not array.flags.writeable:
        notes.append("read-only")
    if array.dtype.kind not in "biuO":
        odd = int(np.count_nonzero(~np.isfinite(array)))
        if odd:
            notes.append(f"{odd} not finite")
    return f"{text} ({', '.join(notes)})" if notes else text


def describe_call(
    operation: str, backend: str | None, arrays: Any, options: dict[str, Any]
) -> str:
    """Return a call in words: small options in full, arrays by dtype and shape.

    Parameters
    ----------
    operation : str
        The function's name.
    backend : str or None
        The backend; None leaves it out.
    arrays : sequence of array_like
        The positional arguments.
    options : dict
        The keyword arguments.

    Returns
    -------
    str
        ``attention(float32[3, 4], ..., is_causal=True)``.
    """
    parts = [describe_array(array) for array in arrays]
    for name, value in options.items():
        if isinstance(value, np.ndarray) and (value.size > 8 or name == "out"):
            parts.append(f"{name}={describe_array(value)}")
        else:
            parts.append(f"{name}={' '.join(repr(value).split())}")
    if backend is not None:
        parts.append(f"backend={backend!r}")
    return f"{operation}({', '.join(parts)})"
