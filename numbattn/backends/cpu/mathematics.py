"""Elementary functions on scalars, in LLVM code that the loop vectoriser widens.

Each is a straight line of arithmetic: no call, no branch, no table, no instruction that
one of the vector sets lacks (rounding is by adding 1.5 * 2**mantissa; integers become
floating by their bits). A loop around it, such as that over a tile around a user's
function, then runs on whole vectors. NaN, infinities, zeros and subnormal numbers are
those of C99; docs/numerics.md states the errors.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir

from .coefficients import (
    COS,
    HALF_PI,
    HALF_PI_FUSED,
    LOG,
    LOG10_OF_2,
    LOG_OF_2,
    LOG_OF_POW,
    SIN,
)
from .emitter import I32, I64, Emitter
from .levels import Simd

INFINITY, NAN = float("inf"), float("nan")
LOG2_E = 1 / np.log(2.0)
# Where exp2 and exp certainly overflow, and where they round to 0.
EXP2_RANGE = {"float32": (-151.0, 129.0), "float64": (-1076.0, 1025.0)}
EXP_RANGE = {"float32": (-104.0, 89.0), "float64": (-746.0, 710.0)}


class Mathematics(Emitter):
    """Elementary functions of one scalar type; every method takes the builder first."""

    def __init__(self, dtype: str, fused: bool):
        super().__init__(dtype, Simd("scalar", 0, fused, frozenset()))
        self.vector, self.integers = self.scalar, self.integer
        self.suffix = f"f{8 * self.itemsize}"

    def constant(self, value: float):
        """A number of the dtype."""
        return ir.Constant(self.scalar, float(np.dtype(self.dtype).type(value)))

    def whole(self, value: int):
        """An integer as wide as the dtype."""
        return ir.Constant(self.integer, value)

    def sqrt(self, builder, x):
        """Square root, rounded correctly; NaN below 0."""
        return self.intrinsic(builder, "sqrt", x)

    def fabs(self, builder, x):
        """Absolute value."""
        return self.intrinsic(builder, "fabs", x)

    def _at_most(self, builder, x, bound):
        """min(x, bound) for a constant bound; NaN in x stays."""
        return builder.select(builder.fcmp_ordered(">", x, bound), bound, x)

    def _within(self, builder, x, bounds):
        low, high = (self.constant(bound) for bound in bounds)
        return self._at_most(builder, self.at_least(builder, x, low), high)

    def _low_bits(self, builder, shifted):
        """The integer that stands in the low bits of ``1.5 * 2**mantissa + n``."""
        bits = builder.bitcast(shifted, self.integer)
        magic = np.dtype(self.dtype).type(1.5 * 2.0**self.mantissa)
        start = int(magic.view(f"i{self.itemsize}"))
        return builder.sub(bits, self.whole(start))

    def _halves(self, builder, whole):
        """Two factors whose product is 2**n, from the integer ``n + 2 bias``.

        A single factor could not reach the subnormal numbers, nor 2**(bias + 1).
        """
        first = builder.lshr(whole, self.whole(1))
        for exponent in (first, builder.sub(whole, first)):
            power = builder.shl(exponent, self.whole(self.mantissa))
            yield builder.bitcast(power, self.scalar)

    def _scaled(self, builder, fraction, whole):
        """``(1 + fraction) 2**n``: inf above the range, subnormal numbers below."""
        first, second = self._halves(builder, whole)
        value = self.fma(builder, fraction, first, first)
        return builder.fmul(value, second)

    def exp2(self, builder, x):
        """2**x."""
        x = self._within(builder, x, EXP2_RANGE[self.dtype])
        magic = self.constant(1.5 * 2.0**self.mantissa + 2 * self.bias)
        shifted = builder.fadd(x, magic)
        r = builder.fsub(x, builder.fsub(shifted, magic))
        fraction = self._exp2_minus_1_fraction(builder, r)
        return self._scaled(builder, fraction, self._low_bits(builder, shifted))

    def exp(self, builder, x):
        """e**x."""
        x = self._within(builder, x, EXP_RANGE[self.dtype])
        r, shifted = self.reduced_exp(builder, x, 2 * self.bias)
        whole = self._low_bits(builder, shifted)
        return self._scaled(builder, self.expm1_fraction(builder, r), whole)

    def expm1(self, builder, x):
        """e**x - 1, accurate also near 0: ``2**n (exp(r) - 1) + (2**n - 1)``."""
        high = EXP_RANGE[self.dtype][1]
        y = self._within(builder, x, (-0.4 * high, high))  # e**-x is 0 beside 1
        r, shifted = self.reduced_exp(builder, y, 2 * self.bias)
        first, second = self._halves(builder, self._low_bits(builder, shifted))
        # With half of the power, so that 2**(bias + 1) cannot overflow too early.
        inverse = builder.fdiv(self.constant(1.0), second)
        rest = builder.fsub(first, inverse)
        value = self.fma(builder, first, self.expm1_fraction(builder, r), rest)
        return self._signed_zero(builder, x, builder.fmul(value, second))

    def _signed_zero(self, builder, x, y):
        """Y, and x where x is 0."""
        zero = builder.fcmp_ordered("==", x, self.constant(0.0))
        return builder.select(zero, x, y)

    def _split(self, builder, x):
        """X = 2**k (1 + f), 1/sqrt(2) <= 1 + f < sqrt(2), for 0 < x < inf: k and f."""
        tiny, up = np.finfo(self.dtype).tiny, self.mantissa + 2
        small = builder.fcmp_ordered("<", x, self.constant(tiny))
        scaled = builder.fmul(x, self.constant(2.0**up))
        k, f = self._split_normal(builder, builder.select(small, scaled, x))
        less = builder.select(small, self.constant(up), self.constant(0.0))
        return builder.fsub(k, less), f

    def _split_normal(self, builder, x):
        """The same for x that is not subnormal; done as in musl."""
        integer = np.dtype(f"i{self.itemsize}")
        one, root, high = (
            int(np.dtype(self.dtype).type(number).view(integer))
            for number in (1.0, 0.5**0.5, 2.0**self.mantissa)
        )
        bits = builder.bitcast(x, self.integer)
        bits = builder.add(bits, self.whole(one - root))
        # The exponent's bits below those of 2**mantissa make a floating number.
        exponent = builder.lshr(bits, self.whole(self.mantissa))
        k = builder.bitcast(builder.or_(exponent, self.whole(high)), self.scalar)
        k = builder.fsub(k, self.constant(2.0**self.mantissa + self.bias))
        bits = builder.and_(bits, self.whole((1 << self.mantissa) - 1))
        m = builder.bitcast(builder.add(bits, self.whole(root)), self.scalar)
        return k, builder.fsub(m, self.constant(1.0))

    def _log_fraction(self, builder, f, coefficients=None):
        """log(1 + f) - f, as in FDLIBM's e_log.c (Sun 1993): ``s (f²/2 + R) - f²/2``.

        Returned in its two terms, s = f / (2 + f) being that of atanh.
        """
        s = builder.fdiv(f, builder.fadd(f, self.constant(2.0)))
        square = builder.fmul(s, s)
        series = self.polynomial(builder, square, coefficients or LOG[self.dtype])
        half = builder.fmul(builder.fmul(f, self.constant(0.5)), f)
        return s, self.fma(builder, series, square, half), half

    def _log_1_plus(self, builder, f, coefficients=None):
        """log(1 + f)."""
        s, factor, half = self._log_fraction(builder, f, coefficients)
        rest = self.fma(builder, s, factor, builder.fneg(half))
        return builder.fadd(rest, f)

    def _log_cases(self, builder, x, value):
        """The value, but -inf for 0, inf for inf, NaN for NaN and below 0."""
        zero, top = self.constant(0.0), self.constant(INFINITY)
        at_zero = builder.fcmp_ordered("==", x, zero)
        other = builder.select(at_zero, self.constant(-INFINITY), self.constant(NAN))
        value = builder.select(builder.fcmp_ordered(">", x, zero), value, other)
        return builder.select(builder.fcmp_ordered("==", x, top), top, value)

    def log(self, builder, x):
        """Natural logarithm."""
        k, f = self._split(builder, x)
        s, factor, half = self._log_fraction(builder, f)
        high, low = (self.constant(part) for part in LOG_OF_2[self.dtype])
        value = self.fma(builder, s, factor, builder.fmul(k, low))
        value = builder.fadd(builder.fsub(value, half), f)
        return self._log_cases(builder, x, self.fma(builder, k, high, value))

    def log2(self, builder, x):
        """Logarithm to base 2; exact for powers of 2."""
        k, f = self._split(builder, x)
        log = self._log_1_plus(builder, f)
        value = self.fma(builder, log, self.constant(LOG2_E), k)
        return self._log_cases(builder, x, value)

    def log10(self, builder, x):
        """Logarithm to base 10."""
        k, f = self._split(builder, x)
        high, low = (self.constant(part) for part in LOG10_OF_2[self.dtype])
        low = builder.fmul(k, low)
        log = self._log_1_plus(builder, f)
        value = self.fma(builder, log, self.constant(LOG2_E * np.log10(2.0)), low)
        return self._log_cases(builder, x, self.fma(builder, k, high, value))

    def log1p(self, builder, x):
        """log(1 + x), accurate also near 0: log(u) + c/u, c being lost in u = 1 + x."""
        one = self.constant(1.0)
        u = builder.fadd(x, one)
        large = builder.fcmp_ordered(">", x, one)
        lost_1 = builder.fsub(one, builder.fsub(u, x))
        lost_x = builder.fsub(x, builder.fsub(u, one))
        lost = builder.fdiv(builder.select(large, lost_1, lost_x), u)
        k, f = self._split(builder, u)
        s, factor, half = self._log_fraction(builder, f)
        high, low = (self.constant(part) for part in LOG_OF_2[self.dtype])
        low = self.fma(builder, k, low, lost)
        value = builder.fsub(self.fma(builder, s, factor, low), half)
        value = self.fma(builder, k, high, builder.fadd(value, f))
        value = self._log_cases(builder, u, value)
        return self._signed_zero(builder, x, value)

    def sin(self, builder, x):
        """Sine."""
        r, n = self._quarter(builder, x)
        odd = builder.trunc(n, ir.IntType(1))
        value = builder.select(odd, self._cos(builder, r), self._sin(builder, r))
        sign = builder.and_(builder.bitcast(x, self.integer), self._sign_bit())
        return self._turned(builder, value, n, sign)

    def cos(self, builder, x):
        """Cosine."""
        r, n = self._quarter(builder, x)
        odd = builder.trunc(n, ir.IntType(1))
        value = builder.select(odd, self._sin(builder, r), self._cos(builder, r))
        n = builder.add(n, self.whole(1))
        return self._turned(builder, value, n, self.whole(0))

    def _quarter(self, builder, x):
        """|x| = n pi/2 + r, |r| <= pi/4: r, and n in the low bits of an integer.

        In float64 (Cody and Waite): products of n < 2**20 by the parts are exact, and
        so are the differences that cancel; what the others lose is added in.
        """
        single = self.dtype == "float32"
        wide = Mathematics("float64", self.fused) if single else self
        y = self._at_most(builder, self.fabs(builder, x), self.constant(2.0**50))
        y = builder.fpext(y, wide.scalar) if single else y
        magic = wide.constant(1.5 * 2.0**52)
        shifted = wide.fma(builder, y, wide.constant(2 / np.pi), magic)
        n = builder.fsub(shifted, magic)
        if single:  # what is lost in float64 is nothing in float32
            for part in HALF_PI_FUSED if self.fused else HALF_PI[:3]:
                y = wide.fma(builder, n, wide.constant(-part), y)
            r = builder.fptrunc(y, self.scalar)
            n = builder.trunc(builder.bitcast(shifted, I64), I32)
        else:
            r = self._without_multiple(builder, y, n)
            n = builder.bitcast(shifted, I64)
        r = self._within(builder, r, (-1.0, 1.0))  # where n is too large for all this
        return builder.fadd(r, builder.fsub(x, x)), n  # NaN for infinity

    def _without_multiple(self, builder, y, n):
        """Y - n pi/2, rounded about once."""
        first, second, third, fourth = (self.constant(-part) for part in HALF_PI)
        r = self.fma(builder, n, first, y)
        low = builder.fmul(n, fourth)
        for part in (second, third):
            less = self.fma(builder, n, part, r)
            lost = self.fma(builder, n, part, builder.fsub(r, less))
            r, low = less, builder.fadd(low, lost)
        return builder.fadd(r, low)

    def _sin(self, builder, r):
        square = builder.fmul(r, r)
        p = self.polynomial(builder, square, SIN[self.dtype])
        return self.fma(builder, builder.fmul(square, r), p, r)

    def _cos(self, builder, r):
        square = builder.fmul(r, r)
        p = self.polynomial(builder, square, COS[self.dtype])
        return self.fma(builder, square, p, self.constant(1.0))

    def _sign_bit(self):
        return self.whole(-1 << (8 * self.itemsize - 1))

    def _turned(self, builder, value, n, sign):
        """The value with its sign changed by `sign`, and where n is 2 or 3 modulo 4."""
        half = builder.shl(n, self.whole(8 * self.itemsize - 2))
        half = builder.xor(builder.and_(half, self._sign_bit()), sign)
        bits = builder.xor(builder.bitcast(value, self.integer), half)
        return builder.bitcast(bits, self.scalar)

    def pow(self, builder, x, y):
        """x**y, in float32 alone: 2**(y log2 |x|), the exponent in float64."""
        if self.dtype != "float32":
            raise NotImplementedError("pow in float64: take the C library's")
        wide = Mathematics("float64", self.fused)
        # As exact as inf (beyond it every result is 0, 1 or inf), and an even integer.
        y = self._within(builder, y, (-(2.0**32), 2.0**32))
        power = builder.fpext(y, wide.scalar)
        size = builder.fpext(self.fabs(builder, x), wide.scalar)
        exponent = builder.fmul(power, self._log2_of_pow(builder, wide, size))
        exponent = wide._within(builder, exponent, EXP2_RANGE["float32"])
        magic = wide.constant(1.5 * 2.0**52 + 2 * self.bias)
        shifted = builder.fadd(exponent, magic)
        r = builder.fsub(exponent, builder.fsub(shifted, magic))
        fraction = self._exp2_minus_1_fraction(builder, builder.fptrunc(r, self.scalar))
        whole = builder.trunc(builder.bitcast(shifted, I64), I32)
        value = self._scaled(builder, fraction, whole)
        value = self._pow_sign(builder, wide, x, power, value)
        one, zero = self.constant(1.0), self.constant(0.0)
        at_one = builder.fcmp_ordered("==", x, one)
        at_zero = builder.fcmp_ordered("==", y, zero)
        return builder.select(builder.or_(at_one, at_zero), one, value)

    def _log2_of_pow(self, builder, wide, size):
        """log2 of a float64 that was a float32 >= 0, to 35 bits."""
        k, f = wide._split_normal(builder, size)
        log = wide._log_1_plus(builder, f, LOG_OF_POW)
        value = wide.fma(builder, log, wide.constant(LOG2_E), k)
        finite = builder.fcmp_ordered("<", size, wide.constant(INFINITY))
        value = builder.select(finite, value, size)
        zero = builder.fcmp_ordered("==", size, wide.constant(0.0))
        return builder.select(zero, wide.constant(-INFINITY), value)

    def _pow_sign(self, builder, wide, x, power, value):
        """Minus where x is below 0 and the power is odd; NaN where it is no integer."""
        magic = wide.constant(1.5 * 2.0**52)
        shifted = builder.fadd(power, magic)
        rounded = builder.fsub(shifted, magic)
        integral = builder.fcmp_ordered("==", rounded, power)
        parity = builder.trunc(builder.bitcast(shifted, I64), I32)
        sign = builder.and_(
            builder.shl(parity, self.whole(31)), builder.bitcast(x, I32)
        )
        sign = builder.select(integral, sign, self.whole(0))
        bits = builder.xor(builder.bitcast(value, I32), sign)
        below = builder.fcmp_ordered("<", x, self.constant(0.0))
        finite = builder.fcmp_ordered(">", x, self.constant(-INFINITY))
        real = builder.and_(builder.and_(below, finite), builder.not_(integral))
        value = builder.bitcast(bits, self.scalar)
        return builder.select(real, self.constant(NAN), value)
