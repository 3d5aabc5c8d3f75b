"""The ready-made functions of scores against closed forms; ScoreMod as an object."""

from __future__ import annotations

import dataclasses
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import numbattn
from numbattn import score_mods
from numbattn.functions import SCORE_MOD, check_function
from numbattn.functions.evaluation import apply_score_mod
from numbattn.score_mods import ScoreMod

HEADS, COLUMNS = 6, 4
Q_IDX, KV_IDX = np.arange(-40, 300, 7), np.arange(0, 320, 3)
GRID_Q, GRID_KV = np.arange(12), np.arange(12)  # a grid of 3 rows and 4 columns
RNG = np.random.default_rng(0)
RATES = RNG.random(HEADS).astype(np.float32)
T5_TABLE = RNG.standard_normal((32, HEADS))
KEY_BIAS = RNG.standard_normal((HEADS, 320)).astype(np.float16)
SWIN_TABLE = RNG.standard_normal((HEADS, 5, 7))

Closed = Callable[[Any, int, Any, Any], Any]


def slopes(n: int) -> list[float]:
    """`get_slopes` of the ALiBi paper's code, written down again."""
    if math.log2(n).is_integer():
        start = 2 ** (-(2 ** -(math.log2(n) - 3)))
        return [start * start**i for i in range(n)]
    below = 2 ** math.floor(math.log2(n))
    return slopes(below) + slopes(2 * below)[0::2][: n - below]


def t5_bucket(
    relative_position: NDArray[Any], bidirectional: bool, buckets: int, distance: int
) -> NDArray[Any]:
    """`_relative_position_bucket` of HuggingFace's T5Attention, line by line."""
    relative_buckets = np.zeros(relative_position.shape, np.int64)
    if bidirectional:
        buckets //= 2
        relative_buckets += (relative_position > 0).astype(np.int64) * buckets
        relative_position = np.abs(relative_position)
    else:
        relative_position = -np.minimum(relative_position, 0)
    max_exact = buckets // 2
    is_small = relative_position < max_exact
    with np.errstate(divide="ignore"):
        logarithm = np.log(relative_position.astype(np.float32) / max_exact)
    if_large = logarithm / math.log(distance / max_exact) * (buckets - max_exact)
    if_large = max_exact + np.where(is_small, 0, if_large).astype(np.int64)
    if_large = np.minimum(if_large, buckets - 1)
    return relative_buckets + np.where(is_small, relative_position, if_large)


def t5_bucket_by_integers(
    ahead: int, bidirectional: bool, buckets: int, distance: int
) -> int:
    """The same without rounding: powers of integers in place of logarithms."""
    first, apart = 0, max(-ahead, 0)
    if bidirectional:
        buckets //= 2
        first, apart = buckets * (ahead > 0), abs(ahead)
    exact = buckets // 2
    if apart < exact:
        return first + apart
    far, step = buckets - exact, 0
    while step < far and apart**far * exact**step >= distance**step * exact**far:
        step += 1
    return first + min(exact + step - 1, buckets - 1)


def swin(s: Any, h: int, q: Any, k: Any) -> Any:
    rows, columns = k // COLUMNS - q // COLUMNS, k % COLUMNS - q % COLUMNS
    return s + SWIN_TABLE[h, rows + 2, columns + 3]


# By the factory's name: a ScoreMod, the same in NumPy for one head, and the positions.
CLOSED: dict[str, list[tuple[ScoreMod, Closed, Any, Any]]] = {
    "alibi": [
        (
            score_mods.alibi(HEADS),
            lambda s, h, q, k: s - slopes(HEADS)[h] * np.abs(q - k),
            Q_IDX,
            KV_IDX,
        )
    ],
    "relative_bias": [
        (
            score_mods.relative_bias(
                T5_TABLE[:count], bidirectional=both, max_distance=far
            ),
            lambda s, h, q, k, both=both, count=count, far=far: (
                s + T5_TABLE[t5_bucket(k - q, both, count, far), h]
            ),
            Q_IDX,
            KV_IDX,
        )
        for both in (True, False)
        for count in (4, 31, 32)
        for far in (128, 100, 17)
    ],
    "softcap": [
        (
            score_mods.softcap(2.5),
            lambda s, h, q, k: 2.5 * np.tanh(s / 2.5),
            Q_IDX,
            KV_IDX,
        )
    ],
    "time_decay": [
        (
            score_mods.time_decay(0.25),
            lambda s, h, q, k: s - 0.25 * np.abs(q - k),
            Q_IDX,
            KV_IDX,
        ),
        (
            score_mods.time_decay(RATES),
            lambda s, h, q, k: s - float(RATES[h]) * np.abs(q - k),
            Q_IDX,
            KV_IDX,
        ),
    ],
    "gaussian": [
        (
            score_mods.gaussian(12.0),
            lambda s, h, q, k: s - (q - k) ** 2 / (2 * 12.0**2),
            Q_IDX,
            KV_IDX,
        )
    ],
    "head_bias": [
        (
            score_mods.head_bias(KEY_BIAS),
            lambda s, h, q, k: s + KEY_BIAS.astype(float)[h, k],
            Q_IDX,
            KV_IDX,
        )
    ],
    "distance_bias": [
        (score_mods.distance_bias(SWIN_TABLE, COLUMNS), swin, GRID_Q, GRID_KV)
    ],
}


