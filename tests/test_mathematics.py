"""Elementary functions in LLVM code: their errors, special cases and vectorisation."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import mpmath
import numpy as np
import pytest
from numba import njit, types
from numba.extending import intrinsic

from numbattn.backends.cpu.levels import target_features
from numbattn.backends.cpu.mathematics import Mathematics

INF, NAN = float("inf"), float("nan")
# Largest error allowed, in units of the last place.
UNITS = {
    "exp": 2, "exp2": 2, "log": 2, "tanh": 2, "sqrt": 0.5, "fabs": 0,
    "sin": 2, "cos": 2, "expm1": 3, "log1p": 2, "log2": 2, "log10": 2,
}  # fmt: skip
LIMIT = 2.0**20  # of sin and cos; in float32 2**48 with fused multiply-add
DTYPES = ("float32", "float64")
HAS_FMA = bool({"fma", "neon"} & target_features())
FUSED = (True, False) if HAS_FMA else (False,)


@cache
def loop_over(name: str, dtype: str, fused: bool) -> Any:
    """A compiled loop that applies one function to arrays: (x, out) or (x, y, out)."""
    emit = getattr(Mathematics(dtype, fused), name)
    scalar = getattr(types, dtype)
    if name == "pow":

        @intrinsic  # type: ignore[untyped-decorator]
        def power(typingctx: Any, x: Any, y: Any) -> Any:
            return scalar(scalar, scalar), lambda c, b, s, values: emit(b, *values)

        @njit(error_model="numpy")  # type: ignore[untyped-decorator]
        def loop_2(x: Any, y: Any, out: Any) -> None:
            for i in range(out.size):
                out[i] = power(x[i], y[i])

        return loop_2

    @intrinsic  # type: ignore[untyped-decorator]
    def function(typingctx: Any, x: Any) -> Any:
        return scalar(scalar), lambda c, b, s, values: emit(b, *values)

    @njit(error_model="numpy")  # type: ignore[untyped-decorator]
    def loop_1(x: Any, out: Any) -> None:
        for i in range(out.size):
            out[i] = function(x[i])

    return loop_1


def evaluate(name: str, *x: Any, fused: bool = HAS_FMA) -> np.ndarray:
    """The function of every element, in the dtype of the arrays."""
    arrays = [np.ascontiguousarray(array) for array in x]
    out = np.empty_like(arrays[0])
    loop_over(name, str(out.dtype), fused)(*arrays, out)
    return out


def units(got: np.ndarray, want: np.ndarray, low: Any = 0.0) -> np.ndarray:
    """Distance in units of the last place of ``want + low``, both float64.

    Beyond the range a result is as far as the next power of 2, which is infinity's
    place; NaN has to be where it is wanted, and nowhere else.
    """
    info = np.finfo(got.dtype)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    keep = ~np.isnan(want) & ~(np.isinf(want) & (got == want))
    got, want = got[keep].astype(np.float64), want[keep]
    low = np.broadcast_to(low, keep.shape)[keep]
    top = np.ldexp(1.0, info.maxexp - 1)  # halved: float64 has no 2**1024
    half = np.clip(got / 2, -top, top) if info.maxexp > 1000 else None
    exponent = np.maximum(np.frexp(want)[1] - 1, info.minexp) - info.nmant
    if half is not None:
        with np.errstate(over="ignore"):
            exponent = np.minimum(exponent, info.maxexp - 1 - info.nmant)
        distance = np.clip(want / 2, -top, top) - half + low / 2
        small = np.abs(want) < 1
        distance = np.where(small, (want - got) + low, 2 * distance)
    else:
        bounds = (-2 * top, 2 * top)
        distance = np.clip(want, *bounds) - np.clip(got, *bounds) + low
        exponent = np.minimum(exponent, info.maxexp - 1 - info.nmant)
    return np.abs(np.ldexp(distance, -exponent))


def floats(step: int) -> np.ndarray:
    """Every `step`-th of all float32 bit patterns, NaN and infinity among them."""
    return np.arange(0, 2**32, step, dtype=np.uint64).astype(np.uint32).view(np.float32)


def around(*points: float, dtype: str = "float32", count: int = 2000) -> np.ndarray:
    """The neighbours of some points, of either sign."""
    kind = np.dtype(f"i{np.dtype(dtype).itemsize}")
    bits = np.abs(np.array(points, dtype)).view(kind)[:, None]
    near = np.maximum(bits + np.arange(-count, count), 0).astype(kind).view(dtype)
    return np.concatenate([near.ravel(), -near.ravel()])


CRITICAL = {
    "float32": (0.0, 1e-38, 0.5**0.5, 1.0, 2**0.5, 0.625, 88.72284, 87.33655, 103.97,
                128.0, 126.0, 149.0, 0.34657, 1.0397, 10.0, 20.0, 3.4e38),
    "float64": (0.0, 2.2e-308, 0.5**0.5, 1.0, 2**0.5, 0.625, 709.7827, 708.396, 745.13,
                1024.0, 1022.0, 1074.0, 0.34657, 1.0397, 20.0, 1.7e308),
}  # fmt: skip


def wanted(name: str, x: np.ndarray) -> np.ndarray:
    """What NumPy gives in float64."""
    function: Callable[[np.ndarray], np.ndarray] = getattr(np, name)
    with np.errstate(all="ignore"):
        return np.asarray(function(x.astype(np.float64)))


def check(name: str, fused: bool, x: np.ndarray) -> None:
    if name in ("sin", "cos"):
        x = x[~(np.abs(x) > (2.0**48 if fused else LIMIT))]
    error = units(evaluate(name, x, fused=fused), wanted(name, x))
    assert error.max() <= UNITS[name]


def check_float32(name: str, fused: bool, step: int) -> None:
    x = np.concatenate([floats(step), around(*CRITICAL["float32"])])
    check(name, fused, x)


@pytest.mark.parametrize("fused", FUSED)
@pytest.mark.parametrize("name", UNITS)
def test_float32_is_as_exact_as_documented(name: str, fused: bool) -> None:
    check_float32(name, fused, 4001)


@pytest.mark.heavy
@pytest.mark.parametrize("fused", FUSED)
@pytest.mark.parametrize("name", UNITS)
def test_float32_is_as_exact_as_documented_densely(name: str, fused: bool) -> None:
    for start in range(0, 97 * 8, 97):  # by eighths, to save memory
        x = np.arange(start, 2**32, 97 * 8, dtype=np.uint64).astype(np.uint32)
        x = x.view(np.float32)
        check(name, fused, x)


def with_mpmath(name: str, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The function in 60 digits, as the sum of two float64."""
    function = {
        "exp2": lambda v: mpmath.mpf(2) ** v,
        "log2": lambda v: mpmath.log(v, 2),
        "log": mpmath.log,
        "log10": mpmath.log10,
        "log1p": lambda v: mpmath.log(1 + v),
    }.get(name) or getattr(mpmath, name)
    high, low = np.empty(x.size), np.empty(x.size)
    with mpmath.workdps(60 if name != "log1p" else 400):
        for i, value in enumerate(x.tolist()):
            exact = function(mpmath.mpf(value))
            high[i] = float(exact)
            low[i] = float(exact - high[i]) if np.isfinite(high[i]) else 0.0
    return high, low


