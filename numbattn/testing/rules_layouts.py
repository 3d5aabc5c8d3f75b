"""Checks of memory: every layout of every argument, and of out, changes no bit."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from numbattn.testing.bounds import assert_same_bits
from numbattn.testing.calls import call
from numbattn.testing.layouts import LAYOUTS, OUT_LAYOUTS, guarded_empty, relayout
from numbattn.testing.problems import (
    OPERATIONS,
    Array,
    batch,
    count_of,
    options_for,
    results,
)
from numbattn.testing.registry import check, require

ARRAYS = ("query", "key", "value")
SIZES = (("float32", 18), ("float64", 5))
"""Dtypes, and queries above and below the short limit."""


def _keeps_bits(backend: str, argument: str, layout: str) -> None:
    for dtype, n in SIZES:
        m = 35
        arrays = batch(dtype, n=n, m=m, d=9, heads=2)
        options = options_for(n, m, (2, 2))
        want = results(backend, arrays, **options)
        if argument in ARRAYS:
            which = ARRAYS.index(argument)
            arrays[which] = relayout(arrays[which], layout)
        else:
            options[argument] = relayout(options[argument], layout)
        got = results(backend, arrays, **options)
        for name in want:
            what = f"{name} of {dtype}, n = {n}, with {argument} {layout}"
            assert_same_bits(got[name], want[name], what)


@check(
    10,
    argument=("query", "key", "value", "bias", "q_offset", "kv_lengths", "sinks"),
    layout=LAYOUTS,
)
def layout_of(backend: str, argument: str, layout: str) -> None:
    """One argument in another memory layout gives the bits of the contiguous copy."""
    _keeps_bits(backend, argument, layout)


@check(10, layout=tuple(x for x in LAYOUTS if x != "byte_swapped"))
def layout_of_mask(backend: str, layout: str) -> None:
    """A mask in another memory layout gives the bits of the contiguous copy."""
    _keeps_bits(backend, "mask", layout)


@check(10, operation=OPERATIONS, dtype=("float32", "float64", "float16"))
def layouts_together(backend: str, operation: str, dtype: str) -> None:
    """All arguments at once in a layout give the bits of the contiguous copies."""
    arrays = batch(dtype)[: count_of(operation)]
    options = options_for(21, 40, (2, 4), operation)
    want = call(operation, backend, *arrays, **options)
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
        for shape in ((3, n, d), (3, m, d), (3, m, 5))[: count_of(operation)]:
            one = list(shape)
            one[axis] = 1
            views.append(np.broadcast_to(rng.standard_normal(one), shape))
        mask = np.broadcast_to(rng.random((1, m)) < 0.7, (n, m))
        want = call(operation, backend, *[a.copy() for a in views], mask=mask.copy())
        got = call(operation, backend, *views, mask=mask)
        assert_same_bits(got, want, f"{operation} with stride 0 on axis {axis}")


@check(9, layout=OUT_LAYOUTS)
def layout_of_out(backend: str, layout: str) -> None:
    """Any strides of out give the same bits, and nothing is written around it."""
    for (dtype, n), operation in itertools.product(
        (*SIZES, ("float16", 18)), OPERATIONS
    ):
        arrays = batch(dtype, n=n, heads=2)[: count_of(operation)]
        for options in ({}, options_for(n, 40, (2, 2), operation)):
            want = call(operation, backend, *arrays, **options)
            guard = guarded_empty(want.shape, want.dtype, layout)
            got = call(operation, backend, *arrays, out=guard.array, **options)
            what = f"{operation} of {dtype}, n = {n}, {layout} out"
            require(got is guard.array, f"{what}: out is not returned")
            assert_same_bits(np.array(got), want, what)
            require(guard.intact(), f"{what}: something outside of out was written")


@check(9, operation=OPERATIONS, dtype=("float32", "float64", "float16"))
def out_in_the_other_byte_order(backend: str, operation: str, dtype: str) -> None:
    """A byte-swapped out is refused and left alone, or right."""
    arrays = batch(dtype)[: count_of(operation)]
    want = call(operation, backend, *arrays)
    swapped = np.full(want.shape, 7, want.dtype.newbyteorder("S"))
    require(
        _untouched_or(
            lambda: call(operation, backend, *arrays, out=swapped), swapped, want
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
