"""What `math`, `numpy` and builtins mean inside a user's function.

The modules are replaced by namespaces: functions that `mathematics` has become vector
code there, the others call what Numba has for them, number by number. A score among the
arguments makes the result a score's number; others are int64 and float64.
"""

from __future__ import annotations

import builtins
import math
import operator
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import lower_builtin

from .levels import chosen
from .mathematics import Mathematics
from .reals import Real, common, convert, is_number
from .simd import namespace

MOST_MULTIPLIED = 8  # a power is a product up to it
Rule = Callable[..., Any]
"""From the types of the arguments to a signature, or None."""


def _named(name: str, rule: Rule, lower: Callable[..., Any]) -> Any:
    """Make a function for Numba: `rule` types it, `lower` writes its code."""

    def function(*arguments: Any) -> Any:
        raise NotImplementedError(f"{name} is for compiled functions")

    function.__name__ = function.__qualname__ = name

    class Template(AbstractTemplate):  # type: ignore[misc]
        key = function

        def generic(self, args: Any, kws: Any) -> Any:
            if kws or not all(map(is_number, args)):
                return None
            return rule(*map(types.unliteral, args))

    infer_global(function, types.Function(Template))
    lower_builtin(function, types.VarArg(types.Any))(lower)
    return function


def _floats(count: int, result: Any = None) -> Rule:
    """A function of so many floats."""

    def rule(*args: Any) -> Any:
        kind = common(*args) or types.float64
        return signature(result or kind, *args[:0], *(kind,) * count) if (
            len(args) == count
        ) else None  # fmt: skip

    return rule


def _alike(least: int, most: int) -> Rule:
    """A function of numbers that leaves ints ints."""

    def rule(*args: Any) -> Any:
        if not least <= len(args) <= most:
            return None
        kind = common(*args)
        if kind is None:
            floats = any(isinstance(x, types.Float) for x in args)
            kind = types.float64 if floats else types.int64
        return signature(kind, *(kind,) * len(args))

    return rule


def _number(kind: Any) -> Any:
    return kind.number if isinstance(kind, Real) else kind


@cache
def _mathematics(number: Any) -> Mathematics:
    return Mathematics(str(number), chosen().fma)


def _fast(name: str, original: Any) -> Callable[..., Any]:
    """By vectorisable code where there is any, else as Numba has it."""

    def lower(context, builder, sig, values):  # type: ignore[no-untyped-def]
        number = _number(sig.args[0])
        if (name, number) == ("pow", types.float64):  # 4 units would take a longer log
            return _original(original)(context, builder, sig, values)
        return getattr(_mathematics(number), name)(builder, *values)

    return lower


def _original(function: Any) -> Callable[..., Any]:
    def lower(context, builder, sig, values):  # type: ignore[no-untyped-def]
        numbers = [_number(kind) for kind in sig.args]
        typed = context.typing_context.resolve_value_type(function)
        found = typed.get_call_type(context.typing_context, numbers, {})
        call = context.get_function(function, found)
        passed = [
            context.cast(builder, value, own, wanted)
            for value, own, wanted in zip(values, numbers, found.args, strict=True)
        ]
        result = call(builder, passed)
        return convert(context, builder, result, found.return_type, sig.return_type)

    return lower


def _select(word: str) -> Callable[..., Any]:
    """The first of the arguments, or a later one that is above (below) it."""

    def lower(context, builder, sig, values):  # type: ignore[no-untyped-def]
        found, *others = values
        for value in others:
            if isinstance(sig.return_type, types.Integer):
                better = builder.icmp_signed(word, value, found)
            else:
                better = builder.fcmp_ordered(word, value, found)
            found = builder.select(better, value, found)
        return found

    return lower


def _either(word: str) -> Callable[..., Any]:
    """As NumPy's maximum and minimum: NaN wins."""
    select = _select(word)

    def lower(context, builder, sig, values):  # type: ignore[no-untyped-def]
        found = select(context, builder, sig, values)
        if not isinstance(sig.return_type, types.Integer):
            for value in values:
                odd = builder.fcmp_unordered("uno", value, value)
                found = builder.select(odd, value, found)
        return found

    return lower


