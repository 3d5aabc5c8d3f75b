"""ONNX's operator Attention (opset 23 to 25) by numbattn's public functions.

Thin on purpose: it reshapes, concatenates the cache, pads a short mask, and names
options. Every number comes from `scores`, `weights` and `attention`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import numbattn

Array = np.ndarray[Any, Any]
DOUBLE = 11  # onnx.TensorProto.DOUBLE
AFTER_SCALE, AFTER_SOFTCAP, AFTER_MASK, AFTER_SOFTMAX = range(4)


def _split_heads(array: Array, heads: int) -> Array:
    """(B, n, H * d) -> (B, H, n, d)."""
    batch, rows, width = array.shape
    return array.reshape(batch, rows, heads, width // heads).swapaxes(1, 2)


def _merge_heads(array: Array) -> Array:
    """(B, H, n, d) -> (B, n, H * d)."""
    batch, heads, rows, width = array.shape
    return array.swapaxes(1, 2).reshape(batch, rows, heads * width)


def _padded(mask: Array, m: int) -> Array:
    """Mask the keys that a short mask does not name."""
    missing = m - mask.shape[-1]
    fill = False if mask.dtype == bool else -np.inf
    edge = np.full((*mask.shape[:-1], missing), fill, mask.dtype)
    return np.concatenate([mask, edge], axis=-1)


def attention_op(
    backend: str,
    query: Array,
    key: Array,
    value: Array,
    attn_mask: Array | None = None,
    past_key: Array | None = None,
    past_value: Array | None = None,
    nonpad_kv_seqlen: Array | None = None,
    *,
    scale: float | None = None,
    is_causal: int = 0,
    q_num_heads: int = 0,
    kv_num_heads: int = 0,
    softcap: float = 0.0,
    softmax_precision: int = 0,
    qk_matmul_output_mode: int = AFTER_SCALE,
    left_window_size: int = -1,
    right_window_size: int = -1,
) -> tuple[Array, Array, Array, Array]:
    """Return Y, present_key, present_value and qk_matmul_output."""
    dtype, flat = query.dtype, query.ndim == 3
    if flat:
        query = _split_heads(query, q_num_heads)
        key, value = (_split_heads(a, kv_num_heads) for a in (key, value))
    past = 0
    if past_key is not None:
        past = past_key.shape[2]
        key = np.concatenate([past_key, key], axis=2)
        value = np.concatenate([past_value, value], axis=2)
    n, m = query.shape[2], key.shape[2]

    options: dict[str, Any] = {"scale": scale, "backend": backend}
    capped = options | {"softcap": softcap or None}
    masked = capped | {
        "is_causal": bool(is_causal),
        "window_size": (left_window_size, right_window_size),
        "q_offset": past,
    }
    if nonpad_kv_seqlen is not None:
        # One length a batch, for every head.
        masked["kv_lengths"] = nonpad_kv_seqlen[:, None]
        masked["q_offset"] = nonpad_kv_seqlen[:, None] - n
    if attn_mask is not None:
        name = "mask" if attn_mask.dtype == bool else "bias"
        masked[name] = _padded(attn_mask, m)

    q, k, v = query, key, value
    if softmax_precision == DOUBLE:
        q, k, v = (a.astype(np.float64) for a in (q, k, v))
    output = numbattn.attention(q, k, v, **masked).astype(dtype)
    by_mode = {
        AFTER_SCALE: (numbattn.scores, options),
        AFTER_SOFTCAP: (numbattn.scores, capped),
        AFTER_MASK: (numbattn.scores, masked),
        AFTER_SOFTMAX: (numbattn.weights, masked),
    }
    function, chosen = by_mode[qk_matmul_output_mode]
    qk_matmul = function(q, k, **chosen).astype(dtype)
    return (_merge_heads(output) if flat else output), key, value, qk_matmul
