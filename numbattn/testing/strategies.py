"""Hypothesis strategies for whole problems, and for arguments that are none.

This module needs the package hypothesis; nothing else of the kit does.
"""

from __future__ import annotations

import decimal
import fractions
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from numbattn.testing.cases import OPERATIONS, Case, float_dtypes
from numbattn.testing.layouts import LAYOUTS, OUT_LAYOUTS, relayout
from numbattn.testing.oracle import leading_shape
from numbattn.testing.samples import sample_functions

__all__ = ["junk", "problems"]

Array = np.ndarray[Any, Any]
_LARGEST = 40
_SPECIAL = (np.nan, 0.0, -0.0, 1e4, -1e4)


@st.composite
def problems(
    draw: st.DrawFn, operation: str | None = None, dtype: str | None = None
) -> Case:
    """Draw a problem: shapes with empty axes, dtypes, memory layouts, options, out.

    Parameters
    ----------
    operation : {"scores", "weights", "attention"}, optional
        Drawn where not given.
    dtype : str, optional
        Of query, key and value, by name; drawn for each where not given.

    Returns
    -------
    hypothesis.strategies.SearchStrategy
        Of :class:`numbattn.testing.Case`; ``run_case(case, backend)`` holds a
        backend to it.
    """
    operation = operation or draw(st.sampled_from(OPERATIONS))
    size = st.integers(0, _LARGEST)
    n, m, d_k, d_v = (draw(size) for _ in range(4))
    shapes = _leads(draw)
    cores = ((n, d_k), (m, d_k), (m, d_v))[: 3 if operation == "attention" else 2]
    arrays = [
        draw(_arrays((*lead, *core), dtype))
        for lead, core in zip(shapes, cores, strict=False)
    ]
    lead = leading_shape(*arrays)
    out = st.none() | st.sampled_from(OUT_LAYOUTS)
    return Case(
        operation,
        query=arrays[0],
        key=arrays[1],
        value=arrays[2] if operation == "attention" else None,
        options=draw(_options(operation, lead, n, m)),
        return_lse=operation == "attention" and draw(st.booleans()),
        out_layout=draw(out),
    )


def _leads(draw: st.DrawFn) -> list[tuple[int, ...]]:
    """Draw leading axes of query, key and value that broadcast."""
    count = draw(st.integers(0, 3))
    if count == 0:
        return [(), (), ()]
    batch = [draw(st.integers(0, 2)) for _ in range(count - 1)]
    kv_heads, group = draw(st.integers(0, 3)), draw(st.integers(1, 3))
    thin = st.booleans()
    leads = []
    for which in range(3):
        heads = kv_heads if which else kv_heads * group
        axes = [1 if draw(thin) else size for size in batch]
        axes.append(1 if which and draw(thin) else heads)
        while axes and axes[0] == 1 and draw(thin):
            axes.pop(0)
        leads.append(tuple(axes))
    return leads


@st.composite
def _arrays(draw: st.DrawFn, shape: tuple[int, ...], dtype: str | None) -> Array:
    """Draw an array of numbers in some memory; a few elements are special."""
    known = float_dtypes()
    kind = known[dtype or draw(st.sampled_from(list(known)))]
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size = draw(st.sampled_from([1.0, 0.1, 3.0]))
    array = np.asarray(rng.standard_normal(shape) * size).astype(kind)
    if array.size:
        places = st.tuples(*(st.integers(0, size - 1) for size in shape))
        special = st.tuples(places, st.sampled_from(_SPECIAL))
        for at, value in draw(st.lists(special, max_size=2)):
            array[at] = value
    return draw(_memory(array))


@st.composite
def _memory(draw: st.DrawFn, array: Array) -> Array:
    """Draw a memory layout, one of which repeats along an axis by a stride of 0."""
    layout = draw(st.none() | st.sampled_from([*LAYOUTS, "repeats"]))
    if layout is None:
        return array
    if layout != "repeats":
        return relayout(array, layout)
    if not array.ndim or not array.size:
        return array
    axis = draw(st.integers(0, array.ndim - 1))
    first = array[(slice(None),) * axis + (slice(0, 1),)]
    return np.broadcast_to(first, array.shape)


