"""Measure how far the resident memory of calls rises: one line of JSON for each.

Run in a process of its own by `test_memory`.
"""

from __future__ import annotations

import gc
import json
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

import numbattn

F32, F64, F16, BF16 = np.float32, np.float64, np.float16, ml_dtypes.bfloat16
OPERATIONS = ("scores", "weights", "attention", "iter_scores")
# dtype and shapes of query, key, value
CPU: list[tuple[Any, ...]] = [
    (F32, (4000, 64), (4000, 64), (4000, 64)),
    (F64, (8, 500, 64), (8, 1500, 64), (8, 1500, 64)),
    (F16, (8, 1000, 64), (2, 1500, 64), (2, 1500, 64)),
    (BF16, (3, 16, 600, 32), (3, 4, 500, 32), (3, 4, 500, 48)),
    (np.int8, (2000, 64), (2000, 64), (2000, 64)),
    (np.dtype(">f4"), (700, 300), (3000, 300), (3000, 300)),
    (F16, (1, 64), (500_000, 64), (500_000, 64)),
    (F32, (50_000, 4, 1, 2), (50_000, 4, 1, 2), (50_000, 4, 1, 2)),
    (F32, (700_000, 1, 2), (700_000, 1, 2), (700_000, 1, 2)),
    (F32, (300, 3000), (2000, 3000), (2000, 6000)),
]
REFERENCE: list[tuple[Any, ...]] = [
    (F32, (3, 700, 64), (3, 900, 64), (3, 900, 64)),
    (F16, (3, 400, 64), (3, 900, 64), (3, 900, 64)),
    (F64, (4, 300, 8), (4, 400, 8), (4, 400, 8)),
    (F32, (2, 30_000), (400, 30_000), (400, 30_000)),
]
OPTIONS: list[dict[str, Any]] = [
    {"softcap": 3.0, "is_causal": True},
    {"bias": np.zeros((1500, 1500)), "mask": np.ones((1500, 1500), bool)},
    {"max_memory": "8 MB"},
    {"return_lse": True},
]


def status(name: str) -> int:
    """Return a number of /proc/self/status in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise KeyError(name)


def peak_of(call: Callable[[], Any]) -> int:
    """Return how far resident memory rises, in a thread that has kept no scratch."""
    found = []

    def measure() -> None:
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        before = status("VmRSS")
        result = call()
        found.append(status("VmHWM") - before)
        del result

    thread = threading.Thread(target=measure)
    thread.start()
    thread.join()
    return found[0]


def case(operation: str, backend: str, dtype: Any, *shapes: Any, **how: Any) -> None:
    """Print the estimate and the peak of one call."""
    arrays = [np.full(shape, 1, dtype) for shape in shapes]
    if operation != "attention":
        arrays.pop()
    how["backend"] = backend

    def call() -> Any:
        made = getattr(numbattn, operation)(*arrays, **how)
        if operation == "iter_scores":
            for _, _, block in made:
                assert block.size
        return made

    said = numbattn.estimate_memory(*arrays, operation=operation, **how)
    name = (operation, str(np.dtype(dtype)), *shapes, *sorted(how), backend)
    sys.stdout.write(
        json.dumps({"call": name, "estimate": said.total, "peak": peak_of(call)}) + "\n"
    )


def warm_up() -> None:
    """Compile or load every kernel, and let NumPy's BLAS take its buffers."""
    for dtype in (F32, F64):
        for shape in ((4, 8), (40, 8), (600, 200)):
            x = np.ones(shape, dtype)
            for operation in OPERATIONS[:3]:
                arrays = (x,) * (3 if operation == "attention" else 2)
                getattr(numbattn, operation)(*arrays, backend="cpu")
                if shape != (600, 200):
                    getattr(numbattn, operation)(*arrays, backend="reference")
    x = np.ones((1500, 1500))
    np.matmul(x, x)


def main() -> None:
    """Measure every operation on every backend."""
    warm_up()
    for operation in OPERATIONS:
        for shapes in CPU:
            case(operation, "cpu", *shapes)
        for shapes in REFERENCE:
            case(operation, "reference", *shapes)
        for options in OPTIONS:
            if "return_lse" in options and operation != "attention":
                continue
            square = (F16, (4, 1500, 32), (1500, 32), (1500, 32))
            if "max_memory" in options and operation != "attention":
                square = (F16, (4, 600, 32), (1500, 32), (1500, 32))
            case(operation, "cpu", *square, **options)


if __name__ == "__main__":
    main()
