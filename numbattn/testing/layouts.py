"""The same values in other memory: strides, offsets, alignment, byte order, guards.

Floating arrays lie inside a larger buffer of NaN, so that a read outside of the
array shows in the result, and a write outside of it shows in the buffer.
"""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np

from numbattn.errors import OptionError

__all__ = [
    "LAYOUTS",
    "OUT_LAYOUTS",
    "Guarded",
    "guarded_empty",
    "relayout",
    "swap_bytes",
]

Array = np.ndarray[Any, Any]

OUT_LAYOUTS = (
    "contiguous",
    "fortran",
    "swapped_axes",
    "reversed_rows",
    "reversed_all",
    "gaps",
    "rows_of_wider",
    "offset",
    "unaligned",
    "structured_field",
    "subclass",
    "memmap",
)
"""Names that :func:`guarded_empty` takes."""

LAYOUTS = (*OUT_LAYOUTS, "read_only", "byte_swapped")
"""Names that :func:`relayout` takes."""

_GUARD = 8


class _Subclass(np.ndarray):
    """An array that is no plain one."""


def _fill(array: Array) -> None:
    """Fill with NaN, or with a value that no test uses."""
    array[...] = np.nan if array.dtype.kind not in "biu" else 1


def _flat(size: int, dtype: np.dtype[Any], layout: str) -> Array:
    """Return `size` elements one behind the other, with a guard on both sides."""
    whole = size + 2 * _GUARD
    if layout == "unaligned":
        # All bits set are NaN in every floating dtype.
        raw = np.full((whole + 1) * dtype.itemsize, 0xFF, np.uint8)
        flat = raw[1 : 1 + whole * dtype.itemsize].view(dtype)
    elif layout == "structured_field":
        # Records of a byte and a number: strides that are no multiple of the item.
        flat = np.empty(whole, np.dtype([("tag", "u1"), ("number", dtype)]))["number"]
        _fill(flat)
    elif layout == "memmap":
        with tempfile.TemporaryFile() as file:
            # The file has no name left; it lasts as long as the mapping.
            flat = np.memmap(file, dtype, "w+", shape=(whole,))
        _fill(flat)
    else:
        flat = np.empty(whole, dtype)
        _fill(flat)
    return flat[_GUARD : _GUARD + size]


def _slots(shape: tuple[int, ...], dtype: np.dtype[Any], layout: str) -> Array:
    """Return an array of this shape inside a larger buffer, laid out as named."""
    if layout in ("contiguous", "unaligned", "structured_field", "subclass", "memmap"):
        array = _flat(int(np.prod(shape)), dtype, layout).reshape(shape)
        return array.view(_Subclass) if layout == "subclass" else array
    axes = list(range(len(shape)))
    if layout == "fortran":
        axes.reverse()
    elif layout == "swapped_axes" and len(shape) > 1:
        axes = [axes[-2], *axes[:-2], axes[-1]]
    steps = [1] * len(shape)
    if layout == "gaps":
        steps = [2] * len(shape)
    elif layout == "reversed_all":
        steps = [-1] * len(shape)
    elif layout == "reversed_rows" and len(shape) > 1:
        steps[-2] = -1
    elif layout == "rows_of_wider" and shape:
        steps[-1] = 3
    pad = 2
    outer = [shape[a] * abs(steps[a]) + 2 * pad for a in axes]
    buffer = np.empty(outer, dtype)
    _fill(buffer)
    middle: Any = (..., *(slice(pad, size - pad) for size in outer))
    inner = buffer[middle]
    inner = inner.transpose(np.argsort(axes)) if axes else inner
    cut: Any = (..., *(slice(None, None, step) for step in steps))
    moved: Array = inner[cut]
    return moved


def relayout(array: Any, layout: str) -> Array:
    """Return an array with the values of `array` in another memory layout.

    Parameters
    ----------
    array : array_like
        The values.
    layout : str
        One of `LAYOUTS`.

    Returns
    -------
    numpy.ndarray
        Equal to `array`, in a buffer whose other elements are NaN.

    Examples
    --------
    >>> import numpy as np
    >>> from numbattn.testing import relayout
    >>> relayout(np.ones((4, 2), np.float32), "fortran").flags.f_contiguous
    False
    >>> relayout(np.ones((4, 2), np.float32), "reversed_all").strides < (0, 0)
    True
    """
    array = np.asarray(array)
    if layout not in LAYOUTS:
        raise OptionError(f"layout is {layout!r}; it is one of {', '.join(LAYOUTS)}")
    if layout == "byte_swapped":
        return swap_bytes(array)
    moved = _slots(array.shape, array.dtype, layout)
    moved[...] = array
    if layout == "read_only":
        moved.flags.writeable = False
    return moved


def swap_bytes(array: Array) -> Array:
    """Return the same values in the other byte order, where the dtype has one."""
    if array.dtype.kind not in "iuf":
        return array.copy()
    return array.astype(array.dtype.newbyteorder("S"))


class Guarded:
    """An array to write into, and the buffer around it.

    Parameters
    ----------
    array : numpy.ndarray
        A view into the buffer.

    Examples
    --------
    >>> import numpy as np
    >>> from numbattn.testing import Guarded
    >>> guard = Guarded(np.empty(10)[2:8])
    >>> guard.array[:] = 5
    >>> guard.intact()
    True
    """

    def __init__(self, array: Array) -> None:
        self.array = array
        base = array
        while isinstance(base.base, np.ndarray):
            base = base.base
        self._bytes = base.reshape(-1, copy=False).view(np.uint8)
        before = self._bytes.copy()
        # Mark the bytes of the view once, to know the others later.
        bits = array.view(f"u{array.itemsize}")
        bits[...] = 0
        zeros = self._bytes.copy()
        np.invert(bits, out=bits)
        self._outside = np.asarray(zeros == self._bytes)
        self._before = before[self._outside]
        array[...] = 1

    def intact(self) -> bool:
        """Return whether nothing outside of the array was written.

        Returns
        -------
        bool
            False where a byte around the array has changed.

        Examples
        --------
        >>> import numpy as np
        >>> from numbattn.testing import Guarded
        >>> whole = np.zeros(10)
        >>> guard = Guarded(whole[2:8])
        >>> whole[9] = 1
        >>> guard.intact()
        False
        """
        return bool(np.array_equal(self._bytes[self._outside], self._before))


def guarded_empty(
    shape: tuple[int, ...], dtype: Any, layout: str = "contiguous"
) -> Guarded:
    """Return an array for ``out=`` inside a buffer of NaN.

    Parameters
    ----------
    shape : tuple of int
        Shape of the array.
    dtype : dtype
        A floating dtype.
    layout : str
        One of `OUT_LAYOUTS`.

    Returns
    -------
    Guarded
        Its ``array`` to pass as `out`; ``intact()`` afterwards.

    Examples
    --------
    >>> import numpy as np
    >>> import numbattn
    >>> from numbattn.testing import guarded_empty
    >>> guard = guarded_empty((2, 2), np.float64, "gaps")
    >>> out = numbattn.scores(np.eye(2), np.eye(2), out=guard.array)
    >>> guard.intact()
    True
    """
    if layout not in OUT_LAYOUTS:
        raise OptionError(
            f"layout is {layout!r}; it is one of {', '.join(OUT_LAYOUTS)}"
        )
    return Guarded(_slots(tuple(shape), np.dtype(dtype), layout))
