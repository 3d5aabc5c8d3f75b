"""The door to numba.cuda: the only module that imports it.

Where the CUDA simulator is on (NUMBA_ENABLE_CUDASIM=1), kernels run as Python by
`simulator`, and an address is one in host memory.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
from numba import cuda
from numba.core.errors import NumbaError
from numba.cuda import config, types

from numbattn.device_arrays import DeviceArray
from numbattn.errors import MemoryLimitError
from numbattn.memory import show

simulated = bool(config.ENABLE_CUDASIM)

# what only one of them has is None in the other
cgutils: Any = None
extending: Any = None
intrinsic: Any = None
kernelapi: Any = None
numpy_support: Any = None
templates: Any = None
if simulated:
    from numba.cuda.np import numpy_support  # type: ignore[no-redef]
    from numba.cuda.simulator import kernelapi  # type: ignore[no-redef]
else:
    from numba.cuda import cgutils, extending  # type: ignore[no-redef]
    from numba.cuda.extending import intrinsic  # type: ignore[no-redef]
    from numba.cuda.typing import templates  # type: ignore[no-redef]

__all__ = [
    "NumbaError", "begin_fetch", "cgutils", "clear", "compiling_for", "cuda",
    "device_function", "empty", "extending", "flat", "forked", "free_bytes", "hopper",
    "intrinsic", "kernelapi", "numpy_support", "own_streams", "simulated", "swapped",
    "templates", "types", "upload", "used", "wait",
]  # fmt: skip

swapped: list[dict[str, Any]] = []
"""Namespaces where ``cuda`` means the simulated one while a kernel runs."""

_state = {"used": False, "forked": False}


def device_function(function: Callable[..., Any]) -> Any:
    """Return a function for kernels, put into them; in the simulator as it is."""
    if not simulated:
        return cuda.jit(device=True, forceinline=True)(function)
    around = function.__globals__
    if not any(around is known for known in swapped):
        swapped.append(around)
    return function


@contextmanager
def compiling_for(capability: tuple[Any, ...]) -> Iterator[None]:
    """Compile for a device that is not here.

    Numba asks the current device for its compute capability whenever a kernel calls a
    device function, although only what is compiled last depends on it.
    """
    from numba.cuda import dispatcher

    asked = dispatcher.get_current_device
    device = SimpleNamespace(compute_capability=capability[:2])
    dispatcher.get_current_device = lambda: device
    try:
        yield
    finally:
        dispatcher.get_current_device = asked


def used() -> None:
    """Note that this process has a CUDA context, which a forked child cannot use."""
    _state["used"] = not simulated


def forked() -> bool:
    """Whether this process is a child of one that used CUDA, made by fork."""
    return _state["forked"]


def _in_child() -> None:
    _state["forked"] = _state["used"]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


_PATIENCE = 2e-4  # seconds between two looks at a stream: Ctrl-C is answered in between


def _bits(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """What kernels take a dtype as: halves and bools by their bits."""
    if dtype.kind == "b":
        return np.dtype(np.uint8)
    half = dtype.itemsize == 2 and dtype.kind not in "iu"
    return np.dtype(np.uint16) if half else dtype


def empty(shape: tuple[int, ...], dtype: Any) -> DeviceArray:
    """New memory, C-contiguous, with anything in it."""
    dtype = np.dtype(dtype)
    used()
    count = max(1, int(np.prod(shape, dtype=np.int64)))
    if simulated:
        owner: Any = np.empty(count + 16 // dtype.itemsize, _bits(dtype))
        owner.view(np.uint8).fill(0xA5)
        address = owner.__array_interface__["data"][0]
        address += -address % 16
    else:
        owner = _allocated(count, _bits(dtype))
        address = owner.__cuda_array_interface__["data"][0]
    return DeviceArray(address, tuple(shape), dtype, owner=owner)


def _allocated(count: int, dtype: np.dtype[Any]) -> Any:
    try:
        return cuda.device_array(count, dtype)
    except Exception as error:  # of the driver: its class depends on the version
        if "OUT_OF_MEMORY" not in f"{error!r} {error}".upper():
            raise
        size = count * dtype.itemsize
        raise MemoryLimitError(
            f"the device has no {size} bytes ({show(size)}) left; free some, pass less "
            "at a time, or set max_memory= for blocks that fit"
        ) from None


class _Memory:
    """Memory of the host at an address, with what keeps it alive."""

    def __init__(
        self, address: int, count: int, dtype: np.dtype[Any], owner: object
    ) -> None:
        self.owner = owner
        self.__array_interface__ = {
            "data": (address, False), "shape": (count,), "typestr": dtype.str,
            "version": 3,
        }  # fmt: skip


def flat(array: DeviceArray) -> tuple[Any, int]:
    """A kernel's 1-D array over all of its memory, and where its first element is."""
    low, high = array.bounds()
    count, dtype = (high - low) // array.itemsize, _bits(array.dtype)
    if not count:
        low, high, count = array.address, array.address, 0
    if simulated:
        if not count:
            return np.empty(0, dtype), 0
        view: Any = np.asarray(_Memory(low, count, dtype, array.owner))
    else:
        said = {
            "shape": (count,), "typestr": dtype.str, "strides": None, "version": 2,
            "data": (low if count else 0, False),
        }  # fmt: skip
        view = cuda.from_cuda_array_interface(said, owner=array.owner)
    return view, (array.address - low) // array.itemsize


