"""Care for values that are not finite.

0 * NaN is NaN: a value that is not finite would reach rows that do not attend its key.
So it is replaced by 0 in a copy, and `poison` brings it to the rows that do.
"""

from __future__ import annotations

import math
from functools import cache
from types import ModuleType

import numpy as np

from .levels import Simd
from .pointers import peek, poke
from .simd import inner, namespace, vector_operations


@cache
def value_operations(dtype: str, level: Simd) -> ModuleType:
    """The functions for one element type."""
    v = vector_operations(dtype, level)
    lanes = v.lanes
    scalar = np.dtype(dtype).type

    @inner
    def finite(rows, step, count, width):
        """Whether all is finite in rows of a product."""
        zero = v.splat(scalar(0))
        bad = zero
        for r in range(count):
            for c in range(0, width, lanes):
                x = v.masked_load(rows, r * step + c, width - c, zero)
                bad = v.fma(x, zero, bad)
        total = v.sum_lanes(bad)
        return total == total

    @inner
    def copy(value, row, column, keys, width, clean):
        """Values to contiguous rows, 0 for what is not finite; whether nothing was."""
        fine = True
        for j in range(keys):
            for c in range(width):
                x = peek(value, j * row + c * column)
                if not math.isfinite(x):
                    fine = False
                    x = scalar(0)
                poke(clean, j * width + c, x)
        return fine

    @inner
    def poison(
        value, row, column, keys, width, scores, weights, w_row, w_column, rows, acc,
        step,
    ):  # fmt: skip
        """Add weight times value for every attended value that is not finite."""
        for j in range(keys):
            for c in range(width):
                x = peek(value, j * row + c * column)
                if math.isfinite(x):
                    continue
                for r in range(rows):
                    at = r * w_row + j * w_column
                    if peek(scores, at) != scalar(-np.inf):
                        more = peek(acc, r * step + c) + peek(weights, at) * x
                        poke(acc, r * step + c, more)

    return namespace(finite=finite, copy=copy, poison=poison)
