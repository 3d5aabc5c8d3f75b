"""Checks of extreme numbers: overflow, tiny and huge values, single and equal keys."""

from __future__ import annotations

import math

import numpy as np

from numbattn.testing.bounds import assert_lse, assert_output, assert_weights
from numbattn.testing.calls import call
from numbattn.testing.oracle import exact
from numbattn.testing.problems import held, inputs, results, worst_of
from numbattn.testing.registry import check, require

FLOATS = ("float32", "float64")
SEVERAL = (3, 20)


def top_of(dtype: str) -> float:
    """Return a power of two near the square root of the largest number."""
    return 2.0**60 if dtype == "float32" else 2.0**500


@check(13, dtype=FLOATS, n=SEVERAL)
def one_key(backend: str, dtype: str, n: int) -> dict[str, float]:
    """One key has weight 1, whatever its score."""
    query, key, value = inputs(dtype, n=n, m=1)
    for factor in (1.0, 1e10, -1e10):
        got = call("weights", backend, query, key, scale=factor)
        require(np.all(got == 1), f"the weight of the only key is {got.ravel()[:3]}")
    return held(backend, [query, key, value])


@check(13, dtype=FLOATS, n=SEVERAL)
def equal_keys(backend: str, dtype: str, n: int) -> dict[str, float]:
    """Equal keys have equal weights, to the bit."""
    query, key, value = inputs(dtype, n=n, m=71)
    key[:] = key[5]
    got = call("weights", backend, query, key)
    require(np.all(got == got[:, :1]), "equal keys have unequal weights")
    return held(backend, [query, key, value])


@check(13, dtype=FLOATS, size=(1e3, 1e5))
def large_logits(backend: str, dtype: str, size: float) -> dict[str, float]:
    """Scores of thousands, a few units apart, are within the bound."""
    query, key, value = inputs(dtype, n=20, d=4)
    query[:, 0], key[:, 0] = size, 1.0
    return held(backend, [query, key, value], scale=1.0)


@check(4, dtype=FLOATS, n=SEVERAL)
def overflow_upwards(backend: str, dtype: str, n: int) -> None:
    """A score beyond the largest number is +inf: NaN in its row, and in no other."""
    query, key, value = inputs(dtype, n=n, m=40)
    top = top_of(dtype) * 2.0**20 * (2.0**400 if dtype == "float64" else 1.0)
    query[1], key[7] = top, top
    query[1, 1:], key[7, 1:] = 0, 0
    other = np.arange(n) != 1
    key[7], query[other, 0] = np.where(np.arange(24) == 0, top, 0), 0
    want = exact("attention", query, key, value, scale=1.0)
    require(bool(np.isposinf(want.scores[1, 7])), "the oracle does not overflow")
    got = results(backend, [query, key, value], scale=1.0)
    require(got["scores"][1, 7] == np.inf, "the score is not +inf")
    for name in ("weights", "output", "lse"):
        lost = np.isnan(got[name].reshape(n, -1))
        require(lost[1].all(), f"{name} of the row is not NaN")
        require(not lost[other].any(), f"{name} of another row is NaN")


@check(2, dtype=FLOATS, n=SEVERAL)
def overflow_downwards(backend: str, dtype: str, n: int) -> None:
    """A score below the lowest number is -inf: its key is not attended."""
    query, key, value = inputs(dtype, n=n, m=40)
    top = top_of(dtype) * 2.0**20 * (2.0**400 if dtype == "float64" else 1.0)
    query[:, 0], key[:, 0] = 0, 0
    query[1] = np.where(np.arange(24) == 0, top, query[1])
    key[7] = np.where(np.arange(24) == 0, -top, 0)
    value[7] = np.where(np.arange(27) == 2, np.nan, value[7])
    want = exact("attention", query, key, value, scale=1.0)
    require(not want.attended[1, 7], "the oracle attends the key")
    got = results(backend, [query, key, value], scale=1.0)
    require(got["scores"][1, 7] == -np.inf, "the score is not -inf")
    require(got["weights"][1, 7] == 0, "the weight is not 0")
    assert_output(got["output"], want)
    assert_lse(got["lse"], want)


@check(4, n=SEVERAL)
def infinities_that_cancel(backend: str, n: int) -> None:
    """Inf - inf within a dot product is NaN: in the rows that attend the key."""
    query, key, value = inputs(n=n, m=40)
    key[9, 0], key[9, 1] = np.inf, -np.inf
    query[:, :2] = np.abs(query[:, :2]) + 0.5
    options = {"mask": np.arange(n)[:, None] % 2 == 0}
    got = results(backend, [query, key, value], **options)
    hit = np.arange(n) % 2 == 0
    for name in ("weights", "output", "lse"):
        lost = np.isnan(got[name].reshape(n, -1)).all(axis=1)
        require(np.array_equal(lost, hit), f"{name} has NaN in the wrong rows")
    want = np.zeros((n, 40), bool)
    want[hit, 9] = True
    require(np.array_equal(np.isnan(got["scores"]), want), "NaN in the wrong scores")


