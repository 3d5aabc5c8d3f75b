"""Errors as such; what each says of bad input is in tests/reliability/bad_input."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import numbattn

Q = np.ones((2, 4, 5, 8), np.float32)
K = np.ones((2, 2, 6, 8), np.float32)
V = np.ones((2, 2, 6, 3), np.float32)


class OnDevice:
    """A CUDA array, as far as anyone may look."""

    __cuda_array_interface__ = {  # noqa: RUF012
        "shape": (5, 8), "typestr": "<f4", "version": 3, "data": (64, False),
    }  # fmt: skip
    shape = (5, 8)
    dtype = np.dtype(np.float32)

    def __array__(self, *_: object, **__: object) -> np.ndarray:
        raise AssertionError("a device array was copied to the host behind one's back")


def call(backend: str, changes: dict[str, Any]) -> Any:
    """Call attention with something bad in it."""
    arguments = {"query": Q, "key": K, "value": V, "backend": backend, **changes}
    arrays = [arguments.pop(name) for name in ("query", "key", "value")]
    return numbattn.attention(*arrays, **arguments)


@pytest.mark.parametrize("name", ["reference", "cpu"])
@pytest.mark.parametrize("argument", ["query", "bias", "mask"])
def test_device_array_on_a_host_backend(argument: str, name: str) -> None:
    arguments = (argument, "key", "value") if argument == "query" else (argument,)
    with pytest.raises(numbattn.BackendUnavailableError) as caught:
        call(name, {argument: OnDevice() for argument in arguments})
    message = str(caught.value)
    assert argument in message
    assert repr(name) in message
    assert f"{argument}.get()" in message


def test_device_array_with_auto() -> None:
    with pytest.raises(
        numbattn.BackendUnavailableError,
        match=r"'cuda'.*cannot run: .*Copy",
    ):
        call("auto", dict.fromkeys(("query", "key", "value"), OnDevice()))


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