@st.composite
def _options(
    draw: st.DrawFn, operation: str, lead: tuple[int, ...], n: int, m: int
) -> dict[str, Any]:
    """Draw options; each is left out half of the time."""
    some = st.floats(-2, 2, width=32)
    side = st.none() | st.integers(-1, m + 2)
    shape = (*lead, n, m)
    choices: dict[str, st.SearchStrategy[Any]] = {
        "scale": st.none() | some | st.sampled_from([0.0, -0.0, 1.0]),
        "softcap": st.floats(0.01, 1e4),
        "bias": _broadcast(shape).flatmap(_bias),
        "mask": _broadcast(shape).flatmap(_mask),
        "is_causal": st.booleans(),
        "window_size": st.tuples(side, side),
        "q_offset": st.just("lower_right") | _positions(lead, -n - 2, m + 2),
        "kv_lengths": _positions(lead, 0, m),
    }
    if operation != "scores":
        choices["sinks"] = _sinks(lead[-1] if lead else 1)
    found = {
        name: draw(strategy)
        for name, strategy in choices.items()
        if draw(st.booleans())
    }
    if draw(st.integers(0, 9)) == 0:  # few: each compiles
        rng = np.random.default_rng(draw(st.integers(0, 99)))
        found |= sample_functions(rng, found.get("mask"), lead, n, m)
    return found


@st.composite
def _broadcast(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Draw a shape that broadcasts to `shape`."""
    axes = [size if draw(st.booleans()) else 1 for size in shape]
    return tuple(axes[draw(st.integers(0, len(axes))) :])


def _bias(shape: tuple[int, ...]) -> st.SearchStrategy[Array]:
    @st.composite
    def made(draw: st.DrawFn) -> Array:
        array = draw(_arrays(shape, None)).copy()
        hidden = np.random.default_rng(draw(st.integers(0, 999))).random(shape)
        array[hidden < draw(st.sampled_from([0, 0.3, 1]))] = -np.inf
        return draw(_memory(array))

    return made()


def _mask(shape: tuple[int, ...]) -> st.SearchStrategy[Array]:
    @st.composite
    def made(draw: st.DrawFn) -> Array:
        shown = np.random.default_rng(draw(st.integers(0, 999))).random(shape)
        array = np.asarray(shown < draw(st.sampled_from([0, 0.1, 0.8, 1])))
        return draw(_memory(array))

    return made()


@st.composite
def _positions(draw: st.DrawFn, lead: tuple[int, ...], low: int, high: int) -> Any:
    """Draw one int, or an int array of as many axes as `lead`."""
    if draw(st.booleans()):
        return draw(st.integers(low, high))
    shape = tuple(size if draw(st.booleans()) else 1 for size in lead)
    dtype = draw(st.sampled_from([np.int16, np.int32, np.int64]))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    return rng.integers(low, high + 1, shape, dtype=dtype)


@st.composite
def _sinks(draw: st.DrawFn, heads: int) -> Any:
    """Draw a sink for each head, as a list or an array."""
    number = st.floats(-9, 9, width=16) | st.sampled_from(
        [0.0, 1e3, -1e3, -np.inf, np.inf, np.nan]
    )
    sinks = [draw(number) for _ in range(heads)]
    kind = draw(st.none() | st.sampled_from(list(float_dtypes().values())))
    return sinks if kind is None else np.array(sinks).astype(kind)


class _Hostile:
    """Nothing of it can be looked at."""

    def __getattr__(self, name: str) -> Any:
        raise ZeroDivisionError(name)

    def __len__(self) -> int:
        raise ZeroDivisionError("len")

    def __index__(self) -> int:
        raise ZeroDivisionError("index")


def junk() -> st.SearchStrategy[Any]:
    """Draw what somebody could pass by mistake, for any argument.

    Returns
    -------
    hypothesis.strategies.SearchStrategy
        Of numbers of all kinds, text, containers, arrays of all dtypes, and objects
        that raise when they are looked at. Nothing is callable.
    """
    huge = st.sampled_from([10**400, -(10**400), 2**63, -(2**63) - 1])
    scalars = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        huge,
        st.floats(),
        st.complex_numbers(),
        st.text(max_size=20),
        st.binary(max_size=8),
        st.fractions(),
        huge.map(fractions.Fraction),
        st.decimals(allow_nan=True),
        st.just(decimal.Decimal("1e5000")),
        st.sampled_from(["auto", "cpu", "reference", "cuda", "lower_right", "2 GB"]),
        hnp.scalar_dtypes().flatmap(hnp.from_dtype),
        st.datetimes(),
        st.builds(_Hostile),
        st.builds(object),
    )
    shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3)
    arrays = hnp.arrays(hnp.scalar_dtypes(), shapes)
    odd = st.one_of(
        hnp.arrays(hnp.array_dtypes(), hnp.array_shapes(max_dims=2, max_side=2)),
        arrays.map(np.ma.masked_array),
        shapes.map(lambda shape: np.full(shape, None)),
        arrays.map(lambda array: memoryview(array.tobytes())),
        st.builds(range, st.integers(0, 5)),
        st.just(np.dtype("f4")),
        st.just(...),
        st.just(slice(None)),
    )
    containers = st.recursive(
        scalars,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.tuples(inner, inner),
            st.sets(st.integers(), max_size=3),
            st.dictionaries(st.text(max_size=3), inner, max_size=2),
        ),
        max_leaves=6,
    )
    return st.one_of(scalars, arrays, odd, containers)
