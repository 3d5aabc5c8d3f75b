"""Results as arrays of the library that the query is from: PyTorch, CuPy, or Numba.

None of the libraries is imported here: who passes an array of one has it loaded.
"""

from __future__ import annotations

import contextlib
import sys
import warnings
from math import prod
from typing import Any

import numpy as np

from numbattn.device_arrays import DeviceArray
from numbattn.errors import DTypeError, MemoryLimitError
from numbattn.interchange import device_array, stream_number
from numbattn.memory import show

_LEGACY, _PER_THREAD = 1, 2  # streams, as __cuda_array_interface__ numbers them


def library(array: object) -> str:
    """Return "torch" or "cupy" for what is of theirs, "numba" for anything else."""
    for each in type(array).__mro__:
        name = each.__module__.partition(".")[0]
        if name in ("torch", "cupy") and name in sys.modules:
            return name
    return "numba"


def empty_like(
    query: Any, shape: tuple[int, ...], dtype: np.dtype[Any], stream: int | None
) -> tuple[object, DeviceArray]:
    """Return a new C-contiguous array on the query's device, and where it lies.

    bfloat16 is `torch.bfloat16` for a tensor, and the dtype of ml_dtypes for others:
    Numba moves such arrays, but cannot compute with them.

    Parameters
    ----------
    query : object
        An array of any library; of one that is neither PyTorch nor CuPy, such as JAX,
        results are device arrays of Numba.
    shape, dtype : tuple of int, numpy.dtype
        Of the new array.
    stream : int or None
        On which it is going to be written: allocators keep books by streams.

    Raises
    ------
    MemoryLimitError
        The device has no room for it.
    DTypeError
        The library has no such dtype.
    """
    name = library(query)
    make = {"torch": _of_torch, "cupy": _of_cupy, "numba": _of_numba}[name]
    try:
        made = make(query, shape, dtype, stream)
    except (TypeError, AttributeError) as error:
        raise DTypeError(
            f"the result is of {dtype}, which this version of {name} cannot make "
            f"({' '.join(str(error).split())[:200]}); give out="
        ) from error
    except Exception as error:
        if not out_of_memory(error):
            raise
        size = prod(shape) * dtype.itemsize
        refused = MemoryLimitError(
            f"the CUDA device has no room for the result of shape {shape}, {size} "
            f"bytes ({show(size)}). Take fewer queries at a time, or free other arrays"
        )
        refused.wanted = size
        raise refused from error
    return made, device_array(made, "the result")


def current_stream(owner: Any) -> int | None:
    """Return the stream on which an array's library works now; None for Numba's.

    Parameters
    ----------
    owner : object
        An array, or the `owner` of a `DeviceArray`.
    """
    array = owner[0] if isinstance(owner, tuple) else owner
    name = library(array)
    if name == "numba":
        return None
    cuda = sys.modules[name].cuda
    if name == "torch":
        return stream_number(cuda.current_stream(array.device))
    with array.device:
        return stream_number(cuda.get_current_stream())


def out_of_memory(error: Exception) -> bool:
    """Whether an exception of PyTorch, CuPy or Numba means that."""
    names = {each.__name__ for each in type(error).__mro__}
    return "OutOfMemoryError" in names or "CUDA_ERROR_OUT_OF_MEMORY" in str(error)


def _of_torch(
    query: Any, shape: tuple[int, ...], dtype: np.dtype[Any], stream: int | None
) -> Any:
    torch = sys.modules["torch"]
    around: Any = contextlib.nullcontext()
    if stream == _LEGACY:
        around = torch.cuda.stream(torch.cuda.default_stream(query.device))
    elif stream is not None:
        there = torch.cuda.ExternalStream(stream, device=query.device)
        around = torch.cuda.stream(there)
    with around:
        kind = getattr(torch, dtype.name)
        return torch.empty(shape, dtype=kind, device=query.device)


def _of_cupy(
    query: Any, shape: tuple[int, ...], dtype: np.dtype[Any], stream: int | None
) -> Any:
    cupy = sys.modules["cupy"]
    around: Any = contextlib.nullcontext()
    if stream in (_LEGACY, _PER_THREAD):
        known = cupy.cuda.Stream
        around = known.null if stream == _LEGACY else known.ptds
    elif stream is not None:
        with warnings.catch_warnings():
            # CuPy 14 prefers Stream.from_external, which destroys the stream in the end
            warnings.simplefilter("ignore", DeprecationWarning)
            around = cupy.cuda.ExternalStream(stream)
    with query.device, around:
        return cupy.empty(shape, dtype)


def _of_numba(
    query: Any, shape: tuple[int, ...], dtype: np.dtype[Any], stream: int | None
) -> Any:
    from . import device

    device.used()
    if stream is None or device.simulated:
        return device.cuda.device_array(shape, dtype)
    bound = device.cuda.external_stream(stream)
    return device.cuda.device_array(shape, dtype, stream=bound)
