"""numbattn.attention and PyTorch's scaled_dot_product_attention say the same."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import numbattn
from numbattn.testing import assert_same_bits

from .problems import (
    WIDTHS,
    Array,
    Record,
    compare,
    in_other_memory,
    pick,
    scale,
    seen,
    sizes,
    values,
)

pytestmark = pytest.mark.peers

CASES = 600
CHUNKS = 12
SEED = 20_260


def sdpa(torch: Any, arrays: tuple[Array, Array, Array], **options: Any) -> Array:
    """Return PyTorch's result for NumPy arrays."""
    options = {
        name: torch.from_numpy(given) if isinstance(given, np.ndarray) else given
        for name, given in options.items()
    }
    with torch.inference_mode():
        out: Array = torch.nn.functional.scaled_dot_product_attention(
            *(torch.from_numpy(each) for each in arrays), **options
        ).numpy()
    return out


def random_call(
    rng: np.random.Generator, dtype: str
) -> tuple[tuple[Array, Array, Array], dict[str, Any], dict[str, Any]]:
    """Return the arrays, our options, and PyTorch's for the same problem."""
    batch, heads, group, n, m = sizes(rng)
    d_k, d_v = pick(rng, WIDTHS), pick(rng, WIDTHS)
    if rng.random() < 0.5:
        d_v = d_k
    shapes = [
        (batch, heads * group, n, d_k),
        (batch, heads, m, d_k),
        (batch, heads, m, d_v),
    ]
    # PyTorch takes any number of leading axes; groups need the heads axis
    skip = 0 if group > 1 else pick(rng, (0, 0, 0, 1, 2))
    shapes = [shape[skip:] for shape in shapes]
    query, key, value = (
        in_other_memory(rng, values(rng, shape, dtype)) for shape in shapes
    )
    ours: dict[str, Any] = {}
    theirs: dict[str, Any] = {"enable_gqa": True} if group > 1 else {}
    if rng.random() < 0.4:
        ours["scale"] = theirs["scale"] = scale(rng)
    lead = query.shape[:-2]
    over = lead if rng.random() < 0.5 else tuple(pick(rng, (1, s)) for s in lead)
    match rng.choice(["none", "causal", "bool", "float"]):
        case "causal":
            ours["is_causal"] = theirs["is_causal"] = True
            if ours.get("scale", 1.0) <= 0:
                # PyTorch 2.13 multiplies its -inf by the scale, and returns NaN
                ours["scale"] = theirs["scale"] = 0.5
        case "bool":
            mask = seen(rng, (*over, n, m), empty_rows=rng.random() < 0.3)
            ours["mask"] = theirs["attn_mask"] = mask
        case "float":
            bias = values(rng, (*over, n, m), dtype)
            if rng.random() < 0.5:  # and hides keys too, whole rows among them
                hidden = ~seen(rng, bias.shape, empty_rows=True)
                bias = np.where(hidden, -np.inf, bias).astype(dtype)
            ours["bias"] = theirs["attn_mask"] = bias
    return (query, key, value), ours, theirs


@pytest.mark.parametrize("chunk", range(CHUNKS))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_random_problems(
    torch: Any, dtype: str, chunk: int, record_worst: Record
) -> None:
    for k in range(CASES // CHUNKS):
        seed = [SEED, int(dtype[-2:]), chunk, k]
        arrays, ours, theirs = random_call(np.random.default_rng(seed), dtype)
        try:
            found = sdpa(torch, arrays, **theirs)
            compare("torch", arrays, ours, found, record_worst)
            # the same call, with PyTorch's own arguments
            ported = numbattn.scaled_dot_product_attention(*arrays, **theirs)
            assert_same_bits(ported, numbattn.attention(*arrays, **ours))
        except Exception as error:
            shapes = ", ".join(str(each.shape) for each in arrays)
            error.add_note(f"default_rng({seed}): {shapes}, {sorted(theirs)}")
            raise


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "n", "m", "d_k", "d_v"),
    [
        (2, 2, 512, 512, 64, 64),
        (1, 1, 300, 1000, 80, 80),
        (1, 1, 257, 257, 192, 128),
        (8, 2, 1, 2000, 128, 128),
        (4, 1, 17, 1500, 64, 64),
    ],
)
def test_shapes_of_models(
    torch: Any,
    heads: int,
    kv_heads: int,
    n: int,
    m: int,
    d_k: int,
    d_v: int,
    causal: bool,
    record_worst: Record,
) -> None:
    rng = np.random.default_rng(SEED)
    arrays = (
        values(rng, (1, heads, n, d_k), "float32"),
        values(rng, (1, kv_heads, m, d_k), "float32"),
        values(rng, (1, kv_heads, m, d_v), "float32"),
    )
    more = {"enable_gqa": True} if heads != kv_heads else {}
    found = sdpa(torch, arrays, is_causal=causal, **more)
    compare("torch", arrays, {"is_causal": causal}, found, record_worst)


def test_a_query_without_keys_is_0_on_both_sides(torch: Any) -> None:
    rng = np.random.default_rng(SEED)
    q, k, v = (values(rng, (2, 9, 16), "float32") for _ in range(3))
    mask = np.ones((9, 9), bool)
    mask[4] = False
    for given in (mask, np.where(mask, 0, -math.inf).astype(np.float32)):
        assert not sdpa(torch, (q, k, v), attn_mask=given)[:, 4].any()
    assert not numbattn.attention(q, k, v, mask=mask)[:, 4].any()


def test_lower_right_is_pytorch_s_causal_lower_right(
    torch: Any, record_worst: Record
) -> None:
    from torch.nn.attention.bias import causal_lower_right

    rng = np.random.default_rng(SEED)
    query = values(rng, (1, 2, 5, 16), "float32")
    key, value = (values(rng, (1, 2, 12, 16), "float32") for _ in range(2))
    found = sdpa(torch, (query, key, value), attn_mask=causal_lower_right(5, 12))
    options = {"is_causal": True, "q_offset": "lower_right"}
    compare("torch", (query, key, value), options, found, record_worst)
