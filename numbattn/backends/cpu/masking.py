"""Bias, mask and window on blocks of transposed scores; blocks that nobody sees.

Where bias and mask lie by rows of queries they are transposed square by square, in
registers.
"""

from __future__ import annotations

from functools import cache
from types import ModuleType

import numpy as np

from .levels import Simd
from .pointers import advance, peek, poke
from .rows import LOG2_E
from .simd import FLAGS, inner, namespace, vector_operations
from .tiles import tiles


@cache
def masking(dtype: str, level: Simd) -> ModuleType:
    """The functions for one element type.

    Scores are a column of vectors, ``[keys][pitch]``; bias and mask begin at the row of
    the column's lane 0 and at the block's key 0, with any strides, in elements; `rows`
    of the lanes are queries.
    """
    v, transpose = vector_operations(dtype, level), tiles(dtype, level).transpose
    lanes = v.lanes
    scalar = np.dtype(dtype).type
    minus_infinity, factor = scalar(-np.inf), scalar(LOG2_E)

    @inner
    def window(column, pitch, first, last, low, high):
        """-inf outside the window: lane i sees keys ``i + low <= j < i + high``."""
        for j in range(first, last):
            if j < lanes - 1 + low or j >= high:
                x = v.load(column, j * pitch)
                x = v.keep_lanes(x, j - high + 1, j - low + 1)
                v.store(x, column, j * pitch)

    @inner
    def add_bias(column, pitch, first, last, bias, b_row, b_column, rows, square):
        """Add the bias, in units of log2; `square` is scratch, lanes by lanes."""
        for j in range(first, last, lanes):
            keys = min(lanes, last - j)
            if b_row == 0:
                for i in range(keys):
                    v.store(v.splat(peek(bias, (j + i) * b_column)), square, i * lanes)
            elif b_column == 1 and keys == lanes and rows >= lanes:
                transpose(advance(bias, j), b_row, square, lanes, scalar(1))
            else:
                for i in range(keys):
                    v.store(v.splat(scalar(0)), square, i * lanes)
                    for r in range(min(rows, lanes)):
                        x = peek(bias, r * b_row + (j + i) * b_column)
                        poke(square, i * lanes + r, x)
            for i in range(keys):
                at = (j + i) * pitch
                x = v.biased(v.load(column, at), v.load(square, i * lanes), factor)
                v.store(x, column, at)

    @inner
    def apply_mask(column, pitch, first, last, mask, m_row, m_column, rows):
        """-inf where the mask is False."""
        j = first
        if m_column == 1 and rows >= lanes and lanes > 1:
            while j + lanes <= last:
                scores = advance(column, j * pitch)
                v.mask_square(advance(mask, j), m_row, scores, pitch)
                j += lanes
        while j < last:
            for r in range(min(rows, lanes)):
                if not peek(mask, r * m_row + j * m_column):
                    poke(column, j * pitch + r, minus_infinity)
            j += 1

    @inner
    def none_true(mask, m_row, m_column, rows, first, last):
        """Whether the mask is False in rows 0..rows, keys first..last."""
        for r in range(rows if m_row != 0 else 1):
            j = first
            if m_column == 1:
                while j + FLAGS <= last:
                    if v.any_true(mask, r * m_row + j):
                        return False
                    j += FLAGS
            for i in range(j, last):
                if peek(mask, r * m_row + i * m_column):
                    return False
        return True

    @inner
    def all_minus_infinity(bias, b_row, b_column, rows, first, last):
        """Whether the bias masks keys first..last for rows 0..rows."""
        for r in range(rows if b_row != 0 else 1):
            j = first
            if b_column == 1:
                while j + lanes <= last:
                    if not v.all_masked(bias, r * b_row + j):
                        return False
                    j += lanes
            for i in range(j, last):
                if peek(bias, r * b_row + i * b_column) != minus_infinity:
                    return False
        return True

    @inner
    def greatest_bias(bias, b_column, mask, m_column, has_mask, first, last):
        """The greatest bias of a row among keys that the mask leaves."""
        top = minus_infinity
        for j in range(first, last):
            if not has_mask or peek(mask, j * m_column):
                top = max(top, peek(bias, j * b_column))
        return top

    return namespace(
        greatest_bias=greatest_bias,
        window=window,
        add_bias=add_bias,
        apply_mask=apply_mask,
        none_true=none_true,
        all_minus_infinity=all_minus_infinity,
    )
