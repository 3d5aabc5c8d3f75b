"""How functions of numbers are typed and compiled inside a user's function.

A rule takes the types of the arguments to a signature, or to None where there is none:
a score among them makes the result a score, others are int64 and float64. What writes
the code is ``lower(context, builder, sig, values)``, as Numba calls it.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import lower_builtin

from .levels import chosen
from .mathematics import Mathematics
from .reals import Real, common, convert, is_number

MOST_MULTIPLIED = 8  # a power is a product up to it
Rule = Callable[..., Any]
"""From the types of the arguments to a signature, or None."""


def named(name: str, rule: Rule, lower: Callable[..., Any]) -> Any:
    """Make a function for Numba: `rule` types it, `lower` writes its code."""

    def function(*arguments: Any) -> Any:
        raise NotImplementedError(f"{name} is for compiled functions")

    function.__name__ = function.__qualname__ = name

    class Template(AbstractTemplate):  # type: ignore[misc]
        key = function

        def generic(self, args: Any, kws: Any) -> Any:
            if name == "float" and len(args) == 1 and not kws and is_word(args[0]):
                return signature(types.float64, args[0])
            if kws or not all(map(is_number, args)):
                return None
            return rule(*map(types.unliteral, args))

    infer_global(function, types.Function(Template))
    lower_builtin(function, types.VarArg(types.Any))(lower)
    return function


def is_word(kind: Any) -> bool:
    """Whether it is text that is written out and a number, as in float("inf")."""
    try:
        float(getattr(kind, "literal_value", None) or "")
    except (TypeError, ValueError):
        return False
    return isinstance(kind, types.StringLiteral)


def floats(count: int, result: Any = None) -> Rule:
    """A function of so many floats."""

    def rule(*args: Any) -> Any:
        kind = common(*args) or types.float64
        return signature(result or kind, *args[:0], *(kind,) * count) if (
            len(args) == count
        ) else None  # fmt: skip

    return rule


def alike(least: int, most: int) -> Rule:
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


def number_of(kind: Any) -> Any:
    """The float that a score is."""
    return kind.number if isinstance(kind, Real) else kind


@cache
def mathematics(number: Any) -> Mathematics:
    """The vector code for one float type."""
    return Mathematics(str(number), chosen().fma)


def fast(name: str, original: Any) -> Callable[..., Any]:
    """By vectorisable code where there is any, else as Numba has it."""

    def lower(context, builder, sig, values):  # type: ignore[no-untyped-def]
        number = number_of(sig.args[0])
        if (name, number) == ("pow", types.float64):  # 4 units would take a longer log
            return by_numba(original)(context, builder, sig, values)
        return getattr(mathematics(number), name)(builder, *values)

    return lower


def by_numba(function: Any) -> Callable[..., Any]:
    """As Numba has it, number by number."""

    def lower(context, builder, sig, values):  # type: ignore[no-untyped-def]
        numbers = [number_of(kind) for kind in sig.args]
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


def select(word: str) -> Callable[..., Any]:
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


def either(word: str) -> Callable[..., Any]:
    """As NumPy's maximum and minimum: NaN wins."""
    chosen_by = select(word)

    def lower(context, builder, sig, values):  # type: ignore[no-untyped-def]
        found = chosen_by(context, builder, sig, values)
        if not isinstance(sig.return_type, types.Integer):
            for value in values:
                odd = builder.fcmp_unordered("uno", value, value)
                found = builder.select(odd, value, found)
        return found

    return lower


def absolute(context, builder, sig, values):  # type: ignore[no-untyped-def]
    """The size of a number."""
    (x,) = values
    if isinstance(sig.return_type, types.Integer):
        below = builder.icmp_signed("<", x, ir.Constant(x.type, 0))
        return builder.select(below, builder.neg(x), x)
    return mathematics(number_of(sig.return_type)).fabs(builder, x)


def square(context, builder, sig, values):  # type: ignore[no-untyped-def]
    """Times itself."""
    (x,) = values
    if isinstance(sig.return_type, types.Integer):
        return builder.mul(x, x)
    return builder.fmul(x, x)


