"""The online softmax of a block of query rows: what it carries from keys to keys.

Maximum, sum and accumulator, after Milakov & Gimelshein (2018) and FlashAttention,
algorithm 1 (Dao et al., 2022), with two changes. The maximum that weights are measured
against is raised only where a score is above it by more than `SLACK`: what was summed
up so far then hardly ever has to be scaled. And keys are summed plainly over a stretch
only, the sums of stretches with compensation (TwoSum): else the error would grow with
the number of keys.

Row i's numbers are lane i of the state, its accumulator is row i of a matrix. All is in
units of log2.
"""

from __future__ import annotations

import math
from functools import cache
from types import ModuleType

import numpy as np

from .columns import column_operations
from .levels import Simd
from .pointers import advance, peek, poke
from .simd import inner, namespace, vector_operations

SLACK = 4.0  # weights reach 2**SLACK; 0 scales some rows after most blocks: 1 % slower
# Numbers of a row, one after the other, each for all rows.
TOP, SUM, WHOLE_TOP, WHOLE_SUM, WHOLE_LOST, FACTOR, SPARE = range(7)


@inner
def finished(top, total, sink, wanted):
    """What a row's accumulator is multiplied by, and its lse where it is wanted.

    In natural units, float64.

    The sink adds to the sum. A row without an attended key, whose sum is 0, has output
    0 and the sink for its lse, -inf where there is none.
    """
    if total == 0.0:
        return 0.0, np.float64(sink)
    base = 0.0 if top == -np.inf else np.float64(top)  # -inf: nothing but NaN
    weight, shrunk = np.float64(total), 1.0
    if sink != -np.inf:
        if sink > base:
            shrunk = math.exp(base - sink)
            base = np.float64(sink)
        weight = weight * shrunk + math.exp(sink - base)
    if wanted:  # 20 ns, of 500 that a row of 128 keys takes
        base += math.log(weight)
    return shrunk / weight, base


@cache
def online_softmax(dtype: str, level: Simd) -> ModuleType:
    """The steps for one element type.

    `state` is ``[SPARE][pitch]``; `acc`, `total` and `lost` are ``[pitch][width]``,
    width a multiple of the lanes.
    """
    v = vector_operations(dtype, level)
    columns = column_operations(dtype, level)
    lanes = v.lanes
    scalar = np.dtype(dtype).type

    @inner
    def begin(state, pitch):
        """Nothing summed up in a stretch."""
        for i in range(0, pitch, lanes):
            v.store(v.splat(scalar(-np.inf)), state, TOP * pitch + i)
            v.store(v.splat(scalar(0)), state, SUM * pitch + i)

    @inner
    def begin_whole(state, pitch, total, lost, width):
        """No stretches summed up."""
        for i in range(0, pitch, lanes):
            v.store(v.splat(scalar(-np.inf)), state, WHOLE_TOP * pitch + i)
            v.store(v.splat(scalar(0)), state, WHOLE_SUM * pitch + i)
            v.store(v.splat(scalar(0)), state, WHOLE_LOST * pitch + i)
        for i in range(0, pitch * width, lanes):
            v.store(v.splat(scalar(0)), total, i)
            v.store(v.splat(scalar(0)), lost, i)

    @inner
    def scale_rows(acc, width, factors, rows):
        for r in range(rows):
            factor = peek(factors, r)
            if factor != scalar(1):
                x = v.splat(factor)
                for c in range(0, width, lanes):
                    at = r * width + c
                    v.store(v.multiply(v.load(acc, at), x), acc, at)

    @inner
    def weigh(scores, pitch, first, last, state, acc, width):
        """Turn a block's scores into weights, and add these to the sums.

        `acc` is scaled where a maximum was raised; with width 0 nothing is. A row
        without an attended key so far is measured against 0: -inf gives 0, not NaN.
        """
        slack = v.splat(scalar(SLACK))
        for i in range(0, pitch, lanes):
            column = advance(scores, i)
            old = v.load(state, TOP * pitch + i)
            total = v.load(state, SUM * pitch + i)
            new = v.raised(old, columns.greatest(column, pitch, first, last), slack)
            shift = v.shift_of(new)
            if v.any_greater(new, old):
                factor = v.exp2(v.subtract(old, shift))
                v.store(new, state, TOP * pitch + i)
                v.store(factor, state, FACTOR * pitch + i)
                total = v.multiply(total, factor)
                factors = advance(state, FACTOR * pitch + i)
                scale_rows(advance(acc, i * width), width, factors, lanes)
            part = columns.exponentials(column, pitch, first, last, shift)
            v.store(v.add(total, part), state, SUM * pitch + i)

    @inner
    def two_sum(total, lost, at, x, factor):
        """``total + lost = (total + lost) * factor + x``, compensated."""
        old = v.multiply(v.load(total, at), factor)
        new = v.add(old, x)
        part = v.subtract(new, old)
        rest = v.add(v.subtract(old, v.subtract(new, part)), v.subtract(x, part))
        v.store(v.fma(v.load(lost, at), factor, rest), lost, at)
        v.store(new, total, at)

    @inner
    def fold(state, pitch, acc, total, lost, width):
        """Add a stretch to those before it."""
        sums, rest = (
            advance(state, WHOLE_SUM * pitch),
            advance(state, WHOLE_LOST * pitch),
        )
        for i in range(0, pitch, lanes):
            top = v.load(state, TOP * pitch + i)
            old = v.load(state, WHOLE_TOP * pitch + i)
            new = v.greater(top, old)
            shift = v.shift_of(new)
            before = v.exp2(v.subtract(old, shift))
            now = v.exp2(v.subtract(top, shift))
            v.store(new, state, WHOLE_TOP * pitch + i)
            two_sum(
                sums, rest, i, v.multiply(v.load(state, SUM * pitch + i), now), before
            )  # fmt: skip
            v.store(before, state, FACTOR * pitch + i)
            v.store(now, state, SUM * pitch + i)
        for r in range(pitch):
            before = v.splat(peek(state, FACTOR * pitch + r))
            now = v.splat(peek(state, SUM * pitch + r))
            for c in range(0, width, lanes):
                at = r * width + c
                two_sum(total, lost, at, v.multiply(v.load(acc, at), now), before)
        begin(state, pitch)

    @inner
    def added(x, rest):
        """Their sum; `rest` is NaN once x is infinite."""
        return x + rest if rest == rest else x

    @inner
    def unite(state, pitch, acc, total, lost, width):
        """The sums of all stretches, to where those of a single one are."""
        for r in range(pitch):
            whole, rest = peek(state, WHOLE_SUM * pitch + r), WHOLE_LOST * pitch + r
            poke(state, SUM * pitch + r, added(whole, peek(state, rest)))
            poke(state, TOP * pitch + r, peek(state, WHOLE_TOP * pitch + r))
        for i in range(pitch * width):
            poke(acc, i, added(peek(total, i), peek(lost, i)))

    return namespace(
        begin=begin, begin_whole=begin_whole, weigh=weigh, fold=fold, unite=unite
    )
