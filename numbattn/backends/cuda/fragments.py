"""What the warps of tensor kernels do: products, and passing elements on.

Each operation is written once, as instructions for the 32 lanes of a warp:
`instructions.Code` makes machine code of them, `twins.Lanes` does them in the
simulator. A warp's scores and outputs are tiles of 16 x 8 (`TensorGeometry`); a lane's
tile has them row by row, two columns of each 8: element (row i, columns group n, e) is
at (i groups + n) 2 + e.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

from . import ptx
from .device import device_function
from .geometry import TensorGeometry, turn
from .instructions import operation

STEP = 2  # vectors of 16 bytes that one mma takes of a row
SKIP = 4  # vectors of 16 bytes that are left out at a time where nothing is


def slot(groups: int, row: int, group: int, e: int) -> int:
    """Where a lane has an element in its tile."""
    return (row * groups + group) * 2 + e


def _places(groups: int, atom: int, group: int) -> list[int]:
    """The four elements of a fragment of 16 x 8."""
    return [slot(groups, 2 * atom + h, group, e) for h in range(2) for e in range(2)]


def _multiply(
    c: Any, tile: Any, groups: int, atom: int, group: int, a: Any, b: Any
) -> None:
    places = _places(groups, atom, group)
    found = c.mma(a, b, [c.get(tile, place) for place in places])
    for place, value in zip(places, found, strict=True):
        c.set(tile, place, value)


def _matrices(
    c: Any, shape: TensorGeometry, shared: Any, at: Any, vectors: int, first: int,
    row: int, transposed: bool = False,
) -> Any:  # fmt: skip
    """Four matrices; `at` has the lane's row and vector, turned, of the first ones.

    A later vector is found by an exclusive or, as they are turned by one.
    """
    _, bits = turn(vectors)
    place = c.ixor(at, (first & bits) * shape.width) if first & bits else at
    more = ((first & ~bits) + row * vectors) * shape.width
    found = c.matrices(shared, place, more, transposed)
    if shape.kind == "tf32":
        found = [c.rounded(each) for each in found]
    return found


def _parts(
    c: Any, width: int, total: int, left: Any, act: Callable[[int, int], None]
) -> None:
    """Do a row's vectors, `SKIP` at a time beyond the first half where any is left."""
    half = min(total, max(SKIP, total // 2))
    act(0, half)
    for first in range(half, total, SKIP):
        c.when(
            c.below(c.number(left, first * width), left),
            lambda first=first: act(first, first + SKIP),
        )


def loading(shape: TensorGeometry) -> Any:
    """``load(left, source, start, row_step, column_step, height, breadth, y, x)``.

    The lane's fragments of 16 atoms x depth, from global memory; what the matrix lacks
    becomes zeros. Element by element, as it is done once a block: a second way, by
    pairs, takes 24 registers of the whole kernel.
    """
    steps = shape.depth // shape.width // STEP
    each = 1 if shape.kind == "tf32" else 2

    def emit(
        c: Any, left: Any, source: Any, start: Any, row_step: Any, column_step: Any,
        height: Any, breadth: Any, y: Any, x: Any,
    ) -> None:  # fmt: skip
        x = c.imul(x, each)
        rows = [c.iadd(y, 8 * i) for i in range(shape.rows)]
        begin = [c.iadd(start, c.imul(row, row_step)) for row in rows]
        for k in range(2 * steps):
            column = c.iadd(x, k * shape.width)
            inside = [c.below(c.iadd(column, e), breadth) for e in range(each)]
            ahead = c.imul(column, column_step)
            for i in range(shape.rows):
                at, exists = c.iadd(begin[i], ahead), c.below(rows[i], height)
                here = [c.both(exists, one) for one in inside]
                if each == 1:
                    value = c.rounded(c.fetch(source, at, here[0]))
                else:
                    after = c.iadd(at, column_step)
                    low = c.fetch(source, at, here[0])
                    value = c.join(low, c.fetch(source, after, here[1]))
                # registers of mma: rows g and g + 8, then the same of later columns
                place = (i // 2 * steps + k // 2) * 4 + i % 2 + 2 * (k % 2)
                c.set(left, place, value)

    return operation("talllllll", shape.kind, emit)


def row_product(shape: TensorGeometry) -> Any:
    """``product(scores, left, shared, at, breadth)``: K of one piece, Q in registers.

    `at` is where the lane's row of the first matrices of K is; `breadth` columns count.
    """
    groups, vectors = shape.keys // 8, shape.depth // shape.width
    steps = vectors // STEP

    def emit(
        c: Any, scores: Any, left: Any, shared: Any, at: Any, breadth: Any
    ) -> None:
        def part(first: int, last: int) -> None:
            for k in range(first // STEP, last // STEP):
                for n in range(0, groups, 2):
                    b = _matrices(c, shape, shared, at, vectors, STEP * k, 8 * n)
                    for atom in range(shape.atoms):
                        begin = (atom * steps + k) * 4
                        a = [c.get(left, begin + r) for r in range(4)]
                        _multiply(c, scores, groups, atom, n, a, b[:2])
                        _multiply(c, scores, groups, atom, n + 1, a, b[2:])

        _parts(c, shape.width, vectors, breadth, part)

    return operation("ttail", shape.kind, emit)


def block_product(shape: TensorGeometry) -> Any:
    """``product(scores, shared, at, other)``: pieces of Q and of K in shared memory."""
    groups, vectors = shape.keys // 8, shape.depth // shape.width

    def emit(c: Any, scores: Any, shared: Any, at: Any, other: Any) -> None:
        for k in range(0, vectors, STEP):
            a = [
                _matrices(c, shape, shared, at, vectors, k, 16 * atom)
                for atom in range(shape.atoms)
            ]
            for n in range(0, groups, 2):
                b = _matrices(c, shape, shared, other, vectors, k, 8 * n)
                for atom in range(shape.atoms):
                    _multiply(c, scores, groups, atom, n, a[atom], b[:2])
                    _multiply(c, scores, groups, atom, n + 1, a[atom], b[2:])

    return operation("taii", shape.kind, emit)


def _weights(c: Any, shape: TensorGeometry, weights: Any, atom: int, k: int) -> Any:
    """Weights as left operands, to be multiplied one after another.

    The elements that a lane has are those it needs. Of TF32, which takes columns x and
    x + 4, these are columns 2 x and 2 x + 1: the rows of V are taken in the same order.
    Of float16 there are two operands: what rounding takes off the weights, which has
    11 bits more of them, then the rounded.
    """
    groups = shape.keys // 8
    if shape.kind == "tf32":
        e = [c.get(weights, place) for place in _places(groups, atom, k)]
        return [[c.rounded(e[i]) for i in (0, 2, 1, 3)]]
    e = [c.get(weights, p) for n in (0, 1) for p in _places(groups, atom, 2 * k + n)]
    pairs = [e[i : i + 2] for i in range(0, 8, 2)]
    most = [c.pack(*pair) for pair in pairs]
    if shape.kind == "bfloat16":
        return [most]
    left = [
        c.pack(*map(c.fsub, pair, c.halves(packed)))
        for pair, packed in zip(pairs, most, strict=True)
    ]
    return [left, most]


def column_product(shape: TensorGeometry) -> Any:
    """``product(outputs, weights, shared, at, other, breadth)``: add weights times V.

    `at` is where the lane's row of the first matrices of V is; of TF32, which has no
    transposing load, where its first and (`other`) second element is.
    """
    groups, vectors = shape.block_d // 8, shape.block_d // shape.width
    tf32 = shape.kind == "tf32"
    depth = 8 if tf32 else 16
    steps = shape.keys // depth
    # all weights of float16, in two parts, would take more registers than there are
    together = min(steps, 2) if shape.kind == "float16" else steps
    _, bits = turn(vectors)

    def operands(c: Any, shared: Any, at: Any, other: Any, k: int, first: int) -> Any:
        if not tf32:
            found = _matrices(
                c, shape, shared, at, vectors, first, depth * k, transposed=True
            )
            return found[:2], found[2:]
        more = ((first & ~bits) + depth * k * vectors) * shape.width
        turned = (first & bits) * shape.width
        both = [
            c.rounded(c.load_shared(shared, c.ixor(each, turned), more))
            for each in (at, other)
        ]
        return (both,)

    def emit(
        c: Any, outputs: Any, weights: Any, shared: Any, at: Any, other: Any,
        breadth: Any,
    ) -> None:  # fmt: skip
        def act(steps: range) -> None:
            a = {(i, k): _weights(c, shape, weights, i, k)
                 for i in range(shape.atoms) for k in steps}  # fmt: skip

            def part(first: int, last: int) -> None:
                for k, vector in product(steps, range(first, last, STEP)):
                    group = vector * shape.width // 8
                    found = operands(c, shared, at, other, k, vector)
                    for p, (n, b), i in product(
                        range(len(a[0, k])), enumerate(found), range(shape.atoms)
                    ):
                        _multiply(c, outputs, groups, i, group + n, a[i, k][p], b)

            _parts(c, shape.width, vectors, breadth, part)

        for first in range(0, steps, together):
            act(range(first, first + together))

    return operation("ttaiil", shape.kind, emit)


def writing(shape: TensorGeometry) -> Any:
    """``write(array, at, x)``: a float32 as an element of the arrays' type."""
    if shape.kind == "tf32":
        return ptx.write
    narrow = ptx.narrowing(shape.kind)

    @device_function
    def write(array, at, x):  # type: ignore[no-untyped-def]
        ptx.write(array, at, narrow(x))

    return write


def reading(shape: TensorGeometry) -> Any:
    """``read(array, at)``: an element of the arrays' type as float32."""
    if shape.kind == "tf32":
        return ptx.read
    widen = ptx.widening(shape.kind)

    @device_function
    def read(array, at):  # type: ignore[no-untyped-def]
        return widen(ptx.read(array, at))

    return read


def finiteness(shape: TensorGeometry) -> Any:
    """``finite(x)``: whether an element of the arrays is neither NaN nor infinite."""
    if shape.kind == "tf32":
        return ptx.finite
    exponent = 0x7C00 if shape.kind == "float16" else 0x7F80

    @device_function
    def finite(x):  # type: ignore[no-untyped-def]
        return x & exponent != exponent

    return finite


def _gathered(c: Any, x: Any, values: list[Any]) -> list[Any]:
    """Of four registers of each of four lanes, those with the lane's number."""
    for mask in (1, 2):
        odd, after = c.bit(x, mask), list(values)
        for i in (i for i in range(4) if not i & mask):
            mine, other = values[i], values[i + mask]
            got = c.shuffle(c.choose(odd, mine, other), mask)
            after[i] = c.choose(odd, got, mine)
            after[i + mask] = c.choose(odd, other, got)
        values = after
    return values


def storing(shape: TensorGeometry) -> Any:
    """``store(scores, out, at, step, x)``: write a warp's tile, all of it, rounded.

    `at` is where the first column of the lane's first row goes, `step` elements from
    one row to the next; rows begin at multiples of 16 bytes. The four lanes of a row
    swap halves until each has 16 bytes in a row: memory is written in whole sectors.
    """
    groups = shape.keys // 8

    def emit(c: Any, scores: Any, out: Any, at: Any, step: Any, x: Any) -> None:
        for i in range(shape.rows):
            row = c.iadd(at, c.imul(step, 8 * i))
            pairs = [
                [c.get(scores, slot(groups, i, n, e)) for e in range(2)]
                for n in range(groups)
            ]
            if shape.kind == "tf32":
                for n, pair in enumerate(pairs):
                    c.store_vector(out, c.iadd(c.iadd(row, c.imul(x, 2)), 8 * n), pair)
                continue
            for n in range(0, groups, 4):
                packed = [c.pack(*pair) for pair in pairs[n : n + 4]]
                place = c.iadd(c.iadd(row, c.imul(x, 8)), 8 * n)
                c.store_vector(out, place, _gathered(c, x, packed))

    return operation("talll", shape.kind, emit)
