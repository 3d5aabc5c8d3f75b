"""Arrays from users: what is taken, in which dtype, and what has to be copied."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .device_arrays import DeviceArray
from .errors import BackendUnavailableError, DTypeError, ShapeError, shown

FLOAT32 = np.dtype(np.float32)
FLOAT64 = np.dtype(np.float64)
CONTIGUOUS_ALIGNED = 0x101  # NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_ALIGNED
CUDA_KINDS = (2, 13)  # of DLPack's devices: CUDA, and CUDA managed memory
_FLOATS = ("float16", "bfloat16", "float32", "float64")
_ALLOWED = "allowed are float16, bfloat16, float32, float64, integers and bools"
_OF = {
    "bias": "allowed are float16, bfloat16, float32 and float64",
    "attn_mask": "allowed are bools, float16, bfloat16, float32 and float64",
    "sinks": "allowed are float16, bfloat16, float32, float64 and integers",
}
_KINDS = {
    "c": "complex numbers",
    "O": "Python objects",
    "U": "text",
    "S": "bytes",
    "T": "text",
    "M": "dates",
    "m": "time spans",
}


class DeviceArrayError(BackendUnavailableError):
    """An argument lives on a CUDA device; the selector words the complaint."""


def describe(array: NDArray[Any] | DeviceArray) -> str:
    """Return "a float32 array of shape (3, 4)"."""
    article = "an" if array.dtype.kind == "i" else "a"
    return f"{article} {array.dtype} array of shape {array.shape}"


def as_array(value: object, name: str) -> NDArray[Any]:
    """Return `value` as a plain ndarray, without a copy where it is one.

    Raises
    ------
    DTypeError
        Something that is not an array of numbers, or means something else by
        multiplication or by its missing entries.
    DeviceArrayError
        An array on a CUDA device.
    """
    if type(value) is np.ndarray:
        return value
    kind = type(value).__name__
    if isinstance(value, np.ma.MaskedArray):
        raise DTypeError(
            f"{name} is a masked array; fill it (numpy.ma.filled) and say what not to "
            "attend by mask= (True = attend)"
        )
    if isinstance(value, np.matrix):
        raise DTypeError(f"{name} is a numpy.matrix; pass numpy.asarray({name})")
    if isinstance(value, np.ndarray):
        return value.view(np.ndarray)
    if value is None:
        raise DTypeError(f"{name} is None; it has to be an array")
    if isinstance(value, (str, bytes)):
        raise DTypeError(
            f"{name} is {shown(value)}; it has to be an array (numpy.load reads one "
            "from a file)"
        )
    if on_device(value):
        raise DeviceArrayError(name)
    if has(value, "nnz") or has(value, "todense"):
        raise DTypeError(f"{name} is sparse ({kind}); pass {name}.toarray()")
    try:
        array = np.asarray(value)
    except MemoryError:
        raise
    except Exception as error:  # someone else's __array__ may raise anything
        if "inhomogeneous" in str(error):
            raise ShapeError(
                f"{name} is ragged: its rows differ in length; pad them to one length "
                "(mask= or kv_lengths= hides padded keys)"
            ) from None
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise DTypeError(
            f"{name} ({kind}) cannot be read as an array ({why[:200]})"
        ) from error
    if array.dtype.kind == "O" and not array.ndim:
        raise DTypeError(
            f"{name} is of type {kind}, which is no array of numbers; pass an array, "
            "or nested lists of numbers"
        )
    return array.view(np.ndarray)


def on_device(value: object) -> bool:
    """Whether it is an array on a CUDA device; a CPU tensor of PyTorch is not."""
    if isinstance(value, (np.ndarray, np.generic)):
        return False
    if type(value) is DeviceArray or has(value, "__cuda_array_interface__"):
        return True
    if has(value, "__cuda_ndarray__"):  # all that Numba's simulator says
        return True
    try:
        return value.__dlpack_device__()[0] in CUDA_KINDS  # type: ignore[attr-defined]
    except Exception:  # there is none, or it may raise anything
        return False


def has(value: object, attribute: str) -> bool:
    """Whether it has an attribute that can be read."""
    try:
        return hasattr(value, attribute)
    except Exception:  # a property of someone else's may raise anything
        return False


def outline(value: Any, name: str) -> Any:
    """Return an array without data for what only has a shape and a dtype.

    Its elements must not be touched: there is memory for the first one. Arrays, and
    what is no array at all, are returned as they are.
    """
    if isinstance(value, np.ndarray) or on_device(value) or has(value, "nnz"):
        return value
    if not (has(value, "shape") and has(value, "dtype")):
        return value
    try:
        shape, dtype = tuple(value.shape), np.dtype(value.dtype)
    except Exception:  # someone else's class may raise anything
        return value
    return blank(shape, dtype, name)


def blank(shape: tuple[int, ...], dtype: np.dtype[Any], name: str) -> NDArray[Any]:
    """Return an array of that shape without data; its elements must not be touched."""
    strides, step = [], dtype.itemsize
    try:
        for size in reversed(shape):
            strides.append(step)
            step *= max(1, operator.index(size))
        return np.lib.stride_tricks.as_strided(
            np.empty(1, dtype), shape, strides[::-1], writeable=False
        )
    except (TypeError, ValueError):
        raise ShapeError(f"{name} has shape {shape}; no array can have it") from None


def float_name(dtype: np.dtype[Any], name: str) -> str:
    """Return the name of the floating dtype that an input counts as.

    Integers and bools count as float64. Raises `DTypeError` for what is no real
    number, and for floats that numbattn does not compute with.
    """
    if dtype.kind in "biu":
        return "float64"
    allowed = _OF.get(name, _ALLOWED)
    if dtype.name in _FLOATS and dtype.names is None:
        return dtype.name
    if dtype.names is not None:
        # names may be long, and of several lines
        fields = " ".join(", ".join(dtype.names).split())[:200]
        found = f"a structured array with the fields {fields}"
        raise DTypeError(f"{name} is {found}; pass one field. {allowed.capitalize()}")
    if dtype.char == "g":
        raise DTypeError(
            f"{name} has dtype {dtype} (long double); pass "
            f"{name}.astype(numpy.float64). {allowed.capitalize()}"
        )
    what = _KINDS.get(dtype.kind)
    raise DTypeError(
        f"{name} has dtype {dtype}{f' ({what})' if what else ''}; {allowed}"
    )


def result_dtype(
    arrays: Iterable[tuple[str, NDArray[Any]]],
) -> tuple[np.dtype[Any], np.dtype[Any]]:
    """Return the dtype of the result, and the one to accumulate in."""
    found = {float_name(array.dtype, name): array.dtype for name, array in arrays}
    if "float64" in found:
        return FLOAT64, FLOAT64
    if "float32" in found or len(found) == 2:  # float16 with bfloat16
        return FLOAT32, FLOAT32
    (half,) = found.values()
    return half if half.isnative else half.newbyteorder("="), FLOAT32


def device_dtypes(
    arrays: Sequence[tuple[str, DeviceArray]],
) -> tuple[np.dtype[Any], np.dtype[Any]]:
    """Do as `result_dtype` for arrays on a device, which are not converted."""
    found = {}
    for name, array in arrays:
        if array.dtype.kind in "biu":
            raise DTypeError(
                f"{name} is {describe(array)} on a CUDA device, where nothing is "
                "converted; pass one of float16, bfloat16, float32 or float64: "
                f"{name}.astype(numpy.float32) in CuPy, .to(torch.float32) in PyTorch"
            )
        found[name] = float_name(array.dtype, name)
        check_layout(array, name)
    if len(set(found.values())) > 1:
        named = ", ".join(f"{name} is {dtype}" for name, dtype in found.items())
        raise DTypeError(
            f"dtypes differ: {named}. Arrays on a CUDA device are not converted; bring "
            "them to one dtype: x.astype(dtype) in CuPy, x.to(dtype) in PyTorch"
        )
    dtype = arrays[0][1].dtype
    return dtype, FLOAT64 if dtype.itemsize == 8 else FLOAT32


def check_layout(array: DeviceArray, name: str) -> None:
    """Check that a kernel can count in elements from its first one."""
    item = array.itemsize
    if array.address % item or any(step % item for step in array.strides):
        raise DTypeError(
            f"{name} is {describe(array)} on a CUDA device, and its elements do not "
            f"lie at multiples of their {item} bytes (address {array.address}, strides "
            f"{array.strides}); pass a contiguous copy"
        )


def ready(array: NDArray[Any], dtype: np.dtype[Any]) -> bool:
    """Whether an array `fits` beyond doubt, at a glance."""
    return (
        array.dtype is dtype
        and array.flags.num & CONTIGUOUS_ALIGNED == CONTIGUOUS_ALIGNED
    )


def regular(array: NDArray[Any]) -> bool:
    """Whether it is aligned and all its strides are multiples of the item size."""
    item = array.itemsize
    return array.flags.aligned and all(stride % item == 0 for stride in array.strides)


def fits(array: NDArray[Any], dtype: np.dtype[Any]) -> bool:
    """Whether kernels can take the array as it lies."""
    return array.dtype == dtype and regular(array)


def copy_bytes(array: NDArray[Any], dtype: np.dtype[Any]) -> int:
    """Return the bytes that `duplicate` is going to allocate."""
    return once(array).size * dtype.itemsize


def duplicate(array: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return a copy; what repeats by a stride of 0 is copied once and still repeats."""
    with np.errstate(over="ignore", invalid="ignore"):  # 1e300 is inf in float32
        copy = np.array(once(array), dtype=dtype, order="C")
    return copy if copy.shape == array.shape else np.broadcast_to(copy, array.shape)


def once(array: NDArray[Any]) -> NDArray[Any]:
    """Return the part of an array that its strides of 0 repeat."""
    if 0 not in array.strides or not array.size:
        return array
    return array[
        tuple(slice(0, 1) if stride == 0 else slice(None) for stride in array.strides)
    ]
