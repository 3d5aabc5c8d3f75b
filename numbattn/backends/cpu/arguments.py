"""Arrays that a user's function reads: any rank and dtype, within their bounds.

What is read is never outside an array: an index beyond it is noted, and element 0 read
in its place, without a branch, so that loops still become vectors.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import (
    AbstractTemplate,
    AttributeTemplate,
    infer_getattr,
    infer_global,
    signature,
)
from numba.extending import (
    intrinsic,
    lower_builtin,
    lower_getattr_generic,
    models,
    register_model,
)
from numba.np.numpy_support import from_dtype

from .pointers import I64
from .reals import Real, convert

_FLAG = types.CPointer(types.int64)


class Argument(types.Type):  # type: ignore[misc]
    """A C-contiguous array; its floats are read as a score's numbers, ints as int64."""

    def __init__(self, dtype: np.dtype[Any], ndim: int, score: Real, checked: bool):
        self.element = from_dtype(dtype)
        self.ndim, self.score, self.checked = ndim, score, checked
        self.result: Any = types.int64
        if dtype.kind == "f":
            self.result = score
        elif dtype.kind == "b":
            self.result = types.boolean
        words = f"argument array of {ndim} axes, {dtype.name}"
        super().__init__(name=f"{words}, for {score}, {checked}")
        self.dtype = dtype

    def part(self, count: int) -> Any:
        """What so many indices give: an element, or an array of the other axes."""
        if count == self.ndim:
            return self.result
        return Argument(self.dtype, self.ndim - count, self.score, self.checked)


@register_model(Argument)
class ArgumentModel(models.StructModel):  # type: ignore[misc]
    """Pointer, shape, and where to note an index beyond it."""

    def __init__(self, manager: Any, kind: Argument):
        members = [
            ("data", types.CPointer(kind.element)),
            ("shape", types.UniTuple(types.int64, kind.ndim)),
            ("flag", _FLAG),
        ]
        super().__init__(manager, kind, members)


@intrinsic
def no_flag(typingctx):  # type: ignore[no-untyped-def]
    """Where a function notes that it would have read outside an array; 0 so far."""

    def generate(context, builder, signature, values):  # type: ignore[no-untyped-def]
        return cgutils.alloca_once_value(builder, ir.Constant(I64, 0))

    return _FLAG(), generate


def reader(kind: Any) -> Any:
    """An intrinsic ``read(arguments, at, flag)``: one argument, from int64 slots.

    A number takes a slot; an array its address and its shape.
    """

    def generate(context, builder, signature, values):  # type: ignore[no-untyped-def]
        slots, at, flag = values

        def slot(index: int) -> Any:
            place = builder.add(at, ir.Constant(I64, index))
            return builder.load(builder.gep(slots, [place]))

        if not isinstance(kind, Argument):
            if kind == types.float64:
                return builder.bitcast(slot(0), ir.DoubleType())
            return convert(context, builder, slot(0), types.int64, kind)
        found = cgutils.create_struct_proxy(kind)(context, builder)
        pointer = context.get_value_type(types.CPointer(kind.element))
        found.data = builder.inttoptr(slot(0), pointer)
        sizes = [slot(1 + axis) for axis in range(kind.ndim)]
        found.shape = context.make_tuple(
            builder, types.UniTuple(types.int64, kind.ndim), sizes
        )
        found.flag = flag
        return found._getvalue()

    @intrinsic
    def read(typingctx, arguments, at, flag):  # type: ignore[no-untyped-def]
        return kind(arguments, types.int64, _FLAG), generate

    return read


def slots_of(kind: Any) -> int:
    """How many int64 slots an argument takes."""
    return 1 + kind.ndim if isinstance(kind, Argument) else 1


def _indices(index: Any) -> list[Any] | None:
    """The types of an index, one for each axis; None where it is no index."""
    parts = list(index) if isinstance(index, types.BaseTuple) else [index]
    parts = [types.unliteral(part) for part in parts]
    fine = all(isinstance(part, (types.Integer, types.Boolean)) for part in parts)
    return parts if fine and parts else None


@infer_global(operator.getitem)
class _GetItem(AbstractTemplate):  # type: ignore[misc]
    def generic(self, args: Any, kws: Any) -> Any:
        if len(args) != 2 or not isinstance(args[0], Argument):
            return None
        parts = _indices(args[1])
        if parts is None or len(parts) > args[0].ndim:
            return None
        return signature(args[0].part(len(parts)), args[0], args[1])


