"""Options by hand: each expected mask is written out from the words of the design.

No oracle here: these few cases hold the oracle and every backend to the same words.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import numbattn
from numbattn.testing import (
    assert_lse,
    assert_output,
    assert_same_bits,
    assert_scores,
    exact,
)

SEES = {
    # n = 3 queries, m = 5 keys: "x" where query i (a line) sees key j.
    "causal": ({"is_causal": True}, "x.... xx... xxx.."),
    "causal, offset 2": (
        {"is_causal": True, "q_offset": 2},
        "xxx.. xxxx. xxxxx",
    ),
    "causal, offset -1": (
        {"is_causal": True, "q_offset": -1},
        "..... x.... xx...",
    ),
    "causal, lower right": (
        {"is_causal": True, "q_offset": "lower_right"},
        "xxx.. xxxx. xxxxx",
    ),
    "causal, lower right of 4 keys": (
        {"is_causal": True, "q_offset": "lower_right", "kv_lengths": 4},
        "xx... xxx.. xxxx.",
    ),
    "causal, lower right of 1 key": (
        {"is_causal": True, "q_offset": "lower_right", "kv_lengths": 1},
        "..... ..... x....",
    ),
    "lengths": ({"kv_lengths": 2}, "xx... xx... xx..."),
    "lengths as 0-d array": ({"kv_lengths": np.array(2)}, "xx... xx... xx..."),
    "window (1, 1)": ({"window_size": (1, 1)}, "xx... xxx.. .xxx."),
    "window (0, 0)": ({"window_size": (0, 0)}, "x.... .x... ..x.."),
    "window (1, None)": ({"window_size": (1, None)}, "xxxxx xxxxx .xxxx"),
    "window (None, 1)": ({"window_size": (None, 1)}, "xx... xxx.. xxxx."),
    "window (-1, -1)": ({"window_size": (-1, -1)}, "xxxxx xxxxx xxxxx"),
    "window (0, -1), offset 3": (
        {"window_size": (0, -1), "q_offset": 3},
        "...xx ....x .....",
    ),
    "window (1, 3) and causal": (
        {"window_size": (1, 3), "is_causal": True},
        "x.... xx... .xx..",
    ),
    "window (2, 0), lower right": (
        {"window_size": (2, 0), "q_offset": "lower_right"},
        "xxx.. .xxx. ..xxx",
    ),
    "mask of one row": ({"mask": np.array([1, 0, 1, 0, 1], bool)}, "x.x.x x.x.x x.x.x"),
    "mask of one column": (
        {"mask": np.array([[True], [False], [True]])},
        "xxxxx ..... xxxxx",
    ),
    "bias of one row": (
        {"bias": np.array([0, -np.inf, 0, 0, -np.inf], np.float32)},
        "x.xx. x.xx. x.xx.",
    ),
    "mask and causal": (
        {"mask": np.array([0, 1, 1, 1, 1], bool), "is_causal": True},
        "..... .x... .xx..",
    ),
}


def data(dtype: Any = np.float32) -> list[np.ndarray]:
    rng = np.random.default_rng(11)
    return [rng.standard_normal(s).astype(dtype) for s in ((3, 4), (5, 4), (5, 2))]


@pytest.mark.parametrize("name", SEES)
def test_who_sees_whom(backend: str, name: str) -> None:
    options, drawing = SEES[name]
    sees = np.array([[c == "x" for c in row] for row in drawing.split()])
    query, key, value = data()
    scores = numbattn.scores(query, key, backend=backend, **options)
    np.testing.assert_array_equal(scores != -np.inf, sees)
    weights = numbattn.weights(query, key, backend=backend, **options)
    np.testing.assert_array_equal(weights > 0, sees)
    # The same drawing as a mask is the same problem.
    want = exact("attention", query, key, value, mask=sees)
    if "bias" in options:
        options = {"bias": options["bias"]}
    out = numbattn.attention(query, key, value, backend=backend, **options)
    assert_output(out, want)


@pytest.mark.parametrize("name", SEES)
def test_oracle_sees_the_same(name: str) -> None:
    options, drawing = SEES[name]
    sees = np.array([[c == "x" for c in row] for row in drawing.split()])
    query, key, _ = data()
    np.testing.assert_array_equal(exact("scores", query, key, **options).attended, sees)


def test_scale_then_softcap_then_bias_then_mask(backend: str) -> None:
    """softcap * tanh(scale * q.k / softcap) + bias, and the mask last."""
    query, key = np.array([[2.0]]), np.array([[3.0], [-1.0], [1.0]])
    got = numbattn.scores(
        query, key, scale=0.5, softcap=2.0, bias=np.array([10.0, 20.0, 30.0]),
        mask=np.array([True, True, False]), backend=backend,
    )  # fmt: skip
    want = [2 * math.tanh(3 / 2) + 10, 2 * math.tanh(-1 / 2) + 20, -math.inf]
    oracle = exact(
        "scores", query, key, scale=0.5, softcap=2.0, bias=np.array([10.0, 20.0, 30.0]),
        mask=np.array([True, True, False]),
    )  # fmt: skip
    assert_scores(np.array([want]), oracle)
    assert_scores(got, oracle)


def test_default_scales(backend: str) -> None:
    """The dot product itself in scores; 1 / sqrt(d_k) in weights and attention."""
    query, key, value = data()
    plain = numbattn.scores(query, key, backend=backend)
    assert_same_bits(numbattn.scores(query, key, scale=1.0, backend=backend), plain)
    assert_scores(plain, exact("scores", query, key, scale=1.0))
    # d_k = 4: the default is 0.5, an exact power of two.
    half = numbattn.scores(query, key, scale=None, backend=backend)
    assert_same_bits(half, plain / 2)
    for function, arrays in (
        (numbattn.weights, (query, key)),
        (numbattn.attention, (query, key, value)),
    ):
        want = function(*arrays, scale=0.5, backend=backend)
        assert_same_bits(function(*arrays, backend=backend), want)
        assert_same_bits(function(*arrays, scale=None, backend=backend), want)


def test_integer_scores_are_exact(backend: str) -> None:
    """Whole numbers below 2**24: no bound needed, the product is exact."""
    rng = np.random.default_rng(3)
    query, key = (rng.integers(-9, 10, (k, 31)) for k in (23, 45))
    want = (query @ key.T).astype(np.float32)
    got = numbattn.scores(
        query.astype(np.float32), key.astype(np.float32), backend=backend
    )
    assert_same_bits(got, want)


def test_query_heads_read_their_group(backend: str) -> None:
    """Query head h reads key head h // (H_q // H_kv): 0 0 0 1 1 1, not 0 1 0 1 0 1."""
    rng = np.random.default_rng(3)
    query = rng.integers(-9, 10, (6, 2, 3)).astype(np.float32)
    key = rng.integers(-9, 10, (2, 4, 3)).astype(np.float32)
    got = numbattn.scores(query, key, backend=backend)
    for h, g in enumerate((0, 0, 0, 1, 1, 1)):
        np.testing.assert_array_equal(got[h], query[h] @ key[g].T)


