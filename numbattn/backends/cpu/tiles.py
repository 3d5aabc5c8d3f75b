"""Register tiles: the inner loops, written as LLVM code.

Three of them, for one element type and one vector width each:

* `panel`: ``C = A B`` for a panel of B, by tiles of `rows` x `columns` that live in
  registers over the whole loop on k. Left rows are broadcast element by element
  as they lie (any strides), right rows are vectors. It serves the scores (left:
  queries, right: packed keys) and the output (left: weights, right: packed values).
* `dots`: one query row against a run of key rows as they lie, lanes along d.
* `transpose`: packs key rows, so that keys lie in the lanes.

Tile shapes follow BLIS ("The BLIS framework", Van Zee & van de Geijn, 2015):
enough independent chains to hide the latency of the FMA, all in registers.
"""

from __future__ import annotations

from functools import cache
from itertools import chain
from types import ModuleType

from llvmlite import ir
from numba import types
from numba.core import cgutils

from .emitter import I32, I64, Emitter
from .levels import Simd
from .simd import emitted, namespace, outlined

# (rows, vectors across) of the register tile. On AVX-512 14 x 2 is as fast in the
# L1 cache, but 6 x 4 writes longer runs of `out`: 103 against 95 GFLOP/s at 2048 x
# 2048, d 64, on one core.
SHAPES = {
    "avx512": (6, 4),
    "avx2": (6, 2),
    "neon": (8, 3),
    "sse2": (3, 2),
    "plain": (3, 3),
}
DOT_ABREAST = 4  # key rows that are read side by side
DOT_KEYS = 8  # key rows of one `dots` group: their sums are reduced together
# Vectors of a key row that are read at one go.
DOT_BLOCKS = {"avx512": (8, 4), "neon": (8, 4)}


def integer(value: int):
    """An int64 constant."""
    return ir.Constant(I64, value)


def _lesser(builder, x, y):
    return builder.select(builder.icmp_signed("<", x, y), x, y)


def _emit_panel(e: Emitter, rows: int, across: int):
    """Emit the rows of a block against one panel of keys; see `tiles`.

    The loop over tiles is in here for speed: what a tile does beside its arithmetic
    (pointers, requests, stores) delays the next one, as the processor looks ahead 320
    instructions. 45 cycles a tile; with one call for each tile it was 115, of 1536 for
    the arithmetic at d = 64.
    """
    width = across * e.lanes

    def panel(
        builder, a, a_row, a_column, first_row, last_row,
        b, depth, chunk, partial,
        c, c_row, skipped_columns, valid_columns, stream,
    ):  # fmt: skip
        def tile(at, left, vectors):
            start = builder.gep(a, [builder.mul(at, a_row)])
            left = [builder.gep(start, [builder.mul(r, a_row)]) for r in left]
            return _chunked(
                builder, e, left, a_column, b, integer(width), depth, chunk, partial,
                vectors,
            )  # fmt: skip

        def place(at):
            return builder.gep(c, [builder.mul(at, c_row)])

        step = integer(rows)
        whole = builder.and_(
            builder.icmp_signed(">=", valid_columns, integer(width)),
            builder.icmp_signed("==", skipped_columns, integer(0)),
        )
        count = builder.sub(last_row, first_row)
        count = builder.sub(count, builder.srem(count, step))
        middle = builder.select(whole, builder.add(first_row, count), first_row)
        streamed = cgutils.is_not_null(builder, stream)
        every = [integer(r) for r in range(rows)]
        with cgutils.for_range_slice(builder, first_row, middle, step, I64) as (at, _):
            target = place(at)
            with builder.if_then(builder.not_(streamed)):
                _prefetch(builder, e, target, c_row, rows, width)
            acc = tile(at, every, across)
            with builder.if_else(streamed) as (past, through):
                with past:
                    _store_rows(builder, acc, target, c_row, e.stream)
                with through:
                    _store_rows(builder, acc, target, c_row, e.store)
        with cgutils.for_range_slice(builder, middle, last_row, step, I64) as (at, _):
            valid_rows = builder.sub(last_row, at)
            last = builder.sub(valid_rows, integer(1))
            clamped = [_lesser(builder, r, last) for r in every]
            # a narrow tile where few columns are left: 1025 keys cost 1040, not 1088
            widths = sorted({1, across})
            for narrower, vectors in zip([0, *widths], widths, strict=False):
                above = builder.icmp_signed(
                    ">", valid_columns, integer(narrower * e.lanes)
                )
                if vectors < across:
                    within = builder.icmp_signed(
                        "<=", valid_columns, integer(vectors * e.lanes)
                    )
                    above = builder.and_(above, within)
                with builder.if_then(above):
                    _store_part(
                        builder, e, tile(at, clamped, vectors), valid_rows, place(at),
                        c_row, skipped_columns, valid_columns,
                    )  # fmt: skip

    return panel


