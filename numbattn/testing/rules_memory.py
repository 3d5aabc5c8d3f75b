"""Checks of where the numbers lie: dtypes, layouts, out, guards, sizes, same bits."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from numbattn.testing.bounds import assert_result, assert_same_bits
from numbattn.testing.cases import call, float_dtypes
from numbattn.testing.layouts import LAYOUTS, guarded_empty, relayout
from numbattn.testing.oracle import exact
from numbattn.testing.registry import check, require
from numbattn.testing.rules_values import OPERATIONS, inputs, results

Array = np.ndarray[Any, Any]
SHORT = 32
"""The largest short limit that the rules allow: longer pieces keep their bits."""


def options_for(n: int, m: int, lead: tuple[int, ...] = ()) -> dict[str, Any]:
    """Return every option at once, with arrays where arrays are possible."""
    rng = np.random.default_rng(9)
    bias = rng.standard_normal((*lead, n, m)).astype(np.float32)
    bias[..., 1::7] = -np.inf
    count = int(np.prod(lead))
    return {
        "scale": 0.3,
        "softcap": 4.0,
        "bias": bias,
        "mask": rng.random((n, m)) < 0.8,
        "is_causal": True,
        "window_size": (40, None),
        "q_offset": np.arange(5, 5 + count).reshape(lead) if lead else 5,
        "kv_lengths": np.arange(m - count + 1, m + 1).reshape(lead) if lead else m - 2,
    }


def batch(dtype: str = "float32", n: int = 21, m: int = 40, d: int = 17) -> list[Array]:
    """Return a batch of 2 with 4 query heads and 2 key heads."""
    rng = np.random.default_rng(2)
    shapes = ((2, 4, n, d), (2, 2, m, d), (2, 2, m, d + 2))
    return [rng.standard_normal(s).astype(float_dtypes()[dtype]) for s in shapes]


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


@check(8, operation=OPERATIONS)
def empty_axes(backend: str, operation: str) -> None:
    """Every combination of axes of length 0, 1 and 2 works."""
    rng = np.random.default_rng(0)
    for sizes in itertools.product((0, 1, 2), repeat=5):
        lead, (n, m, d) = sizes[:2], sizes[2:]
        arrays = [rng.standard_normal((*lead, k, d)) for k in (n, m)]
        if operation == "attention":
            arrays.append(rng.standard_normal((*lead, m, 3)))
        try:
            got = call(operation, backend, *arrays)
            assert_result(got, exact(operation, *arrays))
        except Exception as error:
            error.add_note(f"for (batch, heads, n, m, d) = {sizes}")
            raise
    if operation == "attention":
        got = call(operation, backend, *inputs()[:2], np.empty((70, 0), np.float32))
        require(got.shape == (37, 0), "shape with d_v == 0")


@check(9, operation=OPERATIONS)
def inputs_are_not_written(backend: str, operation: str) -> None:
    """No input changes, and read-only inputs do."""
    arrays = batch()
    options = options_for(21, 40, (2, 4))
    kept = [*arrays, *(a for a in options.values() if isinstance(a, np.ndarray))]
    before = [a.tobytes() for a in kept]
    for a in kept:
        a.flags.writeable = False
    call(operation, backend, *arrays[: 3 if operation == "attention" else 2], **options)
    require([a.tobytes() for a in kept] == before, "an input changed")


@check(9, operation=OPERATIONS, dtype=("float32", "float64", "float16"))
def out_of_any_layout(backend: str, operation: str, dtype: str) -> None:
    """Any strides of out give the same bits, and nothing is written around it."""
    arrays = batch(dtype)[: 3 if operation == "attention" else 2]
    options = options_for(21, 40, (2, 4))
    want = call(operation, backend, *arrays, **options)
    for layout in LAYOUTS[:-2]:
        guard = guarded_empty(want.shape, want.dtype, layout)
        got = call(operation, backend, *arrays, out=guard.array, **options)
        require(got is guard.array, f"{layout}: out is not returned")
        assert_same_bits(np.array(got), want, f"{layout} out")
        require(guard.intact(), f"{layout}: something outside of out was written")
    swapped = np.empty(want.shape, want.dtype.newbyteorder("S"))
    if swapped.dtype != want.dtype:
        require(
            _untouched_or(
                lambda: call(operation, backend, *arrays, out=swapped, **options),
                swapped,
                want,
            ),
            "a byte-swapped out is neither refused nor right",
        )


def _untouched_or(run: Any, out: Array, want: Array) -> bool:
    """Return whether `run` wrote `want` into out, or refused and left it alone."""
    import numbattn

    before = out.tobytes()
    try:
        run()
    except numbattn.NumbattnError:
        return out.tobytes() == before
    return bool(np.array_equal(out, want))


@check(9, operation=OPERATIONS)
def out_that_does_not_fit(backend: str, operation: str) -> None:
    """A wrong shape, a wrong dtype or a read-only out is refused and left alone."""
    import numbattn

    arrays = inputs()[: 3 if operation == "attention" else 2]
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
        count = 3 if operation == "attention" else 2
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


@check(10, operation=OPERATIONS, dtype=("float32", "float64", "float16"))
def layouts_keep_bits(backend: str, operation: str, dtype: str) -> None:
    """Any memory layout of any input gives the bits of the contiguous copy."""
    arrays = batch(dtype)[: 3 if operation == "attention" else 2]
    options = options_for(21, 40, (2, 4))
    want = call(operation, backend, *arrays, **options)
    bare = call(operation, backend, *arrays)
    for which, layout in itertools.product(range(len(arrays)), LAYOUTS):
        moved = list(arrays)
        moved[which] = relayout(arrays[which], layout)
        what = f"{operation} with input {which} {layout}"
        assert_same_bits(call(operation, backend, *moved), bare, what)
    for layout in LAYOUTS:
        moved = [relayout(a, layout) for a in arrays]
        odd = {
            k: relayout(v, layout) if isinstance(v, np.ndarray) else v
            for k, v in options.items()
        }
        assert_same_bits(call(operation, backend, *moved, **odd), want, layout)


@check(10, operation=OPERATIONS)
def zero_strides(backend: str, operation: str) -> None:
    """A broadcast view, along any axis, gives the bits of its copy."""
    rng = np.random.default_rng(6)
    n, m, d = 19, 23, 9
    for axis in range(3):
        views = []
        for shape in ((3, n, d), (3, m, d), (3, m, 5))[
            : 3 if operation == "attention" else 2
        ]:
            one = list(shape)
            one[axis] = 1
            views.append(np.broadcast_to(rng.standard_normal(one), shape))
        mask = np.broadcast_to(rng.random((1, m)) < 0.7, (n, m))
        want = call(operation, backend, *[a.copy() for a in views], mask=mask.copy())
        got = call(operation, backend, *views, mask=mask)
        assert_same_bits(got, want, f"{operation} with stride 0 on axis {axis}")


@check(11, operation=OPERATIONS, dtype=("float32", "float64"))
def query_blocks_keep_bits(backend: str, operation: str, dtype: str) -> None:
    """Pieces along the queries, each above the short limit, have the same bits."""
    n = 4 * SHORT + 9
    count = 3 if operation == "attention" else 2
    arrays = inputs(dtype, n=n)[:count]
    options: dict[str, Any] = {"is_causal": True, "window_size": (50, None)}
    want = call(operation, backend, *arrays, **options)
    for cuts in ((0, SHORT + 1, n), (0, 50, 2 * SHORT + 20, n)):
        pieces = [
            call(operation, backend, arrays[0][a:b], *arrays[1:], q_offset=a, **options)
            for a, b in itertools.pairwise(cuts)
        ]
        assert_same_bits(np.concatenate(pieces), want, f"{operation} cut at {cuts}")


@check(11, operation=OPERATIONS, n=(1, 20, 40))
def batches_keep_bits(backend: str, operation: str, n: int) -> None:
    """A row has the same bits alone, in a batch, and whatever the other heads are."""
    arrays = batch(n=n)[: 3 if operation == "attention" else 2]
    want = call(operation, backend, *arrays)
    for b, h in np.ndindex(2, 4):
        alone = [arrays[0][b, h], *(a[b, h // 2] for a in arrays[1:])]
        got = call(operation, backend, *alone)
        assert_same_bits(got, want[b, h], f"{operation} of batch {b}, head {h}")


@check(11, operation=OPERATIONS, dtype=("float32", "float64"))
def threads_keep_bits(backend: str, operation: str, dtype: str) -> None:
    """The number of threads, and a second run, change no bit."""
    arrays = inputs(dtype, n=130, m=150, d=33)[: 3 if operation == "attention" else 2]
    want = call(operation, backend, *arrays, num_threads=1)
    for threads in (1, 2):
        got = call(operation, backend, *arrays, num_threads=threads)
        assert_same_bits(got, want, f"{operation} on {threads} threads")


@check(11, operation=OPERATIONS)
def memory_limit_keeps_bits(backend: str, operation: str) -> None:
    """A memory limit that the call meets changes no bit."""
    arrays = inputs("float16", n=130, m=150)[: 3 if operation == "attention" else 2]
    want = call(operation, backend, *arrays)
    got = call(operation, backend, *arrays, max_memory="64 MiB")
    assert_same_bits(got, want, operation)


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
