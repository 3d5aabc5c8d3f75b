"""What a warp's lanes do together, as machine code: the other half of `ptx`.

An operation is written once, in `fragments`, as calls of methods that `Code` has here,
and `twins.Lanes` in the simulator.
"""

from __future__ import annotations

from typing import Any

from . import device

if device.simulated:
    from . import twins
else:
    from llvmlite import ir

    from .device import cgutils, intrinsic, types
    from .ptx import F32, I32, I64, LOG2_E, asm, shared_address


class Code:
    """Instructions that a warp's lanes do together, or each for itself.

    A register is 32 bits that are halves, two of them, or a TF32 number; `kind` is
    their type: float16, bfloat16 or tf32. See `fragments`.
    """

    def __init__(self, context, builder, kind):  # type: ignore[no-untyped-def]
        self.context, self.builder, self.kind = context, builder, kind
        self.fadd, self.fsub, self.fmul = builder.fadd, builder.fsub, builder.fmul
        self.both = builder.and_

    def number(self, like, value):  # type: ignore[no-untyped-def]
        return ir.Constant(like.type, value) if isinstance(value, int) else value

    def real(self, value):  # type: ignore[no-untyped-def]
        return ir.Constant(F32, float(value))

    def iadd(self, x, y):  # type: ignore[no-untyped-def]
        return self.builder.add(x, self.number(x, y))

    def imul(self, x, y):  # type: ignore[no-untyped-def]
        return self.builder.mul(x, self.number(x, y))

    def ixor(self, x, y):  # type: ignore[no-untyped-def]
        return self.builder.xor(x, self.number(x, y))

    def bit(self, x, mask):  # type: ignore[no-untyped-def]
        found = self.builder.and_(x, self.number(x, mask))
        return self.builder.icmp_signed("!=", found, self.number(x, 0))

    def below(self, x, y):  # type: ignore[no-untyped-def]
        return self.builder.icmp_signed("<", x, self.number(x, y))

    def same(self, x, y):  # type: ignore[no-untyped-def]
        return self.builder.fcmp_ordered("==", x, y)

    def choose(self, chosen, x, y):  # type: ignore[no-untyped-def]
        return self.builder.select(chosen, x, y)

    def when(self, condition, act):  # type: ignore[no-untyped-def]
        """Do it where the condition holds, which is the same in all lanes."""
        with self.builder.if_then(condition):
            act()

    def fmax(self, x, y):  # type: ignore[no-untyped-def]
        kind = ir.FunctionType(F32, [F32, F32])
        name = "llvm.maxnum.f32"
        return self.builder.call(
            cgutils.get_or_insert_function(self.builder.module, kind, name), [x, y]
        )

    def fma(self, x, y, z):  # type: ignore[no-untyped-def]
        return self.builder.fma(x, y, z)

    def inverse(self, x):  # type: ignore[no-untyped-def]
        return self.builder.fdiv(self.real(1), x)

    def exp(self, x):  # type: ignore[no-untyped-def]
        scaled = self.fmul(x, self.real(LOG2_E))
        # results below the normal numbers are 0: a quarter of the instructions
        text = "ex2.approx.ftz.f32 $0, $1;"
        return asm(self.builder, F32, [scaled], text, "=f,f", False)

    def shuffle(self, x, mask):  # type: ignore[no-untyped-def]
        """What the lane has whose number differs in the bits of `mask`."""
        text = f"shfl.sync.bfly.b32 $0, $1, {mask}, 31, 0xffffffff;"
        how = "=f,f" if x.type == F32 else "=r,r"
        return asm(self.builder, x.type, [x], text, how, True)

    def slot(self, data, at, more=0):  # type: ignore[no-untyped-def]
        if more:
            at = self.iadd(at, more)
        return self.builder.gep(data, [at])

    def get(self, tile, index):  # type: ignore[no-untyped-def]
        """An element of a lane's own tile."""
        return self.builder.load(self.slot(tile, ir.Constant(I32, index)))

    def set(self, tile, index, value):  # type: ignore[no-untyped-def]
        self.builder.store(value, self.slot(tile, ir.Constant(I32, index)))

    def load(self, array, at, more=0):  # type: ignore[no-untyped-def]
        return self.builder.load(self.slot(array, at, more))

    load_shared = load

    def store(self, array, at, more, value):  # type: ignore[no-untyped-def]
        self.builder.store(value, self.slot(array, at, more))

    def fetch(self, array, at, inside):  # type: ignore[no-untyped-def]
        """An element of global memory as a register, 0 where it is not inside."""
        half = self.kind != "tf32"
        pointer = self.builder.ptrtoint(self.slot(array, at), I64)
        chosen = self.builder.zext(inside, I32)
        text = (
            "{ .reg .pred p; .reg .b16 h; setp.ne.s32 p, $2, 0; mov.b16 h, 0; "
            "@p ld.global.b16 h, [$1]; cvt.u32.u16 $0, h; }"
            if half
            else "{ .reg .pred p; setp.ne.s32 p, $2, 0; mov.b32 $0, 0; "
            "@p ld.global.b32 $0, [$1]; }"
        )
        return asm(self.builder, I32, [pointer, chosen], text, "=&r,l,r", True)

    def store_vector(self, array, at, values):  # type: ignore[no-untyped-def]
        """Write registers to global memory, together, aligned."""
        kind = ir.VectorType(values[0].type, len(values))
        vector = ir.Constant(kind, ir.Undefined)
        for i, value in enumerate(values):
            place = ir.Constant(I32, i)
            vector = self.builder.insert_element(vector, value, place)
        pointer = self.builder.bitcast(self.slot(array, at), kind.as_pointer())
        self.builder.store(vector, pointer, align=4 * len(values))

    def join(self, low, high):  # type: ignore[no-untyped-def]
        """Two halves, one register."""
        return self.builder.or_(low, self.builder.shl(high, self.number(high, 16)))

    def pack(self, low, high):  # type: ignore[no-untyped-def]
        """Two floats, rounded to halves."""
        name = "bf16x2" if self.kind == "bfloat16" else "f16x2"
        text = f"cvt.rn.{name}.f32 $0, $1, $2;"
        return asm(self.builder, I32, [high, low], text, "=r,f,f", False)

    def halves(self, packed):  # type: ignore[no-untyped-def]
        """The floats of two float16 in a register."""
        pair = self.builder.bitcast(packed, ir.VectorType(ir.HalfType(), 2))
        each = [self.builder.extract_element(pair, ir.Constant(I32, i)) for i in (0, 1)]
        return [self.builder.fpext(half, F32) for half in each]

    def rounded(self, x):  # type: ignore[no-untyped-def]
        """The bits of a float32, or itself, rounded to TF32."""
        if x.type == F32:
            x = self.builder.bitcast(x, I32)
        text = "cvt.rna.tf32.f32 $0, $1;"
        return asm(self.builder, I32, [x], text, "=r,r", False)

    def matrices(self, shared, at, more, transposed):  # type: ignore[no-untyped-def]
        """Four matrices of 8 rows of 16 bytes; lane i gives where row i begins."""
        item = shared.type.pointee.width // 8 if shared.type.pointee != F32 else 4
        address = shared_address(self.builder, shared)
        offset = self.imul(at, item)
        address = self.builder.add(address, offset)
        shape = ".trans" if transposed else ""
        text = (
            f"ldmatrix.sync.aligned.m8n8.x4{shape}.shared.b16 {{$0,$1,$2,$3}}, "
            f"[$4+{more * item}];"
        )
        four = ir.LiteralStructType([I32] * 4)
        found = asm(
            self.builder, four, [address], text, "=r,=r,=r,=r,r,~{memory}", True
        )
        return [self.builder.extract_value(found, i) for i in range(4)]

    def mma(self, a, b, c):  # type: ignore[no-untyped-def]
        """C + a b of matrices 16 x k, k x 8, with k of 32 bytes."""
        form = {
            "float16": "m16n8k16.row.col.f32.f16.f16.f32",
            "bfloat16": "m16n8k16.row.col.f32.bf16.bf16.f32",
            "tf32": "m16n8k8.row.col.f32.tf32.tf32.f32",
        }[self.kind]
        text = (
            f"mma.sync.aligned.{form} {{$0,$1,$2,$3}}, {{$4,$5,$6,$7}}, {{$8,$9}}, "
            "{$10,$11,$12,$13};"
        )
        four = ir.LiteralStructType([F32] * 4)
        how = "=f,=f,=f,=f,r,r,r,r,r,r,f,f,f,f"
        found = asm(self.builder, four, [*a, *b, *c], text, how, False)
        return [self.builder.extract_value(found, i) for i in range(4)]