def _chunked(builder, e, left, a_column, b, b_row, depth, chunk, partial, vectors: int):
    """One tile, its sum over k in chunks that meet in `partial`; returns the cells."""
    zero = e.constant(0.0)
    acc = [
        [cgutils.alloca_once_value(builder, zero) for _ in range(vectors)] for _ in left
    ]
    for cell in chain(*acc):
        builder.store(zero, cell)
    with cgutils.for_range_slice(builder, integer(0), depth, chunk, I64) as (begin, _):
        end = _lesser(builder, builder.add(begin, chunk), depth)
        _accumulate(builder, e, left, a_column, b, b_row, begin, end, acc)
        with builder.if_then(builder.icmp_signed(">", begin, integer(0))):
            for i, cell in enumerate(chain(*acc)):
                before = e.load(builder, partial, integer(i * e.lanes))
                builder.store(builder.fadd(before, builder.load(cell)), cell)
        with builder.if_then(builder.icmp_signed("<", end, depth)):
            for i, cell in enumerate(chain(*acc)):
                e.store(builder, builder.load(cell), partial, integer(i * e.lanes))
                builder.store(zero, cell)
    return acc


def _accumulate(builder, e: Emitter, left, a_column, b, b_row, begin, end, acc):
    """The loop on k: cells (registers, once optimised) += left times right."""
    with cgutils.for_range_slice(builder, begin, end, integer(1), I64) as (k, _):
        b_offset, a_offset = builder.mul(k, b_row), builder.mul(k, a_column)
        right = [
            e.load(builder, b, builder.add(b_offset, integer(v * e.lanes)))
            for v in range(len(acc[0]))
        ]
        for base, row in zip(left, acc, strict=True):
            x = e.splat(builder, builder.load(builder.gep(base, [a_offset])))
            for y, cell in zip(right, row, strict=True):
                builder.store(e.fma(builder, x, y, builder.load(cell)), cell)


