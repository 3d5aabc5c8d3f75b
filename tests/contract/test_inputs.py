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


BAD_OPTIONS: dict[str, dict[str, Any]] = {
    "scale is NaN": {"scale": float("nan")},
    "scale is inf": {"scale": float("inf")},
    "scale is an array": {"scale": np.ones(2)},
    "softcap is negative": {"softcap": -1.0},
    "softcap is 0": {"softcap": 0.0},
    "softcap is NaN": {"softcap": float("nan")},
    "bias is bool": {"bias": np.ones((6, 9), bool)},
    "bias is an integer": {"bias": np.ones((6, 9), int)},
    "bias does not broadcast": {"bias": np.ones((6, 8))},
    "mask is float": {"mask": np.ones((6, 9))},
    "mask is an integer": {"mask": np.ones((6, 9), int)},
    "mask does not broadcast": {"mask": np.ones((5, 9), bool)},
    "mask has further axes": {"mask": np.ones((2, 6, 9), bool)},
    "window_size is a number": {"window_size": 3},
    "window_size is below -1": {"window_size": (-2, 0)},
    "window_size is a float": {"window_size": (1.5, 0)},
    "window_size has three": {"window_size": (1, 1, 1)},
    "q_offset is a word": {"q_offset": "upper_right"},
    "q_offset is a float": {"q_offset": 1.5},
    "q_offset has too many axes": {"q_offset": np.array([1, 2])},
    "kv_lengths is too long": {"kv_lengths": 10},
    "kv_lengths is negative": {"kv_lengths": -1},
    "kv_lengths is a float": {"kv_lengths": 2.0},
    "backend is unknown": {"backend": "cpuu"},
    "num_threads is 0": {"num_threads": 0},
    "max_memory is potatoes": {"max_memory": "2 potatoes"},
}


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("what", BAD_OPTIONS)
def test_bad_options_name_themselves_and_leave_out_alone(
    backend: str, operation: str, what: str
) -> None:
    given = arrays(operation)
    out = np.full((6, 5 if operation == "attention" else 9), 7, np.float32)
    options = {"backend": backend, "out": out} | BAD_OPTIONS[what]
    with pytest.raises(numbattn.NumbattnError, match=what.split()[0]):
        getattr(numbattn, operation)(*given, **options)
    assert np.all(out == 7)


def test_a_float_mask_names_bias_and_a_bool_bias_names_mask(backend: str) -> None:
    query, key = arrays("scores")
    with pytest.raises(numbattn.NumbattnError, match="bias"):
        numbattn.scores(query, key, mask=np.ones((6, 9)), backend=backend)
    with pytest.raises(numbattn.NumbattnError, match="mask"):
        numbattn.scores(query, key, bias=np.ones((6, 9), bool), backend=backend)


@pytest.mark.parametrize(
    ("shapes", "named"),
    [
        (((4,), (9, 4), (9, 5)), "query"),
        (((6, 4), (4,), (9, 5)), "key"),
        (((6, 4), (9, 4), (9,)), "value"),
        (((), (9, 4), (9, 5)), "query"),
        (((6, 4), (9, 3), (9, 5)), "key"),
        (((6, 4), (9, 4), (8, 5)), "value"),
        (((3, 6, 4), (2, 9, 4), (2, 9, 5)), "heads"),
        (((4, 6, 4), (2, 9, 4), (4, 9, 5)), "value"),
        (((2, 4, 6, 4), (3, 4, 9, 4), (3, 4, 9, 5)), "key"),
    ],
)
def test_shapes_that_do_not_fit(backend: str, shapes: Any, named: str) -> None:
    given = [np.zeros(shape, np.float32) for shape in shapes]
    with pytest.raises(numbattn.ShapeError, match=named):
        numbattn.attention(*given, backend=backend)


def test_random_overlaps_of_out(backend: str) -> None:
    """As if it did not overlap, for 300 random views of one block of memory."""
    rng = np.random.default_rng(8)
    for _ in range(300):
        operation = str(rng.choice(OPERATIONS))
        n, m, d = (int(rng.integers(1, 20)) for _ in range(3))
        d_v = int(rng.integers(1, 9))
        memory = rng.standard_normal(1500).astype(np.float32)

        def view(rows: int, columns: int, memory: np.ndarray = memory) -> np.ndarray:
            start = int(rng.integers(0, memory.size - rows * columns + 1))
            flat = memory[start : start + rows * columns]
            if rng.random() < 0.3:
                return flat.reshape(columns, rows).T
            return flat[:: -1 if rng.random() < 0.3 else 1].reshape(rows, columns)

        given = [view(n, d), view(m, d), view(m, d_v)]
        given = given[: 3 if operation == "attention" else 2]
        bias = view(n, m)
        out = view(n, d_v if operation == "attention" else m)
        want = call(operation, backend, *[a.copy() for a in given], bias=bias.copy())
        call(operation, backend, *given, bias=bias, out=out)
        assert_same_bits(np.array(out), want, f"{operation} of ({n}, {m}, {d}, {d_v})")
