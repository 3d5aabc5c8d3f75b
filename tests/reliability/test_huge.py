"""More than 2**31 elements, in every argument: right, in 60 s and 1 GiB.

What is that large here repeats by strides of 0, or is a file full of holes.
"""

from __future__ import annotations

import math
import mmap
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import numbattn

HUGE = 2**31
RNG = np.random.default_rng(31)
OPERATIONS = ("scores", "weights", "attention", "iter_scores")
MAP_NORESERVE = 0x4000  # Python names it from 3.13 on
NOT_RESERVED = pytest.mark.skipif(
    sys.platform != "linux", reason="needs memory that is not reserved"
)


def resident(name: str) -> int:
    """Return VmRSS or VmHWM in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise KeyError(name)


@pytest.fixture(autouse=True)
def _within_60_seconds_and_1_gib() -> Iterator[None]:
    linux = sys.platform == "linux"
    if linux:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, start = resident("VmRSS") if linux else 0, time.perf_counter()
    yield
    assert time.perf_counter() - start < 4 * 60
    if linux:
        assert resident("VmHWM") - before < 2**30


def far(array: np.ndarray, axis: int, file: Path | None = None) -> np.ndarray:
    """Return a copy whose last index along an axis is beyond 2**31 elements.

    It lies in a file with holes, or in memory that takes up no more than its pages.
    """
    gap = HUGE // (array.shape[axis] - 1) + 64
    strides = list(np.empty(array.shape, array.dtype).strides)
    strides[axis] = gap * array.itemsize
    size = gap * (array.shape[axis] - 1) + array.size
    if file is not None:
        room: Any = np.memmap(file, array.dtype, "w+", shape=size)
        assert file.stat().st_blocks * 512 < 2**20
    else:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
        room = mmap.mmap(-1, size * array.itemsize, flags=flags)
        room = np.frombuffer(room, array.dtype)
    view = np.lib.stride_tricks.as_strided(room, array.shape, strides)
    view[...] = array
    return view


def normal(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return RNG.standard_normal(shape).astype(dtype)


def call(operation: str, arrays: dict[str, Any], **how: Any) -> np.ndarray:
    """Return the result; of `iter_scores`, put together again."""
    given = [arrays["query"], arrays["key"]]
    if operation == "attention":
        given.append(arrays["value"])
    how |= {name: arrays[name] for name in ("bias", "mask") if name in arrays}
    if operation != "iter_scores":
        found: np.ndarray = getattr(numbattn, operation)(*given, **how)
        return found
    whole = np.full((*given[0].shape[:-1], given[1].shape[-2]), np.nan, given[0].dtype)
    for rows, keys, block in numbattn.iter_scores(*given, block_shape=(2, 9), **how):
        whole[..., rows, keys] = block
    return whole


INPUTS = [
    (operation, name)
    for operation in OPERATIONS
    for name in ("query", "key", "value", "bias", "mask")
    if name != "value" or operation == "attention"
]


@NOT_RESERVED
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [3, 20])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize(("operation", "name"), INPUTS)
def test_inputs_that_reach_beyond_2_31_elements(
    operation: str, name: str, axis: int, n: int, dtype: Any, backend: str
) -> None:
    arrays = {
        "query": normal(3, n, 5, dtype=dtype),
        "key": normal(3, 24, 5, dtype=dtype),
        "value": normal(3, 24, 7, dtype=dtype),
        "bias": normal(3, n, 24, dtype=dtype),
        "mask": RNG.random((3, n, 24)) < 0.7,
    }
    want = call(operation, arrays, backend=backend)
    arrays[name] = far(arrays[name], axis)
    assert np.array_equal(call(operation, arrays, backend=backend), want)


@NOT_RESERVED
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("n", [3, 20])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("operation", OPERATIONS[:3])
def test_outputs_that_reach_beyond_2_31_elements(
    operation: str, axis: int, n: int, dtype: Any, backend: str
) -> None:
    arrays = {
        "query": normal(3, n, 5, dtype=dtype),
        "key": normal(3, 24, 5, dtype=dtype),
        "value": normal(3, 24, 7, dtype=dtype),
    }
    want = call(operation, arrays, backend=backend)
    out = far(np.full(want.shape, np.nan, dtype), axis)
    assert call(operation, arrays, out=out, backend=backend) is out
    assert np.array_equal(out, want)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_sparse_files_of_more_than_2_31_elements(
    operation: str, axis: int, tmp_path: Path
) -> None:
    arrays = {
        "query": normal(3, 20, 5),
        "key": normal(3, 24, 5),
        "value": normal(3, 24, 7),
        "bias": normal(3, 20, 24),
    }
    want = call(operation, arrays, backend="cpu")
    for name in arrays:
        arrays[name] = far(arrays[name], axis, tmp_path / name)
    assert np.array_equal(call(operation, arrays, backend="cpu"), want)


@pytest.mark.parametrize("operation", OPERATIONS[:3])
def test_an_output_behind_2_31_elements_of_a_file(
    operation: str, tmp_path: Path, backend: str
) -> None:
    arrays = {"query": normal(3, 4), "key": normal(5, 4), "value": normal(5, 2)}
    want = call(operation, arrays, backend=backend)
    file = np.memmap(tmp_path / "out", np.float32, "w+", shape=HUGE + want.size)
    out = file[HUGE:].reshape(want.shape)
    assert call(operation, arrays, out=out, backend=backend) is out
    assert np.array_equal(file[HUGE:].reshape(want.shape), want)


@pytest.mark.parametrize("operation", OPERATIONS[:3])
def test_repeated_keys_of_more_than_2_31_elements(operation: str) -> None:
    m, depth = 2**25 + 1, 64
    row = normal(1, depth)
    keys = np.broadcast_to(row, (m, depth))
    assert keys.size > HUGE
    arrays = {"query": normal(1, depth), "key": keys, "value": keys}
    found = call(operation, arrays, backend="cpu")
    if operation == "attention":
        assert np.allclose(found, row, rtol=1e-5, atol=0)
        return
    assert found.shape == (1, m)
    assert (found == found[0, 0]).all()
    want = arrays["query"] @ row.T if operation == "scores" else 1 / m
    assert np.allclose(found[0, 0], want, rtol=1e-5, atol=0)


class Corner:
    """An output that is not kept, but for the end of the last head's last rows."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape, self.dtype, self.elements = shape, np.dtype(np.float32), 0
        self.kept = np.full((min(5, shape[-2]), 64), np.nan, np.float32)

    def __setitem__(self, place: tuple[slice, ...], block: np.ndarray) -> None:
        """Count the elements; keep the corner."""
        self.elements += block.size
        *lead, rows, keys = place
        if [each.stop for each in lead] != list(self.shape[:-2]):
            return
        top, left = (
            whole - size
            for whole, size in zip(self.shape[-2:], self.kept.shape, strict=True)
        )
        row, key = max(top, rows.start), max(left, keys.start)
        if row < rows.stop and key < keys.stop:
            last = block.reshape(-1, *block.shape[-2:])[-1]
            self.kept[row - top : rows.stop - top, key - left : keys.stop - left] = (
                last[row - rows.start :, key - keys.start :]
            )


