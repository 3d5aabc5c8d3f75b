"""Print the coefficients of backends/cpu/coefficients.py and their errors.

Each polynomial interpolates its function in Chebyshev nodes, in 60 digits, which is
within a factor of two of the best one. The error printed is that of the function which
the polynomial serves, relative to it, before the coefficients are rounded to the dtype.
"""

from __future__ import annotations

from collections.abc import Callable

import mpmath
from mpmath import mp, mpf

mp.dps = 60
Real = Callable[[mpf], mpf]


def fit(function: Real, low: mpf, high: mpf, count: int) -> list[mpf]:
    """Coefficients, lowest first, of the interpolation in `count` Chebyshev nodes."""
    middle, half = (low + high) / 2, (high - low) / 2
    nodes = [
        middle + half * mpmath.cos(mp.pi * (2 * i + 1) / (2 * count))
        for i in range(count)
    ]
    powers = mpmath.matrix([[x**j for j in range(count)] for x in nodes])
    return list(mpmath.lu_solve(powers, mpmath.matrix([function(x) for x in nodes])))


def root(x: mpf) -> mpf:
    """A square root that divides: never 0."""
    return mpmath.sqrt(x) if x else mpf(10) ** -25


LN2 = mpmath.log(2)
Z_LOG = ((mpmath.sqrt(2) - 1) / (mpmath.sqrt(2) + 1)) ** 2
# name: what is fitted, from where to where, its weight in the result, terms
TABLES: dict[str, tuple[Real, mpf, mpf, Real, tuple[int, int]]] = {
    "EXP2": (
        lambda r: mpmath.expm1(r * LN2) / r,
        mpf(-1) / 2,
        mpf(1) / 2,
        lambda r: r / mpf(2) ** r,
        (6, 12),
    ),
    "EXP": (
        lambda r: (mpmath.expm1(r) - r) / r**2 if abs(r) > 1e-20 else mpf(1) / 2,
        -LN2 / 2,
        LN2 / 2,
        lambda r: r**2 / mpmath.expm1(r) if r else mpf(0),
        (5, 10),
    ),
    "TANH": (
        lambda z: (mpmath.tanh(root(z)) / root(z) - 1) / root(z) ** 2,
        mpf(0),
        mpf(5) ** 2 / 64,
        lambda z: z,
        (5, 11),
    ),
    "LOG": (
        lambda z: (2 * mpmath.atanh(root(z)) / root(z) - 2) / root(z) ** 2,
        mpf(0),
        Z_LOG,
        lambda z: z / 2,
        (3, 7),
    ),
    "SIN": (
        lambda z: (mpmath.sin(root(z)) / root(z) - 1) / root(z) ** 2,
        mpf(0),
        (mp.pi / 4) ** 2,
        lambda z: z * root(z) / mpmath.sin(root(z)),
        (3, 6),
    ),
    "COS": (
        lambda z: (mpmath.cos(root(z)) - 1) / root(z) ** 2,
        mpf(0),
        (mp.pi / 4) ** 2,
        lambda z: z / mpmath.cos(root(z)),
        (4, 7),
    ),
}


def main() -> None:
    """Print every table."""
    for name, (function, low, high, weight, counts) in TABLES.items():
        for dtype, unit, count in zip(
            ("float32", "float64"), (-24, -53), counts, strict=True
        ):
            p = fit(function, low, high, count)
            places = [low + (high - low) * (i + mpf(1) / 3) / 400 for i in range(400)]
            error = max(
                abs(weight(x) * (mpmath.polyval(p[::-1], x) - function(x)))
                for x in places
            )
            units = mpmath.nstr(error / mpf(2) ** unit, 3)
            print(f"{name} {dtype}: {mpmath.nstr(error, 3)} ({units} u)")
            for coefficient in p:
                print(f"    {mpmath.nstr(coefficient, 18)},")


if __name__ == "__main__":
    main()
