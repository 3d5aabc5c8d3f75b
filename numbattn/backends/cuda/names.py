"""What `math`, `numpy` and builtins mean inside a user's function.

The modules are replaced by namespaces. Functions of `math` are libdevice's, the others
are written here in terms of them: once, for GPUs and for the simulator. Types are
Numba's: float32 stays float32 among its own, with an int or a literal it is float64.
"""

from __future__ import annotations

import math
import operator
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np

from . import device
from .device import device_function

if device.simulated:
    from numbattn.functions.places import FUNCTIONS, MODULES

    from .interpreted import rint, to_int

    maths: Any = MODULES[math]
    rounding: Any = np
    _numbers: Any = MODULES[np]
else:
    from .compiled import rint, to_int

    maths = rounding = math
    _numbers, FUNCTIONS = np, {}

# by name in math and in numpy, which has other names for some
_SAME = (
    "acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "copysign", "cos",
    "cosh", "degrees", "erf", "erfc", "exp", "exp2", "expm1", "fabs", "fmod", "gamma",
    "hypot", "isfinite", "isinf", "isnan", "lgamma", "log10", "log1p", "log2",
    "radians", "sin", "sinh", "sqrt", "tan", "tanh",
)  # fmt: skip
_IN_NUMPY = {
    "acos": "arccos", "acosh": "arccosh", "asin": "arcsin", "asinh": "arcsinh",
    "atan": "arctan", "atanh": "arctanh", "atan2": "arctan2",
}  # fmt: skip
_ONLY_MATH = ("erf", "erfc", "gamma", "lgamma")
_OPERATORS = {
    "add": "add", "subtract": "sub", "multiply": "mul", "divide": "truediv",
    "true_divide": "truediv", "floor_divide": "floordiv", "mod": "mod",
    "remainder": "mod", "negative": "neg", "positive": "pos", "greater": "gt",
    "greater_equal": "ge", "less": "lt", "less_equal": "le", "equal": "eq",
    "not_equal": "ne", "bitwise_and": "and_", "bitwise_or": "or_",
    "bitwise_xor": "xor", "invert": "invert", "left_shift": "lshift",
    "right_shift": "rshift",
}  # fmt: skip


@device_function
def log(x, base=None):  # type: ignore[no-untyped-def]
    """The logarithm, natural or to a base."""
    if base is None:
        return maths.log(x)
    return maths.log(x) / maths.log(base)


@device_function
def power(x, y):  # type: ignore[no-untyped-def]
    """A power of floats."""
    return maths.pow(x, y)


@device_function
def floor(x):  # type: ignore[no-untyped-def]
    """The next whole number below, a float."""
    return rounding.floor(x)


@device_function
def ceil(x):  # type: ignore[no-untyped-def]
    """The next whole number above, a float."""
    return rounding.ceil(x)


@device_function
def trunc(x):  # type: ignore[no-untyped-def]
    """The next whole number towards 0, a float."""
    return rounding.trunc(x)


@device_function
def floor_int(x):  # type: ignore[no-untyped-def]
    """The next whole number below, an int."""
    return to_int(floor(x))


@device_function
def ceil_int(x):  # type: ignore[no-untyped-def]
    """The next whole number above, an int."""
    return to_int(ceil(x))


@device_function
def round_int(x):  # type: ignore[no-untyped-def]
    """The nearest whole number, an int."""
    return to_int(rint(x))


@device_function
def higher(x, y):  # type: ignore[no-untyped-def]
    """The first, or the second where it is above."""
    return y if y > x else x


@device_function
def lower(x, y):  # type: ignore[no-untyped-def]
    """The first, or the second where it is below."""
    return y if y < x else x


@device_function
def maximum(x, y):  # type: ignore[no-untyped-def]
    """The higher one; NaN where one is."""
    return x if x >= y or x != x else y


@device_function
def minimum(x, y):  # type: ignore[no-untyped-def]
    """The lower one; NaN where one is."""
    return x if x <= y or x != x else y


@device_function
def fmax(x, y):  # type: ignore[no-untyped-def]
    """The higher one; the other where one is NaN."""
    return x if x >= y or y != y else y


@device_function
def fmin(x, y):  # type: ignore[no-untyped-def]
    """The lower one; the other where one is NaN."""
    return x if x <= y or y != y else y


@device_function
def clip(x, low, high):  # type: ignore[no-untyped-def]
    """Within two bounds; NaN stays."""
    return minimum(maximum(x, low), high)


@device_function
def where(condition, x, y):  # type: ignore[no-untyped-def]
    """The second where the first is true, else the third."""
    return x if condition else y


@device_function
def square(x):  # type: ignore[no-untyped-def]
    """Times itself."""
    return x * x


@device_function
def sign(x):  # type: ignore[no-untyped-def]
    """-1, 0 or 1; NaN of NaN."""
    return 1 if x > 0 else (-1 if x < 0 else x)


@device_function
def reciprocal(x):  # type: ignore[no-untyped-def]
    """One divided by it."""
    return 1 / x


