"""Users' functions to put into CUDA kernels, and the smallest kernel that takes them.

Imported by processes of their own: with the simulator, or without any device.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from numbattn import masks, score_mods
from numbattn.backends.cuda import functions
from numbattn.backends.cuda import names as known
from numbattn.backends.cuda.device import cuda
from numbattn.functions.evaluation import apply_score_mod
from numbattn.problem import AttentionProblem
from numbattn.score_mods import ScoreMod
from numbattn.testing import (
    rules_arguments,
    rules_function_bits,
    rules_functions,
    rules_masks,
    samples,
)

SIZES = 2, 3, 7, 37
"""b, heads, queries and keys of what is drawn here."""
RECIPE = 1, 2, 7, 113
"""The same of recipes."""
OFFSET = 2
"""Position of query 0; of recipes it is 0."""
Sizes = tuple[int, int, int, int]
Sample = tuple[str, Any, Any, Sizes]
"""Name, ScoreMod or None, mask object or None, sizes."""


def ready() -> Iterator[Sample]:
    """What numbattn.score_mods makes."""
    rng = np.random.default_rng(1)
    heads, m = SIZES[1], SIZES[3]
    for name, mod in {
        "alibi": score_mods.alibi(heads),
        "relative_bias": score_mods.relative_bias(rng.random((32, heads))),
        "softcap": score_mods.softcap(3.0),
        "time_decay": score_mods.time_decay(rng.random(heads)),
        "time_decay of all": score_mods.time_decay(0.3),
        "gaussian": score_mods.gaussian(4.0),
        "head_bias": score_mods.head_bias(rng.random((heads, m)).astype(np.float32)),
        "distance_bias": score_mods.distance_bias(rng.random((heads, 15, 11)), 6),
        "softcap @ alibi": score_mods.softcap(3.0) @ score_mods.alibi(heads),
    }.items():
        yield name, mod, None, SIZES


def recipes() -> Iterator[Sample]:
    """What docs/gallery.md has."""
    script = Path(__file__).resolve().parents[2] / "tools" / "draw_gallery.py"
    spec = importlib.util.spec_from_file_location("draw_gallery", script)
    assert spec is not None
    assert spec.loader is not None
    gallery = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(gallery)
    _, heads, n, m = RECIPE
    for name, code in gallery.recipes().items():
        made: dict[str, Any] = {
            "math": math, "np": np, "masks": masks, "score_mods": score_mods,
            "rng": np.random.default_rng(2), "heads": heads, "n": n, "m": m, "d": 8,
            "query": np.zeros((heads, n, 8)), "key": np.zeros((heads, m, 8)),
        }  # fmt: skip
        code = code[: code.index("\n", code.index("options = "))]  # not the call
        exec(compile(code, f"docs/gallery.md, {name}", "exec"), made)
        options = made["options"]
        mod = options.get("score_mod")
        if mod is not None and not isinstance(mod, ScoreMod):
            mod = ScoreMod(mod, options.get("score_mod_args", ()))
        yield name, mod, options.get("mask"), RECIPE


def kinds_of_masks() -> Iterator[Sample]:
    """Each mask of numbattn.masks, and combinations of them."""
    _, _, n, m = SIZES
    found = {
        name: mask
        for name, mask in rules_masks.kinds(n, m).items()
        # the kit's are for four heads
        if max(mask.sizes) <= 2
    }
    found["prefixes"] = masks.prefix(np.array([[3, 30, 0], [9, 37, 20]]))
    found["prefixes of b"] = masks.prefix(np.array([3, 30]))
    found["~"] = ~found["dilated"]
    found["a & b | ~c"] = found["causal ahead"] & found["function"] | ~found["window"]
    found["~(a | b) & c"] = (
        ~(found["no prefix"] | found["dilated"]) & found["documents"]
    )
    for name, mask in found.items():
        yield name, None, mask, SIZES


def drawn() -> Iterator[Sample]:
    """The functions that the kit draws from, and those of its rules."""
    _, h, n, m = SIZES
    rng = np.random.default_rng(3)
    for name in samples._PLAIN:
        function, args = samples._plain(rng, SIZES, name)
        if name == "looked_up":  # queries count from OFFSET, cyclically
            args = (np.asfortranarray(args[0]),)
        yield name, ScoreMod(function, args), None, SIZES
    for number in range(2):
        yield f"mask {number}", None, samples._of_function(rng, SIZES), SIZES
    wide = rng.random((3, h, n + OFFSET, m)).astype(np.float16)
    given: dict[Any, tuple[Any, ...]] = {
        rules_functions.squared: (),
        rules_functions.numbered: (),
        rules_functions.pointed: (m,),
        rules_functions.hides: (3,),
        rules_functions.tenth: (),
        rules_functions.infinite: (0, 0.0),
        rules_functions.lost: (),
        rules_arguments.rank_1: (wide[0, 0, 0].astype(">f8"),),
        rules_arguments.rank_2: (wide[0, 0] < 0.5,),
        rules_arguments.rank_3: ((wide[:2, 0] * 99).astype(np.uint16),),
        rules_arguments.rank_4: (wide[::-1],),
        rules_arguments.guarded_read: (np.zeros(0), np.zeros((3, 0), np.int8)),
        rules_arguments.counted: (0.5, 3, True),
        rules_function_bits.sloped: (rng.random(h),),
    }
    for function, args in given.items():
        yield function.__name__, ScoreMod(function, args), None, SIZES
    both = masks.from_function(rules_function_bits.patched, (6,)) | masks.causal(9)
    mod = ScoreMod(rules_function_bits.sloped, (rng.random(h),))
    yield "both", mod @ score_mods.softcap(2.0), both, SIZES


def named(module: str, numbers: str) -> Any:
    """A function that calls one function of `module` at each key, by number."""
    own = {"math": math, "np": np}[module]
    names = vars(known.modules()[own])
    lines = ["def f(score, b, h, q_idx, kv_idx):"]
    lines.append(f"    x, y, z = {numbers}")
    count = 0
    for name in sorted(names):
        if name.startswith("_") or name == "float16":  # it is not rounded to
            continue
        # of ints NumPy's are ints
        fits = "q_idx + h" in numbers, name == "reciprocal"
        if name in (*_OF_INTS, "reciprocal") and fits[0] == fits[1]:
            continue
        given = _GIVEN.get(name, "(x)" if callable(getattr(own, name)) else "")
        if isinstance(getattr(own, name), np.ufunc):
            given = ("(x)", "(x, y)")[getattr(own, name).nin - 1]
        lines.append(f"    if kv_idx == {count}:")
        lines.append(f"        return 0.0 + {module}.{name}{given}")
        count += 1
    lines.append(
        "    return 0.0 + max(x, y) - min(x, y, z) + round(x) + int(y) + bool(x)"
    )
    scope: dict[str, Any] = {"math": math, "np": np}
    exec(compile("\n".join(lines), f"<{module} of {numbers}>", "exec"), scope)
    return scope["f"], count


_OF_INTS = (
    "gcd", "bitwise_and", "bitwise_or", "bitwise_xor", "invert", "left_shift",
    "right_shift",
)  # fmt: skip
_GIVEN = {
    "where": "(x > 0, y, z)", "clip": "(x, y, z)", "log": "(x)", "pow": "(x, y)",
    "atan2": "(x, y)", "copysign": "(x, y)", "fmod": "(x, y)", "hypot": "(x, y)",
    "gcd": "(x, y)",
}  # fmt: skip


def names() -> Iterator[Sample]:
    """Every function of math and numpy that may be used, of floats and of ints."""
    for module in ("math", "np"):
        for numbers in (
            "score * score, score, score + score",
            "-score, 1.5 * q_idx - 0.2, score * 2.25",
            "q_idx + h, 1 + h, q_idx - 3",
        ):
            function, count = named(module, numbers)
            sizes = 1, 2, 4, count + 2
            yield f"{module} of {numbers}", ScoreMod(function), None, sizes


BATCHES = {
    "ready": ready, "recipes": recipes, "masks": kinds_of_masks, "drawn": drawn,
    "names": names,
}  # fmt: skip


def problem_of(sample: Sample, dtype: str) -> AttentionProblem:
    """A problem with these functions; its matrices are nothing."""
    _, mod, mask, (b, h, n, m) = sample
    acc = np.dtype(dtype)
    return AttentionProblem(
        "scores", np.zeros((b, h, n, 1), acc), np.zeros((b, h, m, 1), acc), None,
        (b, h), n, m, 1, 0, acc, acc, 1.0,
        q_offset=0 if sample[3] == RECIPE else OFFSET,
        kv_lengths=m,
        score_mod=mod, pattern=mask, n_total=n,
        indices=np.stack(np.indices((b, h)), axis=-1).reshape(-1, 2),
    )  # fmt: skip


def kernel_of(wired: functions.Wired) -> Any:
    """A kernel that changes scores in place, and writes what a mask attends."""
    modify, attends = wired.modify, wired.attends

    def kernel(scores, seen, places, arguments, status):  # type: ignore[no-untyped-def]
        for i in range(cuda.threadIdx.x, scores.size, 8):
            b, h = places[5 * i], places[5 * i + 1]
            q, k, row = places[5 * i + 2], places[5 * i + 3], places[5 * i + 4]
            scores[i] = modify(scores[i], b, h, q, k, arguments, status)
            seen[i] = attends(b, h, q, k, row, arguments, status)

    return kernel


def rounded(value: Any, dtype: str) -> Any:
    """Return an argument as every backend reads it: its floats in `dtype`."""
    if isinstance(value, np.ndarray) and value.dtype.kind not in "biu":
        return value.astype(dtype).astype(float)
    return value


def wanted(problem: AttentionProblem, scores: Any) -> Any:
    """Return changed scores, (b, h, n, m), by NumPy in long double."""
    found = scores.astype(np.longdouble)
    b, h, n, m = scores.shape
    assert problem.score_mod is not None
    q, k = np.arange(n) + problem.q_offset, np.arange(m)
    for part in problem.score_mod.parts:
        args = tuple(rounded(x, problem.acc_dtype.name) for x in part.args)
        function: Any = part.function
        for i, j in np.ndindex(b, h):
            found[i, j] = apply_score_mod(function, found[i, j], i, j, q, k, args)
    return found


def wrong(
    sample: Sample, dtype: str, run: Callable[[functions.Wired, tuple[Any, ...]], None]
) -> str:
    """Return what a sample gives that it should not; "" where nothing is wrong.

    ``run(wired, (scores, seen, places, arguments, status))`` does what the kernel does.
    """
    problem = problem_of(sample, dtype)
    functions.check(problem)
    wired = functions.wire(problem, lambda array: array)
    shape = b, h, n, m = sample[3]
    rng = np.random.default_rng(5)
    scores = (rng.standard_normal(shape) * 2).astype(dtype)
    i, j, row, k = (each.ravel() for each in np.indices(shape))
    places = np.stack([i, j, row + problem.q_offset, k, row], axis=-1).ravel()
    got, seen = scores.ravel().copy(), np.zeros(scores.size, np.uint8)
    status = np.zeros(1, np.int64)
    run(wired, (got, seen, places, wired.arguments, status))
    if status[0]:
        return f"status {status[0]}"
    want: Any = np.ones(shape, bool)
    if problem.pattern is not None:
        offset = int(problem.q_offset)
        want = problem.pattern.materialize(n, m, batch=b, heads=h, q_offset=offset)
    if not np.array_equal(seen.reshape(shape), want.reshape(shape)):
        return "it attends other keys"
    got = got.reshape(shape)
    if problem.score_mod is None:
        return "" if np.array_equal(got, scores) else "it changes scores"
    want = wanted(problem, scores)
    close = 2e-5 if dtype == "float32" else 4e-14
    fine = np.isclose(got, want, close, close, equal_nan=True)
    if fine.all():
        return ""
    at = tuple(np.argwhere(~fine)[0].tolist())
    return f"{got[at]} in place of {want[at]} at {at}, of {scores[at]}"
