"""Whole models with numbattn in the place of SDPA, and the code of the pages."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import numbattn

pytestmark = pytest.mark.peers

DOCS = Path(__file__).resolve().parents[2] / "docs"
CLOSE = {"rtol": 0, "atol": 2e-5}
"""For outputs of a few normalised layers, whose size is 1."""


def page(name: str) -> dict[str, Any]:
    """Return the names that the code of a page defines."""
    text = (DOCS / name).read_text()
    namespace: dict[str, Any] = {}
    code = re.findall(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    with contextlib.redirect_stdout(io.StringIO()):
        exec("\n".join(code), namespace)
    return namespace


@pytest.fixture
def calls(torch: Any, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Put numbattn in the place of PyTorch's SDPA; the shapes that it was called with.

    PyTorch's modules call the function by its name unless their fast path is on.
    """
    shapes: list[Any] = []

    def attention(
        query: Any,
        key: Any,
        value: Any,
        attn_mask: Any = None,
        *more: Any,
        **options: Any,
    ) -> Any:
        shapes.append(tuple(query.shape))
        mask = None if attn_mask is None else attn_mask.numpy()
        arrays = (each.numpy() for each in (query, key, value))
        return torch.from_numpy(
            numbattn.scaled_dot_product_attention(*arrays, mask, *more, **options)
        )

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attention)
    return shapes


@pytest.fixture(autouse=True)
def _slow_path(torch: Any) -> Iterator[None]:
    was = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    torch.manual_seed(0)
    yield
    torch.backends.mha.set_fastpath_enabled(was)


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("view", ["all", "causal", "padded"])
def test_transformer_encoder(
    torch: Any, request: pytest.FixtureRequest, view: str, norm_first: bool
) -> None:
    layer = torch.nn.TransformerEncoderLayer(
        128, 4, 256, activation="gelu", batch_first=True, norm_first=norm_first
    )
    model = torch.nn.TransformerEncoder(
        layer, 4, torch.nn.LayerNorm(128), enable_nested_tensor=False
    ).eval()
    x = torch.randn(3, 50, 128)
    padding = torch.arange(50) >= torch.tensor([[50], [17], [1]])
    options = {
        "all": {},
        "causal": {
            "mask": torch.nn.Transformer.generate_square_subsequent_mask(50),
            "is_causal": True,
        },
        "padded": {"src_key_padding_mask": padding},
    }[view]
    with torch.inference_mode():
        theirs = model(x, **options).numpy()
        calls = request.getfixturevalue("calls")
        ours = model(x, **options).numpy()
    assert calls == [(3, 4, 50, 32)] * 4
    seen = ~padding.numpy() if view == "padded" else np.ones((3, 50), bool)
    np.testing.assert_allclose(ours[seen], theirs[seen], **CLOSE)


def test_transformer_with_cross_attention(
    torch: Any, request: pytest.FixtureRequest
) -> None:
    model = torch.nn.Transformer(64, 4, 2, 2, 128, batch_first=True).eval()
    source, target = torch.randn(2, 21, 64), torch.randn(2, 13, 64)
    mask = model.generate_square_subsequent_mask(13)
    with torch.inference_mode():
        theirs = model(source, target, tgt_mask=mask, tgt_is_causal=True).numpy()
        calls = request.getfixturevalue("calls")
        ours = model(source, target, tgt_mask=mask, tgt_is_causal=True).numpy()
    assert len(calls) == 2 + 2 * 2
    np.testing.assert_allclose(ours, theirs, **CLOSE)


@pytest.mark.parametrize("view", ["all", "causal", "padded"])
def test_the_docs_multi_head_attention_is_pytorch_s(torch: Any, view: str) -> None:
    function = page("porting-from-pytorch.md")["multi_head_attention"]
    module = torch.nn.MultiheadAttention(64, 4, batch_first=True).eval()
    torch.nn.init.normal_(module.in_proj_bias)
    x = torch.randn(3, 20, 64)
    lengths = np.array([20, 5, 11])
    forbidden = torch.ones(20, 20, dtype=torch.bool).triu(1)  # True: may not attend
    theirs, ours = {
        "all": ({}, {}),
        "causal": ({"attn_mask": forbidden, "is_causal": True}, {"is_causal": True}),
        "padded": (
            {"key_padding_mask": torch.arange(20) >= torch.tensor(lengths)[:, None]},
            {"kv_lengths": lengths[:, None]},
        ),
    }[view]
    with torch.inference_mode():
        want = module(x, x, x, need_weights=False, **theirs)[0].numpy()
        weights = (
            module.in_proj_weight,
            module.in_proj_bias,
            module.out_proj.weight,
            module.out_proj.bias,
        )
        found = function(x.numpy(), *(w.numpy() for w in weights), 4, **ours)
    np.testing.assert_allclose(found, want, **CLOSE)


def test_the_docs_cached_generation_writes_what_pytorch_does_without_a_cache(
    torch: Any,
) -> None:
    made = page("kv-cache.md")
    heads, kv_heads, d = made["heads"], made["kv_heads"], made["d"]

    def split(x: Any, n_heads: int) -> Any:
        return x.unflatten(-1, (n_heads, d)).transpose(0, 1)

    def forward(tokens: list[int]) -> Any:
        """The page's model on one whole text, in PyTorch."""
        x = torch.from_numpy(made["embedding"][tokens])
        x = x + torch.from_numpy(made["positions"][: len(tokens)])
        for layer in made["model"]:
            weights = {name: torch.from_numpy(w) for name, w in layer.items()}
            h = torch.nn.functional.rms_norm(x, x.shape[-1:], eps=1e-6)
            key, value = (h @ weights["kv"]).chunk(2, dim=-1)
            out = torch.nn.functional.scaled_dot_product_attention(
                split(h @ weights["q"], heads),
                split(key, kv_heads),
                split(value, kv_heads),
                is_causal=True,
                enable_gqa=True,
            )
            x = x + out.transpose(0, 1).flatten(1) @ weights["out"]
            h = torch.nn.functional.rms_norm(x, x.shape[-1:], eps=1e-6)
            x = x + (h @ weights["up"]).relu() @ weights["down"]
        x = torch.nn.functional.rms_norm(x, x.shape[-1:], eps=1e-6)
        return x @ torch.from_numpy(made["embedding"]).T

    with torch.inference_mode():
        for prompt, text in zip(made["prompts"], made["written"], strict=True):
            scores = forward(text).numpy()
            words = scores[len(prompt) - 1 : -1].argmax(axis=-1)
            assert list(words) == text[len(prompt) :]
        np.testing.assert_allclose(made["last"][-1], scores[-2], rtol=0, atol=2e-4)
