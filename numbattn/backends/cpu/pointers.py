"""Raw addresses as Numba values: what kernels use in place of array indexing.

Offsets are in elements, 64-bit. Nothing is checked here: the front door has checked
the arrays, and `layout` has made the offsets.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

I64 = ir.IntType(64)


@intrinsic
def address(typingctx, array, offset):
    """Pointer to the element `offset` elements behind the array's first."""
    signature = types.CPointer(array.dtype)(array, types.int64)

    def generate(context, builder, signature, values):
        data = context.make_array(signature.args[0])(context, builder, values[0]).data
        return builder.gep(data, [values[1]])

    return signature, generate


@intrinsic
def advance(typingctx, pointer, offset):
    """Pointer `offset` elements on."""

    def generate(context, builder, signature, values):
        return builder.gep(values[0], [values[1]])

    return pointer(pointer, types.int64), generate


@intrinsic
def align(typingctx, pointer):
    """The pointer, moved up to the start of a cache line (64 bytes)."""

    def generate(context, builder, signature, values):
        number = builder.ptrtoint(values[0], I64)
        up = builder.add(number, ir.Constant(I64, 63))
        line = builder.and_(up, ir.Constant(I64, -64))
        return builder.inttoptr(line, values[0].type)

    return pointer(pointer), generate


@intrinsic
def misalignment(typingctx, pointer, lanes):
    """How many elements the pointer lies behind a multiple of `lanes` elements."""

    def generate(context, builder, signature, values):
        size = context.get_abi_sizeof(context.get_value_type(pointer.dtype))
        number = builder.udiv(builder.ptrtoint(values[0], I64), ir.Constant(I64, size))
        return builder.urem(number, values[1])

    return types.int64(pointer, types.int64), generate


@intrinsic
def peek(typingctx, pointer, offset):
    """The element at `offset`."""

    def generate(context, builder, signature, values):
        where = builder.gep(values[0], [values[1]])
        return context.unpack_value(builder, pointer.dtype, where)

    return pointer.dtype(pointer, types.int64), generate


@intrinsic
def poke(typingctx, pointer, offset, value):
    """Write the element at `offset`."""

    def generate(context, builder, signature, values):
        builder.store(values[2], builder.gep(values[0], [values[1]]))
        return context.get_dummy_value()

    signature = types.void(pointer, types.int64, pointer.dtype)
    return signature, generate


def _atomic(operation):
    @intrinsic
    def fetch(typingctx, counter, value):
        def generate(context, builder, signature, values):
            array = context.make_array(signature.args[0])(context, builder, values[0])
            return builder.atomic_rmw(operation, array.data, values[1], "monotonic")

        return types.int64(counter, types.int64), generate

    return fetch


# On the first element of an int64 array, at once; both return its old value.
fetch_add = _atomic("add")
fetch_or = _atomic("or")


@intrinsic
def fetch_add_at(typingctx, pointer, value):
    """Add to a number in memory at once; returns its old value.

    What a thread wrote before is seen by those that add after it.
    """

    def generate(context, builder, signature, values):
        return builder.atomic_rmw("add", *values, "acq_rel")

    return types.int64(pointer, types.int64), generate
