"""How a matrix is cut into the cells of a picture that has fewer points than it."""

from __future__ import annotations

from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray


class Cells(NamedTuple):
    """Cells of equal size; the last ones along an axis may be smaller."""

    n: int
    """Rows of the matrix."""
    m: int
    """Its columns."""
    rows: int = 1
    """Rows of a cell."""
    keys: int = 1
    """Columns of a cell."""

    @classmethod
    def fitting(cls, n: int, m: int, most: int) -> Self:
        """Return the smallest cells of which at most `most` lie along an axis."""
        # equal ones: a maximum over 1 and 2 elements in turns would draw stripes
        return cls(n, m, *(max(1, -(-size // most)) for size in (n, m)))

    @property
    def shape(self) -> tuple[int, int]:
        """How many cells there are along each axis."""
        return -(-self.n // self.rows), -(-self.m // self.keys)

    @property
    def row_edges(self) -> NDArray[np.int64]:
        """Where cells begin along the rows, and the end."""
        return np.append(np.arange(0, self.n, self.rows), self.n)

    @property
    def key_edges(self) -> NDArray[np.int64]:
        """Where cells begin along the columns, and the end."""
        return np.append(np.arange(0, self.m, self.keys), self.m)

    @property
    def areas(self) -> NDArray[np.int64]:
        """How many elements of the matrix each cell has."""
        area: NDArray[np.int64] = np.diff(self.row_edges)[:, None] * np.diff(
            self.key_edges
        )
        return area
