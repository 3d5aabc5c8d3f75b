"""Users' functions within kernels: arrays that they read, and the call of one.

Inside a user's function an array argument is an `Argument`: of any rank, ints read as
int64, floats as numbers of one type, bools as bools; negative indices count from the
end. An index outside is noted in `status`, and element 0 read in its place.
`interpreted` does the same for the simulator.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

from llvmlite import ir

from numbattn.functions.complaints import OUTSIDE

from .arguments import Kind
from .device import cgutils, extending, intrinsic, templates, types

I64 = ir.IntType(64)
_ZERO = ir.Constant(I64, 0)
FAILED = 2
"""Status of a call in which compiled code ended in an exception: a tuple's index."""


class Argument(types.Type):  # type: ignore[misc]
    """A C-contiguous array of a user's function."""

    def __init__(self, kind: Kind, real: Any, checked: bool, ndim: int):
        self.kind, self.real, self.checked, self.ndim = kind, real, checked, ndim
        self.element = getattr(types, kind.dtype)
        self.result: Any = types.int64
        if kind.is_bool:
            self.result = types.boolean
        elif isinstance(self.element, types.Float):
            self.result = real
        words = "bool" if kind.is_bool else kind.dtype
        super().__init__(
            name=f"argument array of {ndim} axes, {words}, for {real}, {checked}"
        )

    def part(self, count: int) -> Any:
        """What so many indices give: an element, or an array of the other axes."""
        if count == self.ndim:
            return self.result
        return Argument(self.kind, self.real, self.checked, self.ndim - count)


@extending.register_model(Argument)
class ArgumentModel(extending.models.StructModel):  # type: ignore[misc]
    """All elements and how many they are; where it begins; its shape; the status."""

    def __init__(self, manager: Any, kind: Argument):
        members = [
            ("data", types.CPointer(kind.element)),
            ("count", types.int64),
            ("first", types.int64),
            ("shape", types.UniTuple(types.int64, kind.ndim)),
            ("status", types.CPointer(types.int64)),
        ]
        super().__init__(manager, kind, members)


def _indices(index: Any) -> list[Any] | None:
    """The types of an index, one for each axis; None where it is no index."""
    parts = list(index) if isinstance(index, types.BaseTuple) else [index]
    parts = [types.unliteral(part) for part in parts]
    fine = all(isinstance(part, (types.Integer, types.Boolean)) for part in parts)
    return parts if fine and parts else None


@templates.infer_global(operator.getitem)
class _GetItem(templates.AbstractTemplate):  # type: ignore[misc]
    def generic(self, args: Any, kws: Any) -> Any:
        if len(args) != 2 or not isinstance(args[0], Argument):
            return None
        parts = _indices(args[1])
        if parts is None or len(parts) > args[0].ndim:
            return None
        return templates.signature(args[0].part(len(parts)), args[0], args[1])


def _note(builder: Any, status: Any, where: Any, word: int) -> None:
    """Write into `status` where a condition holds."""
    with builder.if_then(where, likely=False):
        builder.store(ir.Constant(I64, word), status)


def _loaded(context: Any, builder: Any, kind: Argument, array: Any, place: Any) -> Any:
    """An element, as the user's function reads it."""
    if kind.checked:  # of an array without elements there is one all the same
        inside = builder.icmp_unsigned("<", place, array.count)
        place = builder.select(inside, place, _ZERO)
    element = builder.load(builder.gep(array.data, [place]))
    if kind.kind.is_bool:
        return builder.icmp_unsigned("!=", element, ir.Constant(element.type, 0))
    return context.cast(builder, element, kind.element, kind.result)


@extending.lower_builtin(operator.getitem, Argument, types.Any)
def _getitem(context: Any, builder: Any, sig: Any, values: Any) -> Any:
    kind, index_type = sig.args
    array = cgutils.create_struct_proxy(kind)(context, builder, value=values[0])
    parts = [values[1]]
    if isinstance(index_type, types.BaseTuple):
        parts = cgutils.unpack_tuple(builder, values[1])
    sizes = cgutils.unpack_tuple(builder, array.shape)
    place: Any = _ZERO
    for axis, size in enumerate(sizes):
        place = builder.mul(place, size)
        if axis < len(parts):
            part_type = _indices(index_type)[axis]  # type: ignore[index]
            part = context.cast(builder, parts[axis], part_type, types.int64)
            below = builder.icmp_signed("<", part, _ZERO)
            part = builder.select(below, builder.add(part, size), part)
            if kind.checked:
                inside = builder.icmp_unsigned("<", part, size)
                _note(builder, array.status, builder.not_(inside), OUTSIDE)
                part = builder.select(inside, part, _ZERO)
            place = builder.add(place, part)
    place = builder.add(place, array.first)
    if len(parts) == kind.ndim:
        return _loaded(context, builder, kind, array, place)
    rest = cgutils.create_struct_proxy(sig.return_type)(context, builder)
    rest.data, rest.count, rest.status = array.data, array.count, array.status
    rest.first = place
    left = sizes[len(parts) :]
    shape = types.UniTuple(types.int64, len(left))
    rest.shape = context.make_tuple(builder, shape, left)
    return rest._getvalue()


@templates.infer_global(len)
class _Length(templates.AbstractTemplate):  # type: ignore[misc]
    def generic(self, args: Any, kws: Any) -> Any:
        if len(args) == 1 and isinstance(args[0], Argument):
            return templates.signature(types.int64, args[0])
        return None


@extending.lower_builtin(len, Argument)
def _len(context: Any, builder: Any, sig: Any, values: Any) -> Any:
    array = cgutils.create_struct_proxy(sig.args[0])(context, builder, value=values[0])
    return builder.extract_value(array.shape, 0)


