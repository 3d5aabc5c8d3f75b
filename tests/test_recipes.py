"""docs/gallery.md: each recipe computes what its function says, and has its picture."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import re
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import numbattn
from numbattn import masks, score_mods
from numbattn.score_mods import ScoreMod
from numbattn.testing import (
    Exact,
    assert_lse,
    assert_output,
    assert_scores,
    assert_weights,
    exact,
)

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "tools" / "draw_gallery.py"
PICTURES = ROOT / "docs" / "pictures"


def script() -> Any:
    """Import tools/draw_gallery.py, which reads the recipes off the page."""
    spec = importlib.util.spec_from_file_location("draw_gallery", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GALLERY = script()
RECIPES: dict[str, str] = GALLERY.recipes()
SIZES = [(1, 129), (7, 113), (16, 7), (17, 113), (113, 7), (129, 1), (129, 113)]
HEADS, D = 2, 8

DOCUMENT = [0] * 11 + [1] * 19 + [2] * 99
RULES: dict[str, Callable[[int, int], bool]] = {
    "window-and-sinks": lambda i, j: j <= i and (i - j <= 8 or j < 3),
    "documents": lambda i, j: j <= i and DOCUMENT[i] == DOCUMENT[j],
    "prefix": lambda i, j: j <= i or j < 13,
    "dilated": lambda i, j: j <= i and (i - j <= 3 or (i - j) % 4 == 0),
}
"""What the recipes of ready-made masks mean, written down again."""


def cooked(name: str, n: int, m: int, dtype: str) -> dict[str, Any]:
    """Return the names that a recipe's code leaves, for arrays of that size."""
    rng = np.random.default_rng([n, m])
    made: dict[str, Any] = {
        "math": math, "np": np, "numbattn": numbattn, "masks": masks,
        "score_mods": score_mods, "rng": rng, "heads": HEADS, "n": n, "m": m, "d": D,
    }  # fmt: skip
    for array, rows in (("query", n), ("key", m), ("value", m)):
        made[array] = rng.standard_normal((HEADS, rows, D)).astype(dtype)
    with numbattn.use_backend("reference"):  # the call on the page is not tested here
        exec(compile(RECIPES[name], f"docs/gallery.md, {name}", "exec"), made)
    return made


def change(options: dict[str, Any], base: Any, rounded: np.dtype[Any] | None) -> Any:
    """Return what the score_mod makes of scores, one by one, in Python."""
    mod = options["score_mod"]
    if not isinstance(mod, ScoreMod):
        mod = ScoreMod(mod, options.get("score_mod_args", ()))
    found = base.astype(float)
    for part in mod.parts:
        function: Any = part.function
        args = [
            a.astype(rounded).astype(float)
            if rounded is not None and isinstance(a, np.ndarray) and a.dtype.kind == "f"
            else a
            for a in part.args
        ]
        for h, i, j in np.ndindex(found.shape):
            found[h, i, j] = function(found[h, i, j], 0, h, i, j, *args)
    return found


def seen(name: str, mask: Any, n: int, m: int) -> Any:
    """Return what a mask attends, one pair after the other."""
    found = np.empty((HEADS, n, m), bool)
    for h, i, j in np.ndindex(found.shape):
        if name in RULES:
            found[h, i, j] = RULES[name](i, j)
        else:
            found[h, i, j] = mask.function(0, h, i, j, *mask.args)
    return found


