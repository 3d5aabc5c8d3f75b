"""Division of ints in users' functions, as vector code.

No processor here divides vectors of ints: LLVM writes one scalar division for every
lane, 20 cycles each, and takes half a second to compile a few of them. So `//` and `%`
become calls, before types are known, of functions that go through float64: 2-D
neighbourhoods (indices by rows and columns) are made of them.
"""

from __future__ import annotations

import operator
from typing import Any

from llvmlite import ir as llvm
from numba import types
from numba.core import ir
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import FunctionPass, register_pass
from numba.core.ir_utils import build_definitions, mk_unique_var
from numba.core.typing.templates import signature
from numba.core.untyped_passes import IRProcessing

from . import rules
from .pointers import I64

_DOUBLE = llvm.DoubleType()


def _rule(*args: Any) -> Any:
    if len(args) != 2:
        return None
    if all(isinstance(x, (types.Integer, types.Boolean)) for x in args):
        return signature(types.int64, types.int64, types.int64)
    return rules.floats(2)(*args)


def _quotient(builder: Any, x: Any, y: Any) -> Any:
    """About x / y, an int."""
    ratio = builder.fdiv(builder.sitofp(x, _DOUBLE), builder.sitofp(y, _DOUBLE))
    name = "llvm.fptosi.sat.i64.f64"
    function = builder.module.globals.get(name)
    if function is None:
        kind = llvm.FunctionType(I64, [_DOUBLE])
        function = llvm.Function(builder.module, kind, name)
    return builder.call(function, [ratio])


def divided(builder: Any, x: Any, y: Any) -> tuple[Any, Any]:
    """Floor of x / y and the remainder, which has y's sign; both 0 where y is 0.

    Exact for all int64: the first quotient is off by up to 2**11 where x has more bits
    than a double, the second, of what is left, by 1.
    """
    zero, one = llvm.Constant(I64, 0), llvm.Constant(I64, 1)
    nothing = builder.icmp_signed("==", y, zero)
    by = builder.select(nothing, one, y)
    quotient, rest = zero, x
    for _ in range(2):
        more = _quotient(builder, rest, by)
        quotient = builder.add(quotient, more)
        rest = builder.sub(rest, builder.mul(more, by))
    below = builder.icmp_signed("<", by, zero)
    reached = builder.select(
        below, builder.icmp_signed("<=", rest, by), builder.icmp_signed(">=", rest, by)
    )
    quotient = builder.add(quotient, builder.zext(reached, I64))
    rest = builder.sub(rest, builder.select(reached, by, zero))
    other_sign = builder.select(
        below,
        builder.icmp_signed(">", rest, zero),
        builder.icmp_signed("<", rest, zero),
    )
    quotient = builder.sub(quotient, builder.zext(other_sign, I64))
    rest = builder.add(rest, builder.select(other_sign, by, zero))
    return (
        builder.select(nothing, zero, quotient),
        builder.select(nothing, zero, rest),
    )


def _lower(function: Any, which: int) -> Any:
    def lower(context, builder, sig, values):  # type: ignore[no-untyped-def]
        if sig.return_type == types.int64:
            return divided(builder, *values)[which]
        return rules.by_numba(function)(context, builder, sig, values)

    return lower


_CALLED = {
    operator.floordiv: rules.named("//", _rule, _lower(operator.floordiv, 0)),
    operator.mod: rules.named("%", _rule, _lower(operator.mod, 1)),
}
_CALLED[operator.ifloordiv] = _CALLED[operator.floordiv]
_CALLED[operator.imod] = _CALLED[operator.mod]


@register_pass(mutates_CFG=False, analysis_only=False)
class _CallDivisions(FunctionPass):  # type: ignore[misc]
    """Put calls in the place of `//` and `%`."""

    _name = "numbattn_call_divisions"

    def __init__(self) -> None:
        FunctionPass.__init__(self)

    def run_pass(self, state: Any) -> bool:
        changed = False
        for block in state.func_ir.blocks.values():
            body = []
            for line in block.body:
                value = getattr(line, "value", None)
                if isinstance(line, ir.Assign) and isinstance(value, ir.Expr):
                    function = _CALLED.get(value._kws.get("fn"))
                    if function is not None:
                        name = ir.Var(block.scope, mk_unique_var("$divide"), line.loc)
                        found = ir.Global(function.__name__, function, line.loc)
                        body.append(ir.Assign(found, name, line.loc))
                        pair = (value.lhs, value.rhs)
                        line.value = ir.Expr.call(name, pair, (), line.loc)
                        changed = True
                body.append(line)
            block.body = body
        if changed:
            state.func_ir._definitions = build_definitions(state.func_ir.blocks)
        return changed


class Compiler(CompilerBase):  # type: ignore[misc]
    """Numba's compiler, with `_CallDivisions`."""

    def define_pipelines(self) -> list[Any]:
        """Return the passes."""
        passes = DefaultPassBuilder.define_nopython_pipeline(self.state)
        passes.add_pass_after(_CallDivisions, IRProcessing)
        passes.finalize()
        return [passes]