LONG: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = [
    ("iter_scores", (2**20 + 3, 1), (2**11, 1)),  # many queries
    ("iter_scores", (3, 1), (HUGE // 2, 1)),  # many keys
    ("scores", (3, 1), (HUGE // 2, 1)),
    ("scores", (2**12, 2**9, 1), (2**12, 2**10 + 1, 1)),  # many heads
    ("weights", (2**20 + 3, 1), (2**11, 1)),
    ("weights", (2**12, 2**9, 1), (1, 2**10 + 1, 1)),
]


@pytest.mark.parametrize(("operation", "q_shape", "k_shape"), LONG)
def test_matrices_of_more_than_2_31_elements_stream(
    operation: str, q_shape: Any, k_shape: Any
) -> None:
    query, key = (np.broadcast_to(np.float32(2), each) for each in (q_shape, k_shape))
    n, m = query.shape[-2], key.shape[-2]
    assert math.prod(query.shape[:-1]) * m > HUGE
    # the last query sees the last key and the one before, and so on upwards
    how: dict[str, Any] = {"q_offset": m - n, "window_size": (1, 0), "backend": "cpu"}
    out = Corner((*query.shape[:-1], m))
    totals = set()

    def progress(_: int, total: int) -> None:
        totals.add(total)

    if operation == "iter_scores":
        lead = tuple(slice(0, size) for size in query.shape[:-2])
        for rows, keys, block in numbattn.iter_scores(
            query, key, progress=progress, **how
        ):
            out[(*lead, rows, keys)] = block
    else:
        getattr(numbattn, operation)(query, key, out=out, progress=progress, **how)
    assert out.elements == math.prod(out.shape)
    assert totals == {out.elements}
    unseen, seen = (0, 0.5) if operation == "weights" else (-np.inf, 4)
    want = np.full(out.kept.shape, unseen, np.float32)
    for i, row in enumerate(want[::-1]):
        row[62 - i : 64 - i] = seen
    assert np.array_equal(out.kept, want)


@pytest.mark.parametrize("return_lse", [False, True])
def test_attention_to_the_last_of_more_than_2_31_keys(return_lse: bool) -> None:
    m = HUGE + 77
    key, value = (np.broadcast_to(np.float32(x), (m, 1)) for x in (1, 3))
    for n in (1, 20):
        found = numbattn.attention(
            np.ones((n, 1), np.float32), key, value, backend="cpu",
            q_offset=m - n, window_size=(2, 0), return_lse=return_lse,
        )  # fmt: skip
        out = found[0] if return_lse else found
        assert np.array_equal(out, np.full((n, 1), 3, np.float32))
        if return_lse:
            assert np.allclose(found[1], 1 + np.log(3))
        # one more query, behind the last key and its window
        out = numbattn.attention(
            np.ones((n, 1), np.float32), key, value, backend="cpu",
            q_offset=m + 2, window_size=(2, 0),
        )  # fmt: skip
        assert (out == 0).all()


def test_attention_in_a_file_of_more_than_2_31_keys(tmp_path: Path) -> None:
    m, depth = 2**26 + 5, 32
    files = [
        np.memmap(tmp_path / name, np.float32, "w+", shape=(m, depth))
        for name in ("key", "value")
    ]
    assert files[0].size > HUGE
    for file in files:
        file[-8:] = normal(8, depth)
    query = normal(3, depth)
    how: dict[str, Any] = {"q_offset": m - 3, "window_size": (5, None)}
    found = numbattn.attention(query, *files, backend="cpu", **how)
    last = [np.array(file[-8:]) for file in files]
    want = numbattn.attention(query, *last, q_offset=5, window_size=(5, None))
    assert np.allclose(found, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["bias", "mask"])
def test_attention_under_more_than_2_31_entries(name: str, tmp_path: Path) -> None:
    n, m = 2**20 + 3, 2**11
    query, key = np.broadcast_to(np.float32(2), (n, 1)), normal(m, 1)
    kind: Any = np.float32 if name == "bias" else np.bool_
    file = np.memmap(tmp_path / "entries", kind, "w+", shape=(n, m))
    assert file.size > HUGE
    kept = RNG.random((9, m)) < 0.5
    kept[:, -1] = True
    file[-9:] = np.where(kept, 0, -np.inf) if name == "bias" else kept
    how: dict[str, Any] = {"q_offset": m - n, "window_size": (99, 0), "backend": "cpu"}
    found = numbattn.attention(query, key, key, **{name: file}, **how)
    want = numbattn.attention(
        query[-9:], key, key, mask=kept, q_offset=m - 9, window_size=(99, 0)
    )
    assert np.allclose(found[-9:], want, rtol=1e-5, atol=1e-6)
    whole = np.broadcast_to(
        kind(name == "mask"), (n, m)
    )  # repeated, and without effect
    plain = numbattn.attention(query, key, key, **how)
    again = numbattn.attention(query, key, key, **{name: whole}, **how)
    assert np.array_equal(again, plain)


@pytest.mark.parametrize("dtype", [np.int32, np.uint32, np.int64])
def test_attention_of_more_than_2_31_scores_in_many_heads(dtype: Any) -> None:
    heads, n, m = 2**12, 2**5, 2**14 + 1
    assert heads * n * m > HUGE
    key = normal(m, 2)
    lengths = (np.arange(heads) % 4).astype(dtype)
    found = numbattn.attention(
        np.broadcast_to(np.float32(1), (heads, n, 2)), key, key,
        kv_lengths=lengths, backend="cpu",
    )  # fmt: skip
    for length in range(4):
        want = numbattn.attention(
            np.ones((n, 2), np.float32), key, key, kv_lengths=length, backend="cpu"
        )
        same = found[length::4] == want
        assert same.all()


@pytest.mark.parametrize("operation", OPERATIONS)
def test_numbers_of_32_bits_do_not_wrap(operation: str, backend: str) -> None:
    arrays = {"query": normal(3, 4), "key": normal(5, 4), "value": normal(5, 2)}
    top, bottom = 2**31 - 1, -(2**31)
    for offset in (top, bottom, 2**32 - 1):
        for window in ((top, None), (None, top), (top, top), (3, top)):
            want = call(
                operation, arrays, q_offset=offset, window_size=window, backend=backend
            )
            for kind in (np.int32, np.uint32, np.int64):
                if not np.iinfo(kind).min <= offset <= np.iinfo(kind).max:
                    continue
                sides = tuple(None if x is None else np.int32(x) for x in window)
                for number in (kind(offset), np.array(offset, kind)):
                    found = call(
                        operation, arrays, q_offset=number, window_size=sides,
                        kv_lengths=np.int32(5), backend=backend,
                    )  # fmt: skip
                    assert np.array_equal(found, want)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_estimates_of_32_bit_shapes_do_not_wrap(operation: str, backend: str) -> None:
    side = np.int32(2**20)
    wide = SimpleNamespace(shape=(side, np.int32(2**12)), dtype="float16")
    how: dict[str, Any] = {"operation": operation, "backend": backend}
    if operation == "iter_scores":
        how["block_shape"] = (side, side)
    found = numbattn.estimate_memory(wide, wide, wide, **how)
    result = 2**32 if operation == "attention" else 2**40
    total = found.blocks if operation == "iter_scores" else found.result
    assert total == (6 if operation == "iter_scores" else 2) * result
    assert found.copies == 2**32 * 4 * (3 if operation == "attention" else 2)
    assert type(found.total) is int
