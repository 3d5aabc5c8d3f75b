"""A matrix reduced to the cells of a picture while it is computed, block by block."""

from __future__ import annotations

from itertools import pairwise, product
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..cells import Cells

Reduction = Literal["mean", "max"]
REDUCTIONS: tuple[Reduction, ...] = ("mean", "max")

# rows are added up in float32: at most so many, and so that uint8 can count them
_ROWS = 255
_KEYS = 4096  # what is looked at with care at a time, to stay in a cache


class Reduced:
    """What a call takes as `out`: it keeps cells, and no block.

    -inf, a masked score, counts neither for a mean nor for a maximum; a cell of
    nothing else is -inf. A NaN makes its cell NaN.

    Parameters
    ----------
    lead : tuple of int
        Leading axes of the result.
    cells : Cells
        The cells of each matrix.
    dtype : numpy.dtype
        Of the blocks.
    reduction : {"mean", "max"}
        What becomes of a cell's elements.
    """

    def __init__(
        self,
        lead: tuple[int, ...],
        cells: Cells,
        dtype: np.dtype[Any],
        reduction: Reduction,
    ) -> None:
        self.shape = (*lead, cells.n, cells.m)
        self.dtype = dtype
        self._cells, self._reduction = cells, reduction
        shape = (*lead, *cells.shape)
        self._values = np.full(shape, -np.inf if reduction == "max" else 0.0)
        self._hidden = np.zeros(shape if reduction == "mean" else 0, np.int64)

    def __setitem__(self, place: tuple[slice, ...], block: NDArray[Any]) -> None:
        """Take a block of the result, whole matrices or parts of them."""
        *lead, rows, keys = place
        boxes = [range(part.start, part.stop) for part in lead]
        for index, at in zip(
            product(*boxes), np.ndindex(block.shape[:-2]), strict=True
        ):
            with np.errstate(over="ignore", invalid="ignore"):  # inf, NaN of the data
                self._take(index, rows.start, keys.start, block[at])

    def values(self) -> NDArray[np.float64]:
        """Return the cells: shape (..., rows, columns)."""
        if self._reduction == "max":
            return self._values
        count = self._cells.areas - self._hidden
        means: NDArray[np.float64] = self._values / np.maximum(count, 1)
        means[count == 0] = -np.inf
        return means

    def _take(
        self, index: tuple[int, ...], q0: int, k0: int, block: NDArray[Any]
    ) -> None:
        rows, keys = self._cells.rows, self._cells.keys
        n, m = block.shape
        columns = slice(k0 // keys, -(-(k0 + m) // keys))
        starts = np.arange(columns.start, columns.stop) * keys - k0
        starts[0] = 0
        top = 0
        while top < n:
            row = (q0 + top) // rows
            end = min(n, top + _ROWS, (row + 1) * rows - q0)
            place = (*index, row, columns)
            self._take_rows(place, starts, block[top:end])
            top = end

    def _take_rows(
        self, place: tuple[Any, ...], starts: NDArray[np.int64], block: NDArray[Any]
    ) -> None:
        if block.dtype.itemsize < 4:  # of a backend that computes in half precision
            block = block.astype(np.float32)
        # down the rows first: vector code, a hundred times the work of what follows
        cells = self._values[place]
        if self._reduction == "max":
            highest = np.maximum.reduceat(np.maximum.reduce(block, axis=0), starts)
            np.maximum(cells, highest, out=cells)
            return
        sums = np.add.reduce(block, axis=0).astype(np.float64)
        if not np.isfinite(sums).all():
            hidden = _careful(block, sums)
            self._hidden[place] += np.add.reduceat(hidden, starts)
        cells += np.add.reduceat(sums, starts)


def _careful(block: NDArray[Any], sums: NDArray[np.float64]) -> NDArray[np.int64]:
    """Add up, without -inf, the columns whose sum is not finite; count -inf."""
    hidden = np.zeros(len(sums), np.int64)
    for start in range(0, len(sums), _KEYS):
        part = slice(start, start + _KEYS)
        if np.isfinite(sums[part]).all():
            continue
        masked = block[:, part] == -np.inf
        # uint8 counts to 255 rows, several times faster than bools are added up
        hidden[part] = np.add.reduce(masked.view(np.uint8), axis=0, dtype=np.uint8)
        if hidden[part].min() == len(block):
            sums[part] = 0.0
            continue
        shown = np.where(masked, block.dtype.type(0), block[:, part])
        sums[part] = np.add.reduce(shown, axis=0, dtype=np.float64)
    return hidden


def means(array: NDArray[Any], step: int, axis: int) -> NDArray[np.float64]:
    """Return the means of every `step` neighbours along an axis, the last maybe fewer.

    Parameters
    ----------
    array : ndarray
        Of any dtype.
    step : int
        How many neighbours.
    axis : int
        Along which axis; one of length 1 stands for any length and stays.

    Returns
    -------
    ndarray of float64
        With ``ceil(size / step)`` elements along that axis.
    """
    size = array.shape[axis]
    if size <= 1:
        return array.astype(np.float64)
    edges = np.append(np.arange(0, size, step), size)
    rows = np.moveaxis(array, axis, 0)
    found = np.empty((len(edges) - 1, *rows.shape[1:]))
    for cell, (start, end) in enumerate(pairwise(edges)):
        np.mean(rows[start:end], axis=0, dtype=np.float64, out=found[cell])
    return np.moveaxis(found, 0, axis)
