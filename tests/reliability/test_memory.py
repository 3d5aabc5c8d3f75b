"""Memory: said before, refused before it is taken, and no more than was said."""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import numbattn
from numbattn import MemoryLimitError, OptionError, estimate_memory
from numbattn.memory import available_bytes, parse_bytes

RNG = np.random.default_rng(7)
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
OPERATIONS = ("scores", "weights", "attention", "iter_scores")


def normal(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return RNG.standard_normal(shape).astype(dtype)


def like(*shape: int, dtype: Any = "float32") -> Any:
    """Return something with a shape and a dtype, and no data."""
    return SimpleNamespace(shape=shape, dtype=np.dtype(dtype))


def arrays_of(operation: str, query: Any, key: Any, value: Any) -> tuple[Any, ...]:
    return (query, key, value) if operation == "attention" else (query, key)


def call(operation: str, arrays: tuple[Any, ...], **how: Any) -> Any:
    found = getattr(numbattn, operation)(*arrays, **how)
    return list(found) if operation == "iter_scores" else found


def estimate(operation: str, arrays: tuple[Any, ...], **how: Any) -> Any:
    return estimate_memory(*arrays, operation=operation, **how)


# what is said


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int8", ">f4"])
def test_shapes_and_dtypes_are_enough(operation: str, dtype: str, backend: str) -> None:
    shapes = (2, 4, 40, 8), (2, 2, 50, 8), (2, 2, 50, 5)
    how: dict[str, Any] = {"backend": backend, "softcap": 2.0, "kv_lengths": [[3], [9]]}
    real = arrays_of(operation, *(np.ones(each, dtype) for each in shapes))
    said = arrays_of(operation, *(like(*each, dtype=dtype) for each in shapes))
    found = estimate(operation, real, mask=np.ones((40, 1), bool), **how)
    assert estimate(operation, said, mask=like(40, 1, dtype="?"), **how) == found
    size = np.dtype(dtype).itemsize
    if operation in ("scores", "weights"):
        assert found.result == 2 * 4 * 40 * 50 * (8 if size == 1 else size)
    assert found.total == sum(found.parts.values())
    assert found.shape == (2, 4, 40, 5 if operation == "attention" else 50)
    if dtype == "float32":
        assert found.copies == 0
    else:
        assert (found.copies == 0) == (dtype == "float64")


def test_every_part_is_counted() -> None:
    half = [np.ones((4, 30, 8), np.float16) for _ in range(3)]
    found = estimate("attention", tuple(half), return_lse=True, backend="reference")
    assert found.result == 4 * 30 * 8 * 2
    assert found.lse == 4 * 30 * 4
    assert found.blocks == 4 * (30 * 8 + 30) * 4
    assert found.copies == 3 * 4 * 30 * 8 * 4
    assert found.workspace > 0
    x = normal(40, 40)
    assert estimate("scores", (x, x), bias=np.ones((40, 40))).copies == 40 * 40 * 4
    mask = np.ones((40, 40), bool)
    room = np.zeros((40, 40), np.float32)
    inside = room.view(np.uint8).reshape(-1)[:1600].reshape(40, 40).view(bool)
    assert estimate("scores", (x, x), out=room).parts.keys() == {"workspace"}
    assert estimate("scores", (x, room), out=x).copies == x.nbytes
    assert estimate("scores", (x, x.astype("f8")), out=room.astype("f8")).copies == (
        2 * x.nbytes
    )
    assert estimate("scores", (x, x), mask=mask, out=room).copies == 0
    assert estimate("scores", (x, x), mask=inside, out=room).copies == 1600
    # repeated by a stride of 0, so copied once
    wide = np.broadcast_to(x[:1], (40, 40))
    out = np.broadcast_to(wide, (40, 40)).copy()
    shared = np.broadcast_to(out[:1], (40, 40))
    assert estimate("scores", (shared, x), out=out).copies == 40 * 4


def test_blocks_are_counted_two_at_a_time() -> None:
    x = normal(100, 8)
    item = 4

    def blocks_of(*shape: int) -> int:
        found = estimate("iter_scores", (x, x), block_shape=shape).blocks
        assert found % item == 0
        return int(found) // item

    assert blocks_of(100, 100) == 100 * 100
    assert blocks_of(30, 100) == 2 * 30 * 100
    assert blocks_of(70, 100) == 70 * 100 + 30 * 100
    assert blocks_of(30, 80) == 30 * 80 + 30 * 20
    half = x.astype(np.float16)
    found = estimate("iter_scores", (half, half), block_shape=(30, 100))
    assert found.blocks == 30 * 100 * (4 + 2 + 2)


def test_an_estimate_prints_and_pickles() -> None:
    found = estimate("scores", (like(10**6, 64), like(10**6, 64)))
    assert str(found).startswith("scores of shape (1000000, 1000000) on backend 'cpu'")
    assert re.search(r"\n  result     3.638 TiB\n", str(found))
    assert pickle.loads(pickle.dumps(found)) == found
    assert numbattn.explain(like(9, 4), like(8, 4)).memory == estimate(
        "scores", (like(9, 4), like(8, 4))
    )


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"operation": "score"}, "'iter_scores'"),
        ({"block_shape": (1, 2)}, "block_shape is given, which scores does not take"),
        ({"return_lse": True}, "return_lse is given, which scores does not take"),
        (
            {"operation": "iter_scores", "out": like(3, 3)},
            "out is given, which iter_sc",
        ),
        ({"operation": "iter_scores", "block_shape": (0, 2)}, "block_shape is 0"),
        ({"max_memory": "much"}, "max_memory is 'much'"),
    ],
)
def test_what_a_call_does_not_take_is_refused(how: Any, words: str) -> None:
    with pytest.raises(OptionError, match=re.escape(words)):
        estimate_memory(like(3, 4), like(3, 4), **how)


