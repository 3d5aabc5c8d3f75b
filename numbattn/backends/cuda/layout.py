"""What kernels are told: a table of offsets, a tuple of sizes, a tuple of reals.

However a problem is broadcast, grouped or strided, a kernel gets flat arrays and, for
each flat leading index, where its matrices start. Nothing is expanded.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from numbattn.problem import AttentionProblem

# columns of `leads`, int64: element offsets; the position of query row 0, the number of
# keys that exist, b, h, and where the blocks of a mask object start
QUERY, KEY, VALUE, OUT, BIAS, MASK, POSITION, LENGTH, BATCH, HEAD, BLOCKS = range(11)
COLUMNS = 11

# entries of `sizes`, int64: lengths, strides in elements, the window, flags; where the
# problem lies within the whole call; tiles of rows and keys, and the first launched;
# where in `carry` the rows' maxima and sums go, and those of earlier keys are
(
    N, M, D_K, D_V, Q_ROW, Q_COL, K_ROW, K_COL, V_ROW, V_COL, O_ROW, O_COL,
    B_ROW, B_COL, M_ROW, M_COL, LEFT, RIGHT, FLAGS, FIRST_ROW, FIRST_KEY,
    ROW_TILES, KEY_TILES, STRETCH, FIRST_BLOCK, HEADS, STATE, BEFORE,
) = range(28)  # fmt: skip
SIZES = 28

# bits of FLAGS: rows that 16-byte copies can take; options; what is wanted
Q_VECTOR, K_VECTOR, V_VECTOR = 1, 2, 4
HAS_BIAS, HAS_MASK, HAS_SOFTCAP, HAS_MOD, HAS_PATTERN = 8, 16, 32, 64, 128
OPTIONS = HAS_BIAS | HAS_MASK | HAS_SOFTCAP | HAS_MOD | HAS_PATTERN
WEIGHTS, HAS_LSE, HAS_SINKS = 256, 512, 1024
# earlier keys are in `carry`; later ones are to come
RESUME, PAUSE = 2048, 4096
CLEAN = 8192  # only tiles with outputs that are not finite, from values that are

# entries of `reals`, of the accumulation dtype
SCALE, SOFTCAP = range(2)

EMPTY, PARTIAL, FULL = range(3)  # of a block of a mask object


def _lead_offsets(array: Any, lead: tuple[int, ...], axes: int) -> np.ndarray:
    """Element offsets for each flat leading index of an array's leading axes."""
    total = np.zeros(lead, np.int64)
    shape, strides = array.shape[: array.ndim - axes], array.strides
    for back in range(1, len(shape) + 1):
        size, wanted = shape[-back], lead[-back]
        if size == 1 or not wanted:
            continue
        index = np.arange(wanted) // (wanted // size)  # heads in groups
        step = strides[len(shape) - back] // array.itemsize
        total += (index * step).reshape(-1, *(1,) * (back - 1))
    return total.ravel()


def axis_steps(array: Any) -> tuple[int, int]:
    """Element strides along the last two axes; 0 where one is broadcast."""
    if array is None:
        return 0, 0
    padded = [1] * (2 - array.ndim) + list(array.shape[-2:])
    strides = [0] * (2 - array.ndim) + list(array.strides[-2:])
    row, column = (
        0 if size == 1 else stride // array.itemsize
        for size, stride in zip(padded, strides, strict=True)
    )
    return row, column


def lead_table(problem: AttentionProblem, out: Any, low: dict[str, int]) -> np.ndarray:
    """The table of offsets, positions and lengths, (leading indices, COLUMNS) int64.

    `low` has, by name, how many elements in front of an array's first one its flat
    view begins.
    """
    lead = problem.lead
    table = np.zeros((prod(lead), COLUMNS), np.int64)
    arrays = {
        QUERY: problem.query, KEY: problem.key, VALUE: problem.value, OUT: out,
        BIAS: problem.bias, MASK: problem.mask,
    }  # fmt: skip
    names = {QUERY: "query", KEY: "key", VALUE: "value", OUT: "out", BIAS: "bias"}
    for column, array in arrays.items():
        if array is not None:
            table[:, column] = _lead_offsets(array, lead, min(2, array.ndim))
            table[:, column] += low.get(names.get(column, "mask"), 0)
    for column, given in (
        (POSITION, problem.q_offset),
        (LENGTH, problem.kv_lengths),
    ):
        table[:, column] = np.broadcast_to(np.asarray(given), lead).ravel()
    if problem.indices is not None:
        table[:, BATCH : HEAD + 1] = problem.indices
    else:
        table[:, HEAD] = np.arange(prod(lead)) % (lead[-1] if lead else 1)
    return table