def random_doubles(name: str, count: int) -> np.ndarray:
    """Doubles of all sizes and of the sizes that matter, from the function's domain."""
    rng = np.random.default_rng(20)
    bits = rng.integers(0, 2**64, count, dtype=np.uint64).view(np.float64)
    scaled = rng.normal(size=count) * 10 ** rng.uniform(-3, 3, count)
    near = around(*CRITICAL["float64"], dtype="float64", count=20)
    x = np.concatenate([bits, scaled, rng.uniform(-1.5, 1.5, count), near])
    x = x[np.isfinite(x)]
    if name in ("log", "log2", "log10", "sqrt"):
        return np.abs(x[x != 0])
    if name == "log1p":
        return x[x > -1]
    if name in ("sin", "cos"):
        # Where sine or cosine nearly vanish, and as many doubles between.
        zeros = rng.integers(0, 2**20, count) * (np.pi / 2)
        uniform = rng.uniform(-1, 1, count) * LIMIT
        x = np.concatenate([x, zeros, uniform])
        return x[np.abs(x) <= LIMIT]
    limit = {"exp": 800.0, "exp2": 1100.0, "expm1": 720.0}.get(name, INF)
    return np.clip(x, -limit, limit)


def check_float64(name: str, fused: bool, count: int) -> None:
    x = random_doubles(name, count)
    high, low = with_mpmath(name, x)
    error = units(evaluate(name, x, fused=fused), high, low)
    assert error.max() <= UNITS[name]


