"""Streams by the numbers of ``__cuda_array_interface__``, and who waits for whom."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from numbattn.device_arrays import DeviceArray

from . import device

LEGACY, PER_THREAD = 1, 2


def numba_stream(number: int | None) -> Any:
    """The stream of Numba for a number; None is the legacy default stream."""
    if device.simulated:
        return 0
    cuda = device.cuda
    if number is None or number == LEGACY:
        return cuda.legacy_default_stream()
    if number == PER_THREAD:
        return cuda.per_thread_default_stream()
    return cuda.external_stream(number)


def wait_for(arrays: Iterable[DeviceArray | None], number: int | None) -> None:
    """Let a stream wait for those on which the arrays become ready."""
    own = LEGACY if number is None else number
    others = {array.stream for array in arrays if array is not None}
    others -= {None, own}
    if device.simulated or not others:
        return
    stream = numba_stream(number)
    for other in others:
        event = device.cuda.event(timing=False)
        event.record(numba_stream(other))
        event.wait(stream)
