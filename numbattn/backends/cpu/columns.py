"""What happens to a block of transposed scores: maximum, weights, softcap.

A block is ``[keys][pitch]``, queries in the vector lanes: all of a vector's lanes do
the same, and no sum ever goes across them. Functions take one column of vectors, given
by a pointer to it at the block's key 0; key numbers count from there.
"""

from __future__ import annotations

from functools import cache
from types import ModuleType

import numpy as np

from .levels import Simd
from .simd import inner, namespace, vector_operations

SUM_KEYS = 32  # weights that are summed plainly


@cache
def column_operations(dtype: str, level: Simd) -> ModuleType:
    """Column functions for one element type."""
    v = vector_operations(dtype, level)
    scalar = np.dtype(dtype).type

    @inner
    def greatest(column, pitch, first, last):
        """The greatest score of each lane that is not NaN; -inf where there is none."""
        bottom = v.splat(scalar(-np.inf))
        a, b, c, d = bottom, bottom, bottom, bottom
        j = first
        while j + 4 <= last:
            a = v.greater(v.load(column, j * pitch), a)
            b = v.greater(v.load(column, (j + 1) * pitch), b)
            c = v.greater(v.load(column, (j + 2) * pitch), c)
            d = v.greater(v.load(column, (j + 3) * pitch), d)
            j += 4
        while j < last:
            a = v.greater(v.load(column, j * pitch), a)
            j += 1
        return v.greater(v.greater(a, b), v.greater(c, d))

    @inner
    def exponentials(column, pitch, first, last, shift):
        """Scores to ``exp2(score - shift)``; returns their sums.

        By parts of `SUM_KEYS` whose places do not depend on where the block begins.
        """
        total = v.splat(scalar(0))
        j = first
        while j < last:
            end = min(last, (j // SUM_KEYS + 1) * SUM_KEYS)
            part = v.splat(scalar(0))
            while j + 4 <= end:
                a = v.exp2(v.subtract(v.load(column, j * pitch), shift))
                b = v.exp2(v.subtract(v.load(column, (j + 1) * pitch), shift))
                c = v.exp2(v.subtract(v.load(column, (j + 2) * pitch), shift))
                d = v.exp2(v.subtract(v.load(column, (j + 3) * pitch), shift))
                v.store(a, column, j * pitch)
                v.store(b, column, (j + 1) * pitch)
                v.store(c, column, (j + 2) * pitch)
                v.store(d, column, (j + 3) * pitch)
                part = v.add(v.add(v.add(v.add(part, a), b), c), d)
                j += 4
            while j < end:
                a = v.exp2(v.subtract(v.load(column, j * pitch), shift))
                v.store(a, column, j * pitch)
                part = v.add(part, a)
                j += 1
            total = v.add(total, part)
        return total

    @inner
    def soft_cap(column, pitch, first, last, cap):
        """``cap * tanh(score / cap)``."""
        whole = v.splat(cap)
        for j in range(first, last):
            x = v.divide(v.load(column, j * pitch), whole)
            v.store(v.multiply(whole, v.tanh(x)), column, j * pitch)

    return namespace(
        greatest=greatest,
        exponentials=exponentials,
        soft_cap=soft_cap,
    )