def _absolute(context, builder, sig, values):  # type: ignore[no-untyped-def]
    (x,) = values
    if isinstance(sig.return_type, types.Integer):
        below = builder.icmp_signed("<", x, ir.Constant(x.type, 0))
        return builder.select(below, builder.neg(x), x)
    return _mathematics(_number(sig.return_type)).fabs(builder, x)


def _square(context, builder, sig, values):  # type: ignore[no-untyped-def]
    (x,) = values
    if isinstance(sig.return_type, types.Integer):
        return builder.mul(x, x)
    return builder.fmul(x, x)


def _sign(context, builder, sig, values):  # type: ignore[no-untyped-def]
    (x,) = values
    zero, one = ir.Constant(x.type, 0), ir.Constant(x.type, 1)
    minus = ir.Constant(x.type, -1)
    if isinstance(sig.return_type, types.Integer):
        above, below = (
            builder.icmp_signed(">", x, zero),
            builder.icmp_signed("<", x, zero),
        )
        return builder.select(above, one, builder.select(below, minus, zero))
    above, below = (
        builder.fcmp_ordered(">", x, zero),
        builder.fcmp_ordered("<", x, zero),
    )
    return builder.select(above, one, builder.select(below, minus, x))


def _where_rule(*args: Any) -> Any:
    found = _alike(2, 2)(*args[1:])
    return found and signature(found.return_type, types.boolean, *found.args)


def _where(context, builder, sig, values):  # type: ignore[no-untyped-def]
    return builder.select(*values)


def _clip(context, builder, sig, values):  # type: ignore[no-untyped-def]
    x, low, high = values
    sides = signature(sig.return_type, *sig.args[:2])
    x = _either(">")(context, builder, sides, [x, low])
    return _either("<")(context, builder, sides, [x, high])


def _cast_rule(kind: Any) -> Rule:
    """A score stays one where it becomes a float."""

    def rule(*args: Any) -> Any:
        if len(args) != 1:
            return None
        (given,) = args
        if isinstance(given, Real) and isinstance(kind, types.Float):
            return signature(given, given)
        return signature(kind, given)

    return rule


def _single(context, builder, sig, values):  # type: ignore[no-untyped-def]
    """To float32, and a score of float64 back."""
    (given,) = sig.args
    rounded = convert(context, builder, values[0], given, types.float32)
    return convert(context, builder, rounded, types.float32, sig.return_type)


def _cast(context, builder, sig, values):  # type: ignore[no-untyped-def]
    (given,) = sig.args
    if isinstance(_number(given), types.Float) and sig.return_type == types.boolean:
        zero = ir.Constant(values[0].type, 0.0)
        return builder.fcmp_unordered("!=", values[0], zero)
    return convert(context, builder, values[0], given, sig.return_type)


def _rounded(name: str) -> Callable[..., Any]:
    """A rounding that LLVM knows."""

    def lower(context, builder, sig, values):  # type: ignore[no-untyped-def]
        kind = values[0].type
        function = builder.module.declare_intrinsic(f"llvm.{name}", [kind])
        found = builder.call(function, values)
        return convert(context, builder, found, sig.args[0], sig.return_type)

    return lower


def _round_rule(*args: Any) -> Any:
    if len(args) == 1 and isinstance(args[0], types.Integer):
        return signature(types.int64, types.int64)
    return _floats(1, types.int64)(*args)


def _round(context, builder, sig, values):  # type: ignore[no-untyped-def]
    if isinstance(sig.args[0], types.Integer):
        return values[0]
    return _rounded("rint")(context, builder, sig, values)


class _ScorePower(AbstractTemplate):  # type: ignore[misc]
    """``score ** exponent``; of a literal int by multiplications."""

    def generic(self, args: Any, kws: Any) -> Any:
        kind = common(*args) if len(args) == 2 else None
        if kind is None:
            return None
        literal = isinstance(args[1], types.IntegerLiteral)
        if literal and abs(args[1].literal_value) <= MOST_MULTIPLIED:
            return signature(kind, kind, args[1])
        return signature(kind, kind, kind)


