"""What Numba has no word for: unchecked access, asynchronous copies, warps.

All inline PTX of the project is here; `twins` says the same for the simulator, which
takes its functions in place of these. Indices are of elements.
"""

from __future__ import annotations

import math

from . import device
from .device import cuda

if not device.simulated:
    from llvmlite import ir

    from .device import cgutils, intrinsic, types

    I32, I64, VOID = ir.IntType(32), ir.IntType(64), ir.VoidType()
    F32, F64 = ir.FloatType(), ir.DoubleType()

    def asm(builder, result, operands, text, constraints, effect):  # type: ignore[no-untyped-def]
        """Call one inline PTX text."""
        kind = ir.FunctionType(result, [x.type for x in operands])
        code = ir.InlineAsm(kind, text, constraints, side_effect=effect)
        return builder.call(code, operands)

    def place(context, builder, kind, array, at):  # type: ignore[no-untyped-def]
        """The pointer to an element."""
        data = context.make_array(kind)(context, builder, array).data
        return builder.gep(data, [at])

    def shared_address(builder, pointer):  # type: ignore[no-untyped-def]
        """A pointer into shared memory as the 32-bit address that PTX takes."""
        wide = builder.ptrtoint(pointer, I64)
        wide = asm(builder, I64, [wide], "cvta.to.shared.u64 $0, $1;", "=l,l", False)
        return builder.trunc(wide, I32)

    @intrinsic
    def read(typingctx, array, at):  # type: ignore[no-untyped-def]
        """An element; the index is not negative, and inside."""

        def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
            pointer = place(context, builder, sig.args[0], *args)
            loaded = builder.load(pointer)
            loaded.align = array.dtype.bitwidth // 8
            return loaded

        return array.dtype(array, types.int64), generate

    @intrinsic
    def write(typingctx, array, at, value):  # type: ignore[no-untyped-def]
        """Set an element; the index is not negative, and inside."""

        def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
            pointer = place(context, builder, sig.args[0], *args[:2])
            builder.store(args[2], pointer, align=array.dtype.bitwidth // 8)
            return context.get_dummy_value()

        return types.void(array, types.int64, array.dtype), generate

    @intrinsic
    def copy16(typingctx, target, at, source, start, count):  # type: ignore[no-untyped-def]
        """Begin to copy 16 bytes to shared memory: `count` elements, then zeros.

        Both places are aligned to 16 bytes. ``cp.async.cg`` of the PTX ISA.
        """

        def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
            to = shared_address(
                builder, place(context, builder, sig.args[0], *args[:2])
            )
            pointer = place(context, builder, sig.args[2], *args[2:4])
            item = ir.Constant(I32, source.dtype.bitwidth // 8)
            size = builder.mul(builder.trunc(args[4], I32), item)
            operands = [to, builder.ptrtoint(pointer, I64), size]
            text = "cp.async.cg.shared.global [$0], [$1], 16, $2;"
            asm(builder, VOID, operands, text, "r,l,r,~{memory}", True)
            return context.get_dummy_value()

        kinds = (target, types.int64, source, types.int64, types.int64)
        return types.void(*kinds), generate

    def _said(text):  # type: ignore[no-untyped-def]
        @intrinsic
        def say(typingctx):  # type: ignore[no-untyped-def]
            def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
                asm(builder, VOID, [], text, "~{memory}", True)
                return context.get_dummy_value()

            return types.void(), generate

        return say

    copy_commit = _said("cp.async.commit_group;")

    copy_wait = _said("cp.async.wait_group 0;")

    @intrinsic
    def thread(typingctx):  # type: ignore[no-untyped-def]
        """The thread's number within its block, asked for anew.

        What is reckoned from it is not kept in registers from one place to another.
        """

        def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
            return asm(builder, I32, [], "mov.u32 $0, %tid.x;", "=r", True)

        return types.int32(), generate

    @intrinsic
    def opaque(typingctx, x):  # type: ignore[no-untyped-def]
        """The same number, of which the compiler knows nothing.

        What is reckoned from it stays where it is: moved out of a loop, dozens of
        numbers of 64 bits would fill the registers.
        """

        def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
            return asm(builder, I64, args, "mov.b64 $0, $1;", "=l,l", True)

        return types.int64(types.int64), generate

    @intrinsic
    def onward(typingctx, index, step):  # type: ignore[no-untyped-def]
        """The sum; a loop that counts by it is not unrolled, and saves registers."""

        def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
            return asm(builder, I64, args, "add.s64 $0, $1, $2;", "=l,l,l", True)

        return types.int64(types.int64, types.int64), generate

    @intrinsic
    def aligned16(typingctx, array, at):  # type: ignore[no-untyped-def]
        """Whether an element lies at a multiple of 16 bytes."""

        def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
            pointer = place(context, builder, sig.args[0], *args)
            low = builder.and_(builder.ptrtoint(pointer, I64), ir.Constant(I64, 15))
            return builder.icmp_unsigned("==", low, ir.Constant(I64, 0))

        return types.boolean(array, types.int64), generate

    @device.device_function
    def shuffle_xor(value, mask):  # type: ignore[no-untyped-def]
        """What the lane has whose number differs in the bits of `mask`."""
        return cuda.shfl_xor_sync(0xFFFFFFFF, value, mask)

    @device.device_function
    def sync_warp():  # type: ignore[no-untyped-def]
        """Wait for the lanes of the warp, and see what they wrote."""
        cuda.syncwarp(0xFFFFFFFF)

    LOG2_E = 1.4426950408889634

    @intrinsic
    def exp(typingctx, x):  # type: ignore[no-untyped-def]
        """The exponential; of float32 within 2^-22 and the rounding of x / log 2."""

        def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
            if sig.args[0] == types.float64:
                name, kind = "__nv_exp", ir.FunctionType(F64, [F64])
                known = cgutils.get_or_insert_function(builder.module, kind, name)
                return builder.call(known, args)
            scaled = builder.fmul(args[0], ir.Constant(F32, LOG2_E))
            return asm(builder, F32, [scaled], "ex2.approx.f32 $0, $1;", "=f,f", False)

        kind = types.float64 if x == types.float64 else types.float32
        return kind(kind), generate

    def narrowing(kind):  # type: ignore[no-untyped-def]
        """``narrow(x)``: a float32 as the bits of a half."""
        name = "bf16" if kind == "bfloat16" else "f16"

        @intrinsic
        def narrow(typingctx, x):  # type: ignore[no-untyped-def]
            def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
                text = f"cvt.rn.{name}.f32 $0, $1;"
                return asm(builder, ir.IntType(16), args, text, "=h,f", False)

            return types.uint16(types.float32), generate

        return narrow

    def widening(kind):  # type: ignore[no-untyped-def]
        """``widen(x)``: the bits of a half as float32."""

        @intrinsic
        def widen(typingctx, x):  # type: ignore[no-untyped-def]
            def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
                text = "{ .reg .b16 z; mov.b16 z, 0; mov.b32 $0, {z, $1}; }"
                if kind == "float16":
                    text = "cvt.f32.f16 $0, $1;"
                return asm(builder, F32, args, text, "=f,h", False)

            return types.float32(types.uint16), generate

        return widen

    def copier(width):  # type: ignore[no-untyped-def]
        """``copy(target, at, source, start, count)`` of `width` elements, 16 bytes."""
        return copy16

    @device.device_function
    def greatest(array, at, step, count, least):  # type: ignore[no-untyped-def]
        """The greatest of `count` elements, `step` apart, and of `least`."""
        for j in range(count):
            least = max(least, read(array, at + j * step))
        return least

    @device.device_function
    def exponentials(array, at, step, count, base, total):  # type: ignore[no-untyped-def]
        """Put exp(x - base) in the place of elements; their sum, with `total`."""
        for j in range(count):
            p = exp(read(array, at + j * step) - base)
            write(array, at + j * step, p)
            total += p
        return total

    @device.device_function
    def log(x):  # type: ignore[no-untyped-def]
        """The natural logarithm."""
        return math.log(x)

    @device.device_function
    def tanh(x):  # type: ignore[no-untyped-def]
        """The hyperbolic tangent."""
        return math.tanh(x)

    @device.device_function
    def finite(x):  # type: ignore[no-untyped-def]
        """Whether it is neither NaN nor infinite."""
        return math.isfinite(x)

else:
    from .twins import (  # noqa: F401
        aligned16,
        copier,
        copy16,
        copy_commit,
        copy_wait,
        exp,
        exponentials,
        finite,
        greatest,
        log,
        narrowing,
        onward,
        opaque,
        read,
        shuffle_xor,
        sync_warp,
        tanh,
        thread,
        widening,
        write,
    )
