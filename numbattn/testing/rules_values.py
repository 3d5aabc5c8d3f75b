"""Checks of what the numbers are: masks, NaN, empty rows, dtypes, accuracy."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import numpy as np

from numbattn.testing.bounds import (
    assert_lse,
    assert_output,
    assert_result,
    assert_same_bits,
    assert_weights,
)
from numbattn.testing.calls import call
from numbattn.testing.cases import float_dtypes, run_case
from numbattn.testing.drawing import random_case
from numbattn.testing.oracle import accumulation_dtype, exact
from numbattn.testing.problems import (
    BAD,
    MASKERS,
    OPERATIONS,
    Array,
    D,
    M,
    N,
    hidden_by,
    inputs,
    masker,
    results,
)
from numbattn.testing.registry import check, require


@check(2, by=("mask", "bias", "kv_lengths", "is_causal", "window_size"))
def row_without_keys(backend: str, by: str) -> None:
    """A row without keys: output 0, weights 0, lse -inf, scores -inf."""
    arrays = inputs()
    empty = np.zeros(N, bool)
    empty[[0, 4, N - 1]] = True
    choices: dict[str, dict[str, Any]] = {
        "mask": {"mask": ~empty[:, None]},
        "bias": {"bias": np.where(empty, -np.inf, 0.0)[:, None]},
        "kv_lengths": {"kv_lengths": 0},
        "is_causal": {"is_causal": True, "q_offset": -5},
        "window_size": {"window_size": (2, None), "q_offset": M - N + 8},
    }
    options = choices[by]
    if by == "kv_lengths":
        empty[:] = True
    elif by == "is_causal":
        empty = np.arange(N) < 5
    elif by == "window_size":
        empty = np.arange(N) + M - N + 8 - 2 >= M
    got = results(backend, arrays, **options)
    for name, number in (
        ("scores", -np.inf),
        ("weights", 0),
        ("output", 0),
        ("lse", -np.inf),
    ):
        require(
            np.all(got[name][empty] == number),
            f"{name} of an empty row is not {number}",
        )
    require(
        np.all(np.isfinite(got["lse"][~empty])), "a row with keys has no finite lse"
    )


@check(2)
def no_keys_at_all(backend: str) -> None:
    """With m == 0 the output is 0, the lse -inf, scores and weights are empty."""
    got = results(backend, inputs(m=0))
    require(got["scores"].shape == (N, 0), "scores are not (n, 0)")
    require(got["weights"].shape == (N, 0), "weights are not (n, 0)")
    require(np.all(got["output"] == 0), "output is not 0")
    require(np.all(got["lse"] == -np.inf), "lse is not -inf")


@check(2, dtype=("float32", "float64"))
def lowest_number_is_ordinary(backend: str, dtype: str) -> None:
    """A row of -finfo.max is an ordinary row: uniform weights, not an empty one."""
    query, key, value = inputs(dtype)
    lowest = np.finfo(dtype).min
    bias = np.zeros((N, 1), dtype)
    bias[3] = lowest
    got = results(backend, [query * 0, key, value], bias=bias)
    want = exact("attention", query * 0, key, value)
    # All scores of the row are equal, so that it is the row without the bias.
    plain = exact("weights", query * 0, key)
    assert_weights(got["weights"], plain)
    assert_output(got["output"], want)
    require(np.all(got["scores"][3] == lowest), "scores of the row changed")
    require(got["lse"][3] == lowest, "lse of the row is not -finfo.max")


@check(2)
def bias_beyond_the_range_masks(backend: str) -> None:
    """A float64 bias beyond the range of float32 is -inf there, without a warning."""
    query, key, value = inputs("float32")
    bias = np.zeros((N, M))
    bias[:, ::3] = np.finfo(np.float64).min
    bias[5] = np.finfo(np.float64).min
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = results(backend, [query, key, value], bias=bias)
    require(np.all(got["scores"][:, ::3] == -np.inf), "scores there are not -inf")
    assert_output(got["output"], exact("attention", query, key, value, bias=bias))
    require(got["lse"][5] == -np.inf, "the row without keys has a finite lse")


@check(2)
def minus_infinity_is_not_attended(backend: str) -> None:
    """A score of -inf, from the data alone, takes its value out of the row."""
    query, key, value = inputs()
    query[:, 0] = np.abs(query[:, 0]) + 1
    key[7, 0] = -np.inf
    value[7] = np.nan
    want = exact("attention", query, key, value)
    require(not want.attended[:, 7].any(), "the oracle attends the key")
    got = results(backend, [query, key, value])
    require(np.isfinite(got["output"]).all(), "the value of an unattended key leaked")
    assert_output(got["output"], want)
    assert_lse(got["lse"], want)
    require(np.all(got["weights"][:, 7] == 0), "the weight is not 0")


@check(3, by=MASKERS, dtype=("float32", "float64", "float16"))
def masked_is_not_read(backend: str, by: str, dtype: str) -> None:
    """NaN or inf in a masked key or value changes no bit of a row that masks it."""
    clean = inputs(dtype)
    hidden = hidden_by(by, N, M)
    options = masker(by, hidden)
    want = results(backend, clean, **options)
    for j, bad in itertools.product((M - 1, 11), BAD):
        if not hidden[:, j].any():
            continue
        query, key, value = (a.copy() for a in clean)
        key[j] = bad
        value[j] = bad
        got = results(backend, [query, key, value], **options)
        safe = hidden[:, j]
        for name in want:
            what = f"{name} with {bad} in masked key {j}"
            assert_same_bits(got[name][safe], want[name][safe], what)


@check(3, by=MASKERS)
def masked_bias_is_not_read(backend: str, by: str) -> None:
    """NaN or inf in the bias of a masked key changes no bit."""
    clean = inputs()
    hidden = hidden_by(by, N, M)
    rng = np.random.default_rng(3)
    bias = rng.standard_normal((N, M)).astype(np.float32)
    if by == "bias":
        bias[hidden] = -np.inf
        clean[1][hidden.all(axis=0)] = np.nan
        options: dict[str, Any] = {"mask": np.ones((N, M), bool)}
    else:
        options = masker(by, hidden)
    want = results(backend, clean, bias=bias, **options)
    poisoned = bias.copy()
    if by == "bias":
        options = {"mask": ~hidden}
    poisoned[hidden] = rng.choice(BAD, size=int(hidden.sum()))
    got = results(backend, clean, bias=poisoned, **options)
    for name in want:
        assert_same_bits(got[name], want[name], name)


@check(3)
def minus_infinite_bias_hides_nan(backend: str) -> None:
    """A bias of -inf masks a key whose dot product is NaN or +inf."""
    clean = inputs()
    bias = np.zeros((1, M), np.float32)
    bias[0, [2, 9]] = -np.inf
    want = results(backend, clean, bias=bias)
    query, key, value = (a.copy() for a in clean)
    key[2], key[9] = np.nan, np.inf
    value[[2, 9]] = np.nan
    got = results(backend, [query, key, value], bias=bias)
    for name in want:
        assert_same_bits(got[name], want[name], name)


@check(4, dtype=("float32", "float64", "float16"))
def nan_goes_where_it_belongs(backend: str, dtype: str) -> None:
    """NaN in q_i, k_j, v_jc: to row i, to rows attending j, to their column c."""
    clean = inputs(dtype)
    options = {"is_causal": True, "q_offset": 2}
    rows = np.arange(N)
    want = results(backend, clean, **options)
    i, j, c = 6, 13, 4
    for which, at in ((0, (i, 1)), (1, (j, 1)), (2, (j, c))):
        arrays = [a.copy() for a in clean]
        arrays[which][at] = np.nan
        got = results(backend, arrays, **options)
        hit = rows == i if which == 0 else rows + 2 >= j
        name = ("query", "key", "value")[which]
        columns = np.arange(D + 3) == c if which == 2 else np.ones(D + 3, bool)
        output = hit[:, None] & columns
        require(
            np.array_equal(np.isnan(got["output"]), output),
            f"NaN in {name}: the output has NaN in the wrong places",
        )
        assert_same_bits(got["output"][~output], want["output"][~output], name)
        lost = hit if which < 2 else np.zeros(N, bool)
        require(
            np.array_equal(np.isnan(got["lse"]), lost),
            f"NaN in {name}: the lse has NaN in the wrong places",
        )
        assert_same_bits(got["lse"][~lost], want["lse"][~lost], "lse")
        assert_same_bits(got["weights"][~lost], want["weights"][~lost], "weights")
        _nan_in_scores(got["scores"], want["scores"], which, i, j, hit)


def _nan_in_scores(
    got: Array, want: Array, which: int, i: int, j: int, hit: Array
) -> None:
    lost = np.zeros(got.shape, bool)
    if which == 0:
        lost[i] = ~np.isneginf(want[i])
    elif which == 1:
        lost[hit, j] = True
    require(np.array_equal(np.isnan(got), lost), "scores have NaN in the wrong places")
    assert_same_bits(got[~lost], want[~lost], "scores")


@check(4)
def infinite_value_reaches_its_rows(backend: str) -> None:
    """An attended +inf or -inf in v goes to its column; both together give NaN."""
    query, key, value = inputs(m=9)
    clean = call("attention", backend, query, key, value)
    value[3, 0], value[5, 1], value[2, 2], value[4, 2] = (
        np.inf,
        -np.inf,
        np.inf,
        -np.inf,
    )
    got = call("attention", backend, query, key, value)
    require(np.all(got[:, 0] == np.inf), "+inf did not reach its column")
    require(np.all(got[:, 1] == -np.inf), "-inf did not reach its column")
    require(np.isnan(got[:, 2]).all(), "+inf and -inf did not give NaN")
    assert_same_bits(got[:, 3:], clean[:, 3:], "the other columns")


@check(4)
def infinite_score_gives_nan(backend: str) -> None:
    """A score of +inf gives a row of NaN, and no other row; softcap bounds it."""
    query, key, value = inputs()
    key[:, 0] = np.abs(key[:, 0]) + 1
    query[2, 0] = np.inf
    got = results(backend, [query, key, value])
    require(np.all(got["scores"][2] == np.inf), "scores of the row are not +inf")
    row = np.arange(N) == 2
    for name in ("weights", "output", "lse"):
        nan = np.isnan(got[name]).reshape(N, -1)
        require(nan[row].all(), f"{name} of the row is not NaN")
        require(not nan[~row].any(), f"{name} of another row is NaN")
    capped = call("attention", backend, query, key, value, softcap=5.0)
    require(np.isfinite(capped).all(), "with softcap the output is not finite")


@check(5, by=MASKERS)
def masked_scores(backend: str, by: str) -> None:
    """A masked score is -inf and the others keep their bits."""
    query, key, _ = inputs()
    hidden = hidden_by(by, N, M)
    plain = call("scores", backend, query, key)
    got = call("scores", backend, query, key, **masker(by, hidden))
    require(np.all(got[hidden] == -np.inf), "a masked score is not -inf")
    assert_same_bits(got[~hidden], plain[~hidden], "scores that are not masked")


@check(6, dtype=("float32", "float64", "float16"))
def lse(backend: str, dtype: str) -> None:
    """The lse is a natural logarithm in the accumulation dtype, after every option."""
    query, key, value = inputs(dtype)
    options: dict[str, Any] = {"softcap": 3.0, "is_causal": True, "scale": 0.4}
    options["bias"] = np.linspace(-1, 1, M)
    got = results(backend, [query, key, value], **options)
    want = exact("attention", query, key, value, **options)
    require(got["lse"].shape == got["output"].shape[:-1], "shape of lse")
    require(got["lse"].dtype == accumulation_dtype(query.dtype), "dtype of lse")
    assert_lse(got["lse"], want)


@check(8, dtype=("float32", "float64"))
def no_width(backend: str, dtype: str) -> None:
    """With d_k == 0 all scores are 0 and the output is the mean of V."""
    query, key, value = inputs(dtype)
    query, key = query[:, :0], key[:, :0]
    got = results(backend, [query, key, value])
    require(np.all(got["scores"] == 0), "scores are not 0")
    want = exact("attention", query, key, value)
    assert_output(got["output"], want)
    assert_weights(got["weights"], exact("weights", query, key))
    assert_lse(got["lse"], want)
    assert_result(
        call("scores", backend, query, key, bias=np.arange(M) * 0.1, is_causal=True),
        exact("scores", query, key, bias=np.arange(M) * 0.1, is_causal=True),
    )


@check(13, operation=OPERATIONS, dtype=("float32", "float64", "float16", "bfloat16"))
def random_problems(backend: str, operation: str, dtype: str) -> dict[str, float]:
    """Random shapes, memory and options are within the error bound."""
    if dtype not in float_dtypes():
        return {}
    seed = [13, OPERATIONS.index(operation), len(dtype)]
    rng = np.random.default_rng(seed)
    worst: dict[str, float] = {}
    for _ in range(6):
        case = random_case(rng, operation, dtype, work=200_000)
        for name, used in run_case(case, backend).items():
            worst[name] = max(worst.get(name, 0.0), used)
    return worst
