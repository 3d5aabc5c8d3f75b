"""What masks are made of: numbers and arrays from users, checked and copied."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import DeviceArrayError, as_array, describe, duplicate
from ..errors import DTypeError, OptionError, shown
from ..options import FAR, UNBOUNDED, integer


def count_of(value: object, name: str) -> int:
    """Return an int of 0 or more."""
    number = integer(value)
    if number is None or number < 0:
        raise OptionError(f"{name} is {shown(value)}; it has to be an int of 0 or more")
    return number


def whole(value: object, name: str) -> int:
    """Return an int, within a range that can be reckoned with."""
    number = integer(value)
    if number is None:
        raise OptionError(f"{name} is {shown(value)}; it has to be an int")
    return max(-FAR, min(number, FAR))


def window_side(value: object, name: str) -> int:
    """Return one side of a window, `UNBOUNDED` where it has no end."""
    size = -1 if value is None else integer(value)
    if size is None or size < -1:
        raise OptionError(
            f"{name} of masks.sliding_window is {shown(value)}; it has to be an int of "
            "0 or more, or None or -1 for no end"
        )
    return UNBOUNDED if size == -1 else min(size, UNBOUNDED)


def int_array(value: object, name: str) -> NDArray[Any]:
    """Return a copy, of int64."""
    array = on_host(value, name)
    if array.dtype.kind not in "iu" and array.size:
        raise DTypeError(
            f"{name} is {describe(array)}; it has to be of an int dtype: pass "
            ".astype(int)"
        )
    if array.dtype.kind == "u" and array.size and array.max() >= 2**63:
        raise OptionError(
            f"{name} has the value {array.max()}; it has to be below 2**63"
        )
    return np.array(duplicate(array, np.dtype(np.int64)))


def on_host(value: object, name: str) -> NDArray[Any]:
    """Return an array, not yet a copy."""
    try:
        return as_array(value, name)
    except DeviceArrayError:
        raise elsewhere(name) from None


def elsewhere(name: str) -> DTypeError:
    """Return the complaint about an array on a CUDA device."""
    return DTypeError(
        f"{name} is an array on a CUDA device; a mask copies arrays from host memory: "
        "pass .get() in CuPy, .cpu().numpy() in PyTorch"
    )


def locked(value: Any) -> Any:
    """Return what came, arrays and arrays in a tuple made read-only."""
    for each in value if isinstance(value, tuple) else (value,):
        if isinstance(each, np.ndarray):
            each.flags.writeable = False
    return value
