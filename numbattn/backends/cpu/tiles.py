"""Register tiles: the inner loops, written as LLVM code.

Three of them, for one element type and one vector width each:

* `product`: ``C = A B (+ C_in)`` on a tile of `rows` x `columns` that lives in
  registers over the whole loop on k. Left rows are broadcast element by element
  as they lie (any strides), right rows are vectors. It serves the scores (left:
  queries, right: packed keys) and the output (left: weights, right: packed values).
* `dots`: one query row against a group of key rows as they lie, lanes along d.
* `transpose`: packs key rows, so that keys lie in the lanes.

Tile shapes follow BLIS ("The BLIS framework", Van Zee & van de Geijn, 2015):
enough independent chains to hide the latency of the FMA, all in registers.
"""

from __future__ import annotations

from functools import cache
from types import ModuleType

from llvmlite import ir
from numba import types
from numba.core import cgutils

from .emitter import I32, I64, Emitter
from .levels import Simd
from .simd import emitted, namespace

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
DOT_KEYS = 8  # key rows of one `dots` group: their sums are reduced together
DOT_ABREAST = 2  # rows of it that are read side by side


def integer(value: int):
    """An int64 constant."""
    return ir.Constant(I64, value)


def _lesser(builder, x, y):
    return builder.select(builder.icmp_signed("<", x, y), x, y)


def _emit_product(e: Emitter, rows: int, across: int):
    """Emit the product tile; see `tiles`."""

    def product(
        builder, a, a_row, a_column, valid_rows,
        b, b_row, depth, c_in, in_row, has_in,
        c, c_row, skipped_columns, valid_columns, stream,
    ):  # fmt: skip
        last = builder.sub(valid_rows, integer(1))
        left = [
            builder.gep(a, [builder.mul(_lesser(builder, integer(r), last), a_row)])
            for r in range(rows)
        ]
        # a narrow tile where few columns are left: 1025 keys cost 1040, not 1088
        widths = sorted({1, across})
        for narrower, vectors in zip([0, *widths], widths, strict=False):
            above = builder.icmp_signed(">", valid_columns, integer(narrower * e.lanes))
            if vectors < across:
                within = builder.icmp_signed(
                    "<=", valid_columns, integer(vectors * e.lanes)
                )
                above = builder.and_(above, within)
            with builder.if_then(above):
                acc = _accumulate(builder, e, left, a_column, b, b_row, depth, vectors)
                with builder.if_then(cgutils.is_not_null(builder, has_in)):
                    _add_rows(builder, e, acc, c_in, in_row)
                target = acc, valid_rows, c, c_row
                columns = skipped_columns, valid_columns
                if vectors < across:
                    _store_rows(builder, e, *target, None, *columns)
                else:
                    _store_tile(builder, e, *target, *columns, stream)

    return product


def _accumulate(builder, e: Emitter, left, a_column, b, b_row, depth, vectors: int):
    """The loop on k; returns the cells of the tile (registers, once optimised)."""
    zero = e.constant(0.0)
    acc = [
        [cgutils.alloca_once_value(builder, zero) for _ in range(vectors)] for _ in left
    ]
    for row in acc:
        for cell in row:
            builder.store(zero, cell)
    with cgutils.for_range(builder, depth, intp=I64) as loop:
        b_offset = builder.mul(loop.index, b_row)
        a_offset = builder.mul(loop.index, a_column)
        right = [
            e.load(builder, b, builder.add(b_offset, integer(v * e.lanes)))
            for v in range(vectors)
        ]
        for base, row in zip(left, acc, strict=True):
            x = e.splat(builder, builder.load(builder.gep(base, [a_offset])))
            for y, cell in zip(right, row, strict=True):
                builder.store(e.fma(builder, x, y, builder.load(cell)), cell)
    return acc


def _add_rows(builder, e: Emitter, acc, c_in, in_row):
    for r, row in enumerate(acc):
        at = builder.mul(integer(r), in_row)
        for v, cell in enumerate(row):
            before = e.load(builder, c_in, builder.add(at, integer(v * e.lanes)))
            builder.store(builder.fadd(before, builder.load(cell)), cell)


def _store_tile(builder, e: Emitter, acc, valid_rows, c, c_row, skipped, valid, stream):
    """A tile of full width: all of it, streamed or not, or its valid columns."""
    width = integer(len(acc[0]) * e.lanes)
    whole = builder.and_(
        builder.icmp_signed(">=", valid, width),
        builder.icmp_signed("==", skipped, integer(0)),
    )
    target = acc, valid_rows, c, c_row
    with builder.if_else(whole) as (then, otherwise):
        with then:
            streamed = cgutils.is_not_null(builder, stream)
            with builder.if_else(streamed) as (past, through):
                with past:
                    _store_rows(builder, e, *target, e.stream)
                with through:
                    _store_rows(builder, e, *target, e.store)
        with otherwise:
            _store_rows(builder, e, *target, None, skipped, valid)