@pytest.mark.parametrize(
    "bad", [like(3, -4), like(3, 2.5), like(2**40, 2**40), like(3, 4, dtype="c8")]
)
def test_impossible_shapes_and_dtypes_are_refused(bad: Any) -> None:
    with pytest.raises((numbattn.ShapeError, numbattn.DTypeError), match=r"^query "):
        estimate_memory(bad, like(3, 4))


# what is refused


def backend_loaded(backend: str) -> None:
    """Import what a first call imports: it takes time, and memory of its own."""
    estimate_memory(like(3, 4), like(3, 4), backend=backend)
    available_bytes()


def too_much(operation: str, **how: Any) -> MemoryLimitError:
    """Return the refusal; with nothing large allocated, and soon."""
    long = np.broadcast_to(np.ones(64, np.float32), (16, 10**6, 64))
    arrays = arrays_of(operation, long, long, long)
    backend_loaded(how["backend"])
    found = []
    for _ in range(3):
        tracemalloc.start()
        start = time.perf_counter()
        try:
            with pytest.raises(MemoryLimitError) as caught:
                call(operation, arrays, **how)
            found.append(time.perf_counter() - start)
            assert tracemalloc.get_traced_memory()[1] < 2**22
        finally:
            tracemalloc.stop()
    assert min(found) < 4 * 0.050
    return caught.value


@pytest.mark.parametrize("operation", OPERATIONS)
def test_too_much_is_refused_at_once_before_it_is_taken(
    operation: str, backend: str
) -> None:
    how: dict[str, Any] = {"backend": backend}
    if operation == "iter_scores":
        how["block_shape"] = (10**6, 10**6)
    elif operation == "attention" and backend != "reference":
        how["max_memory"] = "100 MB"
    error = too_much(operation, **how)
    assert error.wanted > (10**8 if "max_memory" in how else error.free)
    assert f"needs {error.wanted} bytes" in str(error)
    assert f"{error.free} (" in str(error)
    assert error.free == pytest.approx(available_bytes(), rel=0.5)
    again = pickle.loads(pickle.dumps(error))
    assert (again.wanted, again.free, str(again)) == (
        error.wanted,
        error.free,
        str(error),
    )