def _prefetch(builder, e: Emitter, c, c_row, rows: int, columns: int):
    """Request the cache lines of a tile's target.

    Asked before the loop on k, their misses hide behind the arithmetic (0.79 -> 0.89
    of the FMA peak at 2048 x 2048, d 128). Outside the array it does no harm: a
    prefetch never faults.
    """
    data = ir.IntType(8).as_pointer()
    request = e.function(
        builder, "llvm.prefetch.p0", ir.VoidType(), [data, I32, I32, I32]
    )
    write, keep, cache = (ir.Constant(I32, i) for i in (1, 3, 1))
    for r in range(rows):
        for j in range(0, columns, max(1, 64 // e.itemsize)):
            at = builder.add(builder.mul(integer(r), c_row), integer(j))
            where = builder.bitcast(builder.gep(c, [at]), data)
            builder.call(request, [where, write, keep, cache])


def _store_rows(builder, acc, c, c_row, store):
    """Write a whole tile with `store`."""
    for r, row in enumerate(acc):
        for v, cell in enumerate(row):
            value = builder.load(cell)
            start = builder.mul(integer(r), c_row)
            store(builder, value, c, builder.add(start, integer(v * value.type.count)))


def _store_part(builder, e: Emitter, acc, valid_rows, c, c_row, first, last):
    """Write the valid rows of a tile, columns first..last of them."""
    starts = [integer(v * e.lanes) for v in range(len(acc[0]))]
    masks = [
        e.lane_mask(builder, builder.sub(last, start), builder.sub(first, start))
        for start in starts
    ]
    for r, row in enumerate(acc):
        with builder.if_then(builder.icmp_signed("<", integer(r), valid_rows)):
            for v, cell in enumerate(row):
                at = builder.add(builder.mul(integer(r), c_row), starts[v])
                e.store_where(builder, builder.load(cell), c, at, masks[v])


def _emit_dots(e: Emitter, group: int, blocks: tuple[int, ...]):
    """Emit ``out[j] = sum_c q[c] k[j, c]`` for a run of key rows; see `tiles`.

    By groups of rows, whose sums are reduced together; in them rows are read four at a
    time, few enough streams for the processor to fetch ahead (256 MB of d = 64 take
    5.6 ms, 9.7 with eight), by blocks of vectors without a loop's end to mispredict.
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
            builder.mul(_lesser(builder, integer(j), clamp), k_row)
            for j in range(group)
        ]
        bounds = integer(0), keys, integer(group)
        with cgutils.for_range_slice(builder, *bounds, I64) as (j, _):
            first = _lesser(builder, j, last)
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


def _exchange(lanes: int, step: int) -> tuple[list[int], list[int]]:
    """Shuffles of a pair (a, b) that swap the off-diagonal blocks of `step` lanes."""
    low = [i if not i & step else lanes + i - step for i in range(lanes)]
    high = [i + step if not i & step else lanes + i for i in range(lanes)]
    return low, high


def _shuffle(builder, a, b, lanes: list[int]):
    mask = ir.Constant(ir.VectorType(I32, len(lanes)), lanes)
    return builder.shuffle_vector(a, b, mask)


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
        low, high = _exchange(e.lanes, step)
        x = [
            builder.fadd(_shuffle(builder, a, b, low), _shuffle(builder, a, b, high))
            for a, b in zip(x[::2], x[1::2], strict=True)
        ]
        where = [lane + (step if i & bit else 0) for i, lane in enumerate(where)]
        bit *= 2
    (total,) = x
    while step > 1:
        step //= 2
        turned = [i ^ step for i in range(e.lanes)]
        total = builder.fadd(total, _shuffle(builder, total, total, turned))
    return _shuffle(builder, total, total, where)


def _emit_transpose(e: Emitter):
    """Emit the transposition of a lanes x lanes block, scaled, by shuffles."""

    def transpose(builder, source, source_row, target, target_row, scale):
        lanes = e.lanes
        factor = e.splat(builder, scale)
        x = [
            builder.fmul(
                e.load(builder, source, builder.mul(integer(i), source_row)), factor
            )
            for i in range(lanes)
        ]
        step = 1
        while step < lanes:
            low, high = _exchange(lanes, step)
            for i in range(lanes):
                if not i & step:
                    a, b = x[i], x[i + step]
                    x[i] = _shuffle(builder, a, b, low)
                    x[i + step] = _shuffle(builder, a, b, high)
            step *= 2
        for i in range(lanes):
            e.store(builder, x[i], target, builder.mul(integer(i), target_row))

    return transpose


@cache
def tiles(dtype: str, level: Simd) -> ModuleType:
    """The register tiles for one element type.

    ``panel(a, a_row, a_column, first_row, last_row, b, depth, chunk, partial, c, c_row,
    skipped_columns, valid_columns, stream)``: rows first..last of `a` times a panel `b`
    of ``[depth][columns]``, sums over `depth` in chunks that meet in `partial` (a
    tile). Strides in elements; rows and columns count from `a` and `c`. Columns outside
    skipped..valid are not written; `b` must be readable over the whole width. With
    `stream` whole tiles go past the caches, to memory: all rows of `c` must start on a
    vector then.

    ``dots(q, k, k_row, keys, depth, shift, out)``: `q` lies between zeros, at least a
    vector on each side; `shift` is how many elements behind an aligned vector every key
    row starts (0 is always right): loads are then aligned, which takes 23 cycles a row
    of d = 128 where loads across cache lines take 28. Nothing outside a row is read.
    """
    e = Emitter(dtype, level)
    rows, across = SHAPES[level.name]
    scalar = getattr(types, dtype)
    pointer, integer64 = types.CPointer(scalar), types.int64
    panel = emitted(
        types.void,
        *(pointer, *(integer64,) * 4),
        *(pointer, integer64, integer64, pointer),
        *(pointer, *(integer64,) * 4),
    )(outlined("panel", _emit_panel(e, rows, across)))
    dots = emitted(types.void, pointer, pointer, *(integer64,) * 4, pointer)(
        outlined("dots", _emit_dots(e, DOT_KEYS, DOT_BLOCKS.get(level.name, (4,))))
    )
    transpose = emitted(types.void, pointer, integer64, pointer, integer64, scalar)(
        _emit_transpose(e)
    )
    return namespace(
        rows=rows,
        columns=across * e.lanes,
        lanes=e.lanes,
        panel=panel,
        dots=dots,
        transpose=transpose,
    )
