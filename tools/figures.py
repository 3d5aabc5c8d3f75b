"""Print the figures of this checkout that do not depend on the machine's speed.

They are bytes of workspace, kernels that first calls compile, and packages that are
imported. ``python tools/figures.py --write`` makes them the table that
tests/test_figures.py holds the package to.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "tests" / "figures.json"
LEVEL = "avx2"
"""Vectors that the table is of: a wider processor runs them too."""

_IMPORTS = """
import json, sys
before = set(sys.modules)
import numbattn
new = set(sys.modules) - before
tops = {name.split(".")[0] for name in new} - set(sys.stdlib_module_names)
ours = {name for name in new if name.split(".")[0] == "numbattn"}
print(json.dumps(sorted((tops | ours) - {"numbattn"})))
"""

_MEMORY = """
import json
from types import SimpleNamespace

import numbattn

def array(*shape, dtype="float32"):
    return SimpleNamespace(shape=shape, dtype=dtype)

def of(operation, q, k, v=None, dtype="float32", **options):
    arrays = [array(*shape, dtype=dtype) for shape in (q, k, v) if shape]
    shape = (*q[:-1], v[-1] if v else k[-2])
    out = array(*shape, dtype=dtype)
    return numbattn.estimate_memory(
        *arrays, operation=operation, out=out, backend="cpu", num_threads=2, **options
    ).total

square, heads, cache = (2048, 64), (8, 2048, 64), (8, 8192, 128)
band = numbattn.masks.sliding_window(256, 0)
print(json.dumps({
    "scores 2048x2048 d64": of("scores", square, square),
    "scores 2048x2048 d64 float64": of("scores", square, square, dtype="float64"),
    "scores 2048x2048 d64 float16": of("scores", square, square, dtype="float16"),
    "scores 1x8192 d128": of("scores", (1, 128), (8192, 128)),
    "weights 8 heads 2048": of("weights", heads, heads),
    "weights 8 heads 2048 sinks": of("weights", heads, heads, sinks=[0.0] * 8),
    "attention 8 heads 2048": of("attention", heads, heads, heads),
    "attention 8 heads 2048 causal":
        of("attention", heads, heads, heads, is_causal=True),
    "attention 8 heads 2048 float64":
        of("attention", heads, heads, heads, dtype="float64"),
    "attention 8 heads 2048 float16":
        of("attention", heads, heads, heads, dtype="float16"),
    "attention 8 heads 2048 window by rule":
        of("attention", heads, heads, heads, mask=band),
    "attention 1 head 100000":
        of("attention", (100_000, 64), (100_000, 64), (100_000, 64)),
    "decode 32 of 8 heads 8192": of("attention", (32, 1, 128), cache, cache),
}))
"""

_KERNELS = """
import json, os, pathlib, sys
import numpy as np, numba
before = set(sys.modules)
import numbattn

x = np.ones((64, 64), np.float32)
calls = {
    "scores": lambda: numbattn.scores(x, x),
    "weights": lambda: numbattn.weights(x, x),
    "attention": lambda: numbattn.attention(x, x, x),
    "causal": lambda: numbattn.attention(x, x, x, is_causal=True),
    "decode": lambda: numbattn.attention(x[:1], x, x),
    "mask by rule":
        lambda: numbattn.attention(x, x, x, mask=numbattn.masks.causal()),
    "score_mod":
        lambda: numbattn.attention(x, x, x, score_mod=lambda s, b, h, i, j: s - i),
}
place = pathlib.Path(os.environ["NUMBATTN_CACHE_DIR"])
kernels, known, imported = {}, 0, None
for name, call in calls.items():
    call()
    files = sum(each.is_file() for each in place.rglob("*"))
    kernels[name], known = files - known, files
    if imported is None:
        known_names = {each.split(".")[0] for each in before} | {"numbattn"}
        tops = {each.split(".")[0] for each in sys.modules} - known_names
        imported = sorted(tops - set(sys.stdlib_module_names))
print(json.dumps({"kernels": kernels, "imported": imported}))
"""


def figures() -> dict[str, dict[str, Any]]:
    """Measure, in processes that know of nothing before."""
    with tempfile.TemporaryDirectory(prefix="numbattn-figures-") as folder:
        memory, imported = _said(_MEMORY, folder), _said(_IMPORTS, folder)
        compiled = _said(_KERNELS, folder)
    return {
        "workspace, bytes": memory,
        "kernels that a first call adds": compiled["kernels"],
        "packages imported": {
            "import numbattn": imported,
            "numbattn.scores, beside numpy and numba": compiled["imported"],
        },
    }


def _said(code: str, folder: str) -> Any:
    """Return what a new process prints as JSON."""
    own = {
        "NUMBA_NUM_THREADS": "2",
        "NUMBATTN_CACHE_DIR": folder,
        "NUMBATTN_SIMD": LEVEL,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env={**os.environ, **own},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return json.loads(done.stdout)


def complaints(
    found: Mapping[str, Mapping[str, Any]], table: Mapping[str, Mapping[str, Any]]
) -> Iterator[str]:
    """Yield a line for each figure that is worse than in the table, or not there."""
    for part, rows in found.items():
        for name, now in rows.items():
            was = table.get(part, {}).get(name)
            if was is None:
                yield f"{part}: {name}: {now} is not in the table"
            elif isinstance(now, list):
                more = sorted(set(now) - set(was))
                if more:
                    yield f"{part}: {name}: {', '.join(more)} came in"
            elif now > was:
                change = f"{now / was - 1:+.1%}" if was else f"{now - was:+}"
                yield f"{part}: {name}: {now}, where it was {was} ({change})"


def main() -> None:
    """Print the figures, or write them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"write {TABLE.name}")
    write = parser.parse_args().write
    text = json.dumps(figures(), indent=2) + "\n"
    if write:
        TABLE.write_text(text)
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
