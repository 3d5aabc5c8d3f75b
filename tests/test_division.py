"""Division of ints as users' functions have it, through float64, is exact."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pytest

from numbattn.backends.cpu.division import Compiler

EDGES = np.array(
    [0, 1, -1, 2, -2, 3, 7, -7, 2**31, 2**53, 2**53 + 1, -(2**53) - 1, 2**62, -(2**62),
     2**63 - 1, -(2**63) + 1, -(2**63), 10**18]
)  # fmt: skip
COUNT = 100_000


@pytest.fixture(scope="module")
def divide() -> Any:
    @numba.njit(pipeline_class=Compiler)
    def divide(x: Any, y: Any, quotient: Any, rest: Any) -> None:
        for i in range(x.size):
            quotient[i] = x[i] // y[i]
            rest[i] = x[i] % y[i]

    return divide


def pairs(kind: str) -> tuple[Any, Any]:
    rng = np.random.default_rng(11)
    if kind == "edges":
        x, y = (a.ravel() for a in np.meshgrid(EDGES, EDGES))
        fits = ~((x == -(2**63)) & (y == -1))  # its quotient is no int64
        return x[fits], y[fits]
    if kind == "of every size":
        x, y = (
            rng.integers(-(2**63), 2**63 - 1, COUNT) >> rng.integers(0, 64, COUNT)
            for _ in range(2)
        )
        return x, y
    if kind == "small":
        return rng.integers(-(10**6), 10**6, COUNT), rng.integers(-50, 50, COUNT)
    y = rng.integers(1, 2**32, COUNT)
    return rng.integers(-(2**30), 2**30, COUNT) * y + rng.integers(-1, 2, COUNT), y


@pytest.mark.parametrize(
    "kind", ["edges", "of every size", "small", "around multiples"]
)
def test_floor_and_remainder_are_exact(divide: Any, kind: str) -> None:
    x, y = pairs(kind)
    quotient, rest = np.zeros_like(x), np.zeros_like(x)
    divide(x, y, quotient, rest)
    with np.errstate(divide="ignore", over="ignore"):
        np.testing.assert_array_equal(quotient, x // y)
        np.testing.assert_array_equal(rest, x % y)
