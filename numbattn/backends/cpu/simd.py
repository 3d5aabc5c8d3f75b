"""Vectors of the processor as Numba values, and the arithmetic on them.

Numba has no vector type, and an accumulator that lives in an array never reaches
a register (5 GFLOP/s against 115 on one Zen 4 core). So `emitter` writes LLVM
vector code itself, and this module wraps it as intrinsics, so that kernels are
written in Python on vectors; `tiles` does the same with whole register tiles.
"""

from __future__ import annotations

import inspect
from functools import cache
from types import ModuleType

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, models, register_model

from .emitter import I64, Emitter, transposed
from .levels import Simd

# What kernels call inside: never from Python, so without the wrappers for that.
inner = njit(error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)

FLAGS = 16  # of a mask that are looked at together
FLAG_BITS = ir.IntType(8 * FLAGS)


class Vector(types.Type):
    """Numba type of an LLVM vector."""

    def __init__(self, dtype: str, lanes: int):
        self.dtype, self.lanes = dtype, lanes
        super().__init__(name=f"Vector({dtype}, {lanes})")


@register_model(Vector)
class VectorModel(models.PrimitiveModel):
    """A vector is held in a register: data and value representation are one."""

    def __init__(self, manager, vector):
        scalar = ir.FloatType() if vector.dtype == "float32" else ir.DoubleType()
        super().__init__(manager, vector, ir.VectorType(scalar, vector.lanes))


def namespace(**members) -> ModuleType:
    """Names behind a dot that Numba resolves at compile time (it knows modules)."""
    module = ModuleType("namespace")
    vars(module).update(members)
    return module


def emitted(result, *parameters):
    """Make an intrinsic of one signature from a function that emits its code."""

    def decorate(emit):
        names = list(inspect.signature(emit).parameters)[1:]

        def typed(typingctx, *arguments):
            def generate(context, builder, signature, values):
                value = emit(builder, *values)
                return context.get_dummy_value() if value is None else value

            return result(*parameters), generate

        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        typed.__signature__ = inspect.Signature(
            [inspect.Parameter(name, kind) for name in ("typingctx", *names)]
        )
        typed.__name__ = typed.__qualname__ = emit.__name__
        typed.__doc__ = emit.__doc__
        return intrinsic(typed)

    return decorate


def outlined(name, emit):
    """The code of `emit` as one function of the module, called wherever it is used.

    Several uses then cost the compiler one, and the registers of a hot loop are not
    shared with the code around it. The name says all that the code depends on.
    """

    def call(builder, *values):
        module = builder.module
        function = module.globals.get(name)
        if function is None:
            kind = ir.FunctionType(ir.VoidType(), [value.type for value in values])
            function = ir.Function(module, kind, name)
            function.linkage = "internal"
            function.attributes.add("noinline")
            inside = ir.IRBuilder(function.append_basic_block())
            emit(inside, *function.args)
            inside.ret_void()
        builder.call(function, values)

    call.__name__, call.__doc__ = emit.__name__, emit.__doc__
    call.__signature__ = inspect.signature(emit)
    return call


