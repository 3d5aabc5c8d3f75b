"""Arrays on a device, by shape and address: NumPy's views are the measure."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from numbattn.device_arrays import DeviceArray

INDICES: list[Any] = [
    np.s_[...], np.s_[1], np.s_[:, 2:5], np.s_[::-1, ::2], np.s_[..., -1:],
    np.s_[..., 3:1, :], np.s_[0, 1, 2], np.s_[None, ..., ::-3],
]  # fmt: skip


def place(array: np.ndarray) -> tuple[Any, ...]:
    address = array.__array_interface__["data"][0]
    return address, array.shape, array.strides, array.dtype


def of(array: np.ndarray) -> DeviceArray:
    address, shape, strides, dtype = place(array)
    return DeviceArray(address, shape, dtype, strides, owner=array)


@pytest.mark.parametrize("index", INDICES, ids=str)
@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_a_view_lies_where_numpys_does(index: Any, dtype: str) -> None:
    array = np.zeros((3, 6, 7), dtype)[:, ::-1]
    want, got = array[index], of(array)[index]
    assert (got.address, got.shape, got.strides, got.dtype) == (
        place(want) if want.ndim else (got.address, (), (), want.dtype)
    )
    if isinstance(want, np.ndarray):
        assert (got.size, got.nbytes, got.ndim) == (want.size, want.nbytes, want.ndim)
    assert got.owner is array


def test_strides_are_of_a_contiguous_array_where_not_given() -> None:
    for shape in ((), (3,), (2, 3, 4), (1, 5, 1)):
        array = np.zeros(shape, np.float32)
        assert DeviceArray(64, shape, array.dtype).strides == array.strides


def test_bounds_are_of_the_bytes_touched() -> None:
    array = np.zeros((3, 6, 7), np.float32)
    low, high = np.lib.array_utils.byte_bounds(array[:, ::-2, 1:])
    assert of(array)[:, ::-2, 1:].bounds() == (low, high)
    assert of(array)[:0].bounds() == (of(array).address,) * 2


def test_reshape_gives_a_view_or_refuses() -> None:
    array = np.zeros((3, 6, 7), np.float32)
    assert of(array).reshape(18, 7).strides == (28, 4)
    with pytest.raises(ValueError, match="copy"):
        of(array)[:, ::2].reshape(9 * 7)
