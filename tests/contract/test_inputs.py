"""What comes in and what is refused, on every backend (rules 7, 9 and 10)."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import numbattn
from numbattn.testing import assert_same_bits, call

OPERATIONS = ("scores", "weights", "attention")
NAMES = ("query", "key", "value")


def arrays(operation: str = "attention", dtype: Any = np.float32) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = ((6, 4), (9, 4), (9, 5))
    made = [rng.standard_normal(s).astype(dtype) for s in shapes]
    return made[: 3 if operation == "attention" else 2]


class FakeSparse:
    """What tells a sparse array apart, without SciPy: it converts to an object."""

    __module__ = "scipy.sparse._csr"
    shape = (9, 4)
    ndim = 2
    nnz = 3
    format = "csr"

    def toarray(self) -> np.ndarray:
        return np.zeros((9, 4))


def _matrix() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        return np.matrix(np.zeros((9, 4)))


REFUSED = {
    "complex": np.zeros((9, 4), np.complex64),
    "object": np.zeros((9, 4), object),
    "str": np.full((9, 4), "1.0"),
    "bytes": np.full((9, 4), b"1"),
    "longdouble": np.zeros((9, 4), np.longdouble),
    "datetime64": np.zeros((9, 4), "M8[s]"),
    "structured": np.zeros((9, 4), "f4,f4"),
    "masked array": np.ma.masked_array(np.zeros((9, 4)), mask=np.eye(9, 4)),
    "matrix": _matrix(),
    "sparse": FakeSparse(),
    "None": None,
    "a set": {1.0, 2.0},
    "a string": "key.npy",
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("position", [0, 1, 2])
def test_refused_by_name(backend: str, kind: str, position: int) -> None:
    given: list[Any] = arrays()
    given[position] = REFUSED[kind]
    with pytest.raises(numbattn.NumbattnError, match=NAMES[position]) as caught:
        numbattn.attention(*given, backend=backend)
    assert isinstance(caught.value, numbattn.DTypeError | numbattn.ShapeError)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_ragged_lists_are_refused(backend: str, operation: str) -> None:
    given: list[Any] = arrays(operation)
    given[0] = [[1.0, 2.0, 3.0, 4.0], [1.0, 2.0]]
    with pytest.raises(numbattn.NumbattnError, match="query"):
        call(operation, backend, *given)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_memmaps_and_subclasses_give_base_arrays(
    backend: str, operation: str, tmp_path: Path
) -> None:
    class Mine(np.ndarray):
        pass

    given = arrays(operation)
    want = call(operation, backend, *given)
    got = call(operation, backend, *[a.view(Mine) for a in given])
    assert_same_bits(got, want, "from a subclass")
    mapped = []
    for i, a in enumerate(given):
        np.save(tmp_path / f"{i}.npy", a)
        mapped.append(np.load(tmp_path / f"{i}.npy", mmap_mode="r"))
    assert_same_bits(call(operation, backend, *mapped), want, "from a memmap")


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_out_may_be_a_memmap(
    backend: str, operation: str, dtype: Any, tmp_path: Path
) -> None:
    given = arrays(operation, dtype)
    want = call(operation, backend, *given)
    out = np.lib.format.open_memmap(
        tmp_path / "out.npy", "w+", dtype=dtype, shape=want.shape
    )
    assert call(operation, backend, *given, out=out) is out
    out.flush()
    del out
    assert_same_bits(np.load(tmp_path / "out.npy"), want)


class SliceTarget:
    """The least that `out` may be: a shape, a dtype and assignment to slices."""

    def __init__(self, like: np.ndarray) -> None:
        self.shape, self.dtype, self.ndim = like.shape, like.dtype, like.ndim
        self.inner = np.full_like(like, np.nan)
        self.writes = 0

    def __setitem__(self, at: Any, block: np.ndarray) -> None:
        self.writes += 1
        self.inner[at] = block


@pytest.mark.parametrize("operation", OPERATIONS)
def test_out_may_be_anything_that_takes_slices(backend: str, operation: str) -> None:
    given = arrays(operation)
    want = call(operation, backend, *given)
    out = SliceTarget(want)
    assert call(operation, backend, *given, out=out) is out
    assert out.writes
    assert_same_bits(out.inner, want)