def _emit_prefetch(e: Emitter, rows: int, across: int):
    """Emit the request for the cache lines of a tile's target.

    Asked before the loop on k, their misses hide behind the arithmetic (0.79 -> 0.89
    of the FMA peak at 2048 x 2048, d 128). Outside the array it does no harm: a
    prefetch never faults.
    """

    def prefetch(builder, c, c_row):
        data = ir.IntType(8).as_pointer()
        request = e.function(
            builder, "llvm.prefetch.p0", ir.VoidType(), [data, I32, I32, I32]
        )
        write, keep, cache = (ir.Constant(I32, i) for i in (1, 3, 1))
        for r in range(rows):
            for j in range(0, across * e.lanes, max(1, 64 // e.itemsize)):
                at = builder.add(builder.mul(integer(r), c_row), integer(j))
                where = builder.bitcast(builder.gep(c, [at]), data)
                builder.call(request, [where, write, keep, cache])

    return prefetch


def _store_rows(builder, e, acc, valid_rows, c, c_row, store, first=None, last=None):
    """Write the tile with `store`, or, where that is None, its columns first..last."""
    starts = [integer(v * e.lanes) for v in range(len(acc[0]))]
    if store is None:
        masks = [
            e.lane_mask(builder, builder.sub(last, start), builder.sub(first, start))
            for start in starts
        ]
    for r, row in enumerate(acc):
        with builder.if_then(builder.icmp_signed("<", integer(r), valid_rows)):
            for v, cell in enumerate(row):
                at = builder.add(builder.mul(integer(r), c_row), starts[v])
                value = builder.load(cell)
                if store is not None:
                    store(builder, value, c, at)
                else:
                    e.store_where(builder, value, c, at, masks[v])


def _emit_dots(e: Emitter, keys: int):
    """Emit ``out[j] = sum_c q[c] k[j, c]`` for a group of key rows; see `tiles`.

    DOT_ABREAST rows at a time: few enough streams for the processor to fetch ahead.
    256 MB of keys of d = 64 take 4.7 ms, 8 with four rows abreast, 10 with eight; 4 MB
    in the cache take 40 us, 36 with eight.
    """

    def dots(builder, q, k, k_row, valid_keys, depth, shift, out):
        last = builder.sub(valid_keys, integer(1))
        back = builder.neg(shift)
        left, base = builder.gep(q, [back]), builder.gep(k, [back])
        zero, width = e.constant(0.0), integer(e.lanes)
        acc = [cgutils.alloca_once_value(builder, zero) for _ in range(keys)]
        end = builder.add(shift, depth)
        whole = builder.sdiv(end, width)
        cut = builder.icmp_signed(">", shift, integer(0))
        start = builder.zext(cut, I64)
        tail = builder.mul(whole, width)
        rest = builder.sub(end, tail)
        has_tail = builder.and_(
            builder.icmp_signed(">", rest, integer(0)),
            builder.icmp_signed(">=", whole, start),
        )
        for first in range(0, keys, DOT_ABREAST):
            cells = acc[first : first + DOT_ABREAST]
            rows = [
                builder.gep(
                    base,
                    [builder.mul(_lesser(builder, integer(first + j), last), k_row)],
                )
                for j in range(len(cells))
            ]
            for cell in cells:
                builder.store(zero, cell)
            with builder.if_then(cut):
                _dot_step(builder, e, left, rows, cells, integer(0), end, shift)
            with cgutils.for_range_slice(builder, start, whole, integer(1), I64) as v:
                _dot_step(builder, e, left, rows, cells, builder.mul(v[0], width))
            with builder.if_then(has_tail):
                _dot_step(builder, e, left, rows, cells, tail, rest)
        group = min(keys, e.lanes)
        for j in range(0, keys, group):
            total = _sum_each(builder, e, [builder.load(c) for c in acc[j : j + group]])
            where = builder.gep(out, [integer(j)])
            where = builder.bitcast(where, total.type.as_pointer())
            builder.store(total, where, align=e.itemsize)

    return dots


def _dot_step(builder, e: Emitter, left, rows, cells, at, count=None, skip=None):
    """One vector of each row; lanes skip..count of it where `count` is given."""
    x = e.load(builder, left, at)
    for row, cell in zip(rows, cells, strict=True):
        if count is None:
            y = e.load(builder, row, at)
        else:
            zero = e.constant(0.0)
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

    ``product(a, a_row, a_column, valid_rows, b, b_row, depth, c_in, in_row,
    has_in, c, c_row, skipped_columns, valid_columns, stream)``: strides in elements;
    rows beyond `valid_rows` are computed from the last valid one and not stored, nor
    are columns outside skipped..valid; `b` and `c_in` must be readable over the whole
    width. With `stream` whole tiles go past the caches, to memory: all rows of `c`
    must start on a vector then.

    ``dots(q, k, k_row, valid_keys, depth, shift, out)``: `q` lies between zeros, at
    least a vector on each side; `shift` is how many elements behind an aligned
    vector every key row starts (0 is always right): loads are then aligned, which
    makes 49 us of 80 for 8192 keys of d = 128. Nothing outside a row is read.
    """
    e = Emitter(dtype, level)
    rows, across = SHAPES[level.name]
    scalar = getattr(types, dtype)
    pointer, integer64 = types.CPointer(scalar), types.int64
    product = emitted(
        types.void,
        *(pointer, integer64, integer64, integer64),
        *(pointer, integer64, integer64),
        *(pointer, integer64, integer64),
        *(pointer, integer64, integer64, integer64, integer64),
    )(_emit_product(e, rows, across))
    dots = emitted(types.void, pointer, pointer, *(integer64,) * 4, pointer)(
        _emit_dots(e, DOT_KEYS)
    )
    prefetch = emitted(types.void, pointer, integer64)(_emit_prefetch(e, rows, across))
    transpose = emitted(types.void, pointer, integer64, pointer, integer64, scalar)(
        _emit_transpose(e)
    )
    return namespace(
        rows=rows,
        columns=across * e.lanes,
        lanes=e.lanes,
        product=product,
        prefetch=prefetch,
        dots=dots,
        transpose=transpose,
    )