@extending.infer_getattr
class _Attributes(templates.AttributeTemplate):  # type: ignore[misc]
    key = Argument

    def generic_resolve(self, kind: Any, name: str) -> Any:
        if name == "shape":
            return types.UniTuple(types.int64, kind.ndim)
        return types.int64 if name in ("ndim", "size") else None


@extending.lower_getattr_generic(Argument)
def _attribute(context: Any, builder: Any, kind: Any, value: Any, name: str) -> Any:
    array = cgutils.create_struct_proxy(kind)(context, builder, value=value)
    if name == "shape":
        return array.shape
    count: Any = ir.Constant(I64, kind.ndim if name == "ndim" else 1)
    if name == "size":
        for size in cgutils.unpack_tuple(builder, array.shape):
            count = builder.mul(count, size)
    return count


def argument_types(kinds: Sequence[Kind], real: Any, checked: bool) -> list[Any]:
    """What a user's function sees of arguments."""
    numbers = {bool: types.boolean, int: types.int64, float: types.float64}
    return [
        numbers[kind.number]
        if kind.number
        else Argument(kind, real, checked, kind.ndim)
        for kind in kinds
    ]


def _seen(context: Any, builder: Any, kind: Any, own: Any, slots: Any) -> Any:
    """One argument, from its slots: pairs of a type and a value; then the status."""
    (first_type, first), *shape, status = slots
    if not isinstance(own, Argument):
        return context.cast(builder, first, first_type, own)
    array = context.make_array(first_type)(context, builder, first)
    seen = cgutils.create_struct_proxy(own)(context, builder)
    seen.data, seen.count, seen.first = array.data, array.nitems, _ZERO
    sizes = types.UniTuple(types.int64, own.ndim)
    seen.shape = context.make_tuple(builder, sizes, [size for _, size in shape])
    seen.status = status
    return seen._getvalue()


def part(
    function: Any, leading: Sequence[Any], kinds: Sequence[Kind], own: Sequence[Any],
    result: Any, at: int,
) -> Any:  # fmt: skip
    """What calls a user's function, for kernels: ``call(place, arguments, status)``.

    Parameters
    ----------
    function : dispatcher
        Compiled for `leading` and `own`.
    leading : sequence of types
        Of what it gets first: `place`, a tuple.
    kinds, own : sequence
        Of its arguments, and what it sees of them.
    result : type
        What its result becomes.
    at : int
        The slot of `arguments` where its own begin.
    """
    given = (*leading, *own)

    @intrinsic
    def call(typingctx, place, arguments, status):  # type: ignore[no-untyped-def]
        def generate(context, builder, sig, values):  # type: ignore[no-untyped-def]
            found = zip(place, cgutils.unpack_tuple(builder, values[0]), strict=True)
            passed = [
                context.cast(builder, value, kind, wanted)
                for (kind, value), wanted in zip(found, leading, strict=True)
            ]
            flag = context.make_array(status)(context, builder, values[2]).data
            all_slots = cgutils.unpack_tuple(builder, values[1])
            slots = list(zip(arguments, all_slots, strict=True))[at:]
            for kind, wanted in zip(kinds, own, strict=True):
                mine = [*slots[: kind.slots], flag]
                passed.append(_seen(context, builder, kind, wanted, mine))
                slots = slots[kind.slots :]
            made = function.compile_device(given)
            context.active_code_library.add_linking_library(made.library)
            outcome, value = context.call_internal_no_propagate(
                builder, made.fndesc, made.signature, passed
            )
            # an exception ends the user's function, never the kernel
            _note(builder, flag, outcome.is_error, FAILED)
            got = made.signature.return_type
            nothing = context.get_constant(result, 0)
            value = context.cast(builder, value, got, result)
            return builder.select(outcome.is_error, nothing, value)

        return result(place, arguments, status), generate

    return call


@intrinsic
def to_int(typingctx, x):  # type: ignore[no-untyped-def]
    """A number as int64: towards 0, of NaN 0, beyond the range its end."""
    x = types.unliteral(x)
    if not isinstance(x, (types.Integer, types.Float, types.Boolean)):
        return None

    def generate(context, builder, sig, values):  # type: ignore[no-untyped-def]
        (value,), (kind,) = values, sig.args
        if not isinstance(kind, types.Float):
            return context.cast(builder, value, kind, types.int64)
        low, high = (
            ir.Constant(value.type, -(2.0**63)),
            ir.Constant(value.type, 2.0**63),
        )
        found = builder.fptosi(value, I64)
        for sign, end, instead in ((">=", high, 2**63 - 1), ("<", low, -(2**63))):
            beyond = builder.fcmp_ordered(sign, value, end)
            found = builder.select(beyond, ir.Constant(I64, instead), found)
        return builder.select(builder.fcmp_unordered("uno", value, value), _ZERO, found)

    return types.int64(x), generate


@intrinsic
def rint(typingctx, x):  # type: ignore[no-untyped-def]
    """The nearest whole number, as a float; halves to even ones."""
    kind = types.unliteral(x)
    if not isinstance(kind, (types.Integer, types.Float, types.Boolean)):
        return None
    kind = types.float32 if kind == types.float32 else types.float64

    def generate(context, builder, sig, values):  # type: ignore[no-untyped-def]
        name = "__nv_rintf" if kind == types.float32 else "__nv_rint"
        function = ir.FunctionType(values[0].type, [values[0].type])
        found = cgutils.get_or_insert_function(builder.module, function, name)
        return builder.call(found, values)

    return kind(kind), generate
