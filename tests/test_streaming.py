"""`iter_scores`: the bits of `scores`, in row-major blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import numbattn
from numbattn import MemoryLimitError, OptionError, ShapeError

RNG = np.random.default_rng(2)


def normal(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return RNG.standard_normal(shape).astype(dtype)


Q, K = normal(2, 4, 40, 8), normal(2, 2, 50, 8)
OPTIONS: list[dict[str, Any]] = [
    {},
    {"is_causal": True, "q_offset": [[3], [-4]], "softcap": 3.0},
    {
        "bias": normal(4, 1, 50),
        "mask": RNG.random((40, 50)) < 0.7,
        "kv_lengths": [[0], [33]],
        "window_size": (9, None),
        "scale": -0.5,
    },
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("block_shape", [None, (1, 1), (7, 13), (40, 3), (999, 999)])
def test_iter_scores_has_the_bits_of_scores(
    block_shape: Any, options: Any, dtype: Any, backend: str
) -> None:
    query, key = Q[:1].astype(dtype), K[:1].astype(dtype)
    options = dict(options)
    for name in ("q_offset", "kv_lengths"):
        if name in options:
            options[name] = options[name][1:]
    whole = numbattn.scores(query, key, backend=backend, **options)
    found = np.full(whole.shape, np.nan, dtype)
    places = []
    for rows, keys, block in numbattn.iter_scores(
        query, key, block_shape=block_shape, backend=backend, **options
    ):
        assert block.dtype == dtype
        assert block.flags.owndata
        assert block.flags.writeable
        assert block.shape == (1, 4, rows.stop - rows.start, keys.stop - keys.start)
        found[..., rows, keys] = block
        places.append((rows.start, keys.start))
    assert np.array_equal(found, whole)
    assert places == sorted(places)
    n, m = (40, 50) if block_shape is None else block_shape
    assert len(places) == -(-40 // min(n, 40)) * -(-50 // min(m, 50))


@pytest.mark.parametrize("n", [15, 16, 17, 33, 100])
def test_blocks_keep_the_path_of_the_whole(n: int, backend: str) -> None:
    query, key = normal(n, 64), normal(100, 64)
    whole = numbattn.scores(query, key, backend=backend)
    for step in (5, 16, 33):
        for rows, keys, block in numbattn.iter_scores(
            query, key, block_shape=(step, 2 * step), backend=backend
        ):
            assert np.array_equal(block, whole[rows, keys])


def test_iter_scores_complains_at_once() -> None:
    x = normal(5, 8)
    for how, error in [
        ({"block_shape": (0, 3)}, OptionError),
        ({"block_shape": 3}, OptionError),
        ({"block_shape": (1, 2, 3)}, OptionError),
        ({"block_shape": (1.0, 2)}, OptionError),
        ({"mask": np.ones(3, bool)}, ShapeError),
        ({"backend": "nope"}, OptionError),
        ({"progress": 1}, OptionError),
        ({"max_memory": 10, "block_shape": (5, 5)}, MemoryLimitError),
        ({"max_memory": 1}, MemoryLimitError),
    ]:
        with pytest.raises(error):
            numbattn.iter_scores(x, x, **{"backend": "reference", **how})  # type: ignore[arg-type]