@pytest.mark.parametrize("fused", FUSED)
@pytest.mark.parametrize("name", UNITS)
def test_float64_is_as_exact_as_documented(name: str, fused: bool) -> None:
    check_float64(name, fused, 500)


@pytest.mark.heavy
@pytest.mark.parametrize("name", UNITS)
def test_float64_is_as_exact_as_documented_densely(name: str) -> None:
    check_float64(name, HAS_FMA, 50_000)


SPECIAL: dict[str, dict[float, float]] = {
    "exp": {-INF: 0.0, INF: INF, 0.0: 1.0, 1e4: INF, -1e4: 0.0},
    "exp2": {-INF: 0.0, INF: INF, 0.0: 1.0, 3.0: 8.0, -1e4: 0.0, 1e4: INF},
    "expm1": {-INF: -1.0, INF: INF, 0.0: 0.0, 1e4: INF, -1e4: -1.0},
    "log": {0.0: -INF, -1.0: NAN, INF: INF, -INF: NAN, 1.0: 0.0},
    "log2": {0.0: -INF, -1.0: NAN, INF: INF, -INF: NAN, 1.0: 0.0, 2.0**-70: -70.0},
    "log10": {0.0: -INF, -1.0: NAN, INF: INF, -INF: NAN, 1.0: 0.0},
    "log1p": {-1.0: -INF, -2.0: NAN, INF: INF, -INF: NAN, 0.0: 0.0},
    "tanh": {-INF: -1.0, INF: 1.0, 0.0: 0.0, 50.0: 1.0, -50.0: -1.0},
    "sqrt": {0.0: 0.0, -1.0: NAN, INF: INF, -INF: NAN, 4.0: 2.0},
    "sin": {0.0: 0.0, INF: NAN, -INF: NAN},
    "cos": {0.0: 1.0, INF: NAN, -INF: NAN},
    "fabs": {-INF: INF, INF: INF, 0.0: 0.0, -2.0: 2.0},
}
ODD = ("tanh", "expm1", "log1p", "sqrt", "sin")


def assert_identical(got: np.ndarray, want: np.ndarray) -> None:
    """Equal, NaN where NaN, and zeros of one sign."""
    np.testing.assert_array_equal(got, want)
    keep = ~np.isnan(want)
    np.testing.assert_array_equal(np.signbit(got[keep]), np.signbit(want[keep]))


@pytest.mark.parametrize("fused", FUSED)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", UNITS)
def test_special_values_are_those_of_c99(name: str, dtype: str, fused: bool) -> None:
    cases = SPECIAL[name] | {NAN: NAN}
    x, want = (np.array(list(part), dtype) for part in (cases, cases.values()))
    assert_identical(evaluate(name, x, fused=fused), want)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [name for name in UNITS if name in ODD])
def test_minus_zero_stays_minus_zero(name: str, dtype: str) -> None:
    zeros = np.array([-0.0, 0.0], dtype)
    assert_identical(evaluate(name, zeros), zeros)


@pytest.mark.parametrize("fused", FUSED)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["sin", "cos"])
def test_sines_of_any_number_lie_within_1(name: str, dtype: str, fused: bool) -> None:
    if dtype == "float32":
        x = floats(4001)
    else:
        rng = np.random.default_rng(3)
        bits = rng.integers(0, 2**64, 500_000, dtype=np.uint64)
        x = np.append(bits.view(np.float64), np.finfo(np.float64).max)
    got = evaluate(name, x[np.isfinite(x)], fused=fused)
    assert np.abs(got).max() <= 1  # NaN would not be


