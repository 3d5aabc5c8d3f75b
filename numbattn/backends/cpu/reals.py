"""The type of a score inside a user's function: a number that other numbers adapt to.

In Numba float32 times int64, or times a literal, is float64. A score's type follows
NumPy's rule for Python scalars instead: whatever meets a score becomes a score's
number, so that float32 stays float32 and loops over it become vectors of it. Indices
and literals among themselves are int64 and float64, as ever.
"""

from __future__ import annotations

import operator
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import (
    intrinsic,
    lower_builtin,
    lower_cast,
    models,
    register_model,
)


class Real(types.Type):  # type: ignore[misc]
    """A floating number that stays in its dtype."""

    def __init__(self, dtype: str):
        self.dtype, self.number = dtype, getattr(types, dtype)
        super().__init__(name=f"score ({dtype})")

    # No conversion to other floats: Numba would take its own functions for them.
    def unify(self, typingctx: Any, other: Any) -> Any:
        """The type of a variable that is this or `other`, by where the code went."""
        return self if is_number(other) else None


@register_model(Real)
class RealModel(models.PrimitiveModel):  # type: ignore[misc]
    """Held as its float is."""

    def __init__(self, manager: Any, kind: Real):
        single = kind.dtype == "float32"
        super().__init__(manager, kind, ir.FloatType() if single else ir.DoubleType())


def is_number(kind: Any) -> bool:
    """Whether it is a real number of Numba's, or a score's."""
    kind = types.unliteral(kind)
    return isinstance(kind, (types.Integer, types.Float, types.Boolean, Real))


def common(*kinds: Any) -> Real | None:
    """The score's type among numbers; None where there is none, or no number."""
    found = [kind for kind in kinds if isinstance(kind, Real)]
    return found[0] if found and all(map(is_number, kinds)) else None


def convert(context: Any, builder: Any, value: Any, kind: Any, to: Any) -> Any:
    """A number as one of another type; scores are the floats that they are held as."""
    kind, to = (
        x.number if isinstance(x, Real) else types.unliteral(x) for x in (kind, to)
    )
    if isinstance(kind, types.Float) and isinstance(to, types.Integer):
        # of NaN, and beyond the range, LLVM's own conversion may give anything, which
        # could pass the check of an index; this one gives 0, the lowest, the highest
        result = context.get_value_type(to)
        name = f"llvm.fptosi.sat.i{to.bitwidth}.f{kind.bitwidth}"
        function = ir.FunctionType(result, [value.type])
        found = cgutils.get_or_insert_function(builder.module, function, name)
        return builder.call(found, [value])
    return context.cast(builder, value, kind, to)


for _kind in (types.Float, types.Integer, types.Boolean):

    @lower_cast(_kind, Real)
    @lower_cast(Real, _kind)
    def _cast(context, builder, fromty, toty, value):  # type: ignore[no-untyped-def]
        return convert(context, builder, value, fromty, toty)


@intrinsic
def as_score(typingctx, number):  # type: ignore[no-untyped-def]
    """A float as a score."""

    def generate(context, builder, signature, values):  # type: ignore[no-untyped-def]
        return values[0]

    return Real(str(number))(number), generate


@intrinsic
def as_number(typingctx, value, like):  # type: ignore[no-untyped-def]
    """What a user's function returned, as a float of the type of `like`."""

    def generate(context, builder, signature, values):  # type: ignore[no-untyped-def]
        return convert(context, builder, values[0], value, like)

    return like(value, like), generate


def _as_floats(function: Any, count: int, result: Any = None) -> None:
    """Let a function of numbers take scores, by what it does with floats."""

    @infer_global(function)
    class Template(AbstractTemplate):  # type: ignore[misc]
        def generic(self, args: Any, kws: Any) -> Any:
            kind = common(*args) if len(args) == count else None
            return kind and signature(result or kind, *(kind,) * count)

    def lower(context, builder, sig, values):  # type: ignore[no-untyped-def]
        number = sig.args[0].number
        floats = signature(result or number, *(number,) * count)
        return context.get_function(function, floats)(builder, values)

    lower_builtin(function, *(Real,) * count)(lower)


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod"):
    _as_floats(getattr(operator, _name), 2)
    _as_floats(getattr(operator, f"i{_name}"), 2)
for _name in ("lt", "le", "gt", "ge", "eq", "ne"):
    _as_floats(getattr(operator, _name), 2, types.boolean)
for _name in ("neg", "pos"):
    _as_floats(getattr(operator, _name), 1)
for _function in (operator.not_, operator.truth, bool):
    _as_floats(_function, 1, types.boolean)
