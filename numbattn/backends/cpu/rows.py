"""What happens to a row of scores behind the dot products: options, softmax.

Rows are contiguous runs in memory, given by a pointer to key 0. All of it is
vector code without fast-math, so that -inf, NaN and compensation terms survive.
"""

from __future__ import annotations

import math
from functools import cache
from types import ModuleType

import numpy as np

from .levels import Simd
from .pointers import advance, misalignment, peek, poke
from .simd import inner, namespace, vector_operations

SUM_BLOCK = 16  # vectors summed plainly before a compensated step
LOG2_E = math.log2(math.e)


@cache
def row_operations(dtype: str, level: Simd) -> ModuleType:
    """Row functions for one element type: fill, modify, softmax."""
    v = vector_operations(dtype, level)
    lanes = v.lanes
    scalar = np.dtype(dtype).type
    minus_infinity, log2_e = scalar(-np.inf), scalar(LOG2_E)

    @inner
    def fill(row, first, last, value, stream):
        """``row[first:last] = value``, past the caches where `stream` says so."""
        if first >= last:
            return
        x = v.splat(value)
        j = first
        if stream:
            head = -misalignment(advance(row, first), lanes) % lanes
            if head > 0:
                v.masked_store(x, row, j, min(head, last - j))
                j += head
        while j + lanes <= last:
            if stream:
                v.stream(x, row, j)
            else:
                v.store(x, row, j)
            j += lanes
        if j < last:
            v.masked_store(x, row, j, last - j)

    @inner
    def soft_cap(row, first, last, cap):
        """``row = cap * tanh(row / cap)``."""
        whole = v.splat(cap)
        j = first
        while j < last:
            x = v.masked_load(row, j, last - j, whole)
            x = v.multiply(whole, v.tanh(v.divide(x, whole)))
            v.masked_store(x, row, j, last - j)
            j += lanes

    @inner
    def add_bias(row, first, last, bias, stride):
        """``row += bias``, where -inf masks, also NaN; stride 0: one number a row."""
        if stride == 1:
            zero = v.splat(scalar(0))
            j = first
            while j < last:
                x = v.masked_load(row, j, last - j, zero)
                y = v.masked_load(bias, j, last - j, zero)
                x = v.add_unless_minus_infinity(x, y)
                v.masked_store(x, row, j, last - j)
                j += lanes
        else:
            for j in range(first, last):
                x = peek(bias, j * stride)
                poke(row, j, x if x == minus_infinity else peek(row, j) + x)

    @inner
    def apply_mask(row, first, last, mask, stride):
        """``row = -inf`` where the mask is False."""
        for j in range(first, last):
            if not peek(mask, j * stride):
                poke(row, j, minus_infinity)

    @inner
    def greatest(row, count):
        """The greatest element that is not NaN; -inf where there is none."""
        bottom = v.splat(minus_infinity)
        a, b, c, d = bottom, bottom, bottom, bottom
        j = 0
        while j + 4 * lanes <= count:
            a = v.greater(v.load(row, j), a)
            b = v.greater(v.load(row, j + lanes), b)
            c = v.greater(v.load(row, j + 2 * lanes), c)
            d = v.greater(v.load(row, j + 3 * lanes), d)
            j += 4 * lanes
        while j < count:
            a = v.greater(v.masked_load(row, j, count - j, bottom), a)
            j += lanes
        return v.greatest_lane(v.greater(v.greater(a, b), v.greater(c, d)))

    @inner
    def exponentials(row, count, top):
        """``row = exp(row - top)``; returns the sum.

        Sums of `SUM_BLOCK` vectors are added with Knuth's TwoSum, so that the
        error does not grow with the length.
        """
        shift, factor = v.splat(top), v.splat(log2_e)
        total, lost = v.splat(scalar(0)), v.splat(scalar(0))
        bottom = v.splat(minus_infinity)
        j = 0
        while j < count:
            end = min(count, j + SUM_BLOCK * lanes)
            block = v.splat(scalar(0))
            while j + lanes <= end:
                x = v.subtract(v.load(row, j), shift)
                x = v.exp2(v.multiply(x, factor))
                v.store(x, row, j)
                block = v.add(block, x)
                j += lanes
            if j < end:
                x = v.subtract(v.masked_load(row, j, end - j, bottom), shift)
                x = v.exp2(v.multiply(x, factor))
                v.masked_store(x, row, j, end - j)
                block = v.add(block, x)
                j = end
            new = v.add(total, block)
            part = v.subtract(new, total)
            rest = v.subtract(total, v.subtract(new, part))
            lost = v.add(lost, v.add(rest, v.subtract(block, part)))
            total = new
        return v.sum_lanes(v.add(total, lost))

    @inner
    def scale_row(row, count, factor, target, stream):
        """``target = row * factor``, past the caches where `stream` says so."""
        x = v.splat(factor)
        j = 0
        if stream:
            head = min(count, -misalignment(target, lanes) % lanes)
            if head > 0:
                y = v.multiply(v.masked_load(row, 0, head, x), x)
                v.masked_store(y, target, 0, head)
                j = head
        while j + lanes <= count:
            y = v.multiply(v.load(row, j), x)
            if stream:
                v.stream(y, target, j)
            else:
                v.store(y, target, j)
            j += lanes
        if j < count:
            y = v.multiply(v.masked_load(row, j, count - j, x), x)
            v.masked_store(y, target, j, count - j)

    @inner
    def softmax(row, first, last, count, sink, target, stream):
        """Softmax over ``row[first:last]`` into `target`; 0 elsewhere in it.

        The sink is one more score in the sum, of no key. `row` is overwritten, and
        may be `target`.
        """
        start, width = advance(row, first), last - first
        if width > 0:
            top = greatest(start, width)
            some = top != minus_infinity  # else no attended key, or nothing but NaN
            if not some:
                top = scalar(0)
            elif sink > top:
                top = sink
            total = exponentials(start, width, top)
            if some and sink != minus_infinity:
                total += scalar(math.exp(sink - top))
            if total != total:  # NaN or +inf was attended: it takes the whole row
                fill(target, 0, count, total, 0)
                return
            factor = scalar(0)
            if total != scalar(0):
                factor = scalar(1) / total
            scale_row(start, width, factor, advance(target, first), stream)
        fill(target, 0, min(first, count), scalar(0), stream)
        fill(target, max(last, first), count, scalar(0), stream)

    @inner
    def accumulate(total, lost, block, count, factor):
        """``total + lost = (total + lost) * factor + block``, compensated."""
        x = v.splat(factor)
        for j in range(0, count, lanes):
            old = v.multiply(v.load(total, j), x)
            y = v.load(block, j)
            new = v.add(old, y)
            part = v.subtract(new, old)
            rest = v.subtract(old, v.subtract(new, part))
            rest = v.add(rest, v.subtract(y, part))
            v.store(v.fma(v.load(lost, j), x, rest), lost, j)
            v.store(new, total, j)

    return namespace(
        fill=fill,
        soft_cap=soft_cap,
        add_bias=add_bias,
        apply_mask=apply_mask,
        greatest=greatest,
        exponentials=exponentials,
        scale_row=scale_row,
        softmax=softmax,
        accumulate=accumulate,
    )