def upload(array: np.ndarray, stream: Any = 0) -> DeviceArray:
    """A copy of an array of the host; axes that repeat stay so."""
    once = array[
        tuple(
            slice(0, 1) if stride == 0 and size > 1 else slice(None)
            for size, stride in zip(array.shape, array.strides, strict=True)
        )
    ]
    packed = np.asarray(once, order="C")
    target = empty(packed.shape, packed.dtype)
    if packed.size:
        view, _ = flat(target)
        bits = packed.reshape(-1).view(view.dtype)
        if simulated:
            view[:] = bits
        else:
            view.copy_to_device(bits, stream=stream)
    strides = [
        0 if size > 1 and stride == 0 else own
        for size, stride, own in zip(
            array.shape, array.strides, target.strides, strict=True
        )
    ]
    return DeviceArray(
        target.address, array.shape, array.dtype, tuple(strides), target.owner
    )


def clear(array: DeviceArray, stream: Any = 0) -> None:
    """Set all bytes to 0."""
    view, _ = flat(array)
    if simulated:
        view.fill(0)
    else:
        cuda.cudadrv.driver.device_memset(view, 0, view.nbytes, stream=stream)


def wait(stream: Any = 0) -> None:
    """Wait for all work of a stream; Ctrl-C gets through."""
    if simulated:
        return
    event = cuda.event(timing=False)
    event.record(stream or cuda.default_stream())
    while not event.query():
        time.sleep(_PATIENCE)


def free_bytes() -> int | None:
    """Bytes of the device's memory that are free; None in the simulator."""
    if simulated:
        return None
    used()
    return int(cuda.current_context().get_memory_info().free)


def hopper() -> bool:
    """Whether the device is of compute capability 9 or more."""
    if simulated:
        return True
    used()
    return bool(cuda.get_current_device().compute_capability >= (9, 0))


_own = threading.local()


def own_streams(count: int) -> list[Any]:
    """Streams of this thread, the same in every call."""
    used()
    if simulated:
        return [0] * count
    made = vars(_own).setdefault("streams", [])
    made.extend(cuda.stream() for _ in range(count - len(made)))
    return list(made[:count])


def begin_fetch(array: DeviceArray, stream: Any) -> Callable[[np.ndarray], None]:
    """Begin to copy a contiguous array to the host.

    Returns
    -------
    callable
        Waits until it is there and writes it into the array that it is given.
    """
    if not array.size:
        return lambda target: None
    view, _ = flat(array)
    if simulated:
        landed = view.copy()
    else:
        landed = cuda.pinned_array(view.shape, view.dtype)
        view.copy_to_host(landed, stream=stream)

    def land(target: np.ndarray) -> None:
        wait(stream)
        target[...] = landed.view(array.dtype).reshape(array.shape)

    return land
