"""Users' functions at their edges: what is noted, what is refused, what keeps a kernel.

Run in the simulator and, compiled for a GPU, by this machine's processor.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import users  # type: ignore[import-not-found]

from numbattn import OptionError, masks
from numbattn.backends.cuda import arguments, functions
from numbattn.device_arrays import DeviceArray
from numbattn.score_mods import ScoreMod

INT = np.iinfo(np.int64)
OUTSIDE, FAILED = 1, 2


def at_key(s: Any, b: Any, h: Any, q: Any, k: Any, table: Any) -> Any:
    return table[k]


def from_end(s: Any, b: Any, h: Any, q: Any, k: Any, table: Any) -> Any:
    return table[-1 - k]


def in_steps(s: Any, b: Any, h: Any, q: Any, k: Any, table: Any) -> Any:
    return table[k][0]


def of_empty(s: Any, b: Any, h: Any, q: Any, k: Any, table: Any) -> Any:
    return table[0, 300 + k]


def of_tuple(s: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
    return (1.0, 2.0, 3.0)[k] + s * 0


def in_tuple(s: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
    return of_tuple(s, b, h, q, k) + 1


def as_int(s: Any, b: Any, h: Any, q: Any, k: Any, table: Any) -> Any:
    return int(table[k] * 1e30)


def floored(s: Any, b: Any, h: Any, q: Any, k: Any, x: Any, y: Any) -> Any:
    return x[k] // y[k]


def modulo(s: Any, b: Any, h: Any, q: Any, k: Any, x: Any, y: Any) -> Any:
    return x[k] % y[k]


def rounded(s: Any, b: Any, h: Any, q: Any, k: Any, x: Any) -> Any:
    return round(x[k]) * 100 + math.floor(x[k]) * 10 + math.ceil(x[k])


def counted(s: Any, b: Any, h: Any, q: Any, k: Any, on: Any) -> Any:
    """Bools are numbers."""
    return (k > 0) + (k > 1) - (k > 2) + on * 10


def looped(s: Any, b: Any, h: Any, q: Any, k: Any, x: Any) -> Any:
    """Loops, tuples and builtins."""
    total, (low, high) = 0, (min(k, 2), max(k, 1, 0.5))
    for i in range(len(x)):
        if i == 3:
            continue
        total += x[i] * (low + high)
    while total > 18:
        total -= divmod(k + 9, 7)[0]
    return total + sum((k, 1)) + pow(2.0, k) + x.shape[0] + x.size + x.ndim


def of_nan(s: Any, b: Any, h: Any, q: Any, k: Any, t: Any) -> Any:
    """Which functions give NaN, as a number."""
    x, y = t[k], t[1 - k]
    found = np.isnan(np.maximum(x, y)) * 1 + np.isnan(np.minimum(x, y)) * 2
    found += np.isnan(np.fmax(x, y)) * 4 + np.isnan(np.fmin(x, y)) * 8
    found += np.isnan(max(x, y)) * 16 + np.isnan(min(x, y)) * 32
    found += np.isnan(np.clip(x, 0, 1)) * 64 + np.isnan(np.sign(x)) * 128
    return found + np.isnan(np.heaviside(x, 1.0)) * 256


def short(h: Any, k: Any) -> Any:
    return h == k


def by_name(s: Any, b: Any, h: Any, q: Any, k: Any, add: Any = 2, *, x: Any = 0) -> Any:
    return np.where(short(h, k), 1, -1) + add + x


def of_rest(s: Any, b: Any, h: Any, q: Any, k: Any, *rest: Any) -> Any:
    return s + rest[0][k] * rest[1]


def of_inner(s: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
    def twice(x: Any) -> Any:
        return 2 * x + k

    return twice(s + 1) + (lambda x: x - 1)(k)


T3 = np.array([5.0, 6.0, 7.0])
BIG = np.array([INT.max, INT.min + 1, -7, 7, -7, 9, 0, INT.max])
BY = np.array([3, -3, 2, -2, -2, 0, 0, INT.max])
VALUES: tuple[tuple[Any, tuple[Any, ...], list[float]], ...] = (
    (at_key, (T3,), [5, 6, 7]),
    (from_end, (T3,), [7, 6, 5]),
    (in_steps, (T3[:, None],), [5, 6, 7]),
    (of_tuple, (), [1, 2, 3]),
    (as_int, (np.array([np.nan, np.inf, -np.inf, 0.0]),), [0, INT.max, INT.min, 0]),
    (floored, (BIG, BY), [INT.max // 3, INT.max // 3, -4, -4, 3, 0, 0, 1]),
    (modulo, (BIG, BY), [1, -1, 1, -1, -1, 0, 0, 0]),
    (rounded, (np.array([0.5, 1.5, -0.5, 2.0]),), [1, 212, -10, 222]),
    (counted, (True,), [10, 11, 12, 11]),
    (looped, (np.ones(5),), [17, 23, 34, 41]),
    (of_nan, (np.array([np.nan, 1]),), [1 + 2 + 16 + 32 + 64 + 128 + 256, 1 + 2]),
    (by_name, (), [3, 1]),
    (by_name, (5,), [6, 4]),
    (of_rest, (T3, 2), [10, 12, 14]),
    (of_inner, (), [1, 3, 5]),
)
"""Functions, arguments, and what they give at each key."""
STATUS: tuple[tuple[Any, tuple[Any, ...], int, int], ...] = (
    (at_key, (T3,), 4, OUTSIDE),
    (from_end, (T3,), 4, OUTSIDE),
    (in_steps, (np.zeros((1, 0)),), 1, OUTSIDE),
    (in_steps, (np.ones((1, 2)),), 2, OUTSIDE),
    (of_empty, (np.zeros((0, 400)),), 3, OUTSIDE),
    (of_tuple, (), 4, FAILED),
    (in_tuple, (), 4, FAILED),
)
"""Functions, arguments, keys, and what is noted."""


def of_keys(m: int, mod: Any, mask: Any = None) -> Any:
    """A problem of one query."""
    sample = "edge", mod, mask, (1, 1, 1, m)
    return users.problem_of(sample, "float64")._replace(q_offset=0)


def outcome(problem: Any, run: Callable[..., None]) -> tuple[Any, int]:
    """Return what becomes of scores of 0, and the status."""
    made = functions.wire(problem, lambda array: array)
    got, seen = np.zeros(problem.m), np.zeros(problem.m, np.uint8)
    places, status = np.zeros(5 * problem.m, np.int64), np.zeros(1, np.int64)
    places[3::5] = np.arange(problem.m)
    run(made, (got, seen, places, made.arguments, status))
    return got, int(status[0])


def no_number(s: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
    return "0.0"[k:]


def no_mask(b: Any, h: Any, q: Any, k: Any) -> Any:
    return k - q


def a_bool(s: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
    return k < q


def an_array(s: Any, b: Any, h: Any, q: Any, k: Any, table: Any) -> Any:
    return table[0]


def no_index(s: Any, b: Any, h: Any, q: Any, k: Any, table: Any) -> Any:
    return table[k / 2]


def too_many(s: Any, b: Any, h: Any, q: Any, k: Any, table: Any) -> Any:
    return table[k, 0]


def unknown(s: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
    return np.spacing(k)


def in_text(s: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
    return s + len(s)


REFUSED: tuple[tuple[Any, tuple[Any, ...]], ...] = (
    (no_number, ()), (no_mask, ()), (a_bool, ()), (an_array, (np.ones((2, 2)),)),
    (no_index, (T3,)), (too_many, (T3,)), (unknown, ()), (in_text, ()),
)  # fmt: skip


def kept() -> str:
    """Return what is wrong about when functions are compiled anew."""

    def made(rate: Any, args: Any) -> Any:
        return ScoreMod(lambda s, b, h, q, k, t: s * rate + t[k], args)

    one, same, other_length, other_dtype, other_rate = (
        functions.wire(of_keys(3, mod), lambda array: array)
        for mod in (
            made(0.5, (T3,)), made(0.5, (T3 + 1,)), made(0.5, (np.ones(9),)),
            made(0.5, (T3.astype("f4"),)), made(0.25, (T3,)),
        )
    )  # fmt: skip
    for each in (same, other_length):
        if each.key != one.key or each.modify is not one.modify:
            return "an equal function is made anew"
    for each in (other_dtype, other_rate):
        if each.key == one.key:
            return "another function has the same key"
    none = functions.wire(of_keys(3, None), lambda array: array)
    return "" if none.arguments == (0,) and not none.arrays else "arguments of none"


def on_a_device() -> str:
    """Return what is wrong about arguments that are on a device already."""
    there = DeviceArray(4096, (2, 3), np.dtype("f4"))
    kinds = [arguments.kind_of(there), arguments.kind_of(2.5)]
    flat, *rest = arguments.packed([there, 2.5], lambda array: array)
    if (flat.address, flat.shape, rest) != (4096, (6,), [2, 3, 2.5]):
        return f"it becomes {flat} and {rest}"
    if len(arguments.types_of(kinds)) != 4:
        return "its slots have other types"
    for bad in (there[:, ::2], DeviceArray(4096, (2,), np.dtype("f2"))):
        try:
            arguments.packed([bad], lambda array: array)
        except OptionError:
            continue
        return f"{bad} is not refused"
    return ""


def wrong(run: Callable[..., None]) -> dict[str, str]:
    """Return what is not as it should be, by function."""
    found = {"kept": kept(), "on a device": on_a_device()}
    for function, args, want in VALUES:
        for unchecked in (False, True):
            mod = ScoreMod(function, args, unchecked=unchecked)
            got, status = outcome(of_keys(len(want), mod), run)
            if status or not np.array_equal(got, np.array(want, float)):
                found[function.__name__] = f"{got.tolist()}, status {status}"
    for function, args, m, want_status in STATUS:
        problem = of_keys(m, ScoreMod(function, args))
        got, status = outcome(problem, run)
        said, elsewhere = "", function is of_empty and got.any()
        try:
            functions.raise_status(problem, [status])
        except OptionError as error:
            said = str(error)
        if elsewhere or status != want_status or function.__name__ not in said:
            found[f"status of {function.__name__}"] = f"{status}: {said}"
    for function, args in REFUSED:
        mod, mask = None, None
        if function is no_mask:
            mask = masks.from_function(function, args)
        else:
            mod = ScoreMod(function, args)
        try:
            functions.check(of_keys(3, mod, mask))
        except OptionError as error:
            if function.__name__ in str(error):
                continue
        found[f"{function.__name__} is not refused"] = "or not by its name"
    return {name: words for name, words in found.items() if words}
