"""What `math`, `numpy` and builtins mean inside a user's function.

The modules are replaced by namespaces: functions that `mathematics` has become vector
code there, the others call what Numba has for them, number by number. A score among the
arguments makes the result a score's number; others are int64 and float64.
"""

from __future__ import annotations

import builtins
import math
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
from numba import types

from . import rules
from .simd import namespace

# by name in math, by name in numpy, where it differs
_FAST = {
    "exp": 1, "exp2": 1, "expm1": 1, "log1p": 1, "log2": 1, "log10": 1, "tanh": 1,
    "sqrt": 1, "sin": 1, "cos": 1, "fabs": 1,
}  # fmt: skip
_SLOW = {
    "acos": 1, "acosh": 1, "asin": 1, "asinh": 1, "atan": 1, "atanh": 1, "atan2": 2,
    "cosh": 1, "erf": 1, "erfc": 1, "fmod": 2, "gamma": 1, "lgamma": 1, "hypot": 2,
    "sinh": 1, "tan": 1, "copysign": 2, "degrees": 1, "radians": 1,
}  # fmt: skip
_IN_NUMPY = {
    "acos": "arccos", "acosh": "arccosh", "asin": "arcsin", "asinh": "arcsinh",
    "atan": "arctan", "atanh": "arctanh", "atan2": "arctan2",
}  # fmt: skip
_TESTS = ("isnan", "isinf", "isfinite")
_ROUNDINGS = ("floor", "ceil", "trunc")
_CASTS = {
    "float16": types.float32, "float32": types.float32, "float64": types.float64,
    "int8": types.int8, "int16": types.int16, "int32": types.int32,
    "int64": types.int64, "bool_": types.boolean,
}  # fmt: skip


@cache
def modules() -> dict[ModuleType, ModuleType]:
    """The namespaces that stand for `math` and `numpy`."""
    rule, most = rules.alike, 64
    maths: dict[str, Any] = {
        name: value for name, value in vars(math).items() if name[0] != "_"
    }
    numpy: dict[str, Any] = {
        name: getattr(np, name) for name in ("pi", "e", "inf", "nan")
    }
    for name, count in (_FAST | _SLOW).items():
        original = getattr(math, name, None) or getattr(np, name)
        lower = (
            rules.fast(name, original) if name in _FAST else rules.by_numba(original)
        )
        maths[name] = rules.named(name, rules.floats(count), lower)
        numpy[_IN_NUMPY.get(name, name)] = maths[name]
    maths["log"] = numpy["log"] = rules.named("log", rules.log_rule, rules.log)
    maths["pow"] = rules.named("pow", rules.floats(2), rules.fast("pow", math.pow))
    numpy["power"] = rules.named("power", rules.floats(2), rules.fast("pow", math.pow))
    for name in _TESTS:
        test = rules.named(
            name, rules.floats(1, types.boolean), rules.by_numba(getattr(math, name))
        )
        maths[name] = numpy[name] = test
    for name in _ROUNDINGS:
        lower = rules.rounded(name)
        maths[name] = rules.named(name, rules.floats(1, types.int64), lower)
        numpy[name] = rules.named(name, rules.floats(1), lower)
    numpy["rint"] = rules.named("rint", rules.floats(1), rules.rounded("rint"))
    for name, kind in _CASTS.items():
        lower = rules.single if kind == types.float32 else rules.cast
        numpy[name] = rules.named(name, rules.cast_rule(kind), lower)
    absolute = rules.named("abs", rule(1, 1), rules.absolute)
    numpy |= {
        "abs": absolute,
        "absolute": absolute,
        "maximum": rules.named("maximum", rule(2, 2), rules.either(">")),
        "minimum": rules.named("minimum", rule(2, 2), rules.either("<")),
        "square": rules.named("square", rule(1, 1), rules.square),
        "sign": rules.named("sign", rule(1, 1), rules.sign),
        "where": rules.named("where", rules.where_rule, rules.where),
        "clip": rules.named("clip", rule(3, 3), rules.clip),
    }
    for name, found in vars(np).items():
        if isinstance(found, np.ufunc):
            numpy.setdefault(name, rules.of_ufunc(name, found))
    plain = {
        "abs": absolute,
        "max": rules.named("max", rule(2, most), rules.select(">")),
        "min": rules.named("min", rule(2, most), rules.select("<")),
        "float": rules.named(
            "float", rules.cast_rule(types.float64), rules.float_number
        ),
        "int": rules.named("int", rules.cast_rule(types.int64), rules.cast),
        "bool": rules.named("bool", rules.cast_rule(types.boolean), rules.cast),
        "round": rules.named("round", rules.round_rule, rules.round_number),
        "pow": rules.named("pow", rules.floats(2), rules.fast("pow", math.pow)),
    }
    return {
        math: namespace(**maths),
        np: namespace(**numpy),
        builtins: namespace(**plain),
    }


@cache
def functions() -> dict[Any, Any]:
    """The same by function: what was taken from a module by its name, and builtins."""
    found: dict[Any, Any] = {}
    for module, names in modules().items():
        for name, value in vars(names).items():
            own = getattr(module, name, None)
            if callable(own) and own is not value:
                found[own] = value
    return found