def _score_power(context, builder, sig, values):  # type: ignore[no-untyped-def]
    base, _ = values
    if isinstance(sig.args[1], Real):
        return _fast("pow", math.pow)(context, builder, sig, values)
    count = sig.args[1].literal_value
    result: Any = ir.Constant(base.type, 1.0)
    left, power = abs(count), base
    while left:
        if left & 1:
            result = builder.fmul(result, power)
        left >>= 1
        if left:
            power = builder.fmul(power, power)
    return builder.fdiv(ir.Constant(base.type, 1.0), result) if count < 0 else result


for _operator in (operator.pow, operator.ipow):
    infer_global(_operator)(type("Template", (_ScorePower,), {}))
    lower_builtin(_operator, Real, Real)(_score_power)
    lower_builtin(_operator, Real, types.IntegerLiteral)(_score_power)


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


def _log_rule(*args: Any) -> Any:
    return _floats(len(args))(*args) if len(args) in (1, 2) else None


def _log(context, builder, sig, values):  # type: ignore[no-untyped-def]
    """``log(x)``, or ``log(x, base)``."""
    kind = sig.return_type
    one = signature(kind, kind)
    found = [_fast("log", math.log)(context, builder, one, [x]) for x in values]
    return found[0] if len(found) == 1 else builder.fdiv(*found)


def _of_ufunc(name: str, function: np.ufunc) -> Any:
    """A function of numbers, by Numba's code for NumPy's."""
    count = function.nin
    numbers = "d" * count
    if f"{numbers}->?" in function.types:
        rule = _floats(count, types.boolean)
    elif f"{numbers}->d" in function.types:
        rule = _floats(count)
    else:  # of ints, of several results, or unknown to Numba
        return function
    return _named(name, rule, _original(function))


@cache
def modules() -> dict[ModuleType, ModuleType]:
    """The namespaces that stand for `math` and `numpy`."""
    rule, most = _alike, 64
    maths: dict[str, Any] = {
        name: value for name, value in vars(math).items() if name[0] != "_"
    }
    numpy: dict[str, Any] = {
        name: getattr(np, name) for name in ("pi", "e", "inf", "nan")
    }
    for name, count in (_FAST | _SLOW).items():
        original = getattr(math, name, None) or getattr(np, name)
        lower = _fast(name, original) if name in _FAST else _original(original)
        maths[name] = _named(name, _floats(count), lower)
        numpy[_IN_NUMPY.get(name, name)] = maths[name]
    maths["log"] = numpy["log"] = _named("log", _log_rule, _log)
    maths["pow"] = _named("pow", _floats(2), _fast("pow", math.pow))
    numpy["power"] = _named("power", _floats(2), _fast("pow", math.pow))
    for name in _TESTS:
        test = _named(name, _floats(1, types.boolean), _original(getattr(math, name)))
        maths[name] = numpy[name] = test
    for name in _ROUNDINGS:
        lower = _rounded(name)
        maths[name] = _named(name, _floats(1, types.int64), lower)
        numpy[name] = _named(name, _floats(1), lower)
    numpy["rint"] = _named("rint", _floats(1), _rounded("rint"))
    for name, kind in _CASTS.items():
        lower = _single if kind == types.float32 else _cast
        numpy[name] = _named(name, _cast_rule(kind), lower)
    absolute = _named("abs", rule(1, 1), _absolute)
    numpy |= {
        "abs": absolute,
        "absolute": absolute,
        "maximum": _named("maximum", rule(2, 2), _either(">")),
        "minimum": _named("minimum", rule(2, 2), _either("<")),
        "square": _named("square", rule(1, 1), _square),
        "sign": _named("sign", rule(1, 1), _sign),
        "where": _named("where", _where_rule, _where),
        "clip": _named("clip", rule(3, 3), _clip),
    }
    for name, found in vars(np).items():
        if isinstance(found, np.ufunc):
            numpy.setdefault(name, _of_ufunc(name, found))
    plain = {
        "abs": absolute,
        "max": _named("max", rule(2, most), _select(">")),
        "min": _named("min", rule(2, most), _select("<")),
        "float": _named("float", _cast_rule(types.float64), _cast),
        "int": _named("int", _cast_rule(types.int64), _cast),
        "bool": _named("bool", _cast_rule(types.boolean), _cast),
        "round": _named("round", _round_rule, _round),
        "pow": _named("pow", _floats(2), _fast("pow", math.pow)),
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
