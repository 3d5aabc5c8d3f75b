"""scaled_dot_product_attention: PyTorch's documented arithmetic, and its refusals."""

from __future__ import annotations

import inspect
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import numbattn
from numbattn import scaled_dot_product_attention as sdpa
from numbattn.testing import assert_same_bits, float_dtypes

FIXED = settings(
    max_examples=150,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


def documented(
    query: np.ndarray,
    key: np.ndarray,
    value: np.ndarray,
    attn_mask: np.ndarray | None = None,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> np.ndarray:
    """What PyTorch's page calls equivalent, in NumPy; rows without keys are 0."""
    n, m = query.shape[-2], key.shape[-2]
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    bias = np.zeros((n, m))
    if is_causal:
        bias[~np.tril(np.ones((n, m), bool))] = -np.inf
    if attn_mask is not None and attn_mask.dtype == bool:
        bias = np.where(attn_mask, bias, -np.inf)
    elif attn_mask is not None:
        bias = bias + attn_mask.astype(float)
    if enable_gqa:
        times = query.shape[-3] // key.shape[-3]
        key, value = (np.repeat(x, times, axis=-3) for x in (key, value))
    s = query.astype(float) @ key.astype(float).swapaxes(-1, -2) * factor + bias
    top = s.max(axis=-1, keepdims=True, initial=-np.inf)
    p = np.exp(s - np.where(top == -np.inf, 0, top))
    total = p.sum(axis=-1, keepdims=True)
    return p / np.where(total == 0, 1, total) @ value.astype(float)


@st.composite
def calls(draw: st.DrawFn) -> tuple[list[np.ndarray], dict[str, Any]]:
    """Draw arrays and options that PyTorch takes."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sizes = st.integers(1, 24)
    n, m, d, d_v = (draw(sizes) for _ in range(4))
    batch = draw(st.lists(st.integers(1, 3), max_size=2))
    heads, group = draw(st.integers(1, 3)), 1
    options: dict[str, Any] = {}
    if draw(st.booleans()):
        group = draw(st.integers(1, 3))
        options["enable_gqa"] = True
    axes = draw(st.booleans())
    lead = (*batch, heads * group) if axes else ()
    own = (*batch, heads) if axes else ()
    if not axes:
        options.pop("enable_gqa", None)
    thin = tuple(1 if draw(st.booleans()) else a for a in own[:-1]) + own[-1:]
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    arrays = [
        rng.standard_normal(shape).astype(dtype)
        for shape in ((*lead, n, d), (*thin, m, d), (*thin, m, d_v))
    ]
    kind = draw(st.sampled_from(["none", "causal", "bools", "floats"]))
    if kind == "causal":
        options["is_causal"] = True
    elif kind != "none":
        shape = [a if draw(st.booleans()) else 1 for a in (*lead, n, m)]
        mask = rng.random(shape[draw(st.integers(0, len(lead))) :]) < 0.7
        options["attn_mask"] = mask
        if kind == "floats":
            numbers = rng.standard_normal(mask.shape).astype(dtype)
            options["attn_mask"] = np.where(mask, numbers, dtype(-np.inf))
    if draw(st.booleans()):
        options["scale"] = draw(st.floats(-1, 1, width=32))
    return arrays, options


@FIXED
@given(call=calls())
def test_it_is_what_pytorch_documents(backend: str, call: Any) -> None:
    arrays, options = call
    with numbattn.use_backend(backend):
        got = sdpa(*arrays, **options)
    want = documented(*arrays, **options)
    assert got.dtype == arrays[0].dtype
    assert got.shape == want.shape
    exact = 2e-5 if got.dtype == np.float32 else 1e-13
    np.testing.assert_allclose(got, want, rtol=exact, atol=exact)


def test_the_argument_list_is_pytorch_s() -> None:
    parameters = inspect.signature(sdpa).parameters
    found = [(p.name, p.default) for p in parameters.values()][3:]
    assert list(parameters)[:3] == ["query", "key", "value"]
    assert found == [
        ("attn_mask", None), ("dropout_p", 0.0), ("is_causal", False),
        ("scale", None), ("enable_gqa", False),
    ]  # fmt: skip
    keywords = [p.name for p in parameters.values() if p.kind is p.KEYWORD_ONLY]
    assert keywords == ["scale", "enable_gqa"]


def arrays(*leads: tuple[int, ...], dtype: Any = np.float32) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = ((5, 8), (7, 8), (7, 3))
    return [
        rng.standard_normal((*lead, *core)).astype(dtype)
        for lead, core in zip(leads, shapes, strict=True)
    ]


def test_it_is_attention_to_the_bit(backend: str) -> None:
    given = arrays((2, 4), (2, 2), (2, 2))
    mask = np.random.default_rng(1).random((2, 1, 5, 7)) < 0.5
    with numbattn.use_backend(backend):
        assert_same_bits(
            sdpa(*given, mask, enable_gqa=True, scale=0.3),
            numbattn.attention(*given, mask=mask, scale=0.3),
        )
        assert_same_bits(
            sdpa(*given, None, 0.0, True, enable_gqa=True),
            numbattn.attention(*given, is_causal=True),
        )


def test_masked_rows_are_zero_and_what_is_masked_is_not_read(backend: str) -> None:
    query, key, value = arrays((), (), ())
    mask = np.ones((5, 7), bool)
    mask[2], mask[:, 6] = False, False
    value[6] = key[6] = np.nan
    with numbattn.use_backend(backend):
        for given in (mask, np.where(mask, 0, -np.inf)):
            got = sdpa(query, key, value, given)
            assert (got[2] == 0).all()
            assert np.isfinite(got).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_float32_mask_leaves_half_precision(backend: str, dtype: str) -> None:
    given = arrays((3,), (3,), (3,), dtype=float_dtypes()[dtype])
    with numbattn.use_backend(backend):
        got = sdpa(*given, attn_mask=np.zeros((5, 7), np.float32))
        assert_same_bits(got, sdpa(*given))
    assert got.dtype.name == dtype


def test_integers_and_lists_are_taken() -> None:
    got = sdpa([[1, 0]], [[1, 0], [0, 1]], [[1], [3]])
    assert got.dtype == np.float64


class OnDevice:
    __cuda_array_interface__ = {"shape": (5, 7), "typestr": "<f4", "version": 3}  # noqa: RUF012


FOUR, TWO, THREE = ((heads,) for heads in (4, 2, 3))
BAD: dict[str, tuple[Any, dict[str, Any], type, str]] = {
    "dropout": (None, {"dropout_p": 0.1}, numbattn.OptionError, "dropout_p is 0.1.*ev"),
    "dropout text": (None, {"dropout_p": "0"}, numbattn.OptionError, "dropout_p is '0"),
    "dropout nan": (None, {"dropout_p": np.nan}, numbattn.OptionError, "dropout_p"),
    "both": (
        None,
        {"attn_mask": np.ones((5, 7), bool), "is_causal": True},
        numbattn.OptionError,
        "attn_mask is given and is_causal",
    ),
    "heads": (
        (FOUR, TWO, TWO), {}, numbattn.ShapeError, r"heads \(axis -3\).*enable_gqa=True"
    ),
    "gqa heads": (
        (FOUR, THREE, THREE), {"enable_gqa": True}, numbattn.ShapeError, "multiple"
    ),
    "causal": (None, {"is_causal": 1}, numbattn.OptionError, "is_causal is 1"),
    "gqa": (None, {"enable_gqa": None}, numbattn.OptionError, "enable_gqa is None"),
    "scale": (None, {"scale": [1.0]}, numbattn.OptionError, "scale"),
    "int mask": (
        None, {"attn_mask": np.ones((5, 7), int)}, numbattn.DTypeError, "attn_mask.*ast"
    ),
    "complex mask": (
        None, {"attn_mask": np.ones((5, 7)) * 1j}, numbattn.DTypeError, "attn_mask has"
    ),
    "mask shape": (
        None, {"attn_mask": np.ones((5, 6))}, numbattn.ShapeError, "attn_mask has shape"
    ),
    "mask axes": (
        None, {"attn_mask": np.ones((1, 5, 7))}, numbattn.ShapeError, "attn_mask has sh"
    ),
    "mask text": (None, {"attn_mask": "causal"}, numbattn.DTypeError, "attn_mask is"),
    "device": (
        None, {"attn_mask": OnDevice()}, numbattn.BackendUnavailableError, "attn_mask"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_refused_by_name(name: str) -> None:
    leads, options, error, says = BAD[name]
    given = arrays(*(leads or ((), (), ())))
    with pytest.raises(error, match=says):
        sdpa(*given, **options)


def test_one_head_serves_all_also_without_grouping(backend: str) -> None:
    """As PyTorch broadcasts any leading axis of length 1."""
    with numbattn.use_backend(backend):
        for leads in ((FOUR, (1,), (1,)), ((1,), FOUR, FOUR), (FOUR, (), ())):
            given = arrays(*leads)
            assert sdpa(*given).shape == (4, 5, 3)
            np.testing.assert_allclose(sdpa(*given), documented(*given), rtol=1e-4)