def _intrinsic(kinds: str, kind: str, emit: Any) -> Any:
    numbers = {"i": types.int32, "l": types.int64, "r": types.float32}

    def typed(given):  # type: ignore[no-untyped-def]
        passed = [
            numbers.get(letter, has) for letter, has in zip(kinds, given, strict=True)
        ]

        def generate(context, builder, sig, args):  # type: ignore[no-untyped-def]
            values = [
                context.make_array(has)(context, builder, value).data
                if letter in "at" else value
                for letter, has, value in zip(kinds, sig.args, args, strict=True)
            ]  # fmt: skip
            emit(Code(context, builder, kind), *values)
            return context.get_dummy_value()

        return types.void(*passed), generate

    # the compiler goes by the number of parameters
    names = ", ".join(f"x{i}" for i in range(len(kinds)))
    scope = {"typed": typed}
    exec(f"def operation(typingctx, {names}):\n    return typed(({names},))", scope)
    return intrinsic(scope["operation"])


def operation(kinds: str, kind: str, emit: Any) -> Any:
    """A function for kernels: ``emit(code, ...)`` of arrays, indices and reals.

    A letter a parameter: t a lane's own tile, a an array, i an index of 32 bits, l one
    of 64, r a float32. All lanes of a warp have to call it.
    """
    make = twins.operation if device.simulated else _intrinsic
    return make(kinds, kind, emit)
