"""What stands for numbers, argument arrays, math and numpy in an evaluation by NumPy.

A user's function gets them instead of floats, and computes for many places at once.
"""

from __future__ import annotations

import functools
import math
import operator
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin
from numpy.typing import NDArray

_ELEMENTWISE = {np.where, np.clip, np.round, np.around, np.nan_to_num, np.sinc}
_ARITHMETIC = {
    np.add, np.subtract, np.multiply, np.negative, np.positive, np.absolute,
    np.floor_divide, np.remainder, np.divmod, np.power,
}  # fmt: skip
PLAIN = (bool, int, float, np.generic)


class Split(Exception):  # noqa: N818
    """A function goes different ways at different places."""

    def __init__(self, where: NDArray[np.bool_]) -> None:
        super().__init__("a branch that some places take")
        self.where = where
        """Where it goes the one way."""


class Number(NDArrayOperatorsMixin):
    """The numbers of many places, or one number, that a function takes for one.

    It knows operators and elementwise functions, and counts bools as 0 and 1, as
    Python does. A truth value that differs between the places raises `Split`.
    """

    __slots__ = ("value",)
    __array_priority__ = 1000

    def __init__(self, value: Any) -> None:
        self.value = value

    def __array_ufunc__(
        self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any
    ) -> Any:
        out = options.pop("out", inputs[:1])  # `x += y` makes a new number here
        # NumPy's scalars come as arrays without axes, where they are compared
        fits = all(
            isinstance(each, (Number, *PLAIN))
            or (isinstance(each, np.ndarray) and not each.ndim)
            for each in inputs
        )
        if method != "__call__" or options or out[0] is not inputs[0] or not fits:
            return NotImplemented
        values = [bare(each) for each in inputs]
        if ufunc in _ARITHMETIC:
            values = [_counted(each) for each in values]
        return _wrapped(ufunc(*values))

    def __array_function__(
        self, function: Any, _: Any, args: Sequence[Any], options: dict[str, Any]
    ) -> Any:
        given = (*args, *options.values())
        fits = all(isinstance(each, (Number, *PLAIN)) for each in given)
        if function not in _ELEMENTWISE or not fits:
            return NotImplemented
        named = {name: bare(each) for name, each in options.items()}
        return _wrapped(function(*map(bare, args), **named))

    def __repr__(self) -> str:
        return f"Number({self.value})"

    def __bool__(self) -> bool:
        where = np.asarray(self.value != 0)
        if where.all():
            return True
        if not where.any():
            return False
        raise Split(where)

    def __index__(self) -> int:
        values = np.asarray(_counted(self.value))
        first = values.flat[0]
        where = values == first
        if where.all():
            return operator.index(first)
        raise Split(where)


def bare(value: Any) -> Any:
    """Return NumPy's number or array of a `Number`; anything else as it is."""
    return value.value if isinstance(value, Number) else value


def _counted(value: Any) -> Any:
    """Return bools as 0 and 1."""
    if isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind == "b":
        return value.astype(np.int64)
    return value


def _wide(value: Any) -> Any:
    """Return ints as int64 (uint64 as they are) and floats as float64."""
    if value.dtype.kind == "b" or value.dtype == np.uint64:
        return value
    return value.astype(np.int64 if value.dtype.kind in "iu" else np.float64)


def _wrapped(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_wrapped, value))
    if isinstance(value, np.ndarray):
        value = value[()]  # an array without axes is a number
    return Number(value) if isinstance(value, (np.ndarray, *PLAIN)) else value


