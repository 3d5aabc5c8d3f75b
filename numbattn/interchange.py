"""Arrays on a CUDA device as they come: ``__cuda_array_interface__``, or DLPack.

Nothing is copied here, and no element is read: where the data lies, in which shape
and dtype, and on which stream it becomes ready, is all that is asked for.
"""

from __future__ import annotations

import ctypes
import operator
from collections.abc import Mapping
from typing import Any

import numpy as np

from .arrays import CUDA_KINDS, as_array, has, on_device
from .device_arrays import DeviceArray
from .errors import DTypeError, OptionError, shown

_VERSIONS = (2, 3)  # of __cuda_array_interface__
_READY_ON = 1  # the stream that DLPack is asked to be ready on: the legacy default
_NUMBERS = {0: "int", 1: "uint", 2: "float"}  # kinds of DLPack that NumPy names so


class _DataType(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
    )


class _Tensor(ctypes.Structure):
    """DLTensor of dlpack.h; a DLManagedTensor begins with it."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("dtype", _DataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _Versioned(ctypes.Structure):
    """DLManagedTensorVersioned."""

    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", _Tensor),
    )


# prototypes of our own: those of ctypes.pythonapi belong to everybody
_is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_IsValid", ctypes.pythonapi)
)
_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


def as_input(value: object, name: str) -> Any:
    """Return an ndarray as `as_array` does, or a DeviceArray of one on a device."""
    if type(value) is np.ndarray:
        return value
    return device_array(value, name) if on_device(value) else as_array(value, name)


def device_array(value: Any, name: str) -> DeviceArray:
    """Return where an array on a device lies; its owner stays alive with it.

    Raises
    ------
    DTypeError
        What it says of itself cannot be, or is nothing to compute with.
    """
    if type(value) is DeviceArray:
        return value
    found = _interface(value)
    if found is None:
        return _from_dlpack(value, name)
    return _from_interface(value, found, name)


def _interface(value: Any) -> Mapping[str, Any] | None:
    """Return the ``__cuda_array_interface__``, None where DLPack has to do.

    PyTorch raises for it where the dtype is bfloat16, and where a gradient is wanted.
    """
    try:
        found: Mapping[str, Any] = value.__cuda_array_interface__
    except Exception:  # someone else's property may raise anything
        # the arrays of Numba's simulator say so much only
        simulated = has(value, "__cuda_ndarray__")
        return value.__array_interface__ if simulated else None
    return found


def _from_interface(value: Any, found: Mapping[str, Any], name: str) -> DeviceArray:
    def bad(why: str) -> DTypeError:
        kind = type(value).__name__
        return DTypeError(f"{name} ({kind}) has a __cuda_array_interface__ {why}")

    try:
        version, masked = found["version"], found.get("mask")
        shape = tuple(map(operator.index, found["shape"]))
        address, readonly = operator.index(found["data"][0] or 0), found["data"][1]
        dtype, strides = np.dtype(found["typestr"]), found.get("strides")
        if strides is not None:
            strides = tuple(map(operator.index, strides))
        if dtype.kind == "V":  # bfloat16 has no typestr: NumPy says "<V2"
            dtype = np.dtype(value.dtype)
    except Exception as error:  # it may be anything
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise bad(f"that cannot be read ({why[:200]})") from None
    if version not in _VERSIONS:
        raise bad(f"of version {shown(version)}; versions 2 and 3 are taken")
    if masked is not None:
        raise DTypeError(
            f"{name} has a mask in its __cuda_array_interface__; pass an array without "
            "one, and say what not to attend by mask= (True = attend)"
        )
    if min(shape, default=0) < 0 or (strides and len(strides) != len(shape)):
        raise bad(f"of shape {shape} and strides {strides}, which no array can have")
    if not address and 0 not in shape:
        raise bad("without an address")
    stream = found.get("stream") if version > 2 else None
    if stream is not None and not (type(stream) is int and 0 < stream < 2**64):
        raise bad(
            f"with stream {shown(stream)}; it is 1 (the legacy default stream), 2 (the "
            "per-thread default stream) or a stream's address, and 0 is not allowed"
        )
    if not dtype.isnative:
        raise DTypeError(
            f"{name} has dtype {dtype.str}, whose bytes are swapped, and is on a CUDA "
            "device, where nothing is converted; convert it before it is copied there"
        )
    try:
        return DeviceArray(
            address, shape, dtype, strides or None, value, stream, bool(readonly)
        )
    except ValueError:
        raise bad(f"of shape {shape}, which no array can have") from None


def _from_dlpack(value: Any, name: str) -> DeviceArray:
    try:
        try:
            capsule = value.__dlpack__(stream=_READY_ON, max_version=(1, 0))
        except TypeError:  # as it was before DLPack 1.0
            capsule = value.__dlpack__(stream=_READY_ON)
    except Exception as error:
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise DTypeError(
            f"{name} ({type(value).__name__}) is on a CUDA device and cannot be read "
            f"there ({why[:200]})"
        ) from error
    tensor, readonly = _tensor(capsule, name)
    if tensor.device_type not in CUDA_KINDS:
        raise DTypeError(
            f"{name} ({type(value).__name__}) says that it is on a CUDA device, and "
            f"its DLPack capsule is of device type {tensor.device_type}"
        )
    dtype, count = _dtype(tensor.dtype, name), tensor.ndim
    shape = tuple(tensor.shape[:count])
    strides = None
    if tensor.strides:
        strides = tuple(step * dtype.itemsize for step in tensor.strides[:count])
    # the capsule is only looked at: it frees its memory when it goes, not before
    return DeviceArray(
        (tensor.data or 0) + tensor.byte_offset, shape, dtype, strides or None,
        (value, capsule), _READY_ON, readonly,
    )  # fmt: skip


def _tensor(capsule: Any, name: str) -> tuple[_Tensor, bool]:
    """Return what a capsule is about, and whether it is read-only."""
    if _is_valid(capsule, b"dltensor_versioned"):
        found = _Versioned.from_address(_pointer(capsule, b"dltensor_versioned"))
        if found.major == 1:
            return found.tensor, bool(found.flags & 1)
        version = f"version {found.major}.{found.minor}"
        raise DTypeError(f"{name} comes by DLPack of {version}; 1 and before are taken")
    if _is_valid(capsule, b"dltensor"):
        return _Tensor.from_address(_pointer(capsule, b"dltensor")), False
    raise DTypeError(
        f"{name} comes by DLPack, and {shown(capsule)} is no capsule of it"
    )


def _dtype(found: _DataType, name: str) -> np.dtype[Any]:
    """Return NumPy's dtype of DLPack's: floats, ints, and bools for masks."""
    code, bits = found.code, found.bits
    if found.lanes == 1:
        if code in _NUMBERS and bits in (8, 16, 32, 64) and (code != 2 or bits > 8):
            return np.dtype(f"{_NUMBERS[code]}{bits}")
        if (code, bits) == (6, 8):
            return np.dtype(np.bool_)
        if (code, bits) == (4, 16):
            return bfloat16(name)
    raise DTypeError(
        f"{name} comes by DLPack with code {code}, {bits} bits, {found.lanes} lanes; "
        "allowed are float16, bfloat16, float32 and float64"
    )


def bfloat16(name: str) -> np.dtype[Any]:
    """Return the dtype, which NumPy has from another package."""
    try:
        from ml_dtypes import bfloat16 as found
    except ImportError:
        raise DTypeError(
            f"{name} is of bfloat16, which NumPy knows by the package ml_dtypes only: "
            "pip install ml_dtypes"
        ) from None
    dtype: np.dtype[Any] = np.dtype(found)
    return dtype


def stream_number(stream: Any) -> int | None:
    """Return a stream as ``__cuda_array_interface__`` numbers them; None for none.

    An object's own stream of number 0 is the legacy default stream, 1.

    Raises
    ------
    OptionError
        It is 0, which may mean two streams, or no stream.
    """
    if stream is None:
        return None
    if isinstance(stream, int) and not isinstance(stream, bool):
        if 0 < stream < 2**64:
            return stream
        raise OptionError(
            f"stream is {shown(stream)}; pass 1 for the legacy default stream, 2 for "
            "the per-thread default stream, or a stream's address: 0 may mean two of "
            "them, and others are none"
        )
    try:
        if has(stream, "__cuda_stream__"):  # CUDA's own protocol: (version, address)
            return int(stream.__cuda_stream__()[1]) or 1
        for attribute in ("cuda_stream", "ptr"):  # PyTorch, CuPy
            if has(stream, attribute):
                return int(getattr(stream, attribute)) or 1
    except Exception:  # someone else's class may raise anything
        pass
    raise OptionError(
        f"stream is {shown(stream)}; it has to be a stream of Numba, CuPy, PyTorch or "
        "cuda.core, or an int: 1 for the legacy default stream, 2 for the per-thread "
        "default stream, or a stream's address"
    )
