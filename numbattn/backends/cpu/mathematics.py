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

from .coefficients import LOG, LOG10_OF_2, LOG_OF_2
from .emitter import Emitter
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

    def _halves(self, builder, shifted):
        """Two factors whose product is 2**n, from ``n + 2 bias`` in the low bits.

        A single factor could not reach the subnormal numbers, nor 2**(bias + 1).
        """
        bits = builder.bitcast(shifted, self.integer)
        magic = np.dtype(self.dtype).type(1.5 * 2.0**self.mantissa)
        start = int(magic.view(f"i{self.itemsize}"))
        whole = builder.sub(bits, self.whole(start))
        first = builder.lshr(whole, self.whole(1))
        for exponent in (first, builder.sub(whole, first)):
            power = builder.shl(exponent, self.whole(self.mantissa))
            yield builder.bitcast(power, self.scalar)

    def _scaled(self, builder, fraction, shifted):
        """``(1 + fraction) 2**n``: inf above the range, subnormal numbers below."""
        first, second = self._halves(builder, shifted)
        value = self.fma(builder, fraction, first, first)
        return builder.fmul(value, second)

    def exp2(self, builder, x):
        """2**x."""
        x = self._within(builder, x, EXP2_RANGE[self.dtype])
        magic = self.constant(1.5 * 2.0**self.mantissa + 2 * self.bias)
        shifted = builder.fadd(x, magic)
        r = builder.fsub(x, builder.fsub(shifted, magic))
        fraction = self._exp2_minus_1_fraction(builder, r)
        return self._scaled(builder, fraction, shifted)

    def exp(self, builder, x):
        """e**x."""
        x = self._within(builder, x, EXP_RANGE[self.dtype])
        r, shifted = self.reduced_exp(builder, x, 2 * self.bias)
        return self._scaled(builder, self.expm1_fraction(builder, r), shifted)

    def expm1(self, builder, x):
        """e**x - 1, accurate also near 0: ``2**n (exp(r) - 1) + (2**n - 1)``."""
        high = EXP_RANGE[self.dtype][1]
        y = self._within(builder, x, (-0.4 * high, high))  # e**-x is 0 beside 1
        r, shifted = self.reduced_exp(builder, y, 2 * self.bias)
        first, second = self._halves(builder, shifted)
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
        bits = builder.bitcast(builder.select(small, scaled, x), self.integer)
        integer = np.dtype(f"i{self.itemsize}")
        one, root, high = (
            int(np.dtype(self.dtype).type(number).view(integer))
            for number in (1.0, 0.5**0.5, 2.0**self.mantissa)
        )
        bits = builder.add(bits, self.whole(one - root))
        # As in musl; the exponent's bits below 2**mantissa make a floating number.
        exponent = builder.lshr(bits, self.whole(self.mantissa))
        k = builder.bitcast(builder.or_(exponent, self.whole(high)), self.scalar)
        zero = 2.0**self.mantissa + self.bias
        start = builder.select(small, self.constant(zero + up), self.constant(zero))
        bits = builder.and_(bits, self.whole((1 << self.mantissa) - 1))
        m = builder.bitcast(builder.add(bits, self.whole(root)), self.scalar)
        return builder.fsub(k, start), builder.fsub(m, self.constant(1.0))

    def _log_fraction(self, builder, f):
        """log(1 + f) - f, as in FDLIBM's e_log.c (Sun 1993): ``s (f²/2 + R) - f²/2``.

        Returned in its two terms, s = f / (2 + f) being that of atanh.
        """
        s = builder.fdiv(f, builder.fadd(f, self.constant(2.0)))
        square = builder.fmul(s, s)
        series = self.polynomial(builder, square, LOG[self.dtype])
        half = builder.fmul(builder.fmul(f, self.constant(0.5)), f)
        return s, self.fma(builder, series, square, half), half

    def _log_1_plus(self, builder, f):
        """log(1 + f)."""
        s, factor, half = self._log_fraction(builder, f)
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