@pytest.mark.parametrize("way", ["convert", "overlap"])
def test_copies_are_not_made_for_a_call_that_is_refused(way: str) -> None:
    x = np.ones((1000, 1000), np.float16 if way == "convert" else np.float32)
    out = x if way == "overlap" else None
    backend_loaded("reference")
    for limit in (10**6, 7 * 10**6):
        tracemalloc.start()
        try:
            with pytest.raises(MemoryLimitError, match="copies of inputs"):
                numbattn.scores(x, x, out=out, max_memory=limit, backend="reference")
            assert tracemalloc.get_traced_memory()[1] < 10**6
        finally:
            tracemalloc.stop()
    assert (x == 1).all()


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_estimate_is_the_limit_to_the_byte(
    operation: str, dtype: str, backend: str
) -> None:
    arrays = arrays_of(
        operation,
        normal(4, 30, 8, dtype=dtype),
        normal(2, 25, 8, dtype=dtype),
        normal(2, 25, 9, dtype=dtype),
    )
    how: dict[str, Any] = {"backend": backend, "num_threads": 1}
    if operation == "iter_scores":
        how["block_shape"] = (20, 20)
    wanted = estimate(operation, arrays, **how).total
    call(operation, arrays, max_memory=wanted, **how)
    # half precision goes by smaller blocks then
    if dtype == "float16" and operation != "iter_scores":
        low = estimate(operation, arrays, max_memory=1, **how).total
        assert low < wanted
        assert estimate(operation, arrays, max_memory=wanted - 1, **how).total < wanted
        wanted = low
        call(operation, arrays, max_memory=wanted, **how)
    with pytest.raises(MemoryLimitError) as caught:
        call(operation, arrays, max_memory=wanted - 1, **how)
    assert caught.value.wanted == wanted


def advice_for(error: MemoryLimitError) -> list[str]:
    _, _, ways = str(error).partition("What fits: ")
    return ways.split("; or ")


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("limit", [10**5, 4 * 10**5, 10**6])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_what_the_message_says_fits_does_fit(
    operation: str, limit: int, dtype: str, backend: str, tmp_path: Path
) -> None:
    query, key = normal(2, 500, 8, dtype=dtype), normal(2, 600, 8, dtype=dtype)
    arrays = arrays_of(operation, query, key, normal(2, 600, 700, dtype=dtype))
    how: dict[str, Any] = {"backend": backend, "max_memory": limit}
    given = {"block_shape": (500, 600)} if operation == "iter_scores" else {}
    with pytest.raises(MemoryLimitError) as caught:
        call(operation, arrays, **given, **how)
    error = caught.value
    if "What fits: " not in str(error):
        assert "Nothing smaller fits: " in str(error)
        return
    shape = (2, 500, 700 if operation == "attention" else 600)

    def fits(*given: Any, **more: Any) -> bool:
        total: int = estimate(operation, given, **{**how, **more}).total
        return total <= more.get("max_memory", limit)

    for each in advice_for(error):
        if found := re.fullmatch(r"iter_scores\(\.\.\., block_shape=\((.*)\)\)", each):
            shape_of = tuple(map(int, found[1].split(",")))
            streamed = numbattn.iter_scores(query, key, block_shape=shape_of, **how)
            assert next(streamed)[2].size == 2 * np.prod(shape_of)
        elif each == "out= a numpy.memmap":
            out = np.memmap(tmp_path / "out", dtype, "w+", shape=shape)
            assert fits(*arrays, out=out)
        elif found := re.match(r"(\d+) queries at a time", each):
            rows = int(found[1])
            assert fits(query[:, :rows], *arrays[1:])
            assert not fits(query[:, : rows + 1], *arrays[1:])
        elif found := re.fullmatch(r"max_memory=(\d+)", each):
            assert fits(*arrays, **given, max_memory=int(found[1]))
        elif each.startswith("aligned float32"):
            assert fits(*(a.astype("f4") for a in arrays))
        elif each.startswith("one index of"):
            assert fits(*(a[:1] for a in arrays))
        else:
            assert each == "num_threads=1"
            assert fits(*arrays, num_threads=1)


