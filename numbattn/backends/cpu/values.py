"""Values under weights: their product, and care for what is not finite.

0 * NaN is NaN: a value that is not finite would reach rows that do not attend its key.
So it is replaced by 0 in a copy, and `poison` brings it to the rows that do.
"""

from __future__ import annotations

import math
from functools import cache
from types import ModuleType

import numpy as np

from .levels import Simd
from .pointers import advance, peek, poke
from .products import products
from .simd import inner, namespace, vector_operations

# Keys that are summed plainly: of 128 equal terms C is 12.8 at most (m = 128).
SUM_KEYS = 128
SUM_KEYS_FEW = 32  # their values stay in the nearest cache for the next rows


@cache
def value_operations(dtype: str, level: Simd, few: bool) -> ModuleType:
    """The functions for one element type, for few rows of weights or for many."""
    p, v = products(dtype, level), vector_operations(dtype, level)
    multiply = p.few if few else p.product
    chain = SUM_KEYS_FEW if few else SUM_KEYS
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
    def product(
        weights, w_row, w_column, rows, first, last, value, v_row, width, acc, step, add
    ):  # fmt: skip
        """Weights of a block's keys first..last times values, to or onto `acc`.

        `weights` begins at the block's key 0, `value` at key `first`.
        """
        at = first
        while at < last:
            end = min(last, (at // chain + 1) * chain)
            multiply(
                advance(weights, at * w_column), w_row, w_column, rows,
                advance(value, (at - first) * v_row), v_row, end - at, width,
                acc, step, add or at > first,
            )  # fmt: skip
            at = end

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

    return namespace(finite=finite, copy=copy, product=product, poison=poison)
