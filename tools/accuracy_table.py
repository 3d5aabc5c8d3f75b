"""Measure the accuracy table of docs/numerics.md: ``python tools/accuracy_table.py``.

Every operation on seeded problems, against the oracle of `numbattn.testing`, in units
of its error bound: the constant C that the worst element needs. Beside numbattn, in
float32 and float64, the same in float32 by NumPy and, where installed, by PyTorch.
The figures are deterministic for one processor and one version of each library; with
``--write`` the table on the page is renewed.
"""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import numbattn
from numbattn import testing

PAGE = Path(__file__).resolve().parent.parent / "docs" / "numerics.md"
BEGIN, END = "<!-- tools/accuracy_table.py -->\n", "<!-- to here -->\n"

Array = np.ndarray[Any, Any]
QUERIES = 32  # more than the 16 that have a kernel of their own
OPERATIONS = ("scores", "weights", "attention")


def normal(m: int, d: int, size: float = 1.0) -> tuple[Array, Array, Array]:
    """Return normal numbers, the queries times `size`."""
    rng = np.random.default_rng(0)
    query = rng.standard_normal((QUERIES, d)) * size
    key, value = rng.standard_normal((2, m, d))
    return query, key, value


def positive(m: int, d: int) -> tuple[Array, Array, Array]:
    """Return numbers from 0 to 1: no error cancels another one."""
    rng = np.random.default_rng(0)
    return rng.random((QUERIES, d)), *rng.random((2, m, d))


def equal(m: int, d: int) -> tuple[Array, Array, Array]:
    """Return vectors of one number each: every rounding goes the same way."""
    rng = np.random.default_rng(0)
    return (
        np.repeat(rng.random((QUERIES, 1)), d, axis=1),
        np.repeat(rng.random((m, 1)), d, axis=1),
        np.full((m, d), 0.1),
    )


PROBLEMS: dict[str, Callable[[], tuple[Array, Array, Array]]] = {
    "normal, m 512, d 64": lambda: normal(512, 64),
    "normal, m 8192, d 64": lambda: normal(8192, 64),
    "normal, m 512, d 1024": lambda: normal(512, 1024),
    "queries 20 times as large, m 512, d 64": lambda: normal(512, 64, 20.0),
    "0 to 1, m 2048, d 256": lambda: positive(2048, 256),
    "equal numbers, m 8192, d 128": lambda: equal(8192, 128),
}


def by_numbattn(operation: str, *arrays: Array) -> Array:
    """Return numbattn's result."""
    result: Array = getattr(numbattn, operation)(*arrays, backend="cpu")
    return result


def by_numpy(operation: str, query: Array, key: Array, value: Any = None) -> Array:
    """Return it as one would write it in NumPy."""
    scores = query @ key.swapaxes(-1, -2)
    if operation == "scores":
        return scores
    scores *= np.float32(1 / math.sqrt(query.shape[-1]))
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return weights if operation == "weights" else weights @ value


def by_torch(operation: str, *arrays: Array) -> Array:
    """Return it by PyTorch's operators."""
    import torch

    query, key, *value = map(torch.from_numpy, arrays)
    if operation == "attention":
        function = torch.nn.functional.scaled_dot_product_attention
        # four axes: it takes its fused kernel
        lifted = (x[None, None] for x in (query, key, *value))
        return np.asarray(function(*lifted)[0, 0])
    scores = query @ key.mT
    if operation == "weights":
        scores = torch.softmax(scores / math.sqrt(query.shape[-1]), dim=-1)
    return np.asarray(scores)


def sides() -> dict[str, tuple[Callable[..., Array], str]]:
    """Return who is measured, and in which dtype."""
    found: dict[str, tuple[Callable[..., Array], str]] = {
        "numbattn": (by_numbattn, "float32"),
        "NumPy": (by_numpy, "float32"),
    }
    if importlib.util.find_spec("torch") is not None:
        found["PyTorch"] = (by_torch, "float32")
    return found | {"numbattn, float64": (by_numbattn, "float64")}


def worst(problem: str, operation: str) -> list[float]:
    """Return the constant C that each side needs."""
    used = []
    for function, dtype in sides().values():
        # the oracle takes the rounded numbers, as each side does
        arrays = [np.asarray(each, dtype) for each in PROBLEMS[problem]()]
        arrays = arrays if operation == "attention" else arrays[:2]
        want = testing.exact(operation, *arrays)
        result = function(operation, *arrays)
        (c,) = testing.assert_result(result, want, c=math.inf).values()
        used.append(c)
    return used


def table() -> str:
    """Return the table, as Markdown."""
    head = ["problem", "result", *sides()]
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for problem in PROBLEMS:
        for operation in OPERATIONS:
            figures = [f"{c:.2f}" for c in worst(problem, operation)]
            what = "output" if operation == "attention" else operation
            lines.append(f"| {' | '.join([problem, what, *figures])} |")
            print(lines[-1], file=sys.stderr, flush=True)
    return "\n".join(lines) + "\n"


def main(*options: str) -> int:
    """Print the table; with ``--write`` put it into the page."""
    made = table()
    print(made, end="")
    if "--write" in options:
        before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
        _, _, after = rest.partition(END)
        PAGE.write_text(before + BEGIN + "\n" + made + "\n" + END + after, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