def test_first_axis_of_three_is_heads_not_batch(backend: str) -> None:
    query, key, value = (np.ones((k, 2, 3), np.float32) for k in (4, 2, 2))
    assert numbattn.attention(query, key, value, backend=backend).shape == (4, 2, 3)
    # The axis before it broadcasts, and 4 against 2 does not.
    with pytest.raises(numbattn.ShapeError):
        numbattn.attention(
            query[:, None], key[:, None], value[:, None], backend=backend
        )


@pytest.mark.parametrize(
    ("q", "k", "v", "lead"),
    [
        ((), (), (), ()),
        ((4,), (), (), (4,)),
        ((), (4,), (), (4,)),
        ((), (), (4,), (4,)),
        ((4,), (2,), (1,), (4,)),
        ((4,), (1,), (2,), (4,)),
        ((1,), (3,), (3,), (3,)),
        ((2, 4), (4,), (2, 2), None),
        ((3, 1, 4), (2, 2), (2,), (3, 2, 4)),
        ((2, 4), (1, 2), (2, 2), (2, 4)),
        ((5, 1, 1), (1, 3, 2), (2,), (5, 3, 2)),
    ],
)
def test_leading_axes(
    backend: str, q: tuple, k: tuple, v: tuple, lead: tuple | None
) -> None:
    """1 against any; on the heads axis a multiple too; key and value agree there."""
    query, key, value = (
        np.random.default_rng(i).standard_normal((*axes, rows, 3)).astype(np.float32)
        for i, (axes, rows) in enumerate(((q, 2), (k, 5), (v, 5)))
    )
    if lead is None:
        with pytest.raises(numbattn.ShapeError):
            numbattn.attention(query, key, value, backend=backend)
        return
    out, lse = numbattn.attention(query, key, value, return_lse=True, backend=backend)
    assert out.shape == (*lead, 2, 3)
    assert lse.shape == (*lead, 2)
    assert_output(out, exact("attention", query, key, value))