def sign(context, builder, sig, values):  # type: ignore[no-untyped-def]
    """-1, 0 or 1; of NaN NaN."""
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


def where_rule(*args: Any) -> Any:
    """A condition and two numbers."""
    found = alike(2, 2)(*args[1:])
    return found and signature(found.return_type, types.boolean, *found.args)


def where(context, builder, sig, values):  # type: ignore[no-untyped-def]
    """The second argument where the first is true, else the third."""
    return builder.select(*values)


def clip(context, builder, sig, values):  # type: ignore[no-untyped-def]
    """Within two bounds; NaN stays."""
    x, low, high = values
    sides = signature(sig.return_type, *sig.args[:2])
    x = either(">")(context, builder, sides, [x, low])
    return either("<")(context, builder, sides, [x, high])


def cast_rule(kind: Any) -> Rule:
    """A score stays one where it becomes a float."""

    def rule(*args: Any) -> Any:
        if len(args) != 1:
            return None
        (given,) = args
        if isinstance(given, Real) and isinstance(kind, types.Float):
            return signature(given, given)
        return signature(kind, given)

    return rule


def float_number(context, builder, sig, values):  # type: ignore[no-untyped-def]
    """A number, or one that is written as text."""
    (given,) = sig.args
    if isinstance(given, types.StringLiteral):
        return ir.Constant(ir.DoubleType(), float(given.literal_value))
    return cast(context, builder, sig, values)


def single(context, builder, sig, values):  # type: ignore[no-untyped-def]
    """To float32, and a score of float64 back."""
    (given,) = sig.args
    rounded = convert(context, builder, values[0], given, types.float32)
    return convert(context, builder, rounded, types.float32, sig.return_type)


def cast(context, builder, sig, values):  # type: ignore[no-untyped-def]
    """Another type; true is what is not 0."""
    (given,) = sig.args
    if isinstance(number_of(given), types.Float) and sig.return_type == types.boolean:
        zero = ir.Constant(values[0].type, 0.0)
        return builder.fcmp_unordered("!=", values[0], zero)
    return convert(context, builder, values[0], given, sig.return_type)


def rounded(name: str) -> Callable[..., Any]:
    """A rounding that LLVM knows."""

    def lower(context, builder, sig, values):  # type: ignore[no-untyped-def]
        kind = values[0].type
        function = builder.module.declare_intrinsic(f"llvm.{name}", [kind])
        found = builder.call(function, values)
        return convert(context, builder, found, sig.args[0], sig.return_type)

    return lower


def round_rule(*args: Any) -> Any:
    """To an int."""
    if len(args) == 1 and isinstance(args[0], types.Integer):
        return signature(types.int64, types.int64)
    return floats(1, types.int64)(*args)


def round_number(context, builder, sig, values):  # type: ignore[no-untyped-def]
    """To the nearest int, halves to even ones."""
    if isinstance(sig.args[0], types.Integer):
        return values[0]
    return rounded("rint")(context, builder, sig, values)


class _ScorePower(AbstractTemplate):  # type: ignore[misc]
    """``score ** exponent``; of a literal int by multiplications."""

    prefer_literal = True

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
        return fast("pow", math.pow)(context, builder, sig, values)
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


def log_rule(*args: Any) -> Any:
    """A number, and maybe a base."""
    return floats(len(args))(*args) if len(args) in (1, 2) else None


def log(context, builder, sig, values):  # type: ignore[no-untyped-def]
    """``log(x)``, or ``log(x, base)``."""
    kind = sig.return_type
    one = signature(kind, kind)
    found = [fast("log", math.log)(context, builder, one, [x]) for x in values]
    return found[0] if len(found) == 1 else builder.fdiv(*found)


def of_ufunc(name: str, function: np.ufunc) -> Any:
    """A function of numbers, by Numba's code for NumPy's."""
    count = function.nin
    numbers = "d" * count
    if f"{numbers}->?" in function.types:
        rule = floats(count, types.boolean)
    elif f"{numbers}->d" in function.types:
        rule = floats(count)
    else:  # of ints, of several results, or unknown to Numba
        return function
    return named(name, rule, by_numba(function))