class ArgumentArray:
    """An array among the args: elements can be read, and its shape.

    Elements come as int64, uint64, bool or float64, so that none overflows in a
    narrow dtype; what is not indexed down to one element stays an `ArgumentArray`.
    """

    __slots__ = ("array", "before")
    __array_ufunc__ = None
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, array: NDArray[Any], before: tuple[Any, ...] = ()) -> None:
        self.array = array
        self.before = before
        """The indices of its first axes."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The lengths of its axes."""
        return self.array.shape[len(self.before) :]

    @property
    def ndim(self) -> int:
        """How many axes it has."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """How many elements it has."""
        return math.prod(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: Any) -> Any:
        parts = tuple(
            _counted(np.bool_(each) if type(each) is bool else bare(each))
            for each in (index if isinstance(index, tuple) else (index,))
        )
        if any(each is None or isinstance(each, (slice, type(...))) for each in parts):
            return ArgumentArray(self.array[self.before][parts])
        parts = self.before + parts
        if len(parts) < self.array.ndim:
            return ArgumentArray(self.array, parts)
        found = self.array[parts]
        return _wrapped(_wide(found))

    def __eq__(self, _: object) -> bool:
        raise TypeError("an argument array is read one element at a time")

    def __array__(self, *_: Any, **__: Any) -> NDArray[Any]:
        raise TypeError("an argument array is read one element at a time")


def _cast(dtype: Any) -> Callable[[Any], Any]:
    """Return the conversion of a number to a dtype, without exceptions."""

    def convert(value: Any = 0) -> Any:
        if isinstance(value, (Number, *PLAIN)):
            return _wrapped(np.asarray(bare(value)).astype(dtype))
        return dtype(value)

    return convert


_int64 = _cast(np.int64)


def _int(value: Any = 0) -> Any:
    return _int64(np.trunc(value) if _is_float(value) else value)


def _float(value: Any = 0.0) -> Any:
    return value if _is_float(value) else _cast(np.float64)(value)


def _is_float(value: Any) -> bool:
    value = bare(value)
    numeric = isinstance(value, (np.ndarray, *PLAIN))
    return numeric and np.asarray(value).dtype.kind == "f"


def _round(value: Any, digits: Any = None) -> Any:
    return _int64(np.rint(value)) if digits is None else np.round(value, digits)


def _least(*values: Any) -> Any:
    return _chosen(np.less, values)


def _most(*values: Any) -> Any:
    return _chosen(np.greater, values)


def _chosen(before: np.ufunc, values: tuple[Any, ...]) -> Any:
    """Return Python's `min` or `max`: the first value that no other goes before."""
    first, *rest = values if len(values) > 1 else values[0]
    for each in rest:
        first = _wrapped(np.where(before(each, first), each, first))
    return first


def _quiet(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of `math` that gives nan and inf in place of exceptions."""

    def one(*args: Any) -> Any:
        try:
            return function(*args)
        except ValueError:
            return math.nan
        except OverflowError:
            return math.inf

    def call(*args: Any) -> Any:
        places = np.broadcast(*map(bare, args))
        found = [one(*each) for each in places]
        return _wrapped(np.array(found).reshape(places.shape))

    return call


def _log(value: Any, base: Any = None) -> Any:
    return np.log(value) if base is None else np.log(value) / np.log(base)


def _to_int(rounds: np.ufunc) -> Callable[[Any], Any]:
    return lambda value: _int64(rounds(value))


def _folded(function: np.ufunc, first: float) -> Callable[..., Any]:
    return lambda *values: functools.reduce(function, values, first)


_MATH: dict[str, Any] = {
    **{name: _quiet(f) for name, f in vars(math).items() if callable(f)},
    **{
        name: Number(np.float64(c))
        for name, c in vars(math).items()
        if type(c) is float
    },
    **{
        name: f
        for name in vars(math)
        if isinstance(f := getattr(np, name, None), np.ufunc) and name != "remainder"
    },
    **{name: _to_int(getattr(np, name)) for name in ("floor", "ceil", "trunc")},
    "hypot": _folded(np.hypot, 0.0),
    "gcd": _folded(np.gcd, 0),
    "lcm": _folded(np.lcm, 1),
    "log": _log,
    "pow": np.float_power,
}
_BUILTINS: dict[Any, Any] = {
    int: _int, float: _float, bool: _cast(np.bool_),
    round: _round, min: _least, max: _most,
}  # fmt: skip


class _NumPy:
    """The module numpy, with conversions that take many places at once."""

    def __getattr__(self, name: str) -> Any:
        found = getattr(np, name)
        if isinstance(found, type):
            return FUNCTIONS.get(found, found)
        return Number(np.float64(found)) if type(found) is float else found


MODULES: dict[types.ModuleType, Any] = {
    math: types.SimpleNamespace(**_MATH),
    np: _NumPy(),
}
FUNCTIONS: dict[Any, Any] = {
    **{
        f: _MATH[name]
        for name, f in vars(math).items()
        if isinstance(f, types.BuiltinFunctionType)
    },
    **{
        kind: _cast(kind)
        for kind in vars(np).values()
        if isinstance(kind, type) and issubclass(kind, (np.number, np.bool_))
    },
    **_BUILTINS,
}


def number(value: Any) -> Number:
    """Return a number that divides by zero without an exception."""
    return Number(_wide(np.asarray(value))[()])