def _noted(builder: Any, kind: Argument, flag: Any, index: Any, size: Any) -> Any:
    """An index within its axis: wrapped, and 0 where it is outside, which is noted."""
    zero = ir.Constant(I64, 0)
    below = builder.icmp_signed("<", index, zero)
    index = builder.select(below, builder.add(index, size), index)
    if not kind.checked:
        return index
    inside = builder.icmp_unsigned("<", index, size)
    outside = builder.zext(builder.not_(inside), I64)
    builder.store(builder.or_(builder.load(flag), outside), flag)
    return builder.select(inside, index, zero)


@lower_builtin(operator.getitem, Argument, types.Any)
def _getitem(context, builder, sig, values):  # type: ignore[no-untyped-def]
    kind, index_type = sig.args
    array = cgutils.create_struct_proxy(kind)(context, builder, value=values[0])
    parts = [values[1]]
    if isinstance(index_type, types.BaseTuple):
        parts = cgutils.unpack_tuple(builder, values[1])
    sizes = cgutils.unpack_tuple(builder, array.shape)
    place: Any = ir.Constant(I64, 0)
    for axis, size in enumerate(sizes):
        place = builder.mul(place, size)
        if axis < len(parts):
            part_type = _indices(index_type)[axis]  # type: ignore[index]
            part = context.cast(builder, parts[axis], part_type, types.int64)
            part = _noted(builder, kind, array.flag, part, size)
            place = builder.add(place, part)
    where = builder.gep(array.data, [place])
    if len(parts) < kind.ndim:
        rest = cgutils.create_struct_proxy(sig.return_type)(context, builder)
        rest.data, rest.flag = where, array.flag
        left = sizes[len(parts) :]
        rest.shape = context.make_tuple(
            builder, types.UniTuple(types.int64, len(left)), left
        )
        return rest._getvalue()
    element = builder.load(where)
    element.set_metadata("noalias", score_scope(builder.module))
    if kind.dtype.kind == "b":
        return builder.icmp_unsigned("!=", element, ir.Constant(element.type, 0))
    return convert(context, builder, element, kind.element, sig.return_type)


def score_scope(module: Any) -> Any:
    """Metadata of what reads and writes scores: argument arrays lie elsewhere.

    Without it the compiler has to think that a score changes a table.
    """
    domain = module.add_metadata([ir.MetaDataString(module, "numbattn")])
    scope = module.add_metadata([ir.MetaDataString(module, "scores"), domain])
    return module.add_metadata([scope])


def _at_score(typingctx, pointer, offset, *value):  # type: ignore[no-untyped-def]
    def generate(context, builder, signature, values):  # type: ignore[no-untyped-def]
        where = builder.gep(values[0], [values[1]])
        if len(values) == 2:
            done = builder.load(where)
        else:
            done = builder.store(values[2], where)
        done.set_metadata("alias.scope", score_scope(builder.module))
        return done if len(values) == 2 else context.get_dummy_value()

    passed = (pointer, types.int64, *(pointer.dtype for _ in value))
    return (types.void if value else pointer.dtype)(*passed), generate


@intrinsic
def score_at(typingctx, pointer, offset):  # type: ignore[no-untyped-def]
    """The score at an offset."""
    return _at_score(typingctx, pointer, offset)


@intrinsic
def put_score(typingctx, pointer, offset, value):  # type: ignore[no-untyped-def]
    """Write the score at an offset."""
    return _at_score(typingctx, pointer, offset, value)


@infer_global(len)
class _Length(AbstractTemplate):  # type: ignore[misc]
    def generic(self, args: Any, kws: Any) -> Any:
        if len(args) == 1 and isinstance(args[0], Argument):
            return signature(types.int64, args[0])
        return None


@lower_builtin(len, Argument)
def _len(context, builder, sig, values):  # type: ignore[no-untyped-def]
    array = cgutils.create_struct_proxy(sig.args[0])(context, builder, value=values[0])
    return builder.extract_value(array.shape, 0)


@infer_getattr
class _Attributes(AttributeTemplate):  # type: ignore[misc]
    key = Argument

    def generic_resolve(self, kind: Any, name: str) -> Any:
        if name == "shape":
            return types.UniTuple(types.int64, kind.ndim)
        return types.int64 if name in ("ndim", "size") else None


@lower_getattr_generic(Argument)
def _attribute(context, builder, kind, value, name):  # type: ignore[no-untyped-def]
    array = cgutils.create_struct_proxy(kind)(context, builder, value=value)
    if name == "shape":
        return array.shape
    count: Any = ir.Constant(I64, kind.ndim if name == "ndim" else 1)
    if name == "size":
        for size in cgutils.unpack_tuple(builder, array.shape):
            count = builder.mul(count, size)
    return count