def test_lengths_and_offsets_per_batch_and_head(backend: str) -> None:
    """Arrays have exactly the leading axes, each 1 or equal."""
    rng = np.random.default_rng(0)
    query = rng.standard_normal((2, 3, 4, 5)).astype(np.float32)
    key = rng.standard_normal((2, 3, 6, 5)).astype(np.float32)
    lengths = np.array([2, 5])[:, None]
    offsets = np.array([[0, 1, 2]])
    got = numbattn.scores(
        query, key, is_causal=True, kv_lengths=lengths, q_offset=offsets,
        backend=backend,
    )  # fmt: skip
    for b, h in np.ndindex(2, 3):
        for i, j in np.ndindex(4, 6):
            sees = j <= i + h and j < (2, 5)[b]
            assert (got[b, h, i, j] != -np.inf) == sees
    for wrong in (np.array([2, 5]), np.array([[2, 5]]), np.zeros((1, 2, 3), int)):
        for name in ("kv_lengths", "q_offset"):
            with pytest.raises(numbattn.ShapeError, match=name):
                numbattn.scores(query, key, backend=backend, **{name: wrong})


def test_lse_merges_two_halves_of_the_keys(backend: str) -> None:
    """What the lse is for: exp(lse) of parts add up to exp(lse) of the whole."""
    query, key, value = data(np.float64)
    out, lse = numbattn.attention(query, key, value, return_lse=True, backend=backend)
    parts = [
        numbattn.attention(query, key[s], value[s], return_lse=True, backend=backend)
        for s in (slice(0, 2), slice(2, 5))
    ]
    merged = np.logaddexp(parts[0][1], parts[1][1])
    whole = exact("attention", query, key, value)
    assert_lse(merged, whole)
    assert_lse(lse, whole)
    mixed = sum(o * np.exp(s - merged)[:, None] for o, s in parts)
    assert_output(mixed, whole)
    assert_output(out, whole)


def test_one_key_gives_its_value(backend: str) -> None:
    query, key, value = data()
    got = numbattn.attention(query, key[:1], value[:1], backend=backend)
    np.testing.assert_array_equal(got, np.broadcast_to(value[:1], (3, 2)))


def test_iter_scores_has_the_bits_of_scores(backend: str) -> None:
    rng = np.random.default_rng(5)
    query = rng.standard_normal((2, 4, 75, 16)).astype(np.float32)
    key = rng.standard_normal((2, 2, 90, 16)).astype(np.float32)
    options: dict[str, Any] = {
        "is_causal": True, "q_offset": np.array([[3], [9]]), "scale": 0.2,
        "bias": rng.standard_normal((4, 75, 90)), "mask": rng.random((75, 90)) < 0.9,
        "window_size": (50, None), "kv_lengths": np.array([[80], [90]]),
    }  # fmt: skip
    want = numbattn.scores(query, key, backend=backend, **options)
    got = np.full(want.shape, np.nan, np.float32)
    corners = []
    for rows, columns, block in numbattn.iter_scores(
        query, key, block_shape=(40, 33), backend=backend, **options
    ):
        got[..., rows, columns] = block
        corners.append((rows.start, columns.start))
    assert_same_bits(got, want)
    assert corners == sorted(corners)
    assert len(corners) == 2 * 3