def test_half_precision_goes_by_leading_axes_without_changing_a_bit(
    backend: str,
) -> None:
    arrays = (
        normal(2, 6, 20, 8, dtype=np.float16),
        normal(2, 3, 25, 8, dtype=np.float16),
        normal(1, 25, 9, dtype=np.float16),
    )
    options: list[dict[str, Any]] = [
        {},
        {
            "is_causal": True,
            "q_offset": [[3], [-4]],
            "kv_lengths": RNG.integers(0, 26, (2, 6)),
            "bias": normal(6, 1, 25),
            "mask": RNG.random((2, 1, 20, 25)) < 0.7,
        },
    ]
    for operation in OPERATIONS[:3]:
        given = arrays_of(operation, *arrays)
        for option in options:
            want = call(operation, given, backend=backend, **option)
            cuts = set()
            whole = estimate(operation, given, backend=backend, **option)
            least = estimate(operation, given, backend=backend, max_memory=1, **option)
            for limit in np.linspace(least.total, whole.total, 12):
                how = {"max_memory": int(limit) + 1, "backend": backend, **option}
                cuts.add(estimate(operation, given, **how).blocks)
                assert np.array_equal(call(operation, given, **how), want)
            assert len(cuts) >= 5
        # one row of one head, not of all 12
        width = 9 if operation == "attention" else 25
        assert least.blocks <= (width + 1) * 4


def test_a_limit_far_above_the_free_memory_does_not_help() -> None:
    error = too_much("scores", backend="reference", max_memory="1 PB")
    assert "max_memory allows" not in str(error)
    assert "max_memory=" not in str(error)


def test_offsets_that_repeat_are_kept_once(backend: str) -> None:
    many = np.broadcast_to(np.int64(2), (2**31,))
    x = np.broadcast_to(np.float32(1), (2**31, 1, 1))
    backend_loaded(backend)
    for options in ({"kv_lengths": many}, {"is_causal": True, "q_offset": many}):
        tracemalloc.start()
        try:
            with pytest.raises(MemoryLimitError):
                numbattn.scores(
                    x, np.ones((2, 1), "f4"), backend=backend, max_memory=10**9,
                    **options,
                )  # fmt: skip
            assert tracemalloc.get_traced_memory()[1] < 2**22
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({"memory.max": "1000000", "memory.current": "300000"}, 700_000),
        (
            {
                "memory.max": "1000000",
                "memory.current": "300000",
                "memory.stat": "anon 5\ninactive_file 100000\n",
            },
            800_000,
        ),
        ({"memory.max": "1000000", "memory.current": "2000000"}, 0),
    ],
)
def test_a_cgroup_s_limit_counts(
    files: dict[str, str], free: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "memory.stat").touch()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    group = [(tmp_path, "memory.max", "memory.current")]
    monkeypatch.setattr("numbattn.memory._cgroups", lambda: group)
    assert available_bytes() == free
    x = np.zeros((3000, 1), np.float32)
    with pytest.raises(MemoryLimitError, match=rf"{free} \(.*are free"):
        numbattn.scores(x, np.zeros((6000, 1), np.float32), backend="reference")
    (tmp_path / "memory.max").write_text("max")
    assert available_bytes() > 10**6


def test_sizes_are_read_as_written() -> None:
    assert parse_bytes("1 GiB") == 2**30
    x = normal(300, 8)
    with pytest.raises(MemoryLimitError, match="max_memory allows 1024 "):
        numbattn.scores(x, x, max_memory="1 KiB", backend="reference")


# what is taken


def measured(script: str) -> str:
    """Run a script of this folder in a process of its own; return what it prints."""
    # arrays come and go as mappings, so that what is freed is not used again unseen
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(
        [sys.executable, "-W", "error", str(Path(__file__).with_name(script))],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@LINUX
def test_the_peak_of_50_shapes_is_as_estimated() -> None:
    cases = [json.loads(line) for line in measured("peaks.py").splitlines()]
    assert len({json.dumps(case["call"]) for case in cases}) >= 50
    off = {}
    for case in cases:
        away = abs(case["peak"] - case["estimate"])
        if away > max(0.10 * case["estimate"], 8 * 2**20):
            off[json.dumps(case["call"])] = (case["peak"], case["estimate"])
    assert not off


@LINUX
def test_10_000_calls_of_which_2_000_fail_leave_nothing_behind() -> None:
    found = json.loads(measured("leaks.py"))
    assert found["grown"] < 2 * 2**20
    assert set(found["raised"]) == {
        "ShapeError", "DTypeError", "OptionError", "BackendUnavailableError",
        "MemoryLimitError", "KeyError",
    }  # fmt: skip
