"""Where arrays on a CUDA device lie, and their streams, by what they say."""

from __future__ import annotations

import gc
import sys
import weakref
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import numbattn
from numbattn import (
    BackendUnavailableError,
    DTypeError,
    OptionError,
    selector,
)
from numbattn.interchange import device_array, stream_number

from .device_fakes import (
    ByDlpack,
    FakeCuda,
    K,
    OnDevice,
    Q,
    there,
)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    """A backend of that name that computes what lies in fake arrays."""
    backend = FakeCuda()
    monkeypatch.setitem(selector._loaded, "cuda", backend)  # type: ignore[arg-type]
    return backend


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", "|b1", "<i8"])
def test_an_interface_says_where_the_array_lies(dtype: str) -> None:
    base = np.zeros((4, 6, 8), dtype)
    for array in (base, base[::-1, 1:, ::2], base[:, :1], base[:0], base[0, 0, 0]):
        array = np.asarray(array)
        owner = OnDevice(array)
        got = device_array(owner, "query")
        assert got.address == array.__array_interface__["data"][0]
        assert (got.shape, got.strides) == (array.shape, array.strides)
        assert (got.dtype, got.owner, got.stream) == (array.dtype, owner, None)
        assert device_array(got, "query") is got


@pytest.mark.parametrize(
    ("said", "want"),
    [({}, None), ({"stream": None}, None), ({"stream": 1}, 1), ({"stream": 2}, 2),
     ({"stream": 2**45}, 2**45), ({"version": 2, "stream": 7}, None),
     ({"version": 2}, None)],
)  # fmt: skip
def test_its_stream_is_kept(said: dict[str, Any], want: int | None) -> None:
    assert device_array(OnDevice(Q, **said), "query").stream == want


def test_its_readonly_flag_is_kept() -> None:
    for flag in (False, True):
        place = Q.__array_interface__["data"][0], flag
        assert device_array(OnDevice(Q, data=place), "query").readonly is flag


def test_simulated_arrays_of_numba_are_device_arrays() -> None:
    fake: Any = SimpleNamespace(
        __cuda_ndarray__=True, __array_interface__=Q.__array_interface__, dtype=Q.dtype
    )
    assert device_array(fake, "query").shape == Q.shape
    with pytest.raises(BackendUnavailableError, match="query is an array on a CUDA"):
        numbattn.scores(fake, fake, backend="reference")


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"stream": 0}, "stream 0; it is 1 .*, 2 .*, and 0 is not allowed"),
        ({"stream": -1}, "stream -1"),
        ({"stream": "s"}, "stream 's'"),
        ({"version": 1}, "version 1; versions 2 and 3 are taken"),
        ({"version": 4}, "version 4; versions 2 and 3"),
        ({"version": None}, "version None"),
        ({"mask": OnDevice(Q)}, "has a mask in its __cuda_array_interface__.* mask="),
        ({"typestr": ">f4"}, "dtype >f4, whose bytes are swapped.*before it is copied"),
        ({"typestr": "nonsense"}, "cannot be read.*TypeError"),
        ({"typestr": "<f4", "data": None}, "cannot be read"),
        ({"shape": None}, "cannot be read"),
        ({"shape": (2.5,)}, "cannot be read"),
        ({"shape": (-1, 2), "strides": None}, r"shape \(-1, 2\)"),
        ({"strides": (4,)}, r"strides \(4,\), which no array can have"),
        ({"shape": (2**62, 2**62), "strides": None}, "which no array can have"),
        ({"data": (0, False)}, "without an address"),
    ],
)
def test_an_interface_that_cannot_be_is_refused(said: Any, words: str) -> None:
    bad = OnDevice(Q.astype(">f4") if said.get("typestr") == ">f4" else Q, **said)
    for how in ({}, {"backend": "cpu"}, {"backend": "cuda"}):
        with pytest.raises(DTypeError, match=words) as caught:
            numbattn.scores(bad, bad, **how)
        assert str(caught.value).startswith("query ")


@pytest.mark.parametrize("version", [None, (1, 0)])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "?", "bfloat16", "i4", "u1"])
def test_a_capsule_says_where_the_array_lies(dtype: str, version: Any) -> None:
    base = np.zeros((4, 6, 8), dtype)
    for array in (base, base[1:, 2:, ::2], base[:0]):
        owner = ByDlpack(array, version)
        got = device_array(owner, "query")
        if array.size:
            assert got.address == array.__array_interface__["data"][0]
        assert (got.shape, got.dtype) == (array.shape, array.dtype)
        assert got.strides == array.strides or not array.size
        assert got.owner[0] is owner
        assert got.stream == owner.asked["stream"] == 1
        assert not got.readonly


