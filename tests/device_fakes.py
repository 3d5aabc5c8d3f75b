"""Fake arrays and a fake backend of a CUDA device: host memory under another name."""

from __future__ import annotations

import ctypes
import mmap
from types import SimpleNamespace
from typing import Any

import numpy as np

from numbattn import interchange
from numbattn.backends.reference import ReferenceBackend
from numbattn.device_arrays import DeviceArray

RNG = np.random.default_rng(6)
Q, K, V = (
    RNG.standard_normal(s, np.float32) for s in ((2, 4, 5, 8), (2, 2, 6, 8), (2, 6, 3))
)
MASK = RNG.random((5, 6)) < 0.7
BIAS = RNG.standard_normal((4, 5, 6), np.float32)


class OnDevice:
    """An array of the host that says it is on a device, and may not be copied."""

    def __init__(self, array: np.ndarray, **more: Any) -> None:
        self.array, self.more = array, more

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        said = dict(self.array.__array_interface__)
        return {key: said[key] for key in ("shape", "typestr", "data", "strides")} | {
            "version": 3,
            **self.more,
        }

    @property
    def dtype(self) -> Any:
        return self.array.dtype

    def __array__(self, *_: object, **__: object) -> np.ndarray:
        raise AssertionError("a device array was copied to the host behind one's back")

    def __setitem__(self, *_: object) -> None:
        raise AssertionError("a device array was written from the host")


def there(*arrays: np.ndarray) -> list[OnDevice]:
    """Return fake arrays of them."""
    return [OnDevice(array) for array in arrays]


class ByDlpack:
    """The same for a library that has DLPack only, as PyTorch for bfloat16."""

    def __init__(
        self, array: np.ndarray, version: tuple[int, int] | None = None, **changed: Any
    ) -> None:
        self.array, self.version, self.changed = array, version, changed
        self.asked: dict[str, Any] = {}

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.changed.get("said", self.changed.get("device_type", 2)), 0

    def __dlpack__(self, **how: Any) -> Any:
        if self.version is None and "max_version" in how:
            raise TypeError("unexpected keyword argument 'max_version'")
        self.asked = how
        array = self.array
        if array.dtype.name == "bfloat16":
            array = array.view(np.uint16)
            self.changed.setdefault("code", 4)
        if self.version is None:
            capsule: Any = array.__dlpack__()
            tensor = interchange._tensor(capsule, "")[0]
        else:
            capsule = array.__dlpack__(max_version=(1, 0))
            place = interchange._pointer(capsule, b"dltensor_versioned")
            whole = interchange._Versioned.from_address(place)
            tensor, whole.major = whole.tensor, self.version[0]
        tensor.device_type = self.changed.get("device_type", 2)
        for name in ("code", "bits", "lanes"):
            if name in self.changed:
                setattr(tensor.dtype, name, self.changed[name])
        if self.changed.get("no_strides"):
            tensor.strides = type(tensor.strides)()
        return capsule

    __array__ = OnDevice.__array__


def seen(array: DeviceArray) -> np.ndarray:
    """Return the host memory that a fake array is."""
    said = {
        "data": (array.address, False),
        "shape": array.shape,
        "strides": array.strides,
        "typestr": f"|V{array.itemsize}",
        "version": 3,
    }
    return np.asarray(SimpleNamespace(__array_interface__=said)).view(array.dtype)


class FakeCuda(ReferenceBackend):
    """A backend on which calls with fake arrays are computed by the reference."""

    name = "cuda"

    def __init__(self, reads: bool = True) -> None:
        self.reads = reads
        self.calls: list[SimpleNamespace] = []

    def run_device(self, problem: Any, out: Any, lse: Any, execution: Any) -> None:
        """Compute, if memory may be read; remember what came in any case."""
        self.calls.append(
            SimpleNamespace(problem=problem, out=out, lse=lse, execution=execution)
        )
        assert problem.array_dtype == problem.dtype == out.dtype
        assert out.shape == problem.out_shape
        if lse is not None:
            assert lse.shape == problem.lse_shape
            assert lse.dtype == problem.acc_dtype
        if not self.reads:
            return
        changed = {}
        for name in ("query", "key", "value", "bias", "mask"):
            array = getattr(problem, name)
            if isinstance(array, DeviceArray):
                array = seen(array)
                if name != "mask":
                    array = array.astype(problem.acc_dtype)
                changed[name] = array
        result = np.empty(problem.out_shape, problem.acc_dtype)
        row_lse = None if lse is None else seen(lse)
        super().run(problem._replace(**changed), result, row_lse, execution)
        seen(out)[...] = result

    def empty_like(self, query: Any, shape: Any, dtype: Any, stream: Any) -> Any:
        """Return an array of the class of `query`."""
        made = type(query)(np.zeros(shape, dtype))
        made.made_for = (query, stream)
        return made, interchange.device_array(made, "result")

    def to_host(self, array: DeviceArray) -> np.ndarray:
        """Return a copy."""
        assert self.reads
        return seen(array).copy()


class Forbidden:
    """Memory that nobody may read or write, for arrays that lie elsewhere."""

    def __init__(self, size: int = 2**20) -> None:
        self.memory = mmap.mmap(-1, size)
        kept = (ctypes.c_char * size).from_buffer(self.memory)
        self.next = ctypes.addressof(kept)
        protect = ctypes.CDLL(None).mprotect
        assert not protect(ctypes.c_void_p(self.next), ctypes.c_size_t(size), 0)

    def array(self, shape: tuple[int, ...], dtype: Any = np.float32) -> OnDevice:
        """Return a fake array there."""
        dtype = np.dtype(dtype)
        said = {"typestr": dtype.str, "shape": shape, "version": 3}
        said |= {"data": (self.next, False), "strides": None}
        self.next += -(-int(np.prod(shape)) * dtype.itemsize // 64) * 64
        here: Any = SimpleNamespace(__array_interface__=said, dtype=dtype)
        return OnDevice(here)