def test_every_factory_has_a_closed_form() -> None:
    assert set(CLOSED) | {"ScoreMod"} == set(score_mods.__all__)
    assert set(score_mods.__all__) <= set(dir(score_mods))


@pytest.mark.parametrize("name", CLOSED)
def test_the_closed_form_of(name: str) -> None:
    for mod, closed, q_idx, kv_idx in CLOSED[name]:
        score = RNG.standard_normal((len(q_idx), len(kv_idx))) * 3
        apart = q_idx[:, None] - kv_idx
        assert apart.min() < 0 < apart.max(), "keys lie on both sides"
        for b, h in [(0, 0), (3, 1), (1, HEADS - 1)]:
            expected = closed(score, h, q_idx[:, None], kv_idx[None])
            found = apply_score_mod(mod.function, score, b, h, q_idx, kv_idx, mod.args)
            np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-13)
            for i, j in [(0, 0), (3, 5), (-1, 2)]:
                alone = mod(score[i, j], b, h, int(q_idx[i]), int(kv_idx[j]))
                assert math.isclose(alone, expected[i, j], rel_tol=1e-12)


@pytest.mark.parametrize("both", [True, False])
@pytest.mark.parametrize("distance", [20, 64, 100, 128, 256])
@pytest.mark.parametrize("buckets", [6, 16, 32])
def test_t5_buckets_are_those_of_exact_arithmetic(
    buckets: int, distance: int, both: bool
) -> None:
    table = np.arange(float(buckets))[:, None]
    mod = score_mods.relative_bias(table, bidirectional=both, max_distance=distance)
    ahead = np.arange(-300, 301)
    found = apply_score_mod(
        mod.function, np.zeros((1, 601)), 0, 0, np.zeros(1, int), ahead, mod.args
    )
    expected = [t5_bucket_by_integers(int(a), both, buckets, distance) for a in ahead]
    np.testing.assert_array_equal(found[0], expected)


@pytest.mark.parametrize("heads", [1, 2, 3, 5, 8, 12, 16, 20, 40, 64, 71])
def test_alibi_has_the_paper_s_slopes(heads: int) -> None:
    found = score_mods.alibi(heads).args[0]
    np.testing.assert_allclose(found, slopes(heads), rtol=1e-14)
    assert found.shape == (heads,)


def test_composition_applies_the_right_one_first() -> None:
    cap, decay, window = (
        score_mods.softcap(2.0), score_mods.time_decay(0.5), score_mods.gaussian(3.0),
    )  # fmt: skip
    mod = cap @ decay
    assert mod(3.0, 0, 0, 4, 2) == cap(decay(3.0, 0, 0, 4, 2), 0, 0, 4, 2)
    assert mod(3.0, 0, 0, 4, 2) != (decay @ cap)(3.0, 0, 0, 4, 2)
    assert mod.name == "softcap @ time_decay"
    assert repr(mod @ window) == "softcap @ time_decay @ gaussian"
    for three in ((window @ decay) @ cap, window @ (decay @ cap)):
        assert [part.name for part in three.parts] == [
            "softcap",
            "time_decay",
            "gaussian",
        ]
        assert all(part.inner is None for part in three.parts)
        assert three(3.0, 0, 0, 4, 2) == window(
            decay(cap(3.0, 0, 0, 4, 2), 0, 0, 4, 2), 0, 0, 4, 2
        )
    with pytest.raises(TypeError):
        _ = cap @ 3  # type: ignore[operator]


def shifted(score, b, h, q_idx, kv_idx, by):  # type: ignore[no-untyped-def]
    return score + by


