"""Checks of dtypes, empty axes, inputs left alone, overlaps of out, wide offsets."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from numbattn.testing.bounds import assert_result, assert_same_bits
from numbattn.testing.calls import call
from numbattn.testing.cases import float_dtypes
from numbattn.testing.oracle import exact
from numbattn.testing.problems import (
    OPERATIONS,
    Array,
    batch,
    count_of,
    inputs,
    options_for,
    results,
)
from numbattn.testing.registry import check, require


@check(7, dtype=("bool", "int8", "uint16", "int64"))
def integers_become_float64(backend: str, dtype: str) -> None:
    """Integers and bools are float64 first."""
    arrays = [np.abs(a * 3).astype(dtype) for a in inputs("float64")]
    want = results(backend, [a.astype(np.float64) for a in arrays])
    got = results(backend, arrays)
    for name in want:
        assert_same_bits(got[name], want[name], name)


@check(7)
def dtypes_promote(backend: str) -> None:
    """The dtype is that of query, key and value together; options never promote."""
    known = float_dtypes()
    for names in itertools.product(known, repeat=3):
        arrays = [
            a.astype(known[name]) for a, name in zip(inputs(), names, strict=True)
        ]
        bias = np.linspace(-2, 2, arrays[1].shape[0])
        want = exact("attention", *arrays, bias=bias, scale=0.25)
        got = call(
            "attention", backend, *arrays, bias=bias, scale=np.float64(0.25),
            return_lse=True,
        )  # fmt: skip
        assert_result(got, want)


@check(7)
def array_likes(backend: str) -> None:
    """Lists are taken, and the result is a plain array of the native byte order."""
    query, key, value = inputs("float64", n=5, m=6, d=3)
    want = call("attention", backend, query, key, value)
    got = call("attention", backend, query.tolist(), key.tolist(), value.tolist())
    assert_same_bits(got, want)


def empty_problems(operation: str) -> Iterator[tuple[tuple[int, ...], list[Array]]]:
    """Yield every combination of axes of length 0, 1 and 2, with its arrays."""
    rng = np.random.default_rng(0)
    for sizes in itertools.product((0, 1, 2), repeat=5):
        lead, (n, m, d) = sizes[:2], sizes[2:]
        shapes = ((*lead, n, d), (*lead, m, d), (*lead, m, 3))[: count_of(operation)]
        yield sizes, [rng.standard_normal(shape) for shape in shapes]


@check(8, operation=OPERATIONS)
def empty_axes(backend: str, operation: str) -> None:
    """Every combination of axes of length 0, 1 and 2 works."""
    for sizes, arrays in empty_problems(operation):
        try:
            got = call(operation, backend, *arrays)
            assert_result(got, exact(operation, *arrays))
        except Exception as error:
            error.add_note(f"for (batch, heads, n, m, d) = {sizes}")
            raise


@check(8, operation=OPERATIONS)
def empty_axes_with_options(backend: str, operation: str) -> None:
    """The same with options, an out, and limits of threads and memory."""
    for sizes, arrays in empty_problems(operation):
        batch_size, heads, n, m, _ = sizes
        options: dict[str, Any] = {
            "bias": np.zeros((n, 1), np.float32),
            "mask": np.ones((1, m), bool),
            "is_causal": True,
            "q_offset": "lower_right",
            "kv_lengths": np.full((batch_size, 1), m),
        }
        last = 3 if operation == "attention" else m
        out = np.full((batch_size, heads, n, last), np.nan)
        try:
            call(
                operation, backend, *arrays, out=out, num_threads=1,
                max_memory="1 GB", **options,
            )  # fmt: skip
            assert_result(out, exact(operation, *arrays, **options))
        except Exception as error:
            error.add_note(f"for (batch, heads, n, m, d) = {sizes}")
            raise


@check(8, dtype=("float32", "float64", "float16"))
def empty_values(backend: str, dtype: str) -> None:
    """With d_v == 0 the output is empty, and the lse is not."""
    for n, m in itertools.product((0, 1, 37), (0, 1, 70)):
        arrays = inputs(dtype, n=n, m=m)
        arrays[2] = arrays[2][:, :0]
        out, lse = call("attention", backend, *arrays, return_lse=True)
        require(out.shape == (n, 0), f"shape {out.shape} with d_v == 0")
        assert_result((out, lse), exact("attention", *arrays))


@check(
    9, operation=OPERATIONS, dtype=("float32", "float64", "float16"), n=(3, 21),
)  # fmt: skip
def inputs_are_not_written(backend: str, operation: str, dtype: str, n: int) -> None:
    """No byte of an input changes, and read-only inputs do."""
    arrays = batch(dtype, n=n)[: count_of(operation)]
    arrays[1][0, 0, 5] = np.nan
    options = options_for(n, 40, (2, 4), operation)
    kept = [*arrays, *(a for a in options.values() if isinstance(a, np.ndarray))]
    before = [a.tobytes() for a in kept]
    for writeable in (True, False):
        for a in kept:
            a.flags.writeable = writeable
        call(operation, backend, *arrays)
        call(operation, backend, *arrays, **options)
        require([a.tobytes() for a in kept] == before, "an input changed")


@check(9, operation=OPERATIONS)
def out_that_does_not_fit(backend: str, operation: str) -> None:
    """A wrong shape, a wrong dtype or a read-only out is refused and left alone."""
    import numbattn

    arrays = inputs()[: count_of(operation)]
    want = call(operation, backend, *arrays)
    n, last = want.shape
    read_only = np.full(want.shape, 7, want.dtype)
    read_only.flags.writeable = False
    for kind, out, error in (
        ("a wrong shape", np.full((n, last + 1), 7, want.dtype), numbattn.ShapeError),
        ("a further axis", np.full((1, n, last), 7, want.dtype), numbattn.ShapeError),
        ("a wrong dtype", np.full((n, last), 7, np.float64), numbattn.DTypeError),
        ("an integer dtype", np.full((n, last), 7, np.int32), numbattn.DTypeError),
        ("read-only", read_only, numbattn.NumbattnError),
    ):
        try:
            call(operation, backend, *arrays, out=out)
        except error as caught:
            require("out" in str(caught), f"the message does not name out: {caught}")
        else:
            raise AssertionError(f"out with {kind} was accepted")
        require(np.all(out == 7), f"out with {kind} was touched")


@check(9)
def out_that_overlaps(backend: str) -> None:
    """Where out overlaps an input the result is as if it did not."""
    rng = np.random.default_rng(4)
    n = 24
    for operation in OPERATIONS:
        # Square, so that out may be any of the inputs itself.
        clean = [rng.standard_normal((n, n)).astype(np.float32) for _ in range(4)]
        count = count_of(operation)
        options = {"bias": clean[3]}
        want = call(operation, backend, *clean[:count], **options)
        for which in (*range(count), 3):
            arrays = [a.copy() for a in clean]
            options = {"bias": arrays[3]}
            out = arrays[which]
            call(operation, backend, *arrays[:count], out=out, **options)
            assert_same_bits(out, want, f"{operation} into input {which}")
        for shift in (-3, 1, 7):
            memory = np.zeros((3 * n, n), np.float32)
            memory[n : 2 * n] = clean[0]
            out = memory[n + shift : 2 * n + shift]
            arrays = [memory[n : 2 * n], *clean[1:count]]
            call(operation, backend, *arrays, out=out, bias=clean[3])
            assert_same_bits(np.array(out), want, f"{operation} shifted by {shift}")


def random_overlap(rng: np.random.Generator, backend: str) -> None:
    """Draw inputs and an out from one block of memory, and compare with copies."""
    operation = str(rng.choice(OPERATIONS))
    n, m, d = (int(rng.integers(1, 20)) for _ in range(3))
    d_v = int(rng.integers(1, 9))
    memory = rng.standard_normal(1500).astype(np.float32)

    def view(rows: int, columns: int) -> Array:
        start = int(rng.integers(0, memory.size - rows * columns + 1))
        flat = memory[start : start + rows * columns]
        if rng.random() < 0.3:
            return flat.reshape(columns, rows).T
        return flat[:: -1 if rng.random() < 0.3 else 1].reshape(rows, columns)

    arrays = [view(n, d), view(m, d), view(m, d_v)][: count_of(operation)]
    options: dict[str, Any] = {"bias": view(n, m)}
    out = view(n, d_v if operation == "attention" else m)
    if rng.random() < 0.4:
        # Bytes of the same memory: set to 0 or 1, they are a mask and small numbers.
        start = int(rng.integers(memory.nbytes - n * m + 1))
        mask = memory.view(np.uint8)[start : start + n * m]
        mask &= 1
        options["mask"] = mask.view(bool).reshape(n, m)
    apart = {name: array.copy() for name, array in options.items()}
    want = call(operation, backend, *[a.copy() for a in arrays], **apart)
    call(operation, backend, *arrays, out=out, **options)
    what = f"{operation} of ({n}, {m}, {d}, {d_v})"
    assert_same_bits(np.array(out), want, what)


@check(9, seed=(0, 1, 2))
def random_overlaps(backend: str, seed: int) -> None:
    """Inputs, masks and out drawn from one block of memory: as if they were apart."""
    for k in range(20):
        random_overlap(np.random.default_rng([seed, k]), backend)


@check(12)
def offsets_are_wide(backend: str) -> None:
    """Offsets and windows beyond 32 bits mean what they say."""
    query, key, value = inputs()
    far = 1 << 40
    for options in (
        {"q_offset": far, "is_causal": True},
        {"q_offset": far, "window_size": (far - 3, None)},
        {"q_offset": -far, "is_causal": True},
        {"q_offset": -far, "window_size": (None, far + 4)},
        {"q_offset": np.array(far), "window_size": (far, far)},
    ):
        got = call("attention", backend, query, key, value, **options)
        assert_result(got, exact("attention", query, key, value, **options))


@check(12, level="full")
def strides_are_wide(backend: str) -> None:
    """Rows more than 2**31 bytes apart are found."""
    gap = (1 << 31) + 4096
    try:
        # Never touched but at its rows: the pages between do not exist.
        raw = np.zeros(2 * gap + 4096, np.uint8)
    except MemoryError:
        return
    query, key, value = inputs(m=3)
    far = np.ndarray(key.shape, key.dtype, raw, strides=(gap, key.itemsize))
    far[...] = key
    want = call("attention", backend, query, key, value)
    assert_same_bits(call("attention", backend, query, far, value), want)
