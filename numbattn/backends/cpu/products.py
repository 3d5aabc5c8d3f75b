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
from typing import NamedTuple

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


def _emit_product(e: Emitter, rows: int, vectors: int, chains: int, masked: bool):
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

        zeroth, unit = integer(0), integer(1)
        part = builder.sdiv(depth, integer(chains))
        whole = builder.mul(part, integer(chains))
        span = zeroth, count, integer(rows)
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
                for _ in left * chains
            ]
            for cell in chain(*acc):
                builder.store(zero, cell)

            def step(k, acc):
                b_offset, a_offset = builder.mul(k, b_row), builder.mul(k, a_column)
                right = [load(b, b_offset, v) for v in range(vectors)]
                for base, row in zip(left, acc, strict=True):
                    x = e.splat(builder, builder.load(builder.gep(base, [a_offset])))
                    for y, cell in zip(right, row, strict=True):
                        builder.store(e.fma(builder, x, y, builder.load(cell)), cell)

            # Not unrolled: accumulators then spill, and 42 ms become 43 to 58.
            with cgutils.for_range_slice(builder, zeroth, part, unit, I64) as (k, _):
                for i in range(chains):
                    along = builder.add(k, builder.mul(part, integer(i)))
                    step(along, acc[i * rows : (i + 1) * rows])
            with cgutils.for_range_slice(builder, whole, depth, unit, I64) as (k, _):
                step(k, acc[:rows])
            for i in range(1, chains):
                for cell, more in zip(
                    chain(*acc[:rows]),
                    chain(*acc[i * rows : (i + 1) * rows]),
                    strict=True,
                ):
                    both = builder.fadd(builder.load(cell), builder.load(more))
                    builder.store(both, cell)
            acc = acc[:rows]
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


class Kind(NamedTuple):
    """What products a kernel makes: what is not needed is not compiled."""

    widths: tuple[int, int, int]
    """Vectors across. For values 12 x 2 is no faster than 24 x 1, 8 x 3 seldom fits."""
    chains: int
    """Of a sum: two are more accurate, but their left operands lie apart."""
    whole: bool = False
    """Whether `b` is whole vectors wide."""
    few: bool = False
    """Whether there are tiles for few rows."""


SCORES, VALUES = Kind((1, 2, 3), 2, whole=True), Kind((1, 4, 4), 1)
FEW_VALUES = Kind((1, 4, 4), 1, few=True)


@cache
def products(dtype: str, level: Simd, kind: Kind) -> ModuleType:
    """The products for one element type.

    ``product(a, a_row, a_column, count, b, b_row, depth, width, c, c_row, add)``:
    `count` rows of `a` (count, depth) times `b` (depth, width) to `c`, or added to it
    where `add` is not 0. Strides in elements. `c` is written in whole vectors, and by
    whole register tiles: it must have room for `width` rounded up to `lanes`, and for
    `rows` more rows. Each element is a sum over k in order, whatever the tile; with two
    chains, the sum of one over the first half and one over the second.

    Tiles of 4 x 48 with two chains run at 117 GFLOP/s where 8 x 48 with one run at 114
    (K Qᵀ, d = 64); for P V it is 113 and 116.
    """
    e = Emitter(dtype, level)
    pointer, integer64 = types.CPointer(getattr(types, dtype)), types.int64
    cells, across = CELLS[level.name]
    lanes = e.lanes

    def variant(vectors: int, rows: int = 0, masked: bool = False):
        rows = rows or max(1, cells // (kind.chains * vectors))
        name = f"product_{dtype}_{rows}x{vectors}x{kind.chains}{'_masked' * masked}"
        emit = _emit_product(e, rows, vectors, kind.chains, masked)
        return emitted(
            types.void,
            *(pointer, *(integer64,) * 3),
            *(pointer, *(integer64,) * 3),
            *(pointer, *(integer64,) * 2),
        )(outlined(name, emit))

    _, wider, widest = (min(width, across) for width in kind.widths)
    one, some, many = (variant(width) for width in (1, wider, widest))
    # what is named below is compiled, also where it is never called
    cut = one if kind.whole else variant(1, masked=True)
    most = WIDE.get(level.name, 4)
    single = variant(most, rows=1) if kind.few else one
    pair = variant(most, rows=2) if kind.few else one
    wide = most * lanes if kind.few else 0

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
            x, y, left = advance(b, done), advance(c, done), (width - done) // lanes
            if left >= widest:
                many(a, a_row, a_column, count, x, b_row, depth, 0, y, c_row, add)
                done += widest * lanes
            elif left >= wider:
                some(a, a_row, a_column, count, x, b_row, depth, 0, y, c_row, add)
                done += wider * lanes
            else:
                one(a, a_row, a_column, count, x, b_row, depth, 0, y, c_row, add)
                done += lanes
        if done < width:
            cut(
                a, a_row, a_column, count, advance(b, done), b_row, depth,
                width - done, advance(c, done), c_row, add,
            )  # fmt: skip

    return namespace(product=product, rows=cells, lanes=lanes)