@cache
def vector_operations(dtype: str, level: Simd) -> ModuleType:
    """Intrinsics on vectors of `dtype`, for kernels written in Python."""
    e = Emitter(dtype, level)
    scalar = getattr(types, dtype)
    vector, pointer = Vector(dtype, e.lanes), types.CPointer(scalar)
    integer = types.int64

    @emitted(vector, scalar)
    def splat(builder, x):
        return e.splat(builder, x)

    @emitted(vector, pointer, integer)
    def load(builder, base, offset):
        return e.load(builder, base, offset)

    @emitted(types.void, vector, pointer, integer)
    def store(builder, x, base, offset):
        e.store(builder, x, base, offset)

    @emitted(types.void, vector, pointer, integer)
    def stream(builder, x, base, offset):
        e.stream(builder, x, base, offset)

    @emitted(vector, pointer, integer, integer, vector)
    def masked_load(builder, base, offset, count, other):
        return e.masked_load(builder, base, offset, count, other)

    @emitted(types.void, vector, pointer, integer, integer)
    def masked_store(builder, x, base, offset, count):
        e.masked_store(builder, x, base, offset, count)

    @emitted(vector, vector, vector)
    def add(builder, x, y):
        return builder.fadd(x, y)

    @emitted(vector, vector, vector)
    def add_unless_minus_infinity(builder, x, y):
        """X + y; -inf where y is -inf, also over NaN and inf in x."""
        bottom = e.constant(-np.inf)
        masked = builder.fcmp_ordered("==", y, bottom)
        return builder.select(masked, bottom, builder.fadd(x, y))

    @emitted(vector, vector, vector)
    def subtract(builder, x, y):
        return builder.fsub(x, y)

    @emitted(vector, vector, vector)
    def multiply(builder, x, y):
        return builder.fmul(x, y)

    @emitted(vector, vector, vector)
    def divide(builder, x, y):
        return builder.fdiv(x, y)

    @emitted(vector, vector, vector, vector)
    def fma(builder, x, y, z):
        return e.fma(builder, x, y, z)

    @emitted(vector, vector, vector)
    def greater(builder, x, y):
        return e.greater(builder, x, y)

    @emitted(types.boolean, vector, vector)
    def any_greater(builder, x, y):
        """Whether x is above y in any lane."""
        above = builder.fcmp_ordered(">", x, y)
        bits = builder.bitcast(above, ir.IntType(e.lanes))
        return builder.icmp_unsigned("!=", bits, ir.Constant(bits.type, 0))

    @emitted(vector, vector, vector, vector)
    def raised(builder, old, new, step):
        """`new` where it is above `old` by more than `step`, else `old`."""
        above = builder.fcmp_ordered(">", new, builder.fadd(old, step))
        return builder.select(above, new, old)

    @emitted(vector, vector)
    def shift_of(builder, x):
        """X, and 0 for -inf: then -inf less it is -inf, not NaN."""
        none = builder.fcmp_ordered("==", x, e.constant(-np.inf))
        return builder.select(none, e.constant(0.0), x)

    @emitted(vector, vector, integer, integer)
    def keep_lanes(builder, x, first, last):
        """Lanes first..last of x; -inf in the others."""
        mask = e.lane_mask(builder, last, first)
        return builder.select(mask, x, e.constant(-np.inf))

    @emitted(vector, vector, vector, scalar)
    def biased(builder, x, y, factor):
        """X + y * factor, which stays finite for finite y; -inf where y is -inf.

        So -inf masks, also over NaN and inf in x, and the lowest number does not.
        """
        bottom = e.constant(-np.inf)
        masked = builder.fcmp_ordered("==", y, bottom)
        more = builder.fmul(y, e.splat(builder, factor))
        more = e.at_least(builder, more, e.constant(np.finfo(dtype).min))
        return builder.select(masked, bottom, builder.fadd(x, more))

    @emitted(types.boolean, pointer, integer)
    def all_masked(builder, base, offset):
        """Whether a vector is -inf in every lane."""
        x = e.load(builder, base, offset)
        masked = builder.fcmp_ordered("==", x, e.constant(-np.inf))
        bits = builder.bitcast(masked, ir.IntType(e.lanes))
        return builder.icmp_unsigned("==", bits, ir.Constant(bits.type, -1))

    flags = types.CPointer(types.boolean)

    @emitted(types.boolean, flags, integer)
    def any_true(builder, base, offset):
        """Whether one of `FLAGS` flags is True."""
        data = builder.bitcast(builder.gep(base, [offset]), FLAG_BITS.as_pointer())
        bits = builder.load(data, align=1)
        return builder.icmp_unsigned("!=", bits, ir.Constant(FLAG_BITS, 0))

    @emitted(types.void, flags, integer, pointer, integer)
    def mask_square(builder, mask, row, scores, pitch):
        """-inf in a square of transposed scores where the mask is False.

        Lane i of vector j of the scores goes by flag j of row i of the mask: a
        transposition of bytes.
        """
        lanes = e.lanes
        kind = ir.VectorType(ir.IntType(8), lanes)
        x = []
        for i in range(lanes):
            where = builder.gep(mask, [builder.mul(ir.Constant(I64, i), row)])
            x.append(builder.load(builder.bitcast(where, kind.as_pointer()), align=1))
        none, bottom = ir.Constant(kind, [0] * lanes), e.constant(-np.inf)
        for j, flag in enumerate(transposed(builder, x)):
            at = builder.mul(ir.Constant(I64, j), pitch)
            seen = builder.icmp_unsigned("!=", flag, none)
            score = builder.select(seen, e.load(builder, scores, at), bottom)
            e.store(builder, score, scores, at)

    @emitted(vector, vector)
    def exp2(builder, x):
        return e.exp2(builder, x)

    @emitted(vector, vector)
    def tanh(builder, x):
        return e.tanh(builder, x)

    @emitted(scalar, vector)
    def sum_lanes(builder, x):
        return e.sum_lanes(builder, x)

    @emitted(scalar, vector)
    def greatest_lane(builder, x):
        return e.greatest_lane(builder, x)

    operations = {k: v for k, v in locals().items() if hasattr(v, "_defn")}
    return namespace(lanes=e.lanes, emitter=e, **operations)
