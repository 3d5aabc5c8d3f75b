"""Arrays on a CUDA device, as the front door handles them: by shape and address.

A `DeviceArray` has what the checks ask of an ndarray (shape, dtype, strides, basic
slicing), and no way to read an element: whatever touches data goes through the CUDA
backend. It keeps what owns the memory alive.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

__all__ = ["DeviceArray"]


class DeviceArray:
    """A strided array on a CUDA device.

    Parameters
    ----------
    address : int
        Of its first element.
    shape : tuple of int
        Length of each axis.
    dtype : numpy.dtype
        Of an element, native.
    strides : tuple of int, optional
        In bytes; C-contiguous where not given.
    owner : object
        Kept alive as long as this is.
    stream : int, optional
        The stream on which the data becomes ready, as
        ``__cuda_array_interface__`` version 3 numbers them; None where it is ready.
    readonly : bool
        Whether it may not be written.
    """

    __slots__ = (
        "_outline", "address", "dtype", "owner", "readonly", "shape", "stream",
        "strides",
    )  # fmt: skip

    def __init__(
        self,
        address: int,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        strides: tuple[int, ...] | None = None,
        owner: object = None,
        stream: int | None = None,
        readonly: bool = False,
    ) -> None:
        # an array of that form over nothing: NumPy does the arithmetic of slices
        self._outline = np.lib.stride_tricks.as_strided(
            np.empty(1, dtype), shape, strides or contiguous(shape, dtype.itemsize)
        )
        self.address, self.dtype = address, dtype
        self.shape, self.strides = self._outline.shape, self._outline.strides
        self.owner, self.stream, self.readonly = owner, stream, readonly

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self.size * self.itemsize

    def __repr__(self) -> str:
        return f"DeviceArray({self.dtype}, shape {self.shape}, strides {self.strides})"

    def __getitem__(self, index: Any) -> DeviceArray:
        """Return a view; the index is of slices, ints, Ellipsis and None."""
        return self._seen(self._outline[index])

    def reshape(self, *shape: Any) -> DeviceArray:
        """Return a view of another shape.

        Raises
        ------
        ValueError
            There is none without a copy.
        """
        return self._seen(self._outline.reshape(*shape, copy=False))

    def _seen(self, outline: Any) -> DeviceArray:
        seen = DeviceArray.__new__(DeviceArray)
        moved = outline.__array_interface__["data"][0]
        moved -= self._outline.__array_interface__["data"][0]
        seen._outline, seen.address = outline, self.address + moved
        seen.shape, seen.strides = outline.shape, outline.strides
        seen.dtype, seen.owner, seen.stream = self.dtype, self.owner, self.stream
        seen.readonly = self.readonly
        return seen

    def bounds(self) -> tuple[int, int]:
        """Return the first address of its elements and the one after the last."""
        low = high = self.address
        if not self.size:
            return low, high
        for size, stride in zip(self.shape, self.strides, strict=True):
            low += min(0, (size - 1) * stride)
            high += max(0, (size - 1) * stride)
        return low, high + self.itemsize


def contiguous(shape: tuple[int, ...], item: int) -> tuple[int, ...]:
    """Return the strides of a C-contiguous array."""
    strides = [item]
    for size in reversed(shape[1:]):
        strides.append(strides[-1] * max(1, size))
    return tuple(reversed(strides))[: len(shape)]