def pairs(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Bases of all sizes, and powers that mostly give results within the range."""
    rng = np.random.default_rng(5)
    bits = rng.integers(0, 2**32, (2, count), dtype=np.uint64).astype(np.uint32)
    base, power = bits.view(np.float32)
    near = (1 + rng.normal(size=count) * 10 ** rng.uniform(-7, 0, count)).astype("f4")
    x = np.concatenate([base, base, np.abs(base), near, near, -np.abs(near)])
    with np.errstate(all="ignore"):
        scale = rng.uniform(-150, 130, x.size) / np.log2(np.abs(x).astype(np.float64))
        y = scale.astype(np.float32)
    y[:count] = power
    y[-count:] = np.rint(y[-count:])
    y[count : 2 * count] = np.rint(y[count : 2 * count])
    return x, y


@pytest.mark.parametrize("fused", FUSED)
def test_pow_is_within_4_units(fused: bool) -> None:
    x, y = pairs(200_000)
    with np.errstate(all="ignore"):
        want = np.power(x.astype(np.float64), y.astype(np.float64))
    assert np.count_nonzero((want > 1e-37) & (want < 1e38)) > 1e5
    assert units(evaluate("pow", x, y, fused=fused), want).max() <= 4


@pytest.mark.parametrize("fused", FUSED)
def test_pow_has_the_special_cases_of_c99(fused: bool) -> None:
    tiny, top = 1e-45, float(np.finfo(np.float32).max)
    # fmt: off
    sizes = (0.0, tiny, 1e-38, 0.5, 1 - 2.0**-24, 1.0, 1 + 2.0**-23, 1.5, 2.0, 3.0,
             2.0**23 + 1, 2.0**24 - 1, 2.0**24, 2.0**31, 2.0**33, top, INF, NAN)
    # fmt: on
    values = np.array([*sizes, *(-size for size in sizes)], np.float32)
    x, y = (grid.ravel() for grid in np.meshgrid(values, values))
    with np.errstate(all="ignore"):
        want = np.power(x.astype(np.float64), y.astype(np.float64)).astype(np.float32)
    got = evaluate("pow", x, y, fused=fused)
    extreme = ~np.isfinite(want) | (want == 0) | (np.abs(want) == 1)
    assert_identical(got[extreme], want[extreme])
    np.testing.assert_allclose(got[~extreme], want[~extreme], rtol=4e-7, atol=3e-45)
    np.testing.assert_array_equal(np.signbit(got[~extreme]), want[~extreme] < 0)


def test_pow_of_doubles_is_left_to_the_c_library() -> None:
    with pytest.raises(NotImplementedError, match="float64"):
        Mathematics("float64", HAS_FMA).pow(None, None, None)


VECTORISED = [(name, dtype) for name in UNITS for dtype in DTYPES]
VECTORISED.append(("pow", "float32"))


def assert_vectorised(name: str, dtype: str, fused: bool) -> None:
    """No call in the loop, and packed arithmetic of the dtype."""
    loop = loop_over(name, dtype, fused)
    array = getattr(types, dtype)[::1]
    loop.compile((*[array] * (3 if name == "pow" else 2),))
    (code,) = loop.inspect_asm().values()
    body = code[: code.index(".Lfunc_end0")]
    assert not re.search(r"^\s*call", body, re.MULTILINE), (name, dtype)
    end = "ps" if dtype == "float32" else "pd"
    arithmetic = (
        r"v?p?and\w*" if name == "fabs" else rf"v?(mul|sqrt|div|fn?m\w+\d){end}"
    )
    assert re.search(rf"^\s*{arithmetic}\s", body, re.MULTILINE), (name, dtype)


X86 = pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64"),
    reason="reads the assembly of x86",
)


@X86
@pytest.mark.parametrize(("name", "dtype"), VECTORISED)
def test_a_loop_becomes_vector_code(name: str, dtype: str) -> None:
    assert_vectorised(name, dtype, HAS_FMA)


OTHERS = """
import sys
sys.path.insert(0, sys.argv[1])
import test_mathematics as t
assert t.HAS_FMA == (sys.argv[2] == "haswell")
for name, dtype in t.VECTORISED:
    if name != "sqrt" or t.HAS_FMA:  # LLVM finds SSE2's instruction too slow to pack
        t.assert_vectorised(name, dtype, t.HAS_FMA)
"""


@X86
@pytest.mark.parametrize("processor", ["haswell", "x86-64"])
def test_a_loop_becomes_vector_code_for_older_processors(processor: str) -> None:
    """AVX2 has few 64-bit integer instructions, SSE2 neither rounding nor selection."""
    environment = dict(os.environ, NUMBA_CPU_NAME=processor, NUMBA_CPU_FEATURES="")
    if processor == "haswell":
        environment["NUMBA_CPU_FEATURES"] = "+avx2,+fma"
    place = os.path.dirname(__file__)
    command = [sys.executable, "-c", OTHERS, place, processor]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
