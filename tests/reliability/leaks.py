"""Make 10,000 calls, 2,000 of them failing, and say how far resident memory has grown.

Run in a process of its own by `test_memory`.
"""

from __future__ import annotations

import gc
import json
import sys
from typing import Any

import ml_dtypes
import numpy as np
from peaks import status

import numbattn

CALLS, FAILING = 10_000, 2_000
OPERATIONS = ("scores", "weights", "attention", "iter_scores")
DTYPES = (np.float32, np.float64, np.float16, ml_dtypes.bfloat16, np.int16, ">f4")
WRONG: list[dict[str, Any]] = [
    {"mask": np.ones((3, 3, 3, 3, 3), bool)},
    {"bias": np.ones((1, 1), np.int64)},
    {"scale": np.nan},
    {"window_size": (1, 2, 3)},
    {"kv_lengths": -1},
    {"q_offset": "upper"},
    {"backend": "cup"},
    {"backend": "cuda"},
    {"num_threads": 10**6, "backend": "cpu"},
    {"max_memory": 1},
    {"max_memory": "2 potatoes"},
    {"progress": 3},
    {"softcap": -1.0},
    {"query": np.ones((2, 2, 2, 99))},
    {"query": np.ones(3, complex)},
    {"key": [[1.0], [2.0, 3.0]]},
]


def raising(done: int, total: int) -> None:
    """Fail in the middle of a call."""
    raise KeyError(f"{done} of {total}")


def one_call(rng: np.random.Generator, wrong: bool) -> None:
    """Make a call with everything drawn; `wrong` makes it one that fails."""
    operation = OPERATIONS[rng.integers(4)]
    batch, heads, own = rng.integers(1, 4), rng.integers(1, 3), rng.integers(1, 3)
    n, m, d = rng.integers(1, 40, 3)
    shapes = (batch, heads * own, n, d), (batch, heads, m, d), (heads, m, 3)
    arrays = [np.ones(each, DTYPES[rng.integers(len(DTYPES))]) for each in shapes]
    how: dict[str, Any] = {"backend": ("cpu", "reference")[rng.integers(2)]}
    options: dict[str, Any] = {
        "scale": 0.5,
        "softcap": 3.0,
        "bias": np.ones((n, 1)),
        "mask": np.ones((n, m), bool),
        "is_causal": True,
        "window_size": (3, None),
        "q_offset": np.full((batch, 1), 2),
        "kv_lengths": int(m),
        "max_memory": "1 GB",
        "num_threads": 1,
        "progress": lambda done, total: None,
    }
    how |= {name: each for name, each in options.items() if rng.random() < 0.2}
    if operation == "attention":
        how["return_lse"] = bool(rng.integers(2))
    else:
        arrays.pop()
    if wrong:
        mistakes = [*WRONG, {"progress": raising}]
        how |= mistakes[rng.integers(len(mistakes))]
        arrays[0] = how.pop("query", arrays[0])
        arrays[1] = how.pop("key", arrays[1])
    made = getattr(numbattn, operation)(*arrays, **how)
    if operation == "iter_scores":
        for _ in made:
            pass


def calls(count: int, failing: int, seed: int) -> dict[str, int]:
    """Make the calls; return how many raised which error."""
    rng = np.random.default_rng(seed)
    wrong = rng.permutation(count) < failing
    raised: dict[str, int] = {}
    for each in wrong:
        try:
            one_call(rng, bool(each))
        except (numbattn.NumbattnError, KeyError) as error:
            if not each:
                raise
            raised[type(error).__name__] = raised.get(type(error).__name__, 0) + 1
    assert sum(raised.values()) == failing
    return raised


def main() -> None:
    """Warm up, measure, print."""
    numbattn.warmup()  # every kernel
    calls(CALLS // 4, FAILING // 4, 1)  # caches, scratch, imports
    gc.collect()
    before = status("VmRSS")
    raised = calls(CALLS, FAILING, 2)
    gc.collect()
    found = {"grown": status("VmRSS") - before, "raised": raised}
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