@device_function
def cbrt(x):  # type: ignore[no-untyped-def]
    """The cube root."""
    return maths.copysign(maths.pow(maths.fabs(x), 1 / 3), x)


@device_function
def heaviside(x, at_zero):  # type: ignore[no-untyped-def]
    """0 below 0, 1 above, and the second at it."""
    return at_zero if x == 0 else (x if x != x else (1.0 if x > 0 else 0.0))


@device_function
def logaddexp(x, y):  # type: ignore[no-untyped-def]
    """log(exp(x) + exp(y))."""
    top = maximum(x, y)
    if x == y:  # two infinities, too
        return x + maths.log(2.0)
    return top + maths.log1p(maths.exp(-maths.fabs(x - y)))


@device_function
def logaddexp2(x, y):  # type: ignore[no-untyped-def]
    """log2(2 ** x + 2 ** y)."""
    if x == y:  # two infinities, too
        return x + 1.0
    return maximum(x, y) + maths.log2(1.0 + maths.exp2(-maths.fabs(x - y)))


@device_function
def gcd(x, y):  # type: ignore[no-untyped-def]
    """The greatest common divisor of two ints."""
    x, y = abs(x), abs(y)
    while y != 0:
        x, y = y, x % y
    return x


@device_function
def signbit(x):  # type: ignore[no-untyped-def]
    """Whether it is below 0, or -0.0."""
    return maths.copysign(1.0, x) < 0


@device_function
def logical_and(x, y):  # type: ignore[no-untyped-def]
    """Whether both are true."""
    return x != 0 and y != 0


@device_function
def logical_or(x, y):  # type: ignore[no-untyped-def]
    """Whether one is true."""
    return x != 0 or y != 0


@device_function
def logical_xor(x, y):  # type: ignore[no-untyped-def]
    """Whether one is true, and not both."""
    return (x != 0) != (y != 0)


@device_function
def logical_not(x):  # type: ignore[no-untyped-def]
    """Whether it is 0."""
    return x == 0


def _of_several(choose: Any) -> Any:
    """Python's `min` or `max`: what two give goes on with the third."""

    def function(*values: Any) -> Any:
        found = values[0]
        for each in values[1:]:
            found = choose(found, each)
        return found

    if not device.simulated:

        @device.extending.overload(function)
        def typed(*values):  # type: ignore[no-untyped-def]
            if len(values) == 2:
                return lambda *values: choose(values[0], values[1])
            if len(values) > 2:
                return lambda *values: choose(function(*values[:-1]), values[-1])
            return None

    return function


def _namespace(names: dict[str, Any]) -> ModuleType:
    """A module of these names, which Numba looks up as it compiles."""
    made = ModuleType("namespace")
    vars(made).update(names)
    return made


def _native(value: Any) -> Any:
    """A type or a constant, as the function gets it."""
    return FUNCTIONS.get(value, value)


@cache
def modules() -> dict[ModuleType, ModuleType]:
    """The namespaces that stand for `math` and `numpy`."""
    both = {name: getattr(maths, name) for name in _SAME}
    constants = ("pi", "e", "inf", "nan")
    in_math = {
        **both, "log": log, "pow": power, "floor": floor_int, "ceil": ceil_int,
        "trunc": to_int, "cbrt": cbrt, "gcd": gcd,
        **{name: getattr(maths, name) for name in (*constants, "tau")},
    }  # fmt: skip
    in_numpy = {k: value for k, value in both.items() if k not in _ONLY_MATH}
    in_numpy |= {other: both[name] for name, other in _IN_NUMPY.items()}
    plain = (
        log, power, floor, ceil, trunc, rint, maximum, minimum, fmax, fmin, clip,
        where, square, sign, reciprocal, cbrt, gcd, heaviside, logaddexp, logaddexp2,
        signbit,
        logical_and, logical_or, logical_xor, logical_not,
    )  # fmt: skip
    in_numpy |= {each.__name__: each for each in plain}
    in_numpy |= {name: getattr(operator, own) for name, own in _OPERATORS.items()}
    in_numpy |= {
        "abs": abs, "absolute": abs, "deg2rad": both["radians"],
        "rad2deg": both["degrees"], "float_power": power, "pow": power, "int64": to_int,
        "float16": _native(np.float32),
        **{name: getattr(_numbers, name) for name in constants},
        **{
            name: _native(getattr(np, name))
            for name in ("float32", "float64", "int8", "int16", "int32", "bool_")
        },
    }  # fmt: skip
    return {math: _namespace(in_math), np: _namespace(in_numpy)}


@cache
def functions() -> dict[Any, Any]:
    """The same by function: what was taken from a module by its name, and builtins."""
    found: dict[Any, Any] = {}
    for module, names in modules().items():
        for name, value in vars(names).items():
            own = getattr(module, name, None)
            if callable(own) and own is not value:
                found[own] = value
    return found | {
        max: _of_several(higher), min: _of_several(lower), int: to_int,
        round: round_int, float: _native(float), bool: _native(bool),
    }  # fmt: skip
