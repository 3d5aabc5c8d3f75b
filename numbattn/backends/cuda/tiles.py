"""Register tiles: what a thread holds of a block of scores or of outputs.

A tile is a local array of rows x columns that every operation here touches at constant
places only, written out in full: so it lives in registers (checked by `codegen`: no
local memory). Thread (y, x) of a block of Y x X threads holds rows y, y + Y, y + 2 Y,
... and either columns x, x + X, ... (of scores) or runs of a vector of them (of
outputs). Operands lie in shared memory.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import device

if not device.simulated:
    from llvmlite import ir

    from .device import cgutils, intrinsic, types

    _I32, _I64 = ir.IntType(32), ir.IntType(64)


def vector(dtype: np.dtype[Any]) -> int:
    """Elements in one load: of 16 bytes; of 128 in the simulator, for speed."""
    return (128 if device.simulated else 16) // dtype.itemsize


class _Emitter:
    """Loads, stores and arithmetic of one operation, as LLVM code."""

    def __init__(self, context: Any, builder: Any, dtype: np.dtype[Any]) -> None:
        self.context, self.builder = context, builder
        self.real = ir.FloatType() if dtype.itemsize == 4 else ir.DoubleType()
        self.width = vector(dtype)
        suffix = "f32" if dtype.itemsize == 4 else "f64"
        kind = ir.FunctionType(self.real, [self.real] * 3)
        self._fma = cgutils.get_or_insert_function(
            builder.module, kind, f"llvm.fma.{suffix}"
        )

    def data(self, kind: Any, array: Any) -> Any:
        return self.context.make_array(kind)(self.context, self.builder, array).data

    def at(self, data: Any, first: Any, more: int = 0) -> Any:
        if more:
            first = self.builder.add(first, ir.Constant(first.type, more))
        return self.builder.gep(data, [first])

    def vector(self, data: Any, first: Any, more: int) -> list[Any]:
        builder = self.builder
        pointer = self.at(data, first, more)
        kind = ir.VectorType(self.real, self.width).as_pointer()
        loaded = builder.load(builder.bitcast(pointer, kind))
        loaded.align = 16
        places = (ir.Constant(_I32, i) for i in range(self.width))
        return [builder.extract_element(loaded, i) for i in places]

    def slot(self, data: Any, index: int) -> Any:
        return self.builder.gep(data, [ir.Constant(_I64, index)])

    def fma(self, x: Any, y: Any, z: Any) -> Any:
        return self.builder.call(self._fma, [x, y, z])


def _operation(dtype: np.dtype[Any], arrays: str, emit: Any) -> Any:
    """An intrinsic: 'a' is an array, 'i' an index of 32 bits, 'r' a real."""
    number = types.float32 if dtype.itemsize == 4 else types.float64
    kinds = {"i": types.int32, "r": number}

    def typed(given: Any) -> Any:
        passed = [
            kinds.get(letter, kind) for letter, kind in zip(arrays, given, strict=True)
        ]

        def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
            emitter = _Emitter(context, builder, dtype)
            values = [
                emitter.data(kind, value) if letter == "a" else value
                for letter, kind, value in zip(arrays, sig.args, args, strict=True)
            ]
            emit(emitter, *values)
            return context.get_dummy_value()

        return types.void(*passed), generate

    # the compiler goes by the number of parameters
    names = ", ".join(f"x{i}" for i in range(len(arrays)))
    scope: dict[str, Any] = {"typed": typed}
    exec(f"def operation(typingctx, {names}):\n    return typed(({names},))", scope)
    return intrinsic(scope["operation"])


def clear(dtype: np.dtype[Any], size: int) -> Any:
    """``clear(tile)``: set every element to 0."""
    if device.simulated:
        return lambda tile: tile.fill(0)

    def emit(e: _Emitter, tile: Any) -> None:
        for index in range(size):
            e.builder.store(ir.Constant(e.real, 0.0), e.slot(tile, index))

    return _operation(dtype, "a", emit)


def row_product(
    dtype: np.dtype[Any], rows: int, columns: int, left_step: int, right_step: int
) -> Any:
    """``product(tile, left, i, right, j)``: both operands with k along their rows.

    tile[r, c] += the sum over one vector of k of left[i + r left_step + k] times
    right[j + c right_step + k].
    """
    width = vector(dtype)
    if device.simulated:
        return _row_twin(width, rows, columns, left_step, right_step)

    def emit(e: _Emitter, tile: Any, left: Any, i: Any, right: Any, j: Any) -> None:
        b = [e.vector(right, j, c * right_step) for c in range(columns)]
        for r in range(rows):
            a = e.vector(left, i, r * left_step)
            for c in range(columns):
                slot = e.slot(tile, r * columns + c)
                total = e.builder.load(slot)
                for k in range(width):
                    total = e.fma(a[k], b[c][k], total)
                e.builder.store(total, slot)

    return _operation(dtype, "aaiai", emit)


def _row_twin(
    width: int, rows: int, columns: int, left_step: int, right_step: int
) -> Any:
    def twin(tile: Any, left: Any, i: int, right: Any, j: int) -> None:
        a = _strided(left, i, (rows, width), (left_step, 1))
        b = _strided(right, j, (columns, width), (right_step, 1))
        tile.reshape(rows, columns)[:] += a @ b.T

    return twin


def _strided(array: Any, at: int, shape: Any, steps: Any) -> Any:
    """A view of shared memory; NumPy raises where it would leave it."""
    item = array.itemsize
    strides = [step * item for step in steps]
    return np.ndarray(shape, array.dtype, array, at * item, strides)


def column_product(
    dtype: np.dtype[Any],
    rows: int,
    groups: int,
    left_step: int,
    right_step: int,
    group_step: int,
) -> Any:
    """``product(tile, left, i, right, j)``: k along the left's rows, down the right.

    The tile's columns are `groups` vectors, `group_step` apart. Over one vector of k:
    tile[r, c] += left[i + r left_step + k] right[j + k right_step + place of c].
    """
    width = vector(dtype)
    columns = groups * width
    if device.simulated:

        def twin(tile: Any, left: Any, i: int, right: Any, j: int) -> None:
            a = _strided(left, i, (rows, width), (left_step, 1))
            b = _strided(
                right, j, (width, groups, width), (right_step, group_step, 1)
            ).reshape(width, columns)
            tile.reshape(rows, columns)[:] += a @ b

        return twin

    def emit(e: _Emitter, tile: Any, left: Any, i: Any, right: Any, j: Any) -> None:
        a = [e.vector(left, i, r * left_step) for r in range(rows)]
        for k in range(width):
            b: list[Any] = []
            for g in range(groups):
                b += e.vector(right, j, k * right_step + g * group_step)
            for r in range(rows):
                for c in range(columns):
                    slot = e.slot(tile, r * columns + c)
                    total = e.fma(a[r][k], b[c], e.builder.load(slot))
                    e.builder.store(total, slot)

    return _operation(dtype, "aaiai", emit)


def scale_rows(dtype: np.dtype[Any], rows: int, columns: int, step: int) -> Any:
    """``scale(tile, factors, i)``: multiply row r by factors[i + r step]."""
    if device.simulated:

        def twin(tile: Any, factors: Any, i: int) -> None:
            tile.reshape(rows, columns)[:] *= _strided(factors, i, (rows, 1), (step, 1))

        return twin

    def emit(e: _Emitter, tile: Any, factors: Any, i: Any) -> None:
        for r in range(rows):
            factor = e.builder.load(e.at(factors, i, r * step))
            for c in range(columns):
                slot = e.slot(tile, r * columns + c)
                e.builder.store(e.builder.fmul(e.builder.load(slot), factor), slot)

    return _operation(dtype, "aai", emit)


def put(
    dtype: np.dtype[Any], rows: int, columns: int, row_step: int, column_step: int
) -> Any:
    """``put(tile, shared, i, factor, more)``: write the tile, multiplied, and clear it.

    Element (r, c) goes to i + r row_step + c column_step; where `more`, it is added to
    what is there.
    """
    if device.simulated:

        def twin(tile: Any, shared: Any, i: int, factor: Any, more: Any) -> None:
            to = _strided(shared, i, (rows, columns), (row_step, column_step))
            part = tile.reshape(rows, columns) * factor
            to[:] = to + part if more else part
            tile.fill(0)

        return twin

    def emit(
        e: _Emitter, tile: Any, shared: Any, i: Any, factor: Any, more: Any
    ) -> None:
        builder = e.builder
        adds = builder.icmp_signed("!=", more, ir.Constant(more.type, 0))
        places = [(r, c) for r in range(rows) for c in range(columns)]
        parts = []
        for r, c in places:
            slot = e.slot(tile, r * columns + c)
            parts.append(builder.fmul(builder.load(slot), factor))
            builder.store(ir.Constant(e.real, 0.0), slot)
        with builder.if_else(adds) as (then, otherwise):
            with then:
                for (r, c), part in zip(places, parts, strict=True):
                    to = e.at(shared, i, r * row_step + c * column_step)
                    builder.store(builder.fadd(builder.load(to), part), to)
            with otherwise:
                for (r, c), part in zip(places, parts, strict=True):
                    to = e.at(shared, i, r * row_step + c * column_step)
                    builder.store(part, to)

    return _operation(dtype, "aairi", emit)


def _groups(
    dtype: np.dtype[Any], rows: int, groups: int, width: int, row_step: int, puts: bool
) -> Any:
    if device.simulated:

        def twin(tile: Any, g: int, shared: Any, i: int) -> None:
            there = _strided(shared, i, (rows, width), (row_step, 1))
            here = tile.reshape(rows, groups, width)[:, g]
            if puts:
                there[:] = here
            else:
                here[:] = there

        return twin

    def emit(e: _Emitter, tile: Any, g: Any, shared: Any, i: Any) -> None:
        for group in range(groups):
            chosen = e.builder.icmp_signed("==", g, ir.Constant(g.type, group))
            with e.builder.if_then(chosen):
                for r in range(rows):
                    for c in range(width):
                        here = e.slot(tile, (r * groups + group) * width + c)
                        there = e.at(shared, i, r * row_step + c)
                        from_, to = (here, there) if puts else (there, here)
                        e.builder.store(e.builder.load(from_), to)

    return _operation(dtype, "aiai", emit)


def put_group(
    dtype: np.dtype[Any], rows: int, groups: int, width: int, row_step: int
) -> Any:
    """``put_group(tile, g, shared, i)``: write one run of `width` columns of each row.

    Element (r, g width + c) goes to i + r row_step + c.
    """
    return _groups(dtype, rows, groups, width, row_step, puts=True)


def take_group(
    dtype: np.dtype[Any], rows: int, groups: int, width: int, row_step: int
) -> Any:
    """``take_group(tile, g, shared, i)``: read what `put_group` writes."""
    return _groups(dtype, rows, groups, width, row_step, puts=False)
