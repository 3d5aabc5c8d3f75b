"""Softmax of the scores that a warp of a tensor kernel holds: see `fragments`."""

from __future__ import annotations

from math import log
from typing import Any

from .fragments import slot
from .geometry import TensorGeometry
from .instructions import operation


def _tree(operation: Any, values: list[Any]) -> Any:
    """Combine values in pairs: short chains, small errors."""
    while len(values) > 1:
        pairs = [operation(*values[i : i + 2]) for i in range(0, len(values) - 1, 2)]
        values = pairs + values[2 * len(pairs) :]
    return values[0]


def _row(c: Any, operation: Any, value: Any) -> Any:
    """Combine what the four lanes of a row have."""
    for mask in (1, 2):
        value = operation(value, c.shuffle(value, mask))
    return value


def scaling(shape: TensorGeometry) -> Any:
    """``scale(scores, factor, shift)``: multiply them all, and add."""

    def emit(c: Any, scores: Any, factor: Any, shift: Any) -> None:
        for place in range(shape.rows * shape.keys // 4):
            c.set(scores, place, c.fma(c.get(scores, place), factor, shift))

    return operation("trr", shape.kind, emit)


def exponentials(shape: TensorGeometry) -> Any:
    """``update(scores, outputs, row_max, row_sum)``: online softmax of a tile.

    Scores become exp(score - row_max); row_max is that of the row, of float16 less by a
    constant (a softmax is the same with any; the sums go by it), row_sum what this lane
    has of the row's sum; outputs and sums are multiplied by what the new maximum
    makes of them (Milakov and Gimelshein 2018, algorithm 3).
    """
    groups, out_groups = shape.keys // 8, shape.block_d // 8
    # weights up to 2^14: of float16 those below 2^-14 have fewer digits
    lift = 14 * log(2) if shape.kind == "float16" else 0.0

    def emit(c: Any, scores: Any, outputs: Any, row_max: Any, row_sum: Any) -> None:
        lowest, zero = c.real(float("-inf")), c.real(0.0)
        shift = c.real(lift)
        for i in range(shape.rows):
            places = [slot(groups, i, n, e) for n in range(groups) for e in range(2)]
            before = c.get(row_max, i)
            best = _tree(c.fmax, [c.get(scores, place) for place in places])
            best = c.fmax(before, c.fsub(_row(c, c.fmax, best), shift))
            base = c.choose(c.same(best, lowest), zero, best)
            values = []
            for place in places:
                values.append(c.exp(c.fsub(c.get(scores, place), base)))
                c.set(scores, place, values[-1])
            factor = c.exp(c.fsub(before, base))
            total = c.fmul(c.get(row_sum, i), factor)
            c.set(row_max, i, best)
            c.set(row_sum, i, c.fadd(total, _tree(c.fadd, values)))
            for n in range(out_groups):
                for e in range(2):
                    place = slot(out_groups, i, n, e)
                    c.set(outputs, place, c.fmul(c.get(outputs, place), factor))

    return operation("tttt", shape.kind, emit)


def _begin(shape: TensorGeometry, c: Any, row_max: Any, row_sum: Any) -> None:
    for i in range(shape.rows):
        c.set(row_max, i, c.real(float("-inf")))
        c.set(row_sum, i, c.real(0.0))


def beginning(shape: TensorGeometry) -> Any:
    """``begin(row_max, row_sum)``: of no keys, -inf and 0."""

    def emit(c: Any, row_max: Any, row_sum: Any) -> None:
        _begin(shape, c, row_max, row_sum)

    return operation("tt", shape.kind, emit)


def sharing(shape: TensorGeometry) -> Any:
    """``share(row_max, row_sum, maxima, sums, y)``: rows' numbers to shared memory.

    The lane's own begin anew.
    """

    def emit(
        c: Any, row_max: Any, row_sum: Any, maxima: Any, sums: Any, y: Any
    ) -> None:
        for i in range(shape.rows):
            c.store(maxima, y, 8 * i, c.get(row_max, i))
            c.store(sums, y, 8 * i, _row(c, c.fadd, c.get(row_sum, i)))
        _begin(shape, c, row_max, row_sum)

    return operation("ttaai", shape.kind, emit)


def weighing(shape: TensorGeometry) -> Any:
    """``weigh(scores, stats, at, row, last)``: exp(score - maximum) / sum, by row.

    The maximum and the sum of row r, of those up to `last`, are at `at` + 2 r; `row` is
    the lane's first one.
    """
    groups = shape.keys // 8

    def emit(c: Any, scores: Any, stats: Any, at: Any, row: Any, last: Any) -> None:
        lowest, zero = c.real(float("-inf")), c.real(0.0)
        for i in range(shape.rows):
            here = c.iadd(row, 8 * i)
            here = c.choose(c.below(here, last), here, last)
            place = c.iadd(at, c.imul(here, 2))
            best, total = c.load(stats, place), c.load(stats, place, 1)
            base = c.choose(c.same(best, lowest), zero, best)
            share = c.choose(c.same(total, zero), zero, c.inverse(total))
            for n in range(groups):
                for e in range(2):
                    p = slot(groups, i, n, e)
                    value = c.exp(c.fsub(c.get(scores, p), base))
                    c.set(scores, p, c.fmul(value, share))

    return operation("talll", shape.kind, emit)
