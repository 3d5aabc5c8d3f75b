"""Register tiles: the inner loops, written as LLVM code.

Three of them, for one element type and one vector width each:

* `panel`: ``C = A B`` for a panel of B, by tiles of `rows` x `columns` that live in
  registers over the whole loop on k. Left rows are broadcast element by element
  as they lie (any strides), right rows are vectors. It serves the scores (left:
  queries, right: packed keys) and the output (left: weights, right: packed values).
* `dots`: query rows against a run of key rows as they lie, lanes along d.
* `transpose`: packs key rows, so that keys lie in the lanes.

Tile shapes follow BLIS ("The BLIS framework", Van Zee & van de Geijn, 2015):
enough independent chains to hide the latency of the FMA, all in registers.
"""

from __future__ import annotations

from functools import cache
from itertools import chain
from types import ModuleType

from numba import types
from numba.core import cgutils

from .dots import (
    DOT_ABREAST,
    DOT_BLOCKS,
    DOT_KEYS,
    DOT_KEYS_MANY,
    DOT_QUERIES,
    LONG_ROW,
    emit_dots,
)
from .emitter import I64, Emitter, integer, lesser, transposed
from .levels import Simd
from .simd import emitted, inner, namespace, outlined

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
            clamped = [lesser(builder, r, last) for r in every]
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
        end = lesser(builder, builder.add(begin, chunk), depth)
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
    of the FMA peak at 2048 x 2048, d 128).
    """
    for r in range(rows):
        for j in range(0, columns, max(1, 64 // e.itemsize)):
            at = builder.add(builder.mul(integer(r), c_row), integer(j))
            e.prefetch(builder, c, at, write=True, level=1)


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
        for i, column in enumerate(transposed(builder, x)):
            e.store(builder, column, target, builder.mul(integer(i), target_row))

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

    ``dots(q, k, k_row, keys, depth, shift, out)``: one row against a run of keys;
    ``dots_many(q, q_row, count, k, k_row, keys, depth, shift, out, out_row)``: up to
    `queries` of them. A row of `q` lies between zeros, at least a vector on each side;
    `shift` is how many elements behind an
    aligned vector every key row starts (0 is always right): loads are then aligned,
    which takes 23 cycles a row of d = 128 where loads across cache lines take 28.
    Nothing outside a row is read.
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
    )(outlined(f"panel_{dtype}", _emit_panel(e, rows, across)))
    queries = DOT_QUERIES.get(level.name, 2)
    read = DOT_BLOCKS.get(level.name, (4,))
    long_row = LONG_ROW * e.lanes
    variants = (
        ("dots_abreast", emit_dots(e, 1, DOT_KEYS, DOT_ABREAST, read)),
        ("dots_in_order", emit_dots(e, 1, DOT_KEYS, 1, read)),
        ("dots_many", emit_dots(e, queries, DOT_KEYS_MANY, DOT_ABREAST, ())),
    )
    abreast, in_order, dots_many = (
        emitted(
            types.void,
            *(pointer, *(integer64,) * 2),
            *(pointer, *(integer64,) * 4),
            *(pointer, integer64),
        )(outlined(f"{name}_{dtype}", emit))
        for name, emit in variants
    )

    @inner
    def dots(q, k, k_row, keys, depth, shift, out):
        if depth < long_row:
            abreast(q, 0, 1, k, k_row, keys, depth, shift, out, 0)
        else:
            in_order(q, 0, 1, k, k_row, keys, depth, shift, out, 0)

    transpose = emitted(types.void, pointer, integer64, pointer, integer64, scalar)(
        outlined(f"transpose_{dtype}", _emit_transpose(e))
    )
    return namespace(
        rows=rows,
        columns=across * e.lanes,
        lanes=e.lanes,
        panel=panel,
        dots=dots,
        dots_many=dots_many,
        queries=queries,
        transpose=transpose,
    )
