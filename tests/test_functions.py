"""Functions that users hand in: what is refused, what is told apart, what is bound."""

from __future__ import annotations

import functools
import gc
import math
import random
import timeit
import types
import weakref
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import pytest

import numbattn
from numbattn.functions import (
    MASK,
    SCORE_MOD,
    check_args,
    check_function,
    describe,
    key_of,
    rebound,
    unused,
)

TABLE = np.ones((2, 3), np.float32)
LIST = [1.0, 2.0]
SINGLE = np.array(2.0)
SLOPE = 0.5
HUGE = 2**70
WIDE = np.longdouble(0.5)
COMPLEX = 1j
JITTED = numba.njit(lambda x: x)


def check(function: object, count: int = 0, leading: Any = SCORE_MOD) -> None:
    check_function(function, "score_mod", leading, count)


def recursive(score: float) -> float:
    return recursive(score - 1) if score > 0 else score


def helper(score: float) -> float:
    return math.exp(score) + SLOPE


def raising_helper(score: float) -> float:
    if score > 0:
        raise ValueError
    return score


def calls_raising_helper(score, b, h, q_idx, kv_idx):  # type: ignore[no-untyped-def]
    return raising_helper(score)


# What stands in the body of `def f(score, b, h, q_idx, kv_idx, *rest)`, with what the
# message says (the advice included).
BODIES = {
    "assert": ("assert score > 0\n return score", r"`assert` \(line 2\); take it out"),
    "raise": ("if h:\n  raise ValueError\n return score", r"raises \(line 3\); return"),
    "try": ("try:\n  return score\n except E:\n  return 0", r"exceptions \(line"),
    "with": ("with np.errstate():\n  return score", r"`with` block \(line 2\); take"),
    "import": ("import math\n return score", r"imports \(line 2\); import it outside"),
    "from": ("from math import e\n return e", r"imports \(line 2\); import it outside"),
    "global": ("global SLOPE\n SLOPE = 1\n return score", r"outside of itself .*e 3"),
    "nonlocal": (
        "n = 0\n def g():\n  nonlocal n\n  n = 1\n g()\n return score",
        r"outside of itself \(line 5\); return everything",
    ),
    "store": ("rest[0][0] = 1\n return score", r"writes into .*\(line 2\).*read on"),
    "slice": ("rest[0][:1] = 1\n return score", r"writes into .*\(line 2\).*read on"),
    "delete": ("del rest[0][0]\n return score", r"writes into .*\(line 2\)"),
    "augmented": ("rest[0][0] += 1\n return score", r"writes into .*\(line 2\)"),
    "attribute": ("rest[0].shape = 1\n return score", r"writes into .*\(line 2\)"),
    "class": ("class A:\n  x = 1\n return score", r"defines a class \(line 2\)"),
    "generator expression": (
        "return sum(x for x in range(3))",
        r"`yield` or `await`, or loops over a generator \(line 2\); write a plain",
    ),
    "yield": ("yield score", "is a generator; it has to return one number"),
    "no return": ("score += 1", r"without returning a number \(line 2\); end every"),
    "half a return": ("if h:\n  return score", r"without returning a .*e 2\)"),
    "none": ("return None", "without returning a number"),
    "text": ("return 'high'", r"returns text \(line 2\); return a number"),
    "complex": ("return score * 1j", r"complex number \(line 2\); scores are real"),
    "array": ("return score + TABLE[h, q_idx]", r"captures 'TABLE', a float32 array of "
              r"shape \(2, 3\); pass it by score_mod_args"),
    "single": ("return score + SINGLE", "captures 'SINGLE', a float64 array of shape"),
    "list": ("return score + LIST[h]", "captures 'LIST', a list; pass it by score_mod"),
    "module": ("return score * random.random()", "'random', the module random"),
    "numpy.random": ("return score * np.random.rand()", "uses numpy.random; it has to"),
    "no such": ("return math.expo(score)", "uses math.expo, which does not exist"),
    "undefined": ("return score * slop", "uses the name 'slop', which is not defined"),
    "method": ("return score.max()", r"reads .max of a value .*number \(line 2\)"),
    "print": ("print(score)\n return score", "the built-in print; what can be called"),
    "huge": ("return score + HUGE", "captures 'HUGE', .*; .* within 64 bits"),
    "wide": ("return score * WIDE", r"of type longdouble; .* write float\(WIDE\)"),
    "captured complex": ("return score * COMPLEX", "of type complex; only real"),
    "compiled": ("return JITTED(score)", "compiled by Numba already; use the Python"),
    "recursion": ("return recursive(score)", r"calls 'recursive' .* calls itself; w"),
}  # fmt: skip


