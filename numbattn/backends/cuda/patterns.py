"""What the tiles of a kernel are under a mask object: empty, partial or full."""

from __future__ import annotations

from typing import Any

import numpy as np

from numbattn.masks.blocks import Blocks, by_pieces, made
from numbattn.masks.blocks import blocks as blocks_of
from numbattn.masks.by_function import FromFunction
from numbattn.problem import AttentionProblem

from .layout import BATCH, EMPTY, FULL, HEAD, PARTIAL, POSITION

EVALUATED = 2**20
"""Scores of a head up to which NumPy asks a user's function about each (50 ms)."""


class _Unasked:
    """What the blocks are, for all that is known without asking a user's function."""

    rough = True

    def __call__(self, leaf: Any, rows: Any, keys: Any, *place: int) -> Blocks:
        if not isinstance(leaf, FromFunction):
            return by_pieces(leaf, rows, keys, *place)
        width = np.broadcast_to(np.diff(keys), (len(rows) - 1, len(keys) - 1))
        return made(np.zeros_like(width), width, np.zeros(width.shape, np.bool_))


def blocks(
    problem: AttentionProblem, leads: np.ndarray, block_q: int, block_kv: int
) -> tuple[np.ndarray, np.ndarray]:
    """Tell what each tile of `problem.pattern` is; the host reckons it.

    Parameters
    ----------
    problem : AttentionProblem
        A call with a mask object.
    leads : ndarray
        Its table of offsets, (leading indices, `layout.COLUMNS`).
    block_q, block_kv : int
        Rows and keys of a tile.

    Returns
    -------
    tiles : ndarray of int8
        EMPTY, PARTIAL or FULL, flat: for each different mask the tiles of keys of one
        tile of rows after another. Where only a user's function could tell, and there
        are too many scores to ask it, every tile is PARTIAL.
    starts : ndarray of int64
        Where the tiles of each leading index begin.
    """
    pattern = problem.pattern
    assert pattern is not None
    n, m = problem.n, problem.m
    rows = np.append(np.arange(0, n, block_q), n) + problem.first_row
    keys = np.append(np.arange(0, m, block_kv), m) + problem.first_key
    # the mask counts rows and keys of the whole call
    offset = leads[:, POSITION] + problem.first_key - problem.first_row
    distinct = np.stack([leads[:, BATCH], leads[:, HEAD], offset], axis=1)
    distinct[:, :2] *= pattern.varies
    kinds, which = np.unique(distinct, axis=0, return_inverse=True)
    evaluate = _Unasked() if n * m > EVALUATED else by_pieces
    shape = len(rows) - 1, len(keys) - 1
    table = np.empty((len(kinds), *shape), np.int8)
    for target, (b, h, q_offset) in zip(table, kinds, strict=True):
        found = blocks_of(pattern, rows, keys, int(q_offset), int(b), int(h), evaluate)
        whole = found.full & (found.first == 0) & (found.last == np.diff(keys))
        target[...] = np.where(whole, FULL, PARTIAL)
        target[found.first >= found.last] = EMPTY
    return table.ravel(), which.reshape(-1).astype(np.int64) * (shape[0] * shape[1])
