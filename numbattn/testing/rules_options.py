"""Checks of the options: each alone, every pair, their shapes and their values."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from numbattn.testing.bounds import assert_same_bits
from numbattn.testing.calls import call
from numbattn.testing.cases import float_dtypes
from numbattn.testing.problems import batch, held, inputs, worst_of
from numbattn.testing.registry import check

OPTIONS = (
    "scale", "softcap", "bias", "mask", "is_causal", "window_size", "q_offset",
    "kv_lengths", "sinks",
)  # fmt: skip
M = 37
SEVERAL = (5, 21)
"""Queries below and above the short limit."""
SHAPES = ("", "m", "1 m", "n 1", "n m", "H n m", "B 1 n m", "1 H 1 m", "B H n m")


def value_of(option: str, n: int) -> Any:
    """Return a value of an option for a batch of (2, 4) heads, n queries, M keys."""
    rng = np.random.default_rng([n, OPTIONS.index(option)])
    bias = rng.standard_normal((4, n, M)).astype(np.float32)
    bias[rng.random(bias.shape) < 0.2] = -np.inf
    return {
        "scale": -0.3,
        "softcap": 1.5,
        "bias": bias,
        "mask": rng.random((2, 1, n, M)) < 0.7,
        "is_causal": True,
        "window_size": (9, 4),
        "q_offset": rng.integers(-3, M, (2, 4)),
        "kv_lengths": rng.integers(0, M + 1, (2, 1)),
        "sinks": rng.standard_normal(4) * 2,
    }[option]


def with_options(backend: str, *names: str) -> dict[str, float]:
    """Hold all operations with these options to the bound."""
    return worst_of(
        held(
            backend,
            batch(dtype, n=n, m=M, d=9),
            **{name: value_of(name, n) for name in names},
        )
        for n, dtype in zip(SEVERAL, ("float64", "float32"), strict=True)
    )


@check(13, option=OPTIONS)
def one_option(backend: str, option: str) -> dict[str, float]:
    """One option alone gives what the rules say, within the bound."""
    return with_options(backend, option)


@check(13, pair=[" and ".join(p) for p in itertools.combinations(OPTIONS, 2)])
def two_options(backend: str, pair: str) -> dict[str, float]:
    """Two options together give what the rules say, within the bound."""
    return with_options(backend, *pair.split(" and "))


@check(13, level="full", left_out=OPTIONS)
def all_options_but(backend: str, left_out: str) -> dict[str, float]:
    """Every option but one gives what the rules say, within the bound."""
    return with_options(backend, *(name for name in OPTIONS if name != left_out))


@check(13, scale=(None, 0.0, -1.0, 1e-3, 7.5, 1e-30))
def scale_of(backend: str, scale: float | None) -> dict[str, float]:
    """Any finite scale: the default, zero, negative, tiny."""
    return worst_of(held(backend, inputs(n=n), scale=scale) for n in SEVERAL)


@check(13, softcap=(1e-3, 0.5, 20.0, 1e4, 1e15))
def softcap_of(backend: str, softcap: float) -> dict[str, float]:
    """A softcap far below, near and far above the scores."""
    return worst_of(
        held(backend, inputs(dtype, n=n), softcap=softcap, scale=3.0)
        for n, dtype in itertools.product(SEVERAL, ("float32", "float64"))
    )


def shape_of(kind: str, n: int, m: int) -> tuple[int, ...]:
    """Return a shape from its letters, in a batch of (2, 4) heads."""
    sizes = {"B": 2, "H": 4, "n": n, "m": m}
    return tuple(sizes.get(letter, 1) for letter in kind.split())


@check(13, shape=SHAPES)
def bias_of_shape(backend: str, shape: str) -> dict[str, float]:
    """A bias of fewer axes, or with axes of length 1, serves all it broadcasts to."""
    rng = np.random.default_rng(3)
    return worst_of(
        held(
            backend,
            batch(n=n, m=M, d=9),
            bias=rng.standard_normal(shape_of(shape, n, M)).astype(np.float32),
        )
        for n in SEVERAL
    )


@check(13, shape=SHAPES)
def mask_of_shape(backend: str, shape: str) -> dict[str, float]:
    """A mask of fewer axes, or with axes of length 1, serves all it broadcasts to."""
    rng = np.random.default_rng(3)
    return worst_of(
        held(
            backend,
            batch(n=n, m=M, d=9),
            mask=np.asarray(rng.random(shape_of(shape, n, M)) < 0.5),
        )
        for n in SEVERAL
    )


@check(7, dtype=("float16", "bfloat16", "float32", "float64"))
def bias_of_dtype(backend: str, dtype: str) -> dict[str, float]:
    """A bias of any floating dtype is cast, and promotes nothing."""
    if dtype not in float_dtypes():
        return {}
    bias = np.random.default_rng(4).standard_normal((21, M)).astype(dtype)
    return worst_of(
        held(backend, inputs(each, n=21, m=M, d=9), bias=bias)
        for each in float_dtypes()
    )


WINDOWS = {
    "0 0": (0, 0),
    "none none": (None, None),
    "-1 -1": (-1, -1),
    "0 none": (0, None),
    "none 0": (None, 0),
    "3 none": (3, None),
    "2 5": (2, 5),
    "wide": (1000, 1000),
}


@check(13, window=WINDOWS)
def window_of(backend: str, window: str) -> dict[str, float]:
    """Windows, inclusive on both sides, at every kind of offset."""
    return worst_of(
        held(
            backend,
            inputs(n=n, m=M, d=5),
            window_size=WINDOWS[window],
            q_offset=offset,
        )
        for n, offset in itertools.product(
            SEVERAL, (0, 7, -4, M - 1, M + 3, "lower_right")
        )
    )


@check(13, offset=(0, 1, -1, -7, 16, M - 1, M + 9, "lower_right"))
def causal_from(backend: str, offset: Any) -> dict[str, float]:
    """The causal mask at an offset, with more, fewer and as many queries as keys."""
    return worst_of(
        held(backend, inputs(n=n, m=m, d=5), is_causal=True, q_offset=offset)
        for n, m in ((3, M), (20, M), (M, M), (60, M), (16, 16), (65, 65))
    )


@check(13, n=SEVERAL)
def causal_is_a_window(backend: str, n: int) -> None:
    """A causal call is the window whose right side is 0, to the bit."""
    arrays = inputs(n=n)
    for operation, count in (("scores", 2), ("weights", 2), ("attention", 3)):
        for offset in (0, 5, "lower_right"):
            want = call(
                operation, backend, *arrays[:count],
                window_size=(None, 0), q_offset=offset,
            )  # fmt: skip
            got = call(
                operation, backend, *arrays[:count], is_causal=True, q_offset=offset
            )
            assert_same_bits(got, want, f"{operation} from {offset}")
