"""Memory on the device that calls use again: asking CUDA for some takes 0.1 ms.

Work of one stream is done in its order, so that what one call has left, the next one on
the same stream may write at once. Everything here is kept by stream.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from numbattn.device_arrays import DeviceArray

from . import device

_KEPT_BYTES = 256 << 20
_TABLES, _TABLE_BYTES = 64, 1 << 16
_lock = threading.RLock()  # a lease may end within: the collector runs anywhere
_free: dict[tuple[int, int], list[Any]] = {}
_kept = {"bytes": 0}
_tables: OrderedDict[Any, DeviceArray] = OrderedDict()


class _Lease:
    """A piece of memory that goes back when nobody refers to it any more."""

    def __init__(self, key: tuple[int, int], memory: Any) -> None:
        self.key, self.memory = key, memory

    def __del__(self) -> None:
        with _lock:
            if _kept["bytes"] + self.key[1] <= _KEPT_BYTES:
                _kept["bytes"] += self.key[1]
                _free.setdefault(self.key, []).append(self.memory)


def scratch(shape: tuple[int, ...], dtype: Any, stream: Any) -> DeviceArray:
    """Memory for one call on a stream, C-contiguous, with anything in it."""
    dtype = np.dtype(dtype)
    if device.simulated:
        return device.empty(shape, dtype)
    size = 1 << max(8, (prod(shape) * dtype.itemsize - 1).bit_length())
    key = int(stream), size
    memory = None
    with _lock:
        if _free.get(key):
            memory = _free[key].pop()
            _kept["bytes"] -= size
    if memory is None:
        memory = device.empty((size,), np.uint8)
    return DeviceArray(memory.address, shape, dtype, owner=_Lease(key, memory))


def table(array: np.ndarray, stream: Any) -> Any:
    """A kernel's array of what the host has; small ones are remembered."""
    if device.simulated or array.nbytes > _TABLE_BYTES:
        return device.flat(device.upload(array, stream))[0]
    key = int(stream), array.dtype.str, array.shape, array.tobytes()
    with _lock:
        found = _tables.get(key)
    if found is None:
        found = device.upload(array, stream)
        with _lock:
            _tables[key] = found
            while len(_tables) > _TABLES:
                _tables.popitem(last=False)
    return device.flat(found)[0]


@lru_cache(maxsize=16)
def nothing(dtype: np.dtype[Any]) -> Any:
    """A kernel's array for what a call has not; a zero that nobody writes."""
    one = device.empty((1,), dtype)
    device.clear(one)
    return device.flat(one)[0]
