"""LLVM code of vector arithmetic, for one element type and one width."""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba.core import cgutils

from .levels import Simd

I32, I64 = ir.IntType(32), ir.IntType(64)

# exp2 on [-1/2, 1/2]: interpolation of (2**r - 1)/r in Chebyshev nodes (40 digits,
# then rounded); relative error 5.1e-9 (0.09 u) in float32, 1.2e-19 in float64.
EXP2_COEFFICIENTS = {
    "float32": (
        0.693147188026228781,
        0.240226507605681269,
        0.0555035711421907782,
        0.00961808255727785149,
        0.00133908633646712344,
        0.000154531629451206902,
    ),
    "float64": (
        0.693147180559945309,
        0.240226506959100712,
        0.055504108664821627,
        0.00961812910762847949,
        0.00133335581464064707,
        0.000154035303933707334,
        0.0000152527338415567726,
        1.32154868087055628e-6,
        1.01780570877339411e-7,
        7.05489730415549928e-9,
        4.45581790833606449e-10,
        2.57293241773623042e-11,
    ),
}


class Emitter:
    """Writes vector instructions for one element type and one width.

    Every method takes the LLVM builder first. No fast-math flag is ever attached:
    the order of operations is the one written here, NaN and inf survive.
    """

    def __init__(self, dtype: str, level: Simd):
        self.dtype, self.fused = dtype, level.fma
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
        name = f"llvm.fma.{self.suffix}"
        return builder.call(
            self.function(builder, name, self.vector, [self.vector] * 3), [x, y, z]
        )

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
        """X = n + r, |r| <= 1/2: returns r and 2**n (x within the exponent range).

        Adding 1.5 * 2**mantissa rounds to an integer and leaves it in the low
        bits, so that no conversion (undefined for NaN) is needed.
        """
        magic = self.constant(1.5 * 2.0**self.mantissa)
        shifted = builder.fadd(x, magic)
        remainder = builder.fsub(x, builder.fsub(shifted, magic))
        bits = builder.bitcast(shifted, self.integers)
        shift = ir.Constant(self.integers, [self.mantissa] * self.lanes)
        one = ir.Constant(self.integers, [self.bias << self.mantissa] * self.lanes)
        power = builder.add(builder.shl(bits, shift), one)
        return remainder, builder.bitcast(power, self.vector)

    def _exp2_minus_1_fraction(self, builder, r):
        """2**r - 1 for |r| <= 1/2, accurate also near 0."""
        *lower, highest = EXP2_COEFFICIENTS[self.dtype]
        p = self.constant(highest)
        for coefficient in reversed(lower):
            p = self.fma(builder, p, r, self.constant(coefficient))
        return builder.fmul(p, r)

    def exp2(self, builder, x):
        """2**x for x <= 0 or moderate x; 0 below the normal range, NaN stays NaN.

        About 1 unit roundoff off; 0.15 ns an element where math.exp takes 2 to 4.
        """
        lowest = self.constant(1.0 - self.bias)
        underflow = builder.fcmp_ordered("<", x, lowest)
        r, power = self._split_exponent(builder, self.at_least(builder, x, lowest))
        fraction = self._exp2_minus_1_fraction(builder, r)
        result = self.fma(builder, power, fraction, power)
        return builder.select(underflow, self.constant(0.0), result)

    def tanh(self, builder, x):
        """Tanh by e = expm1(2 |x|): e / (e + 2), a few units off also near 0."""
        absolute = self.function(
            builder, f"llvm.fabs.{self.suffix}", self.vector, [self.vector]
        )
        sign = self.function(
            builder, f"llvm.copysign.{self.suffix}", self.vector, [self.vector] * 2
        )
        large = self.constant(20.0)  # tanh is 1 to the last bit beyond
        size = builder.call(absolute, [x])
        size = builder.select(builder.fcmp_ordered(">", size, large), large, size)
        exponent = builder.fmul(size, self.constant(2.0 / np.log(2.0)))
        r, power = self._split_exponent(builder, exponent)
        fraction = self._exp2_minus_1_fraction(builder, r)
        whole = builder.fsub(power, self.constant(1.0))
        expm1 = self.fma(builder, power, fraction, whole)
        ratio = builder.fdiv(expm1, builder.fadd(expm1, self.constant(2.0)))
        return builder.call(sign, [ratio, x])


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