def oracle(operation: str, name: str, made: dict[str, Any]) -> Exact:
    """Return the exact result, with the function's condition in its magnitudes."""
    options = made["options"]
    arrays = [made["query"], made["key"]]
    if operation == "attention":
        arrays.append(made["value"])
    given = {"scale": options["scale"]} if "scale" in options else {}
    if "mask" in options:
        given["mask"] = seen(name, options["mask"], made["n"], made["m"])
    if "score_mod" not in options:
        return exact(operation, *arrays, **given)
    plain = exact(operation, *arrays, **given)
    base = plain.scores.astype(float)
    wanted, rounded = (
        change(options, base, dtype) for dtype in (None, plain.acc_dtype)
    )
    want = exact(operation, *arrays, **given, bias=wanted - base)
    # floating args are rounded to the accumulation dtype, which a function may amplify
    finite = wanted > -np.inf
    own, unit = np.zeros(wanted.shape), np.finfo(plain.acc_dtype).eps / 2
    own[finite] = abs(wanted[finite] - rounded[finite]) / unit
    magnitude = want.magnitude + own
    rows = np.where(want.attended, magnitude, 0).max(axis=-1)
    return dataclasses.replace(want, magnitude=magnitude, row_magnitude=rows)


@cache
def meal(name: str, n: int, m: int, dtype: str) -> tuple[dict[str, Any], Exact, Exact]:
    """Return a recipe's names, and the exact scores and attention."""
    made = cooked(name, n, m, dtype)
    return made, oracle("scores", name, made), oracle("attention", name, made)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_computes_what_its_function_says(
    name: str, dtype: str, backend: str
) -> None:
    for n, m in SIZES:
        made, scores, attention = meal(name, n, m, dtype)
        arrays, given = (made["query"], made["key"]), made["options"]
        given = {"backend": backend, **given}
        assert_scores(numbattn.scores(*arrays, **given), scores)
        assert_weights(numbattn.weights(*arrays, **given), attention)
        out, lse = numbattn.attention(*arrays, made["value"], return_lse=True, **given)
        assert_output(out, attention)
        assert_lse(lse, attention)
        assert out.dtype == dtype


@pytest.mark.parametrize("name", RECIPES)
def test_the_bits_of_a_recipe_do_not_depend_on_threads_nor_blocks(name: str) -> None:
    for n, m in ((10, 700), (700, 600)):
        made = cooked(name, n, m, "float32")
        arrays, given = (made["query"], made["key"]), made["options"]
        one, two = (
            [
                numbattn.scores(*arrays, num_threads=k, **given),
                numbattn.weights(*arrays, num_threads=k, **given),
                numbattn.attention(*arrays, made["value"], num_threads=k, **given),
            ]
            for k in (1, 2)
        )
        for left, right in zip(one, two, strict=True):
            np.testing.assert_array_equal(left, right)
        again = np.zeros_like(one[0])
        given = {**given, "block_shape": (300, 256)}
        for rows, columns, block in numbattn.iter_scores(*arrays, **given):
            again[..., rows, columns] = block
        np.testing.assert_array_equal(again, one[0])


def test_there_are_recipes_enough() -> None:
    assert len(RECIPES) >= 10
    assert set(RULES) <= set(RECIPES)


def test_every_recipe_has_its_picture() -> None:
    files = [PICTURES / f"{recipe}.png" for recipe in RECIPES]
    for file in files:
        assert file.read_bytes().startswith(b"\x89PNG\r\n")
    assert sum(file.stat().st_size for file in files) < 300_000


def test_every_picture_is_on_a_page() -> None:
    pages = [ROOT / "README.md", *ROOT.glob("docs/*.md")]
    shown = set(
        re.findall(r"pictures/([\w.-]+)", " ".join(p.read_text() for p in pages))
    )
    assert {file.name for file in PICTURES.iterdir()} <= shown


def test_the_script_draws_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures are drawn by matplotlib")
    command = [sys.executable, str(SCRIPT), "--into", str(tmp_path), "tree"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.iterdir()
    assert file.name == "tree.png"
    assert file.stat().st_size > 5_000


@pytest.mark.parametrize("name", RECIPES)
def test_the_script_can_draw_every_picture(name: str) -> None:
    pytest.importorskip("matplotlib", reason="pictures are drawn by matplotlib")
    assert len(GALLERY.draw(name)) > 5_000


def test_the_script_says_what_it_cannot_draw(capsys: Any) -> None:
    with pytest.raises(SystemExit):
        GALLERY.main(["alibi", "a-cow"])
    assert "no recipe a-cow; alibi, t5" in capsys.readouterr().err
