"""The same values in other memory: strides, offsets, alignment, byte order, guards.

Floating arrays lie inside a larger buffer of NaN, so that a read outside of the
array shows in the result, and a write outside of it shows in the buffer.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from numbattn.errors import OptionError

__all__ = ["LAYOUTS", "Guarded", "guarded_empty", "relayout", "swap_bytes"]

Array = np.ndarray[Any, Any]

LAYOUTS = (
    "contiguous",
    "fortran",
    "swapped_axes",
    "reversed_rows",
    "reversed_all",
    "gaps",
    "rows_of_wider",
    "offset",
    "unaligned",
    "read_only",
    "byte_swapped",
)
"""Names that :func:`relayout` takes."""


def _fill(array: Array) -> None:
    """Fill with NaN, or with a value that no test uses."""
    array[...] = np.nan if array.dtype.kind not in "biu" else 1


def _slots(shape: tuple[int, ...], dtype: np.dtype[Any], layout: str) -> Array:
    """Return an array of this shape inside a larger buffer, laid out as named."""
    if layout == "unaligned":
        size = int(np.prod(shape)) * dtype.itemsize
        raw = np.zeros(size + dtype.itemsize, np.uint8)
        return raw[1 : 1 + size].view(dtype).reshape(shape)
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
    elif layout == "rows_of_wider":
        steps[-1] = 3
    pad = 0 if layout == "contiguous" else 2
    outer = [shape[a] * abs(steps[a]) + 2 * pad for a in axes]
    if layout == "contiguous":
        # A guard before and behind, and no gap inside.
        flat = np.empty(int(np.prod(shape)) + 16, dtype)
        _fill(flat)
        return flat[8 : flat.size - 8].reshape(shape)
    buffer = np.empty(outer, dtype)
    _fill(buffer)
    inner = buffer[tuple(slice(pad, size - pad) for size in outer)]
    inner = inner.transpose(np.argsort(axes)) if axes else inner
    cut = tuple(slice(None, None, step) for step in steps)
    return inner[cut] if cut else inner


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
        A view into `buffer`.
    """

    def __init__(self, array: Array) -> None:
        self.array = array
        base = array
        while isinstance(base.base, np.ndarray):
            base = base.base
        self._base = base
        # Mark the elements of the view once, by address, to know the others later.
        before = base.copy()
        array[...] = 0
        zeros = base.copy()
        array[...] = 1
        self._outside = (zeros == base) | (np.isnan(zeros) & np.isnan(base))
        self._before = before

    def intact(self) -> bool:
        """Return whether nothing outside of the array was written."""
        outside = self._outside
        now = np.isnan(self._base[outside])
        return bool(np.all(now == np.isnan(self._before[outside])))


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
        One of `LAYOUTS` with gaps or an order of its own.

    Returns
    -------
    Guarded
        Its ``array`` to pass as `out`; ``intact()`` afterwards.
    """
    return Guarded(_slots(tuple(shape), np.dtype(dtype), layout))
