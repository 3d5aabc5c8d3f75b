"""Dot products as they lie: one query row against a run of key rows, lanes along d.

Written as LLVM code; the path for few queries, whose speed is that of reading keys.
"""

from __future__ import annotations

from llvmlite import ir
from numba.core import cgutils

from .emitter import I32, I64, Emitter, exchange, integer, lesser, shuffle

DOT_ABREAST = 4  # key rows that are read side by side
DOT_KEYS = 8  # key rows of one `dots` group: their sums are reduced together
# Vectors of a key row that are read at one go.
DOT_BLOCKS = {"avx512": (8, 4), "neon": (8, 4)}


def emit_dots(e: Emitter, group: int, blocks: tuple[int, ...]):
    """Emit ``out[j] = sum_c q[c] k[j, c]`` for a run of key rows; see `tiles`.

    By groups of rows, whose sums are reduced together; in them rows are read four at a
    time, few enough streams for the processor to fetch ahead (256 MB of d = 64 take
    7.7 ms, 9.7 with eight), by blocks of vectors without a loop's end to mispredict.
    """

    def dots(builder, q, k, k_row, keys, depth, shift, out):
        back = builder.neg(shift)
        left, base = builder.gep(q, [back]), builder.gep(k, [back])
        zero, width = e.constant(0.0), integer(e.lanes)
        acc = [cgutils.alloca_once_value(builder, zero) for _ in range(group)]
        end = builder.add(shift, depth)
        whole = builder.sdiv(end, width)
        cut = builder.icmp_signed(">", shift, integer(0))
        begin = builder.zext(cut, I64)
        tail = builder.mul(whole, width)
        rest = builder.sub(end, tail)
        has_tail = builder.and_(
            builder.icmp_signed(">", rest, integer(0)),
            builder.icmp_signed(">=", whole, begin),
        )
        # the last group ends with the last key: it repeats some of the one before
        last = builder.sub(keys, integer(group))
        few = builder.icmp_signed("<", last, integer(0))
        last = builder.select(few, integer(0), last)
        clamp = builder.sub(keys, integer(1))
        places = [
            builder.mul(lesser(builder, integer(j), clamp), k_row) for j in range(group)
        ]
        bounds = integer(0), keys, integer(group)
        with cgutils.for_range_slice(builder, *bounds, I64) as (j, _):
            first = lesser(builder, j, last)
            key = builder.gep(base, [builder.mul(first, k_row)])
            for cell in acc:
                builder.store(zero, cell)
            for r in range(0, group, DOT_ABREAST):
                pair = slice(r, r + DOT_ABREAST)
                rows = [builder.gep(key, [place]) for place in places[pair]]
                with builder.if_then(cut):
                    _dot_step(builder, e, left, rows, acc[pair], integer(0), end, shift)
                start = begin
                for count in (*blocks, 1):
                    over = builder.srem(builder.sub(whole, start), integer(count))
                    stop = builder.sub(whole, over)
                    span = start, stop, integer(count)
                    with cgutils.for_range_slice(builder, *span, I64) as (v, _):
                        at = builder.mul(v, width)
                        _dot_block(builder, e, left, rows, acc[pair], at, count)
                    above = builder.icmp_signed(">", stop, start)
                    start = builder.select(above, stop, start)
                with builder.if_then(has_tail):
                    _dot_step(builder, e, left, rows, acc[pair], tail, rest)
            sums = [builder.load(cell) for cell in acc]
            _store_sums(builder, e, sums, builder.gep(out, [first]), few, keys)

    return dots


def _store_sums(builder, e: Emitter, sums, out, few, count):
    """The sum over the lanes of each vector, to `out`; the first `count` where few."""
    part = min(len(sums), e.lanes)
    for j in range(0, len(sums), part):
        total = _sum_each(builder, e, sums[j : j + part])
        where = builder.gep(out, [integer(j)])
        with builder.if_else(few) as (some, every):
            with some:
                for i in range(part):
                    below = builder.icmp_signed("<", integer(j + i), count)
                    with builder.if_then(below):
                        x = builder.extract_element(total, ir.Constant(I32, i))
                        builder.store(x, builder.gep(where, [integer(i)]))
            with every:
                where = builder.bitcast(where, total.type.as_pointer())
                builder.store(total, where, align=e.itemsize)


def _dot_block(builder, e: Emitter, left, rows, cells, at, count: int):
    """`count` whole vectors of each row."""
    places = [builder.add(at, integer(i * e.lanes)) for i in range(count)]
    x = [e.load(builder, left, place) for place in places]
    for row, cell in zip(rows, cells, strict=True):
        total = builder.load(cell)
        for part, place in zip(x, places, strict=True):
            total = e.fma(builder, part, e.load(builder, row, place), total)
        builder.store(total, cell)


def _dot_step(builder, e: Emitter, left, rows, cells, at, count, skip=None):
    """Lanes skip..count of one vector of each row."""
    x, zero = e.load(builder, left, at), e.constant(0.0)
    for row, cell in zip(rows, cells, strict=True):
        y = e.masked_load(builder, row, at, count, zero, skip)
        builder.store(e.fma(builder, x, y, builder.load(cell)), cell)


def _sum_each(builder, e: Emitter, x: list):
    """The sums over lanes of several vectors, as one vector: a transposing tree.

    23 instructions for 8 vectors of 16 lanes where one by one takes 80. Lanes are
    added at distance lanes/2, then lanes/4, ...: the same pairs, and bits, when all
    lanes are rotated, as `dots` does for rows that do not start on a vector.
    """
    group, step = len(x), e.lanes
    where = [0] * group  # the lane that holds each vector's sum
    bit = 1
    while len(x) > 1:
        step //= 2
        low, high = exchange(e.lanes, step)
        x = [
            builder.fadd(shuffle(builder, a, b, low), shuffle(builder, a, b, high))
            for a, b in zip(x[::2], x[1::2], strict=True)
        ]
        where = [lane + (step if i & bit else 0) for i, lane in enumerate(where)]
        bit *= 2
    (total,) = x
    while step > 1:
        step //= 2
        turned = [i ^ step for i in range(e.lanes)]
        total = builder.fadd(total, shuffle(builder, total, total, turned))
    return shuffle(builder, total, total, where)
