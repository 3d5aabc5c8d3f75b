"""Checks of sizes around the edges of vectors, tiles and blocks, with guards."""

from __future__ import annotations

import numpy as np

from numbattn.testing.bounds import assert_result
from numbattn.testing.calls import call
from numbattn.testing.layouts import guarded_empty, relayout
from numbattn.testing.oracle import exact
from numbattn.testing.problems import Array, held, worst_of
from numbattn.testing.registry import check, require

AXES = ("n", "m", "d_k", "d_v")
EDGES = (
    1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 18, 23, 24, 25, 28, 31, 32,
    33, 47, 48, 49, 56, 63, 64, 65, 79, 80, 81, 95, 96, 97, 111, 112, 127, 128, 129,
)  # fmt: skip
FAR = (161, 191, 193, 240, 255, 257, 385, 513, 1025)


def guarded(axis: str, size: int, dtype: str, n: int = 18) -> list[Array]:
    """Return arrays of which one axis is `size`, each between guards of NaN."""
    sizes = {"n": n, "m": 21, "d_k": 5, "d_v": 6, axis: size}
    rng = np.random.default_rng(size)
    axes = (("n", "d_k"), ("m", "d_k"), ("m", "d_v"))
    shapes = [(sizes[a], sizes[b]) for a, b in axes]
    return [
        relayout(rng.standard_normal(shape).astype(dtype), "contiguous")
        for shape in shapes
    ]


@check(13, axis=AXES, dtype=("float32", "float64"))
def every_edge(backend: str, axis: str, dtype: str) -> dict[str, float]:
    """Sizes around every multiple of a vector are within the bound."""
    return worst_of(held(backend, guarded(axis, size, dtype)) for size in EDGES)


@check(13, axis=("m", "d_k", "d_v"), n=(1, 7))
def every_edge_of_few_queries(backend: str, axis: str, n: int) -> dict[str, float]:
    """The same with queries below the short limit."""
    return worst_of(held(backend, guarded(axis, s, "float32", n)) for s in EDGES)


@check(13, axis=("n", "m"), dtype=("float32", "float64"))
def every_edge_of_a_causal_view(
    backend: str, axis: str, dtype: str
) -> dict[str, float]:
    """The same where a causal mask crosses the tiles."""
    return worst_of(
        held(backend, guarded(axis, size, dtype), is_causal=True, q_offset=3)
        for size in EDGES
    )


@check(13, level="full", axis=AXES, dtype=("float32", "float64"))
def far_edges(backend: str, axis: str, dtype: str) -> dict[str, float]:
    """Sizes around larger powers of two are within the bound."""
    return worst_of(held(backend, guarded(axis, size, dtype)) for size in FAR)


@check(9, axis=AXES, dtype=("float32", "float64"))
def nothing_beyond_out(backend: str, axis: str, dtype: str) -> None:
    """At such sizes each element of out is written, and nothing around it."""
    for size in EDGES[::3]:
        query, key, value = guarded(axis, size, dtype)
        for operation, arrays, shape in (
            ("scores", (query, key), (query.shape[0], key.shape[0])),
            ("weights", (query, key), (query.shape[0], key.shape[0])),
            ("attention", (query, key, value), (query.shape[0], value.shape[1])),
        ):
            guard = guarded_empty(shape, dtype, "offset")
            guard.array[...] = np.nan
            call(operation, backend, *arrays, out=guard.array)
            what = f"{operation} with {axis} = {size}"
            require(guard.intact(), f"{what}: something outside of out was written")
            try:
                assert_result(guard.array, exact(operation, *arrays))
            except AssertionError as error:
                error.add_note(f"in {what}")
                raise
