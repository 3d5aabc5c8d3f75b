"""numbattn.attention and jax.nn.dot_product_attention say the same.

JAX holds arrays as (batch, n, heads, d), computes its softmax in float32 always, and
gives a query that sees no key the mean of all values: so float32 only, and in each
row of a mask at least one key.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import numbattn

from .problems import (
    WIDTHS,
    Array,
    Record,
    compare,
    pick,
    scale,
    seen,
    sizes,
    values,
)

pytestmark = pytest.mark.peers

CASES = 240
CHUNKS = 12
SEED = 20_261


def random_call(
    rng: np.random.Generator,
) -> tuple[tuple[Array, Array, Array], dict[str, Any], dict[str, Any], Array | None]:
    """Return the arrays, our options, JAX's, and the rows that JAX fills.

    The arrays are in our layout, as views of JAX's.
    """
    batch, heads, group, n, m = sizes(rng)
    d = pick(rng, WIDTHS)
    query, key, value = (
        values(rng, shape, "float32").swapaxes(1, 2)
        for shape in [
            (batch, n, heads * group, d),
            (batch, m, heads, d),
            (batch, m, heads, d),
        ]
    )
    ours: dict[str, Any] = {}
    theirs: dict[str, Any] = {}
    rows = None
    if rng.random() < 0.4:
        ours["scale"] = theirs["scale"] = scale(rng)
    over = tuple(pick(rng, (1, size)) for size in (batch, heads * group))
    if rng.random() < 0.4:
        ours["bias"] = theirs["bias"] = values(rng, (*over, n, m), "float32")
    view = rng.choice(["none", "causal", "window", "both", "lengths", "mask"])
    if view in ("causal", "both"):
        ours["is_causal"] = theirs["is_causal"] = True
    if view in ("window", "both"):
        window = (pick(rng, (0, 1, 5, 40)), pick(rng, (0, 1, 5, 40)))
        ours["window_size"] = theirs["local_window_size"] = window
    if view == "lengths":
        lengths = rng.integers(1, m, endpoint=True, size=batch)
        ours["kv_lengths"] = lengths[:, None]
        theirs["key_value_seq_lengths"] = lengths.astype(np.int32)
        used = rng.integers(1, n, endpoint=True, size=batch)
        theirs["query_seq_lengths"] = used.astype(np.int32)
        rows = np.arange(n) < used[:, None, None]
    if view == "mask":
        mask = seen(rng, (*over, n, m), empty_rows=False)
        ours["mask"] = theirs["mask"] = mask
    if "window_size" in ours:
        # rows behind the last key see nothing, where JAX takes a mean
        left = ours["window_size"][0]
        rows = np.broadcast_to(np.arange(n) - left < m, (batch, 1, n))
    return (query, key, value), ours, theirs, rows


def dot_product_attention(
    jax: Any, arrays: tuple[Array, Array, Array], **options: Any
) -> tuple[Array, Array]:
    """Return JAX's output and lse for arrays in our layout, and in it."""
    given = {
        name: options.pop(name)
        for name in list(options)
        if isinstance(options[name], np.ndarray)
    }

    @jax.jit  # as one program: operation by operation takes 5 times as long to compile
    def run(query: Any, key: Any, value: Any, given: Any) -> Any:
        return jax.nn.dot_product_attention(
            query, key, value, **given, **options, return_residual=True
        )

    found = run(*(each.swapaxes(1, 2) for each in arrays), given)
    out, lse = (np.asarray(each).swapaxes(1, 2) for each in found)
    return out, lse


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_random_problems(jax: Any, chunk: int, record_worst: Record) -> None:
    for k in range(CASES // CHUNKS):
        seed = [SEED, chunk, k]
        arrays, ours, theirs, rows = random_call(np.random.default_rng(seed))
        try:
            found, lse = dot_product_attention(jax, arrays, **theirs)
            compare(
                "jax",
                arrays,
                ours,
                found,
                record_worst,
                their_lse=lse,
                rows=rows,
            )
        except Exception as error:
            shapes = ", ".join(str(each.shape) for each in arrays)
            error.add_note(f"default_rng({seed}): {shapes}, {theirs}")
            raise


def test_jax_s_layout_comes_in_without_a_copy(jax: Any) -> None:
    x = jax.random.normal(jax.random.key(0), (2, 7, 3, 16))
    found = jax.nn.dot_product_attention(x, x, x, is_causal=True)
    view = np.asarray(x).swapaxes(1, 2)
    assert view.base is not None
    out = numbattn.attention(view, view, view, is_causal=True)
    np.testing.assert_allclose(out.swapaxes(1, 2), found, atol=2e-6)
