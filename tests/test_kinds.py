"""Results on a device are of the query's library. PyTorch and CuPy are fakes here."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from numbattn import DTypeError, MemoryLimitError
from numbattn.backends.cuda import kinds

from .device_fakes import ByDlpack, OnDevice

LOG: list[Any] = []


@contextlib.contextmanager
def entered(what: Any) -> Iterator[None]:
    LOG.append(what)
    yield


class Device:
    def __enter__(self) -> None:
        LOG.append("device")

    def __exit__(self, *_: object) -> None:
        pass


class OutOfMemoryError(RuntimeError):
    """As PyTorch and CuPy call theirs."""


class Tensor(ByDlpack):
    """A tensor of the fake PyTorch."""

    __module__ = "torch"
    device = "cuda:1"


class Parameter(Tensor):
    """Some model's own class."""

    __module__ = "model.layers"


class Array(OnDevice):
    """An array of the fake CuPy."""

    __module__ = "cupy._core"
    device = Device()


DTYPES = {"half": np.float16, "bf": ml_dtypes.bfloat16, "single": np.float32}


def torch() -> ModuleType:
    def empty(shape: Any, dtype: str, device: str) -> Tensor:
        LOG.append((dtype, device))
        if np.prod(shape) > 1000:
            raise OutOfMemoryError("CUDA out of memory.")
        return Tensor(np.zeros(shape, DTYPES[dtype]))

    fake: Any = ModuleType("torch")
    fake.empty, fake.float16, fake.bfloat16, fake.float32 = (
        empty,
        "half",
        "bf",
        "single",
    )
    fake.cuda = SimpleNamespace(
        stream=entered,
        default_stream=lambda device: f"default of {device}",
        ExternalStream=lambda address, device: f"{address} of {device}",
        current_stream=lambda device: SimpleNamespace(cuda_stream=31),
    )
    return fake


def cupy() -> ModuleType:
    def empty(shape: Any, dtype: Any) -> Array:
        if np.prod(shape) > 1000:
            raise OutOfMemoryError("Out of memory allocating 1 bytes")
        if dtype == ml_dtypes.bfloat16:
            raise TypeError("data type 'bfloat16' not understood")
        return Array(np.zeros(shape, dtype))

    class Stream:
        null, ptds = entered("null"), entered("ptds")

    def external(address: int) -> Any:
        warnings.warn("ExternalStream is deprecated.", DeprecationWarning, stacklevel=2)
        return entered(address)

    fake: Any = ModuleType("cupy")
    fake.empty = empty
    fake.cuda = SimpleNamespace(
        Stream=Stream, ExternalStream=external,
        get_current_stream=lambda: SimpleNamespace(ptr=0),
    )  # fmt: skip
    return fake


@pytest.fixture(autouse=True)
def libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    LOG.clear()
    monkeypatch.setitem(sys.modules, "torch", torch())
    monkeypatch.setitem(sys.modules, "cupy", cupy())


@pytest.mark.parametrize("dtype", DTYPES.values())
@pytest.mark.parametrize("kind", [Tensor, Parameter])
def test_tensors_give_tensors(kind: Any, dtype: Any) -> None:
    query = kind(np.zeros((3, 4), dtype))
    made, place = kinds.empty_like(query, (2, 5), np.dtype(dtype), None)
    assert type(made) is Tensor
    assert (place.shape, place.dtype, place.strides[1]) == (
        (2, 5), np.dtype(dtype), np.dtype(dtype).itemsize
    )  # fmt: skip
    assert place.address == made.array.__array_interface__["data"][0]
    assert LOG[0][1] == "cuda:1"
    assert kinds.current_stream((query, "capsule")) == 31


def test_they_are_allocated_on_the_stream() -> None:
    query = Tensor(np.zeros((3, 4), np.float32))
    for stream, around in (
        (1, "default of cuda:1"),
        (2, "2 of cuda:1"),
        (9, "9 of cuda:1"),
    ):
        LOG.clear()
        kinds.empty_like(query, (2, 5), np.dtype(np.float32), stream)
        assert LOG[0] == around


@pytest.mark.parametrize("stream", [None, 1, 2, 9])
def test_arrays_of_cupy_give_arrays_of_cupy(stream: int | None) -> None:
    query = Array(np.zeros((3, 4), np.float16))
    made, place = kinds.empty_like(query, (2, 5), np.dtype(np.float32), stream)
    assert type(made) is Array
    assert (place.shape, place.dtype) == ((2, 5), np.float32)
    around = {1: ["null"], 2: ["ptds"], 9: [9]}
    assert ["device", *around.get(stream or 0, [])] == LOG
    LOG.clear()
    assert kinds.current_stream(query) == 1
    assert LOG == ["device"]


@pytest.mark.parametrize("kind", [Tensor, Array])
def test_no_room_is_a_memory_limit_error(kind: Any) -> None:
    query = kind(np.zeros((3, 4), np.float32))
    with pytest.raises(MemoryLimitError, match=r"shape \(40, 50\), 8000 bytes") as e:
        kinds.empty_like(query, (40, 50), np.dtype(np.float32), None)
    assert e.value.wanted == 8000
    kinds.empty_like(query, (4, 5), np.dtype(np.float32), None)


def test_a_dtype_that_the_library_lacks_is_said() -> None:
    query = Array(np.zeros((3, 4), np.float32))
    with pytest.raises(
        DTypeError, match=r"of bfloat16, which this version of cupy .*out="
    ):
        kinds.empty_like(query, (4, 5), np.dtype(ml_dtypes.bfloat16), None)


def test_other_errors_are_not_renamed(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("an illegal memory access was encountered")

    monkeypatch.setattr(sys.modules["torch"], "empty", broken)
    with pytest.raises(RuntimeError, match="illegal"):
        kinds.empty_like(Tensor(np.zeros(3, "f4")), (4,), np.dtype("f4"), None)


def test_numbas_own_errors_are_known() -> None:
    error = RuntimeError("[CUresult.CUDA_ERROR_OUT_OF_MEMORY] Call to cuMemAlloc ...")
    assert kinds.out_of_memory(error)
    assert not kinds.out_of_memory(RuntimeError("CUDA_ERROR_INVALID_VALUE"))


SIMULATED = """
import sys, types
import numpy as np, ml_dtypes
from numba import cuda
from numbattn.backends import cuda as ours
device = types.ModuleType("numbattn.backends.cuda.device")
device.cuda, device.simulated, device.used = cuda, True, lambda: None
sys.modules[device.__name__] = ours.device = device
from numbattn.backends.cuda import kinds

for dtype in map(np.dtype, ("f2", "f4", "f8", ml_dtypes.bfloat16)):
    query = cuda.to_device(np.zeros((3, 4), dtype))
    made, place = kinds.empty_like(query, (2, 5), dtype, 3)
    print(type(made).__name__, made.dtype == place.dtype == dtype, place.shape)
assert kinds.current_stream(query) is None
"""


def test_anything_else_gives_arrays_of_numba() -> None:
    pytest.importorskip("numba_cuda", reason="numba-cuda has the simulator")
    found = subprocess.run(
        [sys.executable, "-c", SIMULATED],
        capture_output=True, text=True, check=False,
        env={**os.environ, "NUMBA_ENABLE_CUDASIM": "1"},
    )  # fmt: skip
    assert found.stdout.splitlines() == ["FakeCUDAArray True (2, 5)"] * 4, found.stderr