@check(13, dtype=FLOATS, n=SEVERAL)
def tiny_inputs(backend: str, dtype: str, n: int) -> dict[str, float]:
    """Products below the smallest normal number count as 0, or as themselves."""
    least = 1e-21 if dtype == "float32" else 1e-160
    query, key, value = inputs(dtype, n=n)
    return held(backend, [query * least, key * least, value])


@check(13, dtype=FLOATS, n=SEVERAL)
def subnormal_inputs(backend: str, dtype: str, n: int) -> dict[str, float]:
    """Subnormal queries against large keys are not flushed to 0."""
    info = np.finfo(dtype)
    query, key, value = inputs(dtype, n=n, d=8)
    query = (np.sign(query) * np.arange(1, 9) * 2**10 * info.smallest_subnormal).astype(
        dtype
    )
    key = (key * (2.0**120 if dtype == "float32" else 2.0**1000)).astype(dtype)
    want = exact("scores", query, key)
    least = float(abs(want.scores).max())
    require(least > float(info.tiny) * 2.0**30, "the products are too small to tell")
    return held(backend, [query, key, value], scale=1.0)


@check(13, dtype=FLOATS, n=SEVERAL)
def values_of_every_size(backend: str, dtype: str, n: int) -> dict[str, float]:
    """Values from tiny to huge in one column are within the bound."""
    query, key, value = inputs(dtype, n=n, m=77)
    reach = 30 if dtype == "float32" else 280
    value *= 10.0 ** np.linspace(-reach, reach, 77)[:, None]
    return held(backend, [query, key, value], ("attention",))


@check(13, dtype=FLOATS, n=SEVERAL)
def keys_of_every_size(backend: str, dtype: str, n: int) -> None:
    """Scores from tiny to huge: the weights are 0 and 1, without NaN."""
    query, key, value = inputs(dtype, n=n, m=77, d=1)
    reach = 17 if dtype == "float32" else 140
    key = (10.0 ** np.linspace(-reach, reach, 77)[:, None]).astype(dtype)
    got = results(backend, [query, key, value], scale=1.0)
    for name in got:
        require(np.isfinite(got[name]).all(), f"{name} is not finite")
    upwards = query[:, 0] > 0
    require(np.all(got["weights"][upwards, -1] == 1), "the largest score has not 1")


@check(13, dtype=FLOATS)
def softcap_bounds_huge_scores(backend: str, dtype: str) -> dict[str, float]:
    """The softcap of a huge score is the cap; a huge cap leaves scores alone."""
    query, key, value = inputs(dtype, n=20)
    top = np.array(top_of(dtype) / 2**5, dtype)
    got = call("scores", backend, query * top, key * top, softcap=5.0)
    require(np.all(abs(got) <= 5), "a score is beyond the cap")
    require(np.mean(abs(got) == 5) > 0.99, "huge scores are not at the cap")
    return held(backend, [query, key, value], softcap=1e20)


@check(13, dtype=FLOATS)
def bias_of_every_size(backend: str, dtype: str) -> dict[str, float]:
    """A bias far above and far below the scores is within the bound."""
    arrays = inputs(dtype, n=20)
    rng = np.random.default_rng(1)
    size = 10.0 ** rng.uniform(-3, 5, (20, arrays[1].shape[0]))
    bias = (size * rng.choice([-1, 1], size.shape)).astype(dtype)
    return held(backend, arrays, bias=bias)


@check(6, dtype=FLOATS, m=(1, 2, 70, 5000))
def lse_of_equal_scores(backend: str, dtype: str, m: int) -> dict[str, float]:
    """The lse of m equal scores s is s + log(m), natural, in either sign."""
    worst = []
    for s in (0.0, -7.0, 50.0, -1e4):
        query = np.full((20, 1), s, dtype)
        key, value = np.ones((m, 1), dtype), np.ones((m, 2), dtype)
        got = call("attention", backend, query, key, value, scale=1.0, return_lse=True)
        want = exact("attention", query, key, value, scale=1.0)
        true = s + math.log(m)
        require(abs(float(want.lse[0]) - true) <= 1e-12 * (1 + abs(true)), "oracle")
        worst.append({"lse": assert_lse(got[1], want)})
    return worst_of(worst)


@check(13, dtype=FLOATS, n=SEVERAL)
def weights_far_below_one(backend: str, dtype: str, n: int) -> dict[str, float]:
    """Weights down to the smallest numbers keep their relative error."""
    depth = 80 if dtype == "float32" else 650
    query = np.ones((n, 1), dtype)
    key = np.linspace(-depth, 0, 90, dtype=dtype)[:, None]
    got = call("weights", backend, query, key, scale=1.0)
    want = exact("weights", query, key, scale=1.0)
    require(float(want.weights.min()) > float(np.finfo(dtype).tiny), "too small")
    return {"weights": assert_weights(got, want)}


@check(13, dtype=FLOATS)
def signed_zeros(backend: str, dtype: str) -> dict[str, float]:
    """Zeros of either sign are zeros."""
    query, key, value = inputs(dtype, n=20)
    query[::2] = -0.0
    key[1::3] = -0.0
    value[::2] *= -0.0
    return held(backend, [query, key, value])
