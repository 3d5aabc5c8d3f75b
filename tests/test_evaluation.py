"""User functions in NumPy: a whole block gives what its places give one by one."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import pytest

import numbattn
from numbattn.functions import MASK, SCORE_MOD, check_args, check_function
from numbattn.functions.evaluation import apply_mask, apply_score_mod

SCORE = np.random.default_rng(0).standard_normal((6, 9)) * 3
Q_IDX, KV_IDX = np.arange(6) - 2, np.arange(9)
TABLE = np.random.default_rng(1).standard_normal((4, 9)).astype(np.float32)
BYTES = np.arange(250, 259).astype(np.uint8)
ZERO, ONE = 0, 1.0
PLAIN = [
    "score",
    "2",
    "h",
    "score - 0.5 * abs(q_idx - kv_idx)",
    "score if q_idx >= kv_idx else -math.inf",
    "score if q_idx >= kv_idx and (kv_idx < 3 or score > 0) else 0.25",
    "score * (not score > 0)",
    "score or 1.0",
    "score if math.tanh(0.5) > score else math.exp(0.5) * (math.exp(1.0) < kv_idx)",
    "score * (math.isfinite(0.5) != (kv_idx > 1))",
    "min(score, 0.0) + max(q_idx, kv_idx, 3)",
    "min(score, math.nan)",
    "max(math.nan, score)",
    "int(score * 3) + round(score) + float(q_idx) + bool(kv_idx)",
    "round(score, 1)",
    "math.floor(score) + math.ceil(score) + math.trunc(score)",
    "(q_idx > kv_idx) + (kv_idx > 2) + (h == 1)",
    "-(q_idx > kv_idx) + (score > 0) * 0.5",
    "divmod(q_idx, 3)[0] - q_idx // 2 + q_idx % 4",
    "(0.5, 0.7, 0.9)[kv_idx % 3]",
    "sum([score, q_idx, kv_idx])",
    "score + table[h, q_idx - kv_idx + 2]",
    "score + table[h][kv_idx] + len(table) + table.shape[1]",
    "score + codes[kv_idx] + 10",
    "sum([table[i, kv_idx] for i in range(kv_idx % 3)]) + score",
    "2.0 ** -(h + 1) + kv_idx ** 2 + abs(score) ** 0.5",
    "math.erf(score) + math.gamma(kv_idx + 1) + math.comb(5, kv_idx % 5)",
    "math.hypot(score, q_idx, kv_idx) + math.gcd(q_idx, kv_idx, 4)",
    "math.tanh(score / 30) * 30 + math.exp(score) + math.atan2(score, 1 + kv_idx)",
    "math.log(abs(score), 2) + math.sqrt(kv_idx) + math.pow(2, q_idx) + math.remainder"
    "(score, 2)",
]
QUIET = [  # Python raises here, compiled functions do not
    ("score / ZERO", lambda s, q, k: np.sign(s) * np.inf),
    ("1 / (q_idx - q_idx)", lambda s, q, k: np.inf),
    ("q_idx // (kv_idx - kv_idx) + q_idx % ZERO", lambda s, q, k: 0),
    ("ONE / ZERO", lambda s, q, k: np.inf),
    ("math.log(-1.0 - kv_idx) * 0", lambda s, q, k: np.nan),
    ("math.log(kv_idx * 0)", lambda s, q, k: -np.inf),
    ("math.exp(1000 + kv_idx)", lambda s, q, k: np.inf),
    ("math.lgamma(ZERO)", lambda s, q, k: np.nan),
    ("math.pi / ZERO", lambda s, q, k: np.inf),
    ("number / ZERO", lambda s, q, k: np.inf),
    ("np.where(kv_idx > q_idx, score, np.float32(2))", lambda s, q, k: np.where(
        k > q, s, 2.0)),
    ("np.maximum(score, 0) + np.clip(q_idx, 0, 1) + np.pi", lambda s, q, k: (
        np.maximum(s, 0) + np.clip(q, 0, 1) + np.pi)),
]  # fmt: skip
PARAMETERS = "score, b, h, q_idx, kv_idx, table, codes, number"


def made(body: str, parameters: str = PARAMETERS) -> Any:
    return eval(f"lambda {parameters}: {body}", globals() | {"sum": sum})


def block(function: Any, score: Any = SCORE, q: Any = Q_IDX, k: Any = KV_IDX) -> Any:
    args = check_args((TABLE, BYTES, 1), "score_mod_args")
    check_function(function, "score_mod", SCORE_MOD, len(args))
    return apply_score_mod(function, score, 0, 1, q, k, args)


def one_by_one(function: Any) -> Any:
    """Evaluate with plain Python numbers."""
    codes = BYTES.astype(int).tolist()
    table = TABLE.astype(float)
    return [
        [
            function(float(SCORE[i, j]), 0, 1, int(q), int(k), table, codes, 1)
            for j, k in enumerate(KV_IDX)
        ]
        for i, q in enumerate(Q_IDX)
    ]


@pytest.mark.parametrize("body", PLAIN)
def test_a_block_gives_what_python_gives_place_by_place(body: str) -> None:
    function = made(body)
    found = block(function)
    np.testing.assert_allclose(found, one_by_one(function), rtol=1e-13, atol=0)
    for i in range(6):  # and blocks of one place the same bits
        for j in range(9):
            rows, columns = slice(i, i + 1), slice(j, j + 1)
            one = block(function, SCORE[rows, columns], Q_IDX[rows], KV_IDX[columns])
            np.testing.assert_array_equal(found[rows, columns], one)


@pytest.mark.parametrize(("body", "closed"), QUIET, ids=[body for body, _ in QUIET])
def test_nothing_raises_where_arithmetic_has_an_answer(body: str, closed: Any) -> None:
    expected = closed(SCORE, Q_IDX[:, None], KV_IDX[None])
    with np.errstate(all="raise"):
        found = block(made(body))
    np.testing.assert_array_equal(found, np.broadcast_to(expected, found.shape))


def test_loops_and_assignments_leave_the_scores_alone() -> None:
    def function(score, b, h, q, k, table, codes, number):  # type: ignore[no-untyped-def]
        before = score
        while score > 1:
            score -= 1
        return score - before

    kept = SCORE.copy()
    np.testing.assert_allclose(block(function), one_by_one(function), atol=1e-15)
    np.testing.assert_array_equal(SCORE, kept)


def test_long_double_stays_and_no_places_are_fine() -> None:
    score = SCORE.astype(np.longdouble) + np.longdouble(1e-18)
    found = block(made("float(score) * 1.0 + 0 * q_idx"), score)
    assert found.dtype == np.longdouble
    np.testing.assert_array_equal(found, score)
    assert block(made("score"), SCORE[:0], Q_IDX[:0]).shape == (0, 9)


def test_masks_give_bools() -> None:
    function = made("q_idx >= kv_idx and kv_idx != b", "b, h, q_idx, kv_idx")
    check_function(function, "f", MASK, 0)
    found = apply_mask(function, 0, 1, Q_IDX, KV_IDX, ())
    q, k = Q_IDX[:, None], KV_IDX[None]
    np.testing.assert_array_equal(found, (q >= k) & (k != 0))
    assert found.dtype == bool
    always = made("True", "b, h, q_idx, kv_idx")
    assert apply_mask(always, 0, 0, Q_IDX, KV_IDX, ()).all()


WRONG = {
    "bool": ("score > 0", "returns a bool; a mask goes by mask=masks.from_function"),
    "array": ("table[h]", r"returns an array of shape \(9,\); it has to return"),
    "new array": ("np.zeros(9)", r"returns an array of shape \(9,\)"),
    "tuple": ("(score, score)", r"returns \(Number.*; it has to return one real"),
    "list": ("[score]", r"returns \[Number.*; it has to return one real number"),
    "complex": ("np.complex128(score)", r"returns np.complex128.*one real number"),
    "function": ("math.exp", "returns .*; it has to return one real number"),
    "outside": ("table[h, kv_idx + 1]", r"reads outside an argument .*, at b = 0, "
                r"h = 1, q_idx = -2, kv_idx = 8; "),
    "far": ("table[-5, 0]", "reads outside an argument array"),
    "index": ("table[h, score]", "raised IndexError: only integers"),
    "row": ("score + table[h]", "raised TypeError: .*'ArgumentArray'.*one element at"),
    "literals": ("1 // 0", "raised ZeroDivisionError"),
    "power": ("2 ** -h", "raised ValueError: Integers to negative integer powers"),
    "subscript": ("score[0]", "raised TypeError: 'Number' object is not subscriptable"),
    "sum": ("np.sum(score)", "raised TypeError: .*'numpy.sum'"),
    "added array": ("score + np.zeros(9)", "raised TypeError"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_result_that_is_no_number_is_refused(name: str) -> None:
    body, says = WRONG[name]
    where = r"^score_mod '<lambda>' \(line 1 of <string>\) "
    with pytest.raises(numbattn.OptionError, match=f"{where}{says}"):
        block(made(body))


@pytest.mark.parametrize("body", ["q_idx & 1", "0.5", "(True,)", "kv_idx"])
def test_a_mask_that_is_no_bool_is_refused(body: str) -> None:
    function = made(body, "b, h, q_idx, kv_idx")
    with pytest.raises(
        numbattn.OptionError,
        match=r"^f of masks.from_function, '<lambda>' \(line .*True or False: x != 0",
    ):
        apply_mask(function, 0, 0, Q_IDX, KV_IDX, ())


def test_a_branch_costs_no_python_call_for_each_place() -> None:
    calls = []

    def function(b, h, q_idx, kv_idx):  # type: ignore[no-untyped-def]
        calls.append(1)
        return q_idx >= kv_idx and (q_idx - kv_idx < 7 or kv_idx < 4)

    start = time.perf_counter()
    index = np.arange(400)
    # `calls` would be refused; here it counts
    found = apply_mask(function, 0, 0, index, index, ())
    assert len(calls) < 20
    assert time.perf_counter() - start < 4 * 0.5
    apart = index[:, None] - index
    expected = (apart >= 0) & ((apart < 7) | (index < 4))
    np.testing.assert_array_equal(found, expected)
    assert math.isclose(found.mean(), expected.mean())
