"""Bad input: one typed error that helps, on every backend, and `out` untouched."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import numbattn
from numbattn import (
    DTypeError,
    MemoryLimitError,
    NumbattnError,
    OptionError,
    ShapeError,
)

Q = np.ones((2, 4, 5, 8), np.float32)
K = np.ones((2, 2, 6, 8), np.float32)
V = np.ones((2, 2, 6, 3), np.float32)
OUT = (2, 4, 5, 3)


class OnDevice:
    """A CUDA array, as far as anyone may look."""

    __cuda_array_interface__ = {"shape": (5, 8), "typestr": "<f4", "version": 3}  # noqa: RUF012
    shape = (5, 8)
    dtype = np.dtype(np.float32)

    def __array__(self, *_: object, **__: object) -> np.ndarray:
        raise AssertionError("a device array was copied to the host behind one's back")


class Sparse:
    """As SciPy's and PyData's sparse arrays look from outside."""

    nnz = 3
    shape = (5, 8)


class Raises:
    """Its conversion fails in its own way."""

    def __array__(self, *_: object, **__: object) -> np.ndarray:
        raise RuntimeError("requires grad")


structured = np.zeros((5, 8), [("x", "f4"), ("y", "f4")])

# name: (arguments that differ from a good attention call, error, words of the message)
BAD: dict[str, tuple[dict[str, Any], type[NumbattnError], list[str]]] = {
    # arrays
    "none": ({"query": None}, DTypeError, ["query", "None", "array"]),
    "text": ({"query": "abc"}, DTypeError, ["query", "<U3", "text", "float32"]),
    "objects": ({"key": np.full((6, 8), None)}, DTypeError, ["key", "object"]),
    "dates": ({"value": np.zeros((6, 3), "M8[s]")}, DTypeError, ["value", "dates"]),
    "structured": ({"query": structured}, DTypeError, ["query", "fields x, y"]),
    "complex": ({"query": Q * 1j}, DTypeError, ["query", "complex"]),
    "longdouble": ({"key": K.astype("g")}, DTypeError, ["key", "numpy.float64"]),
    "float8": (
        {"key": K.astype(ml_dtypes.float8_e4m3fn)}, DTypeError, ["key", "float8_e4m3"],
    ),
    "masked": ({"query": np.ma.ones((5, 8))}, DTypeError, ["query", "mask=", "filled"]),
    "matrix": (
        {"query": np.ones((5, 8)).view(np.matrix)}, DTypeError, ["numpy.matrix"],
    ),
    "sparse": ({"query": Sparse()}, DTypeError, ["query", "sparse", "toarray"]),
    "ragged": ({"query": [[1.0, 2.0], [3.0]]}, ShapeError, ["query", "ragged"]),
    "raises": ({"query": Raises()}, DTypeError, ["query", "Raises", "requires grad"]),
    "number": ({"query": 3.0}, ShapeError, ["query", "()", "two axes"]),
    "vector": ({"query": np.ones(8)}, ShapeError, ["query", "(8,)", "query[None, :]"]),
    "d_k": ({"key": K[..., :7]}, ShapeError, ["d_k", "(2, 4, 5, 8)", "(2, 2, 6, 7)"]),
    "m": ({"value": V[..., :5, :]}, ShapeError, ["value", "(2, 2, 5, 3)", "m:"]),
    "batch": ({"key": np.ones((3, 2, 6, 8))}, ShapeError, ["axis -4", "(3, 2, 6, 8)"]),
    "heads": (
        {"key": K.repeat(3, 1)[:, :3], "value": V[:, :1]}, ShapeError,
        ["heads", "4", "3", "multiple", "not batch"],
    ),
    "kv heads": (
        {"key": K.repeat(2, 1)}, ShapeError, ["key and value", "heads", "(2, 4, 6, 8)"],
    ),
    "no heads": ({"key": K[:, :0], "value": V[:, :0]}, ShapeError, ["heads", "0"]),
    # numbers
    "scale nan": ({"scale": np.nan}, OptionError, ["scale", "nan", "finite"]),
    "scale inf": ({"scale": -np.inf}, OptionError, ["scale", "inf", "finite"]),
    "scale big": ({"scale": 1e39}, OptionError, ["scale", "1e+39", "float32"]),
    "scale array": ({"scale": np.ones(1)}, OptionError, ["scale", "(1,)", "one"]),
    "scale text": ({"scale": "1"}, OptionError, ["scale", "'1'"]),
    "scale bool": ({"scale": True}, OptionError, ["scale", "True"]),
    "softcap 0": ({"softcap": 0.0}, OptionError, ["softcap", "above 0", "None"]),
    "softcap tiny": ({"softcap": 1e-60}, OptionError, ["softcap", "float32"]),
    "softcap nan": ({"softcap": np.nan}, OptionError, ["softcap", "finite"]),
    # bias and mask
    "bias bool": ({"bias": np.ones((5, 6), bool)}, DTypeError, ["bool", "mask="]),
    "bias int": ({"bias": np.ones((5, 6), int)}, DTypeError, ["bias", "int64"]),
    "bias shape": ({"bias": np.ones((5, 5))}, ShapeError, ["bias", "(5, 5)", "5, 6)"]),
    "bias axes": ({"bias": np.ones((1, 2, 4, 5, 6))}, ShapeError, ["bias", "(1, 2, 4"]),
    "bias kv": ({"bias": np.ones((2, 5, 6))}, ShapeError, ["bias", "(2, 4, 5, 6)"]),
    "bias longdouble": ({"bias": np.ones((5, 6), "g")}, DTypeError, ["bias", "64"]),
    "mask float": ({"mask": np.ones((5, 6))}, DTypeError, ["mask", "bias=", "float64"]),
    "mask int": ({"mask": np.ones((5, 6), "u1")}, DTypeError, ["mask", "uint8"]),
    "mask shape": ({"mask": np.ones((4, 6), bool)}, ShapeError, ["mask", "(4, 6)"]),
    # positions
    "causal word": (
        {"is_causal": "lower_right"}, OptionError, ["is_causal", "q_offset="],
    ),
    "causal int": ({"is_causal": 1}, OptionError, ["is_causal", "True or False"]),
    "window number": ({"window_size": 3}, OptionError, ["window_size", "3", "pair"]),
    "window one": ({"window_size": (3,)}, OptionError, ["window_size", "right)"]),
    "window -2": ({"window_size": (-2, 0)}, OptionError, ["left", "-2", "-1"]),
    "window float": ({"window_size": (1, 2.0)}, OptionError, ["right", "int"]),
    "window bool": ({"window_size": (True, 0)}, OptionError, ["left", "int"]),
    "offset word": ({"q_offset": "upper"}, OptionError, ["q_offset", "lower_right"]),
    "offset float": ({"q_offset": 1.0}, OptionError, ["q_offset", "1.0", "int"]),
    "offset bool": ({"q_offset": True}, OptionError, ["q_offset", "True", "int"]),
    "offset none": ({"q_offset": None}, DTypeError, ["q_offset", "None"]),
    "offset axes": (
        {"q_offset": np.zeros(2, int)}, ShapeError,
        ["q_offset", "(2,)", "exactly as many axes", "(2, 4)", "x[:, None]"],
    ),
    "offset shape": ({"q_offset": np.zeros((2, 2), int)}, ShapeError, ["1 or equal"]),
    "offset floats": ({"q_offset": np.zeros((2, 1))}, DTypeError, ["float64", "int"]),
    "lengths high": ({"kv_lengths": 7}, OptionError, ["kv_lengths", "7", "m = 6"]),
    "lengths low": ({"kv_lengths": -1}, OptionError, ["kv_lengths", "-1", "0..m"]),
    "lengths array": (
        {"kv_lengths": [[3], [9]]}, OptionError, ["kv_lengths", "9", "m = 6"],
    ),
    "lengths axes": ({"kv_lengths": [3, 4]}, ShapeError, ["kv_lengths", "(2,)"]),
    # execution
    "backend": ({"backend": "refrence"}, OptionError, ["'refrence'", "'reference'?"]),
    "backend type": ({"backend": 3}, OptionError, ["backend", "3", "name"]),
    "threads 0": ({"num_threads": 0}, OptionError, ["num_threads", "0", "1 or more"]),
    "threads bool": ({"num_threads": True}, OptionError, ["num_threads", "True"]),
    "threads float": ({"num_threads": 1.5}, OptionError, ["num_threads", "1.5"]),
    "memory word": (
        {"max_memory": "2 potatoes"}, OptionError, ["max_memory", "2 potatoes", "GB"],
    ),
    "memory 0": ({"max_memory": 0}, OptionError, ["max_memory", "1 byte"]),
    "memory nan": ({"max_memory": np.nan}, OptionError, ["max_memory", "nan"]),
    "memory low": ({"max_memory": "3 B"}, MemoryLimitError, ["max_memory", "3"]),
    "progress": ({"progress": "yes"}, OptionError, ["progress", "'yes'", "callable"]),
}  # fmt: skip


def call(backend: str, changes: dict[str, Any]) -> Any:
    """Call attention with something bad in it."""
    arguments = {"query": Q, "key": K, "value": V, "backend": backend, **changes}
    arrays = [arguments.pop(name) for name in ("query", "key", "value")]
    return numbattn.attention(*arrays, **arguments)


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case: str, backend: str) -> None:
    changes, error, words = BAD[case]
    out = np.full(OUT, 7, np.float32)
    with pytest.raises(NumbattnError) as caught:
        call(backend, {"out": out, **changes})
    message = str(caught.value)
    assert type(caught.value) is error
    assert [word for word in words if word not in message] == []
    assert "numba." not in message.replace("numbattn.", "")
    assert "\n" not in message
    assert (out == 7).all()
    assert type(pickle.loads(pickle.dumps(caught.value))) is error


def test_the_good_call_is_good(backend: str) -> None:
    out = np.full(OUT, 7, np.float32)
    assert call(backend, {"out": out}) is out
    assert np.allclose(out, 1)


unwriteable = np.zeros(OUT, np.float32)
unwriteable.flags.writeable = False
BAD_OUT: dict[str, tuple[Any, type[NumbattnError], list[str]]] = {
    "shape": (np.zeros((2, 4, 5, 4), np.float32), ShapeError, ["5, 4)", str(OUT)]),
    "dtype": (np.zeros(OUT), DTypeError, ["float64", "float32"]),
    "read-only": (unwriteable, OptionError, ["read-only"]),
    "repeats": (
        np.lib.stride_tricks.as_strided(np.zeros(3, np.float32), OUT, (0, 0, 0, 4)),
        OptionError, ["strides", "place of its own"],
    ),
    "list": ([[0.0]], DTypeError, ["list", "shape", "slice assignment"]),
    "masked": (np.ma.zeros(OUT, np.float32), DTypeError, ["MaskedArray"]),
    "device": (OnDevice(), DTypeError, ["no __setitem__"]),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_OUT)
def test_bad_out(case: str, backend: str) -> None:
    out, error, words = BAD_OUT[case]
    with pytest.raises(NumbattnError) as caught:
        call(backend, {"out": out})
    assert type(caught.value) is error
    assert [word for word in ["out", *words] if word not in str(caught.value)] == []
    if isinstance(out, np.ndarray):
        assert (np.asarray(out) == 0).all()


@pytest.mark.parametrize("name", ["reference", "cpu"])
@pytest.mark.parametrize("argument", ["query", "key", "value", "bias", "mask"])
def test_device_array_on_a_host_backend(argument: str, name: str) -> None:
    with pytest.raises(numbattn.BackendUnavailableError) as caught:
        call(name, {argument: OnDevice()})
    message = str(caught.value)
    assert argument in message
    assert repr(name) in message
    assert f"{argument}.get()" in message


def test_device_array_with_auto() -> None:
    with pytest.raises(
        numbattn.BackendUnavailableError,
        match=r"'cuda'.*not part of this version.*Copy",
    ):
        call("auto", {"query": OnDevice()})


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_limits_of_numbers_are_those_of_the_dtype(dtype: Any) -> None:
    query = np.zeros((2, 3), dtype)
    most = float(np.finfo(dtype).max)
    with numbattn.use_backend("reference"):
        assert (numbattn.scores(query, query, scale=most) == 0).all()
        assert (numbattn.scores(query, query, scale=-most, softcap=most) == 0).all()


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        ("ShapeError", ValueError),
        ("DTypeError", TypeError),
        ("OptionError", ValueError),
        ("BackendUnavailableError", RuntimeError),
        ("MemoryLimitError", MemoryError),
    ],
)
def test_errors_are_builtin_ones_too(error: str, builtin: type[Exception]) -> None:
    found: Callable[[str], Exception] = getattr(numbattn, error)
    again = pickle.loads(pickle.dumps(found("what happened")))
    assert isinstance(again, builtin)
    assert isinstance(again, numbattn.NumbattnError)
    assert str(again) == "what happened"


def test_unknown_keyword() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'scal'"):
        numbattn.scores(Q, K, scal=1.0)  # type: ignore[call-overload]


def test_options_are_keywords_only() -> None:
    with pytest.raises(TypeError, match="positional"):
        numbattn.scores(Q, K, 1.0)  # type: ignore[call-overload]