def test_composition_keeps_which_part_is_unchecked() -> None:
    loose = ScoreMod(shifted, (1.0,), unchecked=True)
    for mod in (loose @ score_mods.softcap(1.0), score_mods.softcap(1.0) @ loose):
        assert {p.name: p.unchecked for p in mod.parts} == {
            "shifted": True, "softcap": False,
        }  # fmt: skip


@pytest.mark.parametrize("name", CLOSED)
def test_score_mods_pickle(name: str) -> None:
    for mod, *_ in CLOSED[name]:
        both = mod @ score_mods.softcap(1.5)
        again = pickle.loads(pickle.dumps(both))
        assert repr(again) == repr(both)
        assert again(0.7, 0, 2, 9, 5) == both(0.7, 0, 2, 9, 5)


def test_score_mods_are_frozen_and_told_apart_by_identity() -> None:
    mod = score_mods.softcap(2.0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        mod.args = (3.0,)  # type: ignore[misc]
    assert mod != score_mods.softcap(2.0)
    assert {mod: 1}[mod] == 1
    assert mod.args == (2.0,)


def test_tables_are_not_copied() -> None:
    table = T5_TABLE.copy()
    mod = score_mods.relative_bias(table)
    before = mod(0.0, 0, 0, 5, 5)
    table += 1
    assert mod(0.0, 0, 0, 5, 5) == before + 1


BAD: list[tuple[Callable[[], Any], str, str]] = [
    (lambda: ScoreMod(np.tanh), "OptionError", "function of ScoreMod is the ufunc"),
    (lambda: ScoreMod(shifted), "OptionError", "'shifted' .* takes 6 arguments"),
    (lambda: ScoreMod(shifted, 1.0), "OptionError", "args of ScoreMod is 1.0"),  # type: ignore[arg-type]
    (lambda: ScoreMod(shifted, ("1",)), "OptionError", r"args of ScoreMod\[0\] is '1'"),
    (lambda: ScoreMod(shifted, (1,), unchecked=1), "OptionError", "unchecked is 1"),  # type: ignore[arg-type]
    (lambda: ScoreMod(shifted, (1,), inner=shifted), "OptionError", "inner is"),  # type: ignore[arg-type]
    (lambda: score_mods.alibi(0), "OptionError", "num_heads is 0"),
    (lambda: score_mods.alibi(2.5), "OptionError", "num_heads is 2.5"),  # type: ignore[arg-type]
    (lambda: score_mods.softcap(0.0), "OptionError", "cap is 0.0; .* above 0"),
    (lambda: score_mods.softcap(math.nan), "OptionError", "cap is nan; .* finite"),
    (lambda: score_mods.gaussian(-1), "OptionError", "width is -1; .* above 0"),
    (lambda: score_mods.gaussian(True), "OptionError", "width is True; .* finite"),
    (lambda: score_mods.time_decay(10**400), "OptionError", "rate is .* finite number"),
    (lambda: score_mods.time_decay(T5_TABLE), "ShapeError", r"rate is .*\(heads,\)"),
    (lambda: score_mods.time_decay([1j]), "DTypeError", "complex"),
    (lambda: score_mods.head_bias(RATES), "ShapeError", r"bias is .*\(heads, m\)"),
    (lambda: score_mods.relative_bias(RATES), "ShapeError", r"table is .*\(num_bucket"),
    (lambda: score_mods.relative_bias(T5_TABLE[:3]), "OptionError", "at least 4 buck"),
    (
        lambda: score_mods.relative_bias(T5_TABLE, max_distance=8),
        "OptionError",
        "max_distance is 8, for a table of 32 buckets; it has to be an int above 8",
    ),
    (lambda: score_mods.distance_bias(SWIN_TABLE, 0), "OptionError", "columns is 0"),
    (lambda: score_mods.distance_bias(SWIN_TABLE, 5), "ShapeError", "the last 9 here"),
    (lambda: score_mods.distance_bias(T5_TABLE, 3), "ShapeError", "table is a float64"),
]


@pytest.mark.parametrize("number", range(len(BAD)))
def test_bad_arguments_are_refused_by_name(number: int) -> None:
    make, error, says = BAD[number]
    with pytest.raises(getattr(numbattn, error), match=says):
        make()


@pytest.mark.parametrize("name", CLOSED)
def test_functions_are_such_as_can_be_compiled(name: str) -> None:
    for mod, *_ in CLOSED[name]:
        check_function(mod.function, "score_mod", SCORE_MOD, len(mod.args))


def test_score_mods_are_reached_lazily() -> None:
    assert numbattn.score_mods is score_mods
    assert "score_mods" in dir(numbattn)
