"""The oracle with score functions and mask objects, against closed forms."""

from __future__ import annotations

import math
from typing import Any

import mpmath
import numpy as np
import pytest

from numbattn import masks, score_mods
from numbattn.score_mods import ScoreMod
from numbattn.testing import assert_output, assert_result, assert_scores, exact

LONG = np.longdouble
RNG = np.random.default_rng(0)
QUERY = RNG.standard_normal((2, 4, 5, 3))
KEY = RNG.standard_normal((2, 2, 7, 3))
VALUE = RNG.standard_normal((2, 2, 7, 2))
Q, K = np.arange(5)[:, None], np.arange(7)
B, H = np.arange(2)[:, None, None, None], np.arange(4)[:, None, None]
S = QUERY @ np.repeat(KEY, 2, axis=1).swapaxes(-1, -2)
SIZE, SLOPES = 3, RNG.random(4)


def bent(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any, table: Any) -> Any:
    helped = math.tanh(score / SIZE) * SIZE - table[h] * abs(q_idx - kv_idx)
    return helped + 10 * b if kv_idx != 4 else -math.inf


def closed(offset: int = 0) -> np.ndarray:
    found = np.tanh(S / 3) * 3 - SLOPES[:, None, None] * abs(Q + offset - K) + 10 * B
    return np.where(K == 4, -np.inf, found)


@pytest.mark.parametrize("offset", [0, 9, -3])
def test_a_score_mod_is_its_closed_form(offset: int) -> None:
    given: dict[str, Any] = {
        "score_mod": bent, "score_mod_args": (SLOPES,), "q_offset": offset,
    }  # fmt: skip
    want = exact("scores", QUERY, KEY, **given)
    assert_scores(closed(offset), want)
    assert not want.attended[..., 4].any()
    object_too = exact("scores", QUERY, KEY, score_mod=ScoreMod(bent, (SLOPES,)),
                       q_offset=offset)  # fmt: skip
    assert np.array_equal(want.scores, object_too.scores)


def test_the_order_of_options_and_of_compositions() -> None:
    square = ScoreMod(lambda s, b, h, q, k: s * s)
    twice = ScoreMod(lambda s, b, h, q, k: 2 * s)
    bias, mask = np.linspace(-1, 1, 7), masks.causal() | masks.prefix(2)
    given: dict[str, Any] = {"softcap": 1.5, "bias": bias, "mask": mask}
    capped, seen = 1.5 * np.tanh(S / 1.5), (K <= Q) | (K < 2)
    for mod, result in (
        (square @ twice, 4 * capped**2),
        (twice @ square, 2 * capped**2),
    ):
        want = exact("scores", QUERY, KEY, score_mod=mod, **given)
        assert_scores(np.where(seen, result + bias, -np.inf), want)


def test_long_double_reaches_the_end() -> None:
    """Math functions of a score are not rounded to double on the way."""
    one = np.ones((1, 1))

    def functions(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        return math.exp(score / 3) + math.tanh(score) + math.log(score + 1, 2)

    got = exact("scores", one, one, score_mod=functions).scores[0, 0]
    mpmath.mp.prec = 200
    x = mpmath.mpf(1)
    want = mpmath.exp(x / 3) + mpmath.tanh(x) + mpmath.log(x + 1, 2)
    error = mpmath.mpf(float(got)) + mpmath.mpf(float(got - LONG(float(got)))) - want
    assert abs(error) < 16 * np.finfo(LONG).eps


def test_floats_of_arguments_are_rounded_to_the_accumulation_dtype() -> None:
    third, zero = np.array([1 / 3]), np.zeros((1, 1))

    def given(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any, table: Any) -> Any:
        return score + table[0]

    for dtype, rounded in (("f4", np.float32(1 / 3)), ("f8", 1 / 3)):
        x = zero.astype(dtype)
        want = exact("scores", x, x, score_mod=given, score_mod_args=(third,))
        assert want.scores[0, 0] == rounded


@pytest.mark.parametrize("division", ["score / zero", "q_idx / zero", "1 / kv_idx"])
def test_division_by_zero_has_an_answer(division: str) -> None:
    function = eval(f"lambda score, b, h, q_idx, kv_idx, zero: 1 + {division}")
    given: dict[str, Any] = {"score_mod": function, "score_mod_args": (0,)}
    found = exact("scores", QUERY + 1, KEY + 1, q_offset=1, **given).scores
    assert np.isinf(found[..., 0]).all()


def test_the_bound_has_the_function_s_own_condition() -> None:
    """An error of a score may show times the function's slope, and no more."""
    query, key = (x.astype(np.float32) for x in (QUERY, KEY))
    unit = LONG(2.0**-24)
    for slope in (1, 1000, 1e-3):
        steep = ScoreMod(lambda s, b, h, q, k, slope: slope * (s - 1), (slope,))
        want = exact("scores", query, key, score_mod=steep)
        magnitude = exact("scores", query, key).magnitude
        near = (want.scores + slope * unit * magnitude).astype(np.float32)
        assert_scores(near, want)
        far = want.scores + 40 * unit * (magnitude + abs(want.scores)) * (slope + 1)
        far = far + 40 * unit * want.magnitude
        with pytest.raises(AssertionError, match="worst C"):
            assert_scores(far.astype(np.float32), want)


def test_a_missing_change_is_out_of_bound() -> None:
    mod = score_mods.alibi(4)
    query, key, value = (x.astype(np.float32) for x in (QUERY, KEY, VALUE))
    plain = exact("attention", query, key, value)
    want = exact("attention", query, key, value, score_mod=mod)
    assert plain.output is not None
    with pytest.raises(AssertionError, match="output"):
        assert_output(plain.output.astype(np.float32), want)
    assert want.output is not None
    assert_result(want.output.astype(np.float32), want)


MASKS: dict[str, tuple[Any, Any]] = {
    "causal": (masks.causal(1), K <= Q + 4),
    "window": (masks.sliding_window(2, 1), (K >= Q + 1) & (K <= Q + 4)),
    "prefix": (masks.prefix([2, 5]), np.array([2, 5])[:, None, None, None] > K),
    "dilated": (masks.dilated(3), (Q + 3 - K) % 3 == 0),
    "document": (masks.document(Q[:, 0] // 2, K // 3), Q // 2 == K // 3),
    "array": (masks.from_array((Q + K) % 2 == 0), (Q + K) % 2 == 0),
    "function": (
        masks.from_function(
            lambda b, h, q, k, t: t[b] * q + h > k, (np.array([1, 2]),)
        ),
        (B + 1) * (Q + 3) + H > K,
    ),
}


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("other", MASKS)
def test_a_mask_object_is_its_closed_form(name: str, other: str) -> None:
    (one, closed_one), (two, closed_two) = MASKS[name], MASKS[other]
    for mask, seen in (
        (one, closed_one),
        (one & ~two, closed_one & ~closed_two),
        (~one | two, ~closed_one | closed_two),
    ):
        got = exact("scores", QUERY, KEY, mask=mask, q_offset=3, kv_lengths=6).attended
        assert np.array_equal(got, np.broadcast_to(seen & (K < 6), got.shape))
