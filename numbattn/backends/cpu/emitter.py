"""LLVM code of vector arithmetic, for one element type and one width."""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba.core import cgutils

from .coefficients import EXP, EXP2, EXP2_ABOVE_0, LOG_OF_2, TANH
from .levels import Simd

I32, I64 = ir.IntType(32), ir.IntType(64)

FLOOR_QUIETLY, CURRENT_ROUNDING = 9, 4  # operands of the instructions of AVX-512


class Emitter:
    """Writes vector instructions for one element type and one width.

    Every method takes the LLVM builder first. No fast-math flag is ever attached:
    the order of operations is the one written here, NaN and inf survive.
    """

    def __init__(self, dtype: str, level: Simd):
        self.dtype, self.fused = dtype, level.fma
        self.scales = level.name == "avx512"
        self.itemsize = np.dtype(dtype).itemsize
        self.lanes = max(1, level.width // self.itemsize)
        single = dtype == "float32"
        self.scalar = ir.FloatType() if single else ir.DoubleType()
        self.integer = I32 if single else I64
        self.mantissa, self.bias = (23, 127) if single else (52, 1023)
        self.vector = ir.VectorType(self.scalar, self.lanes)
        self.integers = ir.VectorType(self.integer, self.lanes)
        self.suffix = f"v{self.lanes}f{8 * self.itemsize}"

    def constant(self, value: float):
        """The same number in every lane."""
        value = float(np.dtype(self.dtype).type(value))
        return ir.Constant(self.vector, [value] * self.lanes)

    def whole(self, value: int):
        """The same integer, as wide as an element, in every lane."""
        return ir.Constant(self.integers, [value] * self.lanes)

    def function(self, builder, name, result, arguments):
        """An LLVM intrinsic (llvmlite cannot mangle vector types itself)."""
        kind = ir.FunctionType(result, arguments)
        return cgutils.get_or_insert_function(builder.module, kind, name)

    def splat(self, builder, scalar):
        """A scalar in every lane."""
        empty = ir.Constant(self.vector, ir.Undefined)
        first = builder.insert_element(empty, scalar, ir.Constant(I32, 0))
        zeros = ir.Constant(ir.VectorType(I32, self.lanes), [0] * self.lanes)
        return builder.shuffle_vector(first, empty, zeros)

    def pointer(self, builder, base, offset):
        """Pointer to the vector at an offset in elements."""
        address = builder.gep(base, [offset])
        return builder.bitcast(address, self.vector.as_pointer())

    def load(self, builder, base, offset):
        """A vector from anywhere: no alignment beyond the element's is assumed."""
        return builder.load(self.pointer(builder, base, offset), align=self.itemsize)

    def store(self, builder, value, base, offset):
        """A vector to anywhere."""
        builder.store(value, self.pointer(builder, base, offset), align=self.itemsize)

    def stream(self, builder, value, base, offset):
        """Store past the caches; the address must be a multiple of the vector."""
        where = self.pointer(builder, base, offset)
        store = builder.store(value, where, align=max(1, self.lanes * self.itemsize))
        one = builder.module.add_metadata([ir.Constant(I32, 1)])
        store.set_metadata("nontemporal", one)

    def prefetch(self, builder, base, offset, write=False, level=2):
        """Request the cache line of an element, to write it or read it soon.

        To the cache of that level; outside any array it does no harm: it never faults.
        """
        data = ir.IntType(8).as_pointer()
        request = self.function(
            builder, "llvm.prefetch.p0", ir.VoidType(), [data, I32, I32, I32]
        )
        where = builder.bitcast(builder.gep(base, [offset]), data)
        numbers = (ir.Constant(I32, i) for i in (int(write), 4 - level, 1))
        builder.call(request, [where, *numbers])

    def _lane_numbers(self, builder, number):
        """An int64, cut to 0..lanes, in every lane; and the lanes' numbers."""
        none, lanes = ir.Constant(I64, 0), ir.Constant(I64, self.lanes)
        below = builder.icmp_signed("<", number, lanes)
        number = builder.select(below, number, lanes)
        some = builder.icmp_signed(">", number, none)
        number = builder.trunc(builder.select(some, number, none), I32)
        kind = ir.VectorType(I32, self.lanes)
        empty = ir.Constant(kind, ir.Undefined)
        first = builder.insert_element(empty, number, ir.Constant(I32, 0))
        zeros = ir.Constant(kind, [0] * self.lanes)
        everywhere = builder.shuffle_vector(first, empty, zeros)
        return everywhere, ir.Constant(kind, list(range(self.lanes)))

    def lane_mask(self, builder, count, skip=None):
        """Mask of the lanes below `count`, from lane `skip` on (int64 both)."""
        limits, numbers = self._lane_numbers(builder, count)
        mask = builder.icmp_signed("<", numbers, limits)
        if skip is not None:
            starts, numbers = self._lane_numbers(builder, skip)
            mask = builder.and_(mask, builder.icmp_signed(">=", numbers, starts))
        return mask

    def masked_load(self, builder, base, offset, count, other, skip=None):
        """Load lanes skip..count; the rest is `other` and is not read."""
        where = self.pointer(builder, base, offset)
        mask = self.lane_mask(builder, count, skip)
        load = self.function(
            builder,
            f"llvm.masked.load.{self.suffix}.p0",
            self.vector,
            [where.type, I32, mask.type, self.vector],
        )
        align = ir.Constant(I32, self.itemsize)
        return builder.call(load, [where, align, mask, other])

    def masked_store(self, builder, value, base, offset, count, skip=None):
        """Store lanes skip..count; the memory of the others is not touched."""
        mask = self.lane_mask(builder, count, skip)
        self.store_where(builder, value, base, offset, mask)

    def store_where(self, builder, value, base, offset, mask):
        """Store the lanes of a mask."""
        where = self.pointer(builder, base, offset)
        store = self.function(
            builder,
            f"llvm.masked.store.{self.suffix}.p0",
            ir.VoidType(),
            [self.vector, where.type, I32, mask.type],
        )
        align = ir.Constant(I32, self.itemsize)
        builder.call(store, [value, where, align, mask])

    def fma(self, builder, x, y, z):
        """x*y + z, fused where the target can (else llvm.fma is a library call)."""
        if not self.fused:
            return builder.fadd(builder.fmul(x, y), z)
        return self.intrinsic(builder, "fma", x, y, z)

    def greater(self, builder, x, y):
        """The greater of both; x where y is NaN, y where x is NaN."""
        return builder.select(builder.fcmp_ordered(">", x, y), x, y)

    def at_least(self, builder, x, bound):
        """max(x, bound) for a constant bound; NaN in x stays."""
        low = builder.fcmp_ordered("<", x, bound)
        return builder.select(low, bound, x)

    def _fold(self, builder, x, combine):
        """All lanes into one, by halves: a tree."""
        count = self.lanes
        while count > 1:
            count //= 2
            upper = ir.Constant(
                ir.VectorType(I32, self.lanes),
                [(i + count) % self.lanes for i in range(self.lanes)],
            )
            x = combine(x, builder.shuffle_vector(x, x, upper))
        return builder.extract_element(x, ir.Constant(I32, 0))

    def sum_lanes(self, builder, x):
        """Sum over the lanes."""
        return self._fold(builder, x, builder.fadd)

    def greatest_lane(self, builder, x):
        """The greatest over the lanes, leaving NaN out."""
        return self._fold(builder, x, lambda y, z: self.greater(builder, y, z))

    def _split_exponent(self, builder, x):
        """X = n + r, |r| <= 1/2: returns r and 2**n, which is 0 for the lowest n.

        Adding 1.5 * 2**mantissa rounds to an integer and leaves it in the low
        bits, so that no conversion (undefined for NaN) is needed; with the bias on
        top, they only have to be moved to where the exponent is.
        """
        magic = self.constant(1.5 * 2.0**self.mantissa + self.bias)
        shifted = builder.fadd(x, magic)
        remainder = builder.fsub(x, builder.fsub(shifted, magic))
        return remainder, self._power(builder, shifted)

    def _power(self, builder, shifted):
        """2**n from ``n + bias`` in the low bits."""
        bits = builder.bitcast(shifted, self.integers)
        bits = builder.shl(bits, self.whole(self.mantissa))
        return builder.bitcast(bits, self.vector)

    def polynomial(self, builder, x, coefficients):
        """Horner's rule, lowest power first."""
        *lower, highest = coefficients
        p = self.constant(highest)
        for coefficient in reversed(lower):
            p = self.fma(builder, p, x, self.constant(coefficient))
        return p

    def _exp2_minus_1_fraction(self, builder, r):
        """2**r - 1 for |r| <= 1/2, accurate also near 0."""
        return builder.fmul(self.polynomial(builder, r, EXP2[self.dtype]), r)

    def exp2(self, builder, x):
        """2**x for x <= 0 or moderate x; 0 far below, exactly for -inf; NaN stays NaN.

        At most 2 unit roundoffs off; 0.12 ns an element where math.exp takes 2 to 4.
        """
        if self.scales:
            return self._exp2_scaled(builder, x)
        x = self.at_least(builder, x, self.constant(-self.bias))
        r, power = self._split_exponent(builder, x)
        fraction = self._exp2_minus_1_fraction(builder, r)
        return self.fma(builder, power, fraction, power)

    def _exp2_scaled(self, builder, x):
        """By two instructions of AVX-512: ``x - floor(x)``, ``y 2**floor(x)``.

        They see to underflow, inf and NaN: 0.12 ns an element instead of 0.14.
        """
        kind = "ps" if self.dtype == "float32" else "pd"
        name, lanes = "llvm.x86.avx512.mask", ir.IntType(self.lanes)
        vector = [self.vector]
        reduce = [*vector, I32, *vector, lanes, I32]
        scale = [*vector * 3, lanes, I32]
        every, rounding = ir.Constant(lanes, -1), ir.Constant(I32, CURRENT_ROUNDING)
        r = builder.call(
            self.function(builder, f"{name}.reduce.{kind}.512", self.vector, reduce),
            [x, ir.Constant(I32, FLOOR_QUIETLY), x, every, rounding],
        )
        p = self.polynomial(builder, r, (1.0, *EXP2_ABOVE_0[self.dtype]))
        return builder.call(
            self.function(builder, f"{name}.scalef.{kind}.512", self.vector, scale),
            [p, x, p, every, rounding],
        )

    def intrinsic(self, builder, name, *values):
        """An LLVM intrinsic of which every operand and the result are `vector`."""
        name = f"llvm.{name}.{self.suffix}"
        kinds = [self.vector] * len(values)
        return builder.call(self.function(builder, name, self.vector, kinds), values)

    def reduced_exp(self, builder, x, offset):
        """X = n log(2) + r, |r| <= log(2)/2: returns r and ``n + offset`` in low bits.

        log(2) in two parts (Cody and Waite), of which n times the first is exact.
        """
        magic = self.constant(1.5 * 2.0**self.mantissa + offset)
        high, low = LOG_OF_2[self.dtype]
        shifted = self.fma(builder, x, self.constant(1.0 / np.log(2.0)), magic)
        n = builder.fsub(shifted, magic)
        r = self.fma(builder, n, self.constant(-high), x)
        return self.fma(builder, n, self.constant(-low), r), shifted

    def expm1_fraction(self, builder, r):
        """exp(r) - 1 for |r| <= log(2)/2, accurate also near 0."""
        q = self.polynomial(builder, r, EXP[self.dtype])
        return self.fma(builder, builder.fmul(r, r), q, r)

    def tanh(self, builder, x):
        """1 - 2/(exp(2 |x|) + 1), below 5/8 a polynomial; at most 2 units off."""
        size = self.intrinsic(builder, "fabs", x)
        large = self.constant(20.0)  # tanh is 1 to the last bit beyond
        twice = builder.select(builder.fcmp_ordered(">", size, large), large, size)
        twice = builder.fadd(twice, twice)
        r, shifted = self.reduced_exp(builder, twice, self.bias)
        power = self._power(builder, shifted)
        exp = self.fma(builder, power, self.expm1_fraction(builder, r), power)
        one, two = self.constant(1.0), self.constant(2.0)
        above = builder.fsub(one, builder.fdiv(two, builder.fadd(exp, one)))
        square = builder.fmul(size, size)
        p = builder.fmul(self.polynomial(builder, square, TANH[self.dtype]), square)
        near = builder.fcmp_ordered("<", size, self.constant(0.625))
        size = builder.select(near, self.fma(builder, p, size, size), above)
        return self.intrinsic(builder, "copysign", size, x)


def integer(value: int):
    """An int64 constant."""
    return ir.Constant(I64, value)


def lesser(builder, x, y):
    """The smaller of two signed integers."""
    return builder.select(builder.icmp_signed("<", x, y), x, y)


def exchange(lanes: int, step: int) -> tuple[list[int], list[int]]:
    """Shuffles of a pair (a, b) that swap the off-diagonal blocks of `step` lanes."""
    low = [i if not i & step else lanes + i - step for i in range(lanes)]
    high = [i + step if not i & step else lanes + i for i in range(lanes)]
    return low, high


def shuffle(builder, a, b, lanes: list[int]):
    """The named lanes of a pair of vectors."""
    mask = ir.Constant(ir.VectorType(I32, len(lanes)), lanes)
    return builder.shuffle_vector(a, b, mask)


def transposed(builder, x: list) -> list:
    """The transpose of a square of vectors, by shuffles."""
    lanes, step = len(x), 1
    x = list(x)
    while step < lanes:
        low, high = exchange(lanes, step)
        for i in range(lanes):
            if not i & step:
                a, b = x[i], x[i + step]
                x[i] = shuffle(builder, a, b, low)
                x[i + step] = shuffle(builder, a, b, high)
        step *= 2
    return x
