"""Inputs that many checks share: matrices, a batch of heads, options, maskers."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, cast

import numpy as np

from numbattn import selector
from numbattn.testing.bounds import (
    assert_lse,
    assert_output,
    assert_scores,
    assert_weights,
)
from numbattn.testing.calls import call
from numbattn.testing.cases import float_dtypes
from numbattn.testing.oracle import exact
from numbattn.testing.registry import check, require

Array = np.ndarray[Any, Any]
OPERATIONS = ("scores", "weights", "attention")
N, M, D = 37, 70, 24
BAD = (np.nan, np.inf, -np.inf)
MASKERS = ("mask", "bias", "kv_lengths", "is_causal", "window_size")
SHORT = 32
"""The largest short limit that the rules allow: longer pieces keep their bits."""


def inputs(
    dtype: Any = "float32", seed: int = 0, n: int = N, m: int = M, d: int = D
) -> list[Array]:
    """Return a query, a key and a value of normal numbers."""
    rng = np.random.default_rng(seed)
    dtype = float_dtypes()[dtype] if isinstance(dtype, str) else dtype
    shapes = ((n, d), (m, d), (m, d + 3))
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def results(
    backend: str, arrays: list[Array], operations: Any = OPERATIONS, **options: Any
) -> dict[str, Array]:
    """Return scores, weights, output and lse of one problem."""
    found: dict[str, Array] = {}
    for operation in operations:
        if operation == "attention":
            found["output"], found["lse"] = call(
                "attention", backend, *arrays, return_lse=True, **options
            )
        else:
            taken = taken_by(operation, options)
            found[operation] = call(operation, backend, *arrays[:2], **taken)
    return found


def taken_by(operation: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return the options without those that an operation does not take."""
    if operation != "scores":
        return options
    return {name: value for name, value in options.items() if name != "sinks"}


def held(
    backend: str, arrays: list[Array], operations: Any = OPERATIONS, **options: Any
) -> dict[str, float]:
    """Run operations on one problem, hold them to the bound, return the worst C.

    One oracle serves all of them: the scale is that of attention unless given.
    """
    options = {"scale": None, **options}
    want = exact("attention", *arrays, **options)
    asserts: dict[str, Any] = {
        "scores": assert_scores,
        "weights": assert_weights,
        "output": assert_output,
        "lse": assert_lse,
    }
    got = results(backend, arrays, operations, **options)
    return {name: asserts[name](array, want) for name, array in got.items()}


def masker(name: str, hidden: Array) -> dict[str, Any]:
    """Return options that hide the keys of `hidden` (n, m) with one option."""
    m = hidden.shape[1]
    if name == "mask":
        return {"mask": ~hidden}
    if name == "bias":
        return {"bias": np.where(hidden, np.float32(-np.inf), np.float32(0))}
    if name == "kv_lengths":
        return {"kv_lengths": int(m - hidden.all(axis=0).sum())}
    if name == "is_causal":
        return {"is_causal": True, "q_offset": 3}
    return {"window_size": (9, 2), "q_offset": 5}


def hidden_by(name: str, n: int, m: int) -> Array:
    """Return the keys (n, m) that the option of `masker` hides from each query."""
    i, j = np.arange(n)[:, None], np.arange(m)[None, :]
    if name == "kv_lengths":
        return np.broadcast_to(j >= m - 6, (n, m))
    if name == "is_causal":
        return j > i + 3
    if name == "window_size":
        return (j < i + 5 - 9) | (j > i + 5 + 2)
    return np.random.default_rng(5).random((n, m)) < 0.4


def options_for(
    n: int, m: int, lead: tuple[int, ...] = (), operation: str = "attention"
) -> dict[str, Any]:
    """Return every option at once, with arrays where arrays are possible."""
    rng = np.random.default_rng(9)
    bias = rng.standard_normal((*lead, n, m)).astype(np.float32)
    bias[..., 1::7] = -np.inf
    count = int(np.prod(lead))
    options = {
        "scale": 0.3,
        "softcap": 4.0,
        "bias": bias,
        "mask": rng.random((n, m)) < 0.8,
        "is_causal": True,
        "window_size": (40, None),
        "q_offset": np.arange(5, 5 + count).reshape(lead) if lead else 5,
        "kv_lengths": np.arange(m - count + 1, m + 1).reshape(lead) if lead else m - 2,
        "sinks": rng.standard_normal(lead[-1] if lead else 1) * 3,
    }
    return taken_by(operation, options)


def batch(
    dtype: str = "float32", n: int = 21, m: int = 40, d: int = 17, heads: int = 4
) -> list[Array]:
    """Return a batch of 2, with half as many key heads as query heads."""
    rng = np.random.default_rng(2)
    shapes = ((2, heads, n, d), (2, heads // 2, m, d), (2, heads // 2, m, d + 2))
    return [rng.standard_normal(s).astype(float_dtypes()[dtype]) for s in shapes]


def count_of(operation: str) -> int:
    """Return how many arrays an operation takes."""
    return 3 if operation == "attention" else 2


def worst_of(used: Iterable[dict[str, float]]) -> dict[str, float]:
    """Return the largest constant of several problems, by quantity."""
    worst: dict[str, float] = {}
    for each in used:
        for name, c in each.items():
            worst[name] = max(worst.get(name, 0.0), c)
    return worst


def takes_functions(backend: str) -> bool:
    """Return whether a backend takes a score_mod and mask objects at all."""
    return hasattr(selector.load(backend), "check_functions")


def check_of_functions(rule: int, **parameters: Any) -> Callable[..., Any]:
    """Register a check that holds nothing where a backend takes no functions."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def run(backend: str, **arguments: Any) -> Any:
            if not takes_functions(backend):
                return {}
            return function(backend, **arguments)

        return cast("Callable[..., Any]", check(rule, **parameters)(run))

    return register


def refused(
    error: type[Exception], words: tuple[str, ...], call: Callable[..., Any],
    *arguments: Any, **options: Any,
) -> None:  # fmt: skip
    """Require that a call raises this error, with these words in its message."""
    try:
        call(*arguments, **options)
    except error as caught:
        for word in words:
            require(word in str(caught), f"the message lacks {word!r}: {caught}")
    else:
        raise AssertionError(f"no {error.__name__}")
