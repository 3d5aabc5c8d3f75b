"""What a user's function gets behind its place: numbers, and arrays that it may read.

A kernel has one argument for all of them, a tuple: a number takes one slot; an array
its elements, flat, and then its shape.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from numbattn.arrays import FLOAT32
from numbattn.device_arrays import DeviceArray, contiguous
from numbattn.errors import OptionError

from .device import types

_NUMBERS = {bool: types.int64, int: types.int64, float: types.float64}


class Kind(NamedTuple):
    """What an argument is compiled as."""

    number: type | None
    """bool, int or float; None of an array."""
    dtype: str = ""
    """Of the elements, as they are uploaded: bools as uint8."""
    ndim: int = 0
    is_bool: bool = False

    @property
    def slots(self) -> int:
        """How many elements of the tuple it takes."""
        return 1 if self.number else 1 + self.ndim


def kind_of(argument: Any) -> Kind:
    """Tell what an argument is compiled as."""
    if isinstance(argument, (bool, int, float)):
        return Kind(type(argument))
    dtype = argument.dtype
    if dtype.kind == "b":
        return Kind(None, "uint8", argument.ndim, True)
    if _is_half(dtype):
        dtype = FLOAT32  # it is read from a copy
    return Kind(None, dtype.newbyteorder("=").name, argument.ndim)


def _is_half(dtype: np.dtype[Any]) -> bool:
    return dtype.itemsize == 2 and dtype.kind not in "iu"


def types_of(kinds: Sequence[Kind]) -> list[Any]:
    """The Numba types of what `packed` returns."""
    found: list[Any] = []
    for kind in kinds:
        if kind.number:
            found.append(_NUMBERS[kind.number])
        else:
            found.append(types.Array(getattr(types, kind.dtype), 1, "C"))
            found += [types.int64] * kind.ndim
    return found


def packed(arguments: Sequence[Any], upload: Callable[[Any], Any]) -> list[Any]:
    """Numbers as they are, of each array its elements, uploaded, and its shape."""
    found: list[Any] = []
    for argument in arguments:
        kind = kind_of(argument)
        if kind.number:
            found.append(argument if kind.number is float else int(argument))
        else:
            found.append(upload(_flat(argument, kind)))
            found += argument.shape
    return found


def _flat(array: Any, kind: Kind) -> Any:
    """The elements, one after another, at least one; on a device without a copy."""
    if not array.size:
        return np.zeros(1, kind.dtype)
    if isinstance(array, DeviceArray):
        packed_strides = contiguous(array.shape, array.itemsize)
        if array.strides != packed_strides or _is_half(array.dtype):
            raise OptionError(
                f"an argument of a function is {array!r}; on a device it has to be "
                "C-contiguous, and not of half precision: pass a copy in float32"
            )
        return array.reshape(-1)
    dtype = np.bool_ if kind.is_bool else np.dtype(kind.dtype)
    flat = np.ascontiguousarray(array, dtype).reshape(-1)
    flat = flat if flat.flags.aligned else flat.copy()
    return flat.view(np.uint8) if kind.is_bool else flat
