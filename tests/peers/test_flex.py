"""score_mod and mask objects say what PyTorch's FlexAttention says."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import numbattn
from numbattn import masks, score_mods

pytestmark = [
    pytest.mark.peers,
    # run without its compiler FlexAttention says that it is slow
    pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile"),
]

N = 150
DOCUMENTS = np.repeat(np.arange(5), 30)
SLOPES = 2.0 ** -np.arange(1.0, 5.0)
TABLE = np.random.default_rng(3).standard_normal((4, 2 * N))
PREFIX = np.array([40, 0, 77])


def mod_cases(torch: Any) -> dict[str, tuple[dict[str, Any], Any]]:
    """Our options, and the function for FlexAttention."""
    slopes, table = torch.from_numpy(SLOPES), torch.from_numpy(TABLE)
    return {
        "alibi": (
            {"score_mod": score_mods.alibi(8)},
            lambda s, b, h, i, j: s - 2.0 ** -(h + 1.0) * abs(i - j),
        ),
        "slopes": (
            {
                "score_mod": lambda s, b, h, i, j, t: s + t[h // 2] * (j - i),
                "score_mod_args": (SLOPES,),
            },
            lambda s, b, h, i, j: s + slopes[h // 2] * (j - i),
        ),
        "soft cap": (
            {"score_mod": lambda s, b, h, i, j: 5 * math.tanh(s / 5)},
            lambda s, b, h, i, j: 5 * torch.tanh(s / 5),
        ),
        "table": (
            {
                "score_mod": lambda s, b, h, i, j, t: s + t[h // 2, i - j + N],
                "score_mod_args": (TABLE,),
            },
            lambda s, b, h, i, j: s + table[h // 2, i - j + N],
        ),
        "masked by minus infinity": (
            {"score_mod": lambda s, b, h, i, j: s if j <= i else -float("inf")},
            lambda s, b, h, i, j: torch.where(j <= i, s, -float("inf")),
        ),
        "by batch": (
            {"score_mod": lambda s, b, h, i, j: s * (1 + b) + (i == j)},
            lambda s, b, h, i, j: s * (1 + b) + (i == j),
        ),
    }


def mask_cases(torch: Any) -> dict[str, tuple[Any, Any]]:
    """Our mask objects, and the function for FlexAttention."""
    ids, prefix = torch.from_numpy(DOCUMENTS), torch.from_numpy(PREFIX)
    return {
        "causal": (masks.causal(), lambda b, h, i, j: i >= j),
        "window": (
            masks.sliding_window(20, 3),
            lambda b, h, i, j: (i - j <= 20) & (j - i <= 3),
        ),
        "documents": (
            masks.document(DOCUMENTS, DOCUMENTS) & masks.causal(),
            lambda b, h, i, j: (ids[i] == ids[j]) & (i >= j),
        ),
        "prefix": (
            masks.causal() | masks.prefix(PREFIX),
            lambda b, h, i, j: (i >= j) | (j < prefix[b]),
        ),
        "dilated": (
            masks.dilated(3) & masks.causal(),
            lambda b, h, i, j: ((i - j) % 3 == 0) & (i >= j),
        ),
        "by head": (
            masks.from_function(lambda b, h, i, j: (i + j) % 4 != h % 4),
            lambda b, h, i, j: (i + j) % 4 != h % 4,
        ),
    }


def arrays(dtype: str) -> list[Any]:
    rng = np.random.default_rng(7)
    shapes = (3, 8, N, 16), (3, 2, N, 16), (3, 2, N, 16)
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def flex(torch: Any, given: list[Any], **options: Any) -> tuple[Any, Any]:
    from torch.nn.attention.flex_attention import AuxRequest, flex_attention

    with torch.inference_mode():
        out, aux = flex_attention(
            *map(torch.from_numpy, given),
            enable_gqa=True,
            return_aux=AuxRequest(lse=True),
            **options,
        )
    return out.numpy(), aux.lse.numpy()


def hold(found: tuple[Any, Any], wanted: tuple[Any, Any]) -> None:
    for ours, theirs in zip(found, wanted, strict=True):
        eps = np.finfo(ours.dtype).eps
        np.testing.assert_allclose(ours, theirs, rtol=200 * eps, atol=200 * eps)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "name",
    ["alibi", "slopes", "soft cap", "table", "masked by minus infinity", "by batch"],
)
def test_score_mods(torch: Any, name: str, dtype: str) -> None:
    options, theirs = mod_cases(torch)[name]
    given = arrays(dtype)
    found = numbattn.attention(*given, return_lse=True, **options)
    hold(found, flex(torch, given, score_mod=theirs))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "name", ["causal", "window", "documents", "prefix", "dilated", "by head"]
)
def test_masks(torch: Any, name: str, dtype: str) -> None:
    from torch.nn.attention.flex_attention import create_block_mask

    mask, theirs = mask_cases(torch)[name]
    given = arrays(dtype)
    found = numbattn.attention(*given, return_lse=True, mask=mask)
    block_mask = create_block_mask(theirs, 3, 8, N, N, device="cpu")
    hold(found, flex(torch, given, block_mask=block_mask))
