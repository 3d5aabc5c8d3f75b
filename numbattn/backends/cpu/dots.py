"""Dot products as they lie: query rows against a run of key rows, lanes along d.

Written as LLVM code; the path for few queries, whose speed is that of reading keys.
"""

from __future__ import annotations

from llvmlite import ir
from numba.core import cgutils

from .emitter import I32, I64, Emitter, exchange, integer, lesser, shuffle

DOT_KEYS = 8  # key rows of one `dots` group: their sums are reduced together
# Key rows that are read side by side, by blocks of vectors without a loop's end to
# mispredict. Long rows go one by one, as memory is read fastest in order: 134 MB of
# d = 128 take 1.1 times a plain read, 1.8 four abreast; short rows do need others
# beside them (of 4 MB with d = 64 in the cache 124 GB/s, 99 one by one).
DOT_ABREAST = 4
DOT_BLOCKS = {"avx512": (8, 4), "neon": (8, 4)}
LONG_ROW = 6  # vectors
# Query rows that pass together where there are several: 48 cycles for four rows and a
# key of d = 128. Keys are then requested ahead, into the L2 cache (1.2 times a plain
# read, 2 without).
DOT_QUERIES = {"avx512": 4, "neon": 4}
DOT_KEYS_MANY = 4
AHEAD_BYTES = 16384


def emit_dots(
    e: Emitter, queries: int, group: int, abreast: int, blocks: tuple[int, ...]
):
    """Emit ``out[i, j] = sum_c q[i, c] k[j, c]`` for a run of key rows; see `tiles`.

    For up to `queries` rows, the same operations for each whatever their number.

    By groups of rows, whose sums are reduced together; in them some rows are read
    abreast.
    """

    def dots(builder, q, q_row, count, k, k_row, keys, depth, shift, out, out_row):
        back = builder.neg(shift)
        base = builder.gep(k, [back])
        last = builder.sub(count, integer(1))  # once more where there are fewer
        lines = [lesser(builder, integer(i), last) for i in range(queries)]
        left = [
            builder.gep(q, [builder.add(back, builder.mul(line, q_row))])
            for line in lines
        ]
        targets = [builder.mul(line, out_row) for line in lines]
        zero, width = e.constant(0.0), integer(e.lanes)
        acc = [
            [cgutils.alloca_once_value(builder, zero) for _ in range(group)]
            for _ in left
        ]
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
            for line in acc:
                for cell in line:
                    builder.store(zero, cell)
            for r in range(0, group, abreast):
                pair = slice(r, r + abreast)
                rows = [builder.gep(key, [place]) for place in places[pair]]
                cells = [line[pair] for line in acc]
                with builder.if_then(cut):
                    _dot_step(builder, e, left, rows, cells, integer(0), end, shift)
                start = begin
                for count in (*blocks, 1):
                    over = builder.srem(builder.sub(whole, start), integer(count))
                    stop = builder.sub(whole, over)
                    span = start, stop, integer(count)
                    with cgutils.for_range_slice(builder, *span, I64) as (v, _):
                        at = builder.mul(v, width)
                        _dot_block(builder, e, left, rows, cells, at, count)
                    above = builder.icmp_signed(">", stop, start)
                    start = builder.select(above, stop, start)
                with builder.if_then(has_tail):
                    _dot_step(builder, e, left, rows, cells, tail, rest)
            sums = [builder.load(cell) for line in acc for cell in line]
            where = builder.gep(out, [first])
            _store_sums(builder, e, sums, group, where, targets, few, keys)

    return dots


def _store_sums(builder, e: Emitter, sums, group: int, out, targets, few, count):
    """The sum over the lanes of each vector, `group` of them to each target.

    Where there are few keys, the first `count` of each row.
    """
    part = min(group, e.lanes)
    size = min(len(sums), e.lanes // part * part)
    for start in range(0, len(sums), size):
        total = _sum_each(builder, e, sums[start : start + size])
        for j in range(0, size, part):
            query, key = divmod(start + j, group)
            where = builder.gep(out, [builder.add(targets[query], integer(key))])
            line = shuffle(builder, total, total, list(range(j, j + part)))
            with builder.if_else(few) as (some, every):
                with some:
                    for i in range(part):
                        below = builder.icmp_signed("<", integer(key + i), count)
                        with builder.if_then(below):
                            x = builder.extract_element(line, ir.Constant(I32, i))
                            builder.store(x, builder.gep(where, [integer(i)]))
                with every:
                    where = builder.bitcast(where, line.type.as_pointer())
                    builder.store(line, where, align=e.itemsize)


def _dot_block(builder, e: Emitter, left, rows, cells, at, count: int):
    """`count` whole vectors of each row."""
    places = [builder.add(at, integer(i * e.lanes)) for i in range(count)]
    x = [[e.load(builder, line, place) for place in places] for line in left]
    for r, row in enumerate(rows):
        y = [e.load(builder, row, place) for place in places]
        for place in places if len(left) > 1 else ():
            ahead = builder.add(place, integer(AHEAD_BYTES // e.itemsize))
            e.prefetch(builder, row, ahead)
        for line, some in zip(x, cells, strict=True):
            total = builder.load(some[r])
            for part, other in zip(line, y, strict=True):
                total = e.fma(builder, part, other, total)
            builder.store(total, some[r])


def _dot_step(builder, e: Emitter, left, rows, cells, at, count, skip=None):
    """Lanes skip..count of one vector of each row."""
    zero = e.constant(0.0)
    x = [e.load(builder, line, at) for line in left]
    for r, row in enumerate(rows):
        y = e.masked_load(builder, row, at, count, zero, skip)
        for part, some in zip(x, cells, strict=True):
            builder.store(e.fma(builder, part, y, builder.load(some[r])), some[r])


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