@pytest.mark.parametrize("kind", [2, 13])
def test_managed_memory_and_missing_strides_are_taken(kind: int) -> None:
    got = device_array(ByDlpack(Q, device_type=kind, no_strides=True), "query")
    assert (got.shape, got.strides) == (Q.shape, Q.strides)


def test_a_readonly_capsule_is_known_by_its_flag() -> None:
    array = Q.copy()
    array.flags.writeable = False
    assert device_array(ByDlpack(array, (1, 0)), "query").readonly


def test_a_capsule_lives_as_long_as_what_was_made_of_it() -> None:
    class Counted(np.ndarray):
        pass

    array = Q.copy().view(Counted)
    gone = weakref.ref(array)
    fake = ByDlpack(array)
    got = device_array(fake, "query")[0, :, 1:]
    fake.array = None  # type: ignore[assignment]
    del array
    gc.collect()
    assert gone() is not None  # the capsule holds it
    del got
    gc.collect()
    assert gone() is None


def test_what_torch_refuses_by_its_interface_comes_by_dlpack(cuda: FakeCuda) -> None:
    class Tensor(ByDlpack):
        @property
        def __cuda_array_interface__(self) -> Any:
            raise TypeError("Got unsupported ScalarType BFloat16")

    query = Tensor(Q.astype(ml_dtypes.bfloat16))
    out = numbattn.attention(query, query, query)
    assert type(out) is Tensor
    assert out.array.dtype == ml_dtypes.bfloat16


def test_a_tensor_of_torch_on_the_host_is_a_host_array() -> None:
    class Tensor:
        def __dlpack_device__(self) -> tuple[int, int]:
            return 1, 0

        @property
        def __cuda_array_interface__(self) -> Any:
            raise AttributeError(
                "Can't get __cuda_array_interface__ on non-CUDA tensor"
            )

        def __array__(self, *_: object, **__: object) -> np.ndarray:
            return Q

    got = numbattn.scores(Tensor(), K, backend="reference")
    np.testing.assert_array_equal(got, numbattn.scores(Q, K, backend="reference"))


def test_bfloat16_asks_for_ml_dtypes(monkeypatch: pytest.MonkeyPatch) -> None:
    query = ByDlpack(np.zeros((3, 4), ml_dtypes.bfloat16))
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(DTypeError, match=r"^query is of bfloat16.*pip install ml_dtyp"):
        numbattn.scores(query, query)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"lanes": 2}, "code 2, 32 bits, 2 lanes; allowed are float16"),
        ({"code": 5, "bits": 64}, "code 5, 64 bits"),
        ({"code": 2, "bits": 8}, "code 2, 8 bits"),
        ({"said": 2, "device_type": 1}, "capsule is of device type 1"),
        ({"version": (2, 1)}, r"DLPack of version 2\.\d+; 1 and before"),
    ],
)
def test_a_capsule_that_cannot_be_is_refused(changed: Any, words: str) -> None:
    bad = ByDlpack(Q, **changed)
    with pytest.raises(DTypeError, match=words):
        numbattn.scores(bad, bad)


def test_what_is_no_capsule_is_refused_with_its_reason() -> None:
    class Graph(ByDlpack):
        def __dlpack__(self, **_: Any) -> Any:
            raise BufferError("Can't export tensors that require gradient")

    with pytest.raises(DTypeError, match=r"query \(Graph\).*BufferError: .* gradient"):
        numbattn.scores(Graph(Q), Graph(Q))

    class Wrong(ByDlpack):
        def __dlpack__(self, **_: Any) -> Any:
            return "capsule"

    with pytest.raises(DTypeError, match="DLPack, and 'capsule' is no capsule"):
        numbattn.scores(Wrong(Q), Wrong(Q))


class HasStream:
    def __init__(self, **attributes: Any) -> None:
        vars(self).update(attributes)


class Cooperative:
    def __init__(self, address: Any) -> None:
        self.address = address

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.address


@pytest.mark.parametrize(
    ("stream", "want"),
    [
        (None, None), (1, 1), (2, 2), (2**46, 2**46),
        (HasStream(cuda_stream=0), 1), (HasStream(cuda_stream=99), 99),
        (HasStream(ptr=0), 1), (HasStream(ptr=77), 77),
        (Cooperative(0), 1), (Cooperative(55), 55),
    ],
)  # fmt: skip
def test_streams_of_any_library_become_numbers(stream: Any, want: Any) -> None:
    assert stream_number(stream) == want


@pytest.mark.parametrize(
    "stream",
    [
        0,
        -3,
        2**64,
        True,
        1.0,
        "default",
        object(),
        HasStream(ptr="x"),
        Cooperative(None),
    ],
)
def test_what_is_no_stream_is_refused(stream: Any, cuda: FakeCuda) -> None:
    with pytest.raises(OptionError, match=r"^stream is .*1 for the legacy default"):
        numbattn.scores(*there(Q, K), stream=stream)