def made(body: str, parameters: str = "score, b, h, q_idx, kv_idx, *rest") -> Any:
    """Return a function without source text, as at a prompt."""
    found: dict[str, Any] = {}
    exec(f"def f({parameters}):\n {body}", globals() | {"E": Exception}, found)
    return found["f"]


@pytest.mark.parametrize("name", BODIES)
def test_what_cannot_be_compiled_is_refused_with_its_name_and_line(name: str) -> None:
    body, says = BODIES[name]
    where = r"^score_mod 'f' \(line 1 of <string>\) "
    with pytest.raises(numbattn.OptionError, match=f"{where}.*{says}"):
        check(made(body))


async def coroutine(score, b, h, q_idx, kv_idx):  # type: ignore[no-untyped-def]
    return score


class Callables:
    def method(self, score, b, h, q_idx, kv_idx):  # type: ignore[no-untyped-def]
        return score

    __call__ = method


OTHERS: dict[str, tuple[object, str]] = {
    "None": (None, "is None; it has to be a plain Python function f"),
    "number": (0.5, "is 0.5; it has to be a plain Python function f"),
    "array": (TABLE, "it has to be a plain Python function f"),
    "ufunc": (np.tanh, "is the ufunc 'tanh'; .*: lambda score, b, h, q_idx, kv_idx"),
    "built-in": (math.exp, "'exp'; .* lambda score"),
    "class": (Callables, "is the class 'Callables'; .* lambda score"),
    "instance": (Callables(), "is the Callables; .* lambda score"),
    "method": (
        Callables().method,
        "the method 'method', bound to an object; pass a pl",
    ),
    "partial": (functools.partial(helper), "functools.partial; pass a plain function"),
    "cached": (functools.lru_cache(helper), "it has to be a plain Python function: la"),
    "compiled": (JITTED, "compiled by Numba already; pass .* f.py_func"),
    "coroutine": (coroutine, r"'coroutine' \(line \d+ of test_f.*\) is a coroutine"),
    "helper": (helper, "'helper' .* takes 1 arguments; it is called with 5: score, b"),
    "calls raising": (calls_raising_helper, "calls 'raising_helper' .*, which raises"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_plain_function_is_refused_with_what_to_pass(name: str) -> None:
    value, says = OTHERS[name]
    with pytest.raises(numbattn.OptionError, match=f"^score_mod .*{says}"):
        check(value)


@pytest.mark.parametrize(
    ("parameters", "count", "says"),
    [
        ("score, b, h, q_idx", 0, "takes 4 arguments; it is called with 5"),
        ("b, h, q_idx, kv_idx", 0, "a mask goes by mask=masks.from_function"),
        ("score, b, h, q, k, table", 0, "takes 6 arguments; it is called with 5"),
        ("score, b, h, q, k", 2, "called with 7: score, .*, and 2 more of args"),
        ("score, b, h, q, k, x=1", 2, "takes 5 to 6 arguments; it is called with 7"),
        ("score, b, h, q, k, *, x", 0, "needs the keyword 'x', which nobody passes"),
        ("score, b, h, q, k, **x", 0, r"takes \*\*keywords; name its parameters"),
        ("score, b, h, q, k, x=[]", 0, "has the default x=a list"),
        ("score, b, h, q, k, x=None", 0, "has the default x=of type NoneType"),
    ],
)
def test_wrong_parameters_are_refused(parameters: str, count: int, says: str) -> None:
    with pytest.raises(numbattn.OptionError, match=f"'f' .*{says}"):
        check(made("return 0.0", parameters), count)


def test_a_score_mod_given_as_a_mask_is_told_where_it_goes() -> None:
    function = made("return score", "score, b, h, q_idx, kv_idx")
    with pytest.raises(
        numbattn.OptionError, match="a function of scores goes by score"
    ):
        check(function, leading=MASK)
    with pytest.raises(numbattn.OptionError, match=r"pass it by args=, "):
        check(made("return TABLE[h, 0] > 0", "b, h, q_idx, kv_idx"), leading=MASK)


GOOD = [
    "return score",
    "return score * SLOPE + helper(score)",
    "return score if q_idx >= kv_idx else -math.inf",
    "if h:\n  return score\n return min(score, 0.0)",
    "while True:\n  score += 1\n  if score > 3:\n   return score",
    "v = [x * 2 for x in range(3)]\n return score + v[0]",
    "def g(x):\n  return x + score\n return g(1.0)",
    "s = 0.0\n for i in range(3):\n  s += rest[0][i]\n return s + rest[0].shape[0]",
    "return np.where(kv_idx > q_idx, score, np.float32(0.5)) + math.pi",
    "import_ = 1\n score += import_\n return score",
]


@pytest.mark.parametrize("body", GOOD)
def test_what_can_be_compiled_is_taken(body: str) -> None:
    check(made(body), 1)
    check(made(body, "score, b, h, q_idx, kv_idx, rest=(1.0, 2)"))


def test_a_default_that_an_arg_replaces_does_not_matter() -> None:
    check(made("return score + x[h]", "score, b, h, q, k, x=None"), 1)


def test_a_function_composed_with_itself_is_no_recursion() -> None:
    def twice(f: Callable[..., Any]) -> Callable[..., Any]:
        return lambda s, b, h, q, k: f(f(s, b, h, q, k), b, h, q, k)

    base = lambda s, b, h, q, k: s + SLOPE  # noqa: E731
    check(twice(twice(base)))
    assert key_of(twice(twice(base))) == key_of(twice(twice(base)))
    assert key_of(twice(twice(base))) != key_of(twice(base))


def test_describe_names_the_line_and_no_folder() -> None:
    assert describe(helper).startswith("'helper' (line ")
    assert describe(helper).endswith(" of test_functions.py)")
    assert describe(made("return 0")) == "'f' (line 1 of <string>)"


def capturing(value: Any) -> Any:
    return lambda score, b, h, q, k: score * value


def test_a_lambda_made_anew_with_the_same_values_has_the_same_key() -> None:
    assert len({key_of(capturing(0.5)) for _ in range(10)}) == 1
    assert key_of(capturing(math.nan)) == key_of(capturing(float("nan")))
    assert key_of(capturing(helper)) == key_of(capturing(helper))
    assert key_of(capturing((1, 2.0))) == key_of(capturing((1, 2.0)))


def test_what_compiles_otherwise_has_another_key() -> None:
    values = [
        1, 1.0, True, 0.0, -0.0, math.nan, np.float32(1), np.float64(1), np.int64(1),
        np.int32(1), np.bool_(1), (1,), (1.0,), (1, 1), (), ((1,),), math, np,
        math.exp, math.tanh, np.exp, helper, raising_helper, abs, float,
    ]  # fmt: skip
    keys = [key_of(capturing(value)) for value in values]
    assert len(set(keys)) == len(values)
    one, other = (made("return 0.0", f"s, b, h, q, k, x={x}") for x in ("1", "1.0"))
    assert key_of(one) != key_of(other)


def test_a_key_sees_cells_and_globals_change() -> None:
    around = {"slope": 1.0}
    exec("f = lambda score, b, h, q, k: score * slope\ng = lambda *a: f(*a)", around)
    function: Any = around["g"]
    before = key_of(function)
    around["slope"] = 2.0
    assert key_of(function) != before
    around["slope"] = 1.0
    assert key_of(function) == before
    rate = 1.0

    def uses_a_cell(score, b, h, q, k):  # type: ignore[no-untyped-def]
        return score * rate

    before = key_of(uses_a_cell)
    rate = 3.0
    assert key_of(uses_a_cell) != before


def test_a_key_keeps_neither_the_function_nor_an_array_alive() -> None:
    array = np.ones(3)
    function = capturing(array)
    key = key_of(function)
    gone = weakref.ref(function), weakref.ref(array)
    del function, array
    gc.collect()
    assert [each() for each in gone] == [None, None]
    assert hash(key) == hash(key_of(capturing(np.ones(4))))


def test_a_key_takes_30_microseconds() -> None:
    function = made("return score - SLOPE * abs(q_idx - kv_idx) + math.exp(helper(0))")
    times = timeit.repeat(lambda: key_of(function), number=200, repeat=5)
    assert min(times) / 200 < 4 * 30e-6


def test_rebound_replaces_what_is_captured_and_nothing_else() -> None:
    from math import tanh

    def inner(x: float) -> float:
        return np.exp(x)

    def outer(score, b, h, q, k, *, f=inner):  # type: ignore[no-untyped-def]
        return math.exp(score) + tanh(score) + inner(score) + f(0) + abs(score) + SLOPE

    class Shim:
        exp = staticmethod(lambda x: 10 * x)

    wrapped: list[types.FunctionType] = []

    def wrap(g: types.FunctionType) -> Any:
        wrapped.append(g)
        return lambda x: 1000 * g(x)

    modules: Any = {math: Shim, np: Shim}
    new = rebound(outer, modules, {tanh: lambda x: 100 * x, abs: lambda x: 7}, wrap)
    assert new(1.0, 0, 0, 0, 0) == 10 + 100 + 10_000 + 0 + 7 + SLOPE
    assert len(wrapped) == 1, "one helper, though captured twice"
    assert new.__code__ is outer.__code__
    assert set(new.__globals__) == {"__builtins__", "__name__", "math", "abs", "SLOPE"}
    assert outer(0.0, 0, 0, 0, 0) == 1 + 0 + 1 + 1 + 0 + SLOPE


def test_unused_parameters_are_seen() -> None:
    function = made("def g():\n  return kv_idx\n score += 1\n return score + g()")
    assert [unused(function, i) for i in range(7)] == [
        False, True, True, True, False, True, True,
    ]  # fmt: skip
    rest = lambda *all_: all_[0]  # noqa: E731
    assert not unused(rest, 3)
    both = made("return [b + x for x in range(q_idx)][0]")
    assert [unused(both, i) for i in range(5)] == [True, False, True, False, True]


def test_args_become_python_s_numbers_and_arrays_stay() -> None:
    array = np.arange(3, dtype=np.int8)[::-1]
    given = [1, 2.0, True, np.float32(0.5), np.array(3), np.bool_(0), array]
    found = check_args(given, "score_mod_args")
    assert found[:-1] == (1, 2.0, True, 0.5, 3, False)
    assert [type(x) for x in found[:-1]] == [int, float, bool, float, int, bool]
    assert found[-1] is array


@pytest.mark.parametrize(
    ("args", "error", "says"),
    [
        (TABLE, "OptionError", r"^score_mod_args is a float32 .* pass \(array,\)"),
        (None, "OptionError", "score_mod_args is None; it has to be a tuple"),
        ((1, 2**63), "OptionError", r"score_mod_args\[1\] is 9.* 64 bits"),
        ((1, np.uint64(2**63)), "OptionError", r"score_mod_args\[1\] .* 64 bits"),
        (("x",), "OptionError", r"score_mod_args\[0\] is 'x'; .*nothing else can"),
        (([1],), "OptionError", r"score_mod_args\[0\] is \[1\]; .*numpy.asarray"),
        ((1j,), "OptionError", r"score_mod_args\[0\] is 1j"),
        ((TABLE * 1j,), "DTypeError", r"score_mod_args\[0\] has dtype complex64"),
        ((TABLE.astype("g"),), "DTypeError", r"score_mod_args\[0\] .*long double"),
        ((np.array(["a"]),), "DTypeError", r"score_mod_args\[0\] .*text"),
        ((np.timedelta64(1),), "DTypeError", r"score_mod_args\[0\] .*time spans"),
        ((np.ma.array([1]),), "DTypeError", r"score_mod_args\[0\] is a masked array"),
    ],
)
def test_other_args_are_refused_by_number(args: Any, error: str, says: str) -> None:
    with pytest.raises(getattr(numbattn, error), match=says):
        check_args(args, "score_mod_args")


def test_half_precision_args_are_taken() -> None:
    import ml_dtypes

    arrays = [np.ones(2, kind) for kind in (np.float16, ml_dtypes.bfloat16, bool, "u8")]
    assert all(a is b for a, b in zip(check_args(arrays, "a"), arrays, strict=True))


assert random  # captured by one of the functions above


def test_unsigned_ints_that_no_int64_holds_are_refused() -> None:
    most = np.array([1, 2**63], np.uint64)
    with pytest.raises(
        numbattn.OptionError, match=r"score_mod_args\[0\] has the element 9223"
    ):
        check_args((most,), "score_mod_args")
    assert check_args((most - np.uint64(1),), "score_mod_args")
