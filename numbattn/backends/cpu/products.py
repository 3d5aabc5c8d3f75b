"""Products of the fused kernel: small matrices as they lie, by register tiles.

``C = A B`` or ``C += A B`` for a narrow B: one to four vectors across. The left operand
is broadcast element by element from anywhere, the rows of the right one are vectors.
With B the packed queries and A the keys it makes transposed scores; with B the values
and A the weights, which those have become, it makes the output. Nothing is packed but
the queries.
"""

from __future__ import annotations

from functools import cache
from itertools import chain
from types import ModuleType

from numba import types
from numba.core import cgutils

from .emitter import I64, Emitter, integer, lesser
from .levels import Simd
from .pointers import advance
from .simd import emitted, inner, namespace, outlined

# Accumulators that fit into the registers beside the operands, and vectors across at
# most. 24 are enough chains to hide the latency of the FMA.
CELLS = {
    "avx512": (24, 4),
    "avx2": (12, 3),
    "neon": (24, 4),
    "sse2": (6, 2),
    "plain": (8, 2),
}


# Up to so many rows take tiles of their own, as wide as a whole row of values if it
# can be: the speed is that of reading them.
FEW = 4
WIDE = {"avx512": 8, "neon": 8}


def _emit_product(e: Emitter, rows: int, vectors: int, masked: bool = False):
    """Emit the product for one width; see `products`."""

    def product(
        builder, a, a_row, a_column, count, b, b_row, depth, last, c, c_row, add
    ):  # fmt: skip
        zero, clamp = e.constant(0.0), builder.sub(count, integer(1))

        def load(base, offset, v):
            at = builder.add(offset, integer(v * e.lanes))
            if masked and v == vectors - 1:
                return e.masked_load(builder, base, at, last, zero)
            return e.load(builder, base, at)

        span = integer(0), count, integer(rows)
        with cgutils.for_range_slice(builder, *span, I64) as (at, _):
            left = [
                builder.gep(
                    a,
                    [
                        builder.mul(
                            lesser(builder, builder.add(at, integer(r)), clamp), a_row
                        )
                    ],
                )
                for r in range(rows)
            ]
            acc = [
                [cgutils.alloca_once(builder, e.vector) for _ in range(vectors)]
                for _ in left
            ]
            for cell in chain(*acc):
                builder.store(zero, cell)
            # Not unrolled: accumulators then spill, and 42 ms become 43 to 58.
            span = integer(0), depth, integer(1)
            with cgutils.for_range_slice(builder, *span, I64) as (k, _):
                b_offset, a_offset = builder.mul(k, b_row), builder.mul(k, a_column)
                right = [load(b, b_offset, v) for v in range(vectors)]
                broadcast = [
                    e.splat(builder, builder.load(builder.gep(base, [a_offset])))
                    for base in left
                ]
                for x, row in zip(broadcast, acc, strict=True):
                    for y, cell in zip(right, row, strict=True):
                        builder.store(e.fma(builder, x, y, builder.load(cell)), cell)
            target = builder.gep(c, [builder.mul(at, c_row)])
            places = [
                [
                    builder.add(builder.mul(integer(r), c_row), integer(v * e.lanes))
                    for v in range(vectors)
                ]
                for r in range(rows)
            ]
            with builder.if_else(cgutils.is_not_null(builder, add)) as (more, fresh):
                with more:
                    for cell, place in zip(chain(*acc), chain(*places), strict=True):
                        before = e.load(builder, target, place)
                        after = builder.fadd(before, builder.load(cell))
                        e.store(builder, after, target, place)
                with fresh:
                    for cell, place in zip(chain(*acc), chain(*places), strict=True):
                        e.store(builder, builder.load(cell), target, place)

    return product


@cache
def products(dtype: str, level: Simd, few: bool = False) -> ModuleType:
    """The products for one element type; with `few`, tuned for few rows as well.

    ``product(a, a_row, a_column, count, b, b_row, depth, width, c, c_row, add)``:
    `count` rows of `a` (count, depth) times `b` (depth, width) to `c`, or added to it
    where `add` is not 0. Strides in elements. `c` is written in whole vectors, and by
    whole register tiles: it must have room for `width` rounded up to `lanes`, and for
    `rows` more rows. Each element is one sum over k in order, whatever the tile.
    """
    e = Emitter(dtype, level)
    pointer, integer64 = types.CPointer(getattr(types, dtype)), types.int64
    cells, across = CELLS[level.name]
    lanes = e.lanes

    def variant(rows: int, vectors: int, masked=False):
        kind = "_masked" * masked
        name = f"product_{dtype}_{rows}x{vectors}{kind}"
        emit = _emit_product(e, rows, vectors, masked)
        return emitted(
            types.void,
            *(pointer, *(integer64,) * 3),
            *(pointer, *(integer64,) * 3),
            *(pointer, *(integer64,) * 2),
        )(outlined(name, emit))

    cut = variant(cells, 1, masked=True)
    one, widest = variant(cells, 1), variant(cells // across, across)
    # for few rows less to compile: those between are of use where arithmetic counts
    two = one if few or across == 2 else variant(cells // 2, 2)
    three = variant(cells // 3, 3) if across > 3 and not few else one
    between = not few
    most = WIDE.get(level.name, 4)
    single, pair = variant(1, most), variant(2, most)
    wide = most * lanes if few else 0

    @inner
    def product(a, a_row, a_column, count, b, b_row, depth, width, c, c_row, add):
        done = 0
        while wide > 0 and count <= FEW and width - done >= wide:
            at, x, y = 0, advance(b, done), advance(c, done)
            while at < count:
                w, z = advance(a, at * a_row), advance(y, at * c_row)
                if at + 1 < count:
                    pair(w, a_row, a_column, 2, x, b_row, depth, 0, z, c_row, add)
                else:
                    single(w, a_row, a_column, 1, x, b_row, depth, 0, z, c_row, add)
                at += 2
            done += wide
        while width - done >= lanes:
            vectors = min(across, (width - done) // lanes)
            if vectors < across and not between:
                vectors = 1
            x, y = advance(b, done), advance(c, done)
            if vectors == across:
                widest(a, a_row, a_column, count, x, b_row, depth, 0, y, c_row, add)
            elif vectors == 1:
                one(a, a_row, a_column, count, x, b_row, depth, 0, y, c_row, add)
            elif vectors == 2:
                two(a, a_row, a_column, count, x, b_row, depth, 0, y, c_row, add)
            else:
                three(a, a_row, a_column, count, x, b_row, depth, 0, y, c_row, add)
            done += vectors * lanes
        if done < width:
            cut(
                a, a_row, a_column, count, advance(b, done), b_row, depth,
                width - done, advance(c, done), c_row, add,
            )  # fmt: skip

    return namespace(product=product, rows=cells, lanes=lanes)
