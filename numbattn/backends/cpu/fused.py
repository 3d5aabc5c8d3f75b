"""Attention on the CPU: block sizes, arguments, launch."""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import numpy as np

from numbattn.backends import Execution
from numbattn.problem import AttentionProblem

from . import attention, decode, launch
from .layout import SHORT_ROWS, lead_sinks, lead_table, matrix, workspace
from .levels import chosen
from .matrix import kernel_of, short_workspace, up
from .modified import check, modified
from .online import SPARE
from .products import CELLS

QUERY_VECTORS = 3  # of query rows in a task
# Keys of a block, whose values are summed up plainly: of L equal terms the error is L/4
# roundoffs. The bound grows with m; from there on it has room for 256, 1 % faster.
BLOCK_KEYS = 128
MANY_KEYS = 1024
WIDE_VALUES = 1024  # beyond it a copy of a block's values would take megabytes
# Nothing stops a worker within a block: 5 ms on one core, reached from d = 22,000 on.
BLOCK_FLOPS = 2**29
LEAST_KEYS = 8
SHARED_ROWS = 64  # query rows that share a pass over the keys, at most
PART_KEYS = 512  # of a part of the keys, for few queries; a multiple of its blocks
PARTS = 64  # at most


class Blocks(NamedTuple):
    """How a problem is cut; every number follows from shapes and dtype."""

    row_step: int  # query rows of a task
    key_block: int
    tasks: int
    workspace: int  # elements of a worker
    short: bool
    groups: np.ndarray | None = None
    """For few queries: the first leading index of each group, and their number."""
    part_keys: int = 0
    partial: int = 0
    """Elements of the parts' sums."""


def blocks(problem: AttentionProblem) -> Blocks:
    """Choose the blocks of an attention problem (0.5 us where one was like it)."""
    assert problem.value is not None
    lead = problem.lead
    sizes = problem.n, problem.m, problem.d_k, problem.d_v
    if problem.n_total > SHORT_ROWS:
        return _many(*sizes, prod(lead), problem.acc_dtype)
    key, value = problem.key.shape[:-2], problem.value.shape[:-2]
    return _few(*sizes, lead, key, value, problem.acc_dtype)


@lru_cache(maxsize=256)
def _many(
    n: int, m: int, d_k: int, d_v: int, leads: int, dtype: np.dtype[Any]
) -> Blocks:
    """Blocks of transposed scores."""
    lanes, cells = _registers(dtype)
    vectors = -(-n // lanes)
    count = max(1, -(-vectors // QUERY_VECTORS))
    row_step = -(-vectors // count) * lanes
    key_block = BLOCK_KEYS
    if m >= MANY_KEYS and d_v <= WIDE_VALUES:
        key_block *= 2
    flops = 2 * QUERY_VECTORS * lanes * (d_k + d_v)  # of a key and as many rows
    while key_block > LEAST_KEYS and flops * key_block > BLOCK_FLOPS:
        key_block //= 2
    width = up(d_v, lanes)
    size = (SPARE + 1 + d_k + 2 * key_block + cells) * row_step
    size += (row_step + cells + key_block) * width + lanes * lanes
    if m > attention.STRETCH:
        size += 2 * row_step * width
    tasks = leads * -(-n // row_step)
    return Blocks(row_step, key_block, tasks, size, False)


def _registers(dtype: np.dtype[Any]) -> tuple[int, int]:
    """Lanes of a vector, and accumulators."""
    level = chosen()
    return max(1, level.width // dtype.itemsize), CELLS[level.name][0]


@lru_cache(maxsize=256)
def _few(
    n: int,
    m: int,
    d_k: int,
    d_v: int,
    lead: tuple[int, ...],
    key: tuple[int, ...],
    value: tuple[int, ...],
    dtype: np.dtype[Any],
) -> Blocks:
    """Groups of leading indices that share keys and values; parts of the keys."""
    lanes, cells = _registers(dtype)
    width = up(d_v, lanes)
    groups = _groups(lead, key, value, max(1, SHARED_ROWS // max(1, n)))
    most = int(np.diff(groups).max(initial=1)) * n
    part = up(max(1, -(-m // PARTS)), PART_KEYS)
    parts = max(1, -(-m // part))
    block = decode.BLOCK_KEYS
    size = decode.STATE * most + lanes + 2 * most * block + width + 2
    size += (3 * most + cells + block) * width
    size += short_workspace(dtype, most, d_k)
    partial = prod(lead) * n * parts * (width + 2)
    tasks = (len(groups) - 1) * parts
    return Blocks(most, block, tasks, size, True, groups, part, partial)


def _groups(
    lead: tuple[int, ...], key: tuple[int, ...], value: tuple[int, ...], most: int
) -> np.ndarray:
    """Bounds of runs of up to `most` leading indices that share keys and values."""
    size, shared = prod(lead), 1
    if not size:  # `explain` asks
        return np.zeros(1, np.int64)
    for back in range(1, len(lead) + 1):
        # an axis of 1 is shared whole, a heads axis in groups; then the run ends
        own = max(x[-back] if back <= len(x) else 1 for x in (key, value))
        shared *= lead[-back] // own if own else 1
        if own != 1:
            break
    step = max(1, min(shared, most))
    runs, starts = np.arange(0, size, shared), np.arange(0, shared, step)
    bounds: np.ndarray = np.append(np.add.outer(runs, starts), size)
    return bounds


def run(
    problem: AttentionProblem,
    out: np.ndarray,
    lse: np.ndarray | None,
    execution: Execution,
) -> None:
    """Fill `out` (..., n, d_v), and `lse` (..., n) where it is given."""
    dtype = problem.acc_dtype
    cut = blocks(problem)
    elements = prod(problem.lead) * problem.n * problem.m
    flops = 2.0 * elements * (problem.d_k + problem.d_v + 8)
    workers = launch.workers(execution, cut.tasks, flops)
    step = max(1, problem.n) if cut.short else cut.row_step
    table = lead_table(problem, out)
    lead, extra, hulls, _kept = modified(problem, table, step, step, cut.key_block)
    arguments: tuple[Any, ...] = (
        matrix(problem.query),
        matrix(problem.key),
        matrix(problem.value),
        matrix(problem.bias, dtype),
        matrix(problem.mask),
        matrix(out),
        np.empty(0, dtype) if lse is None else lse.reshape(-1),
        lead_sinks(problem),
        lead,
        workspace(workers, cut.workspace, dtype, keep=not launch.has_slabs(flops)),
        extra,
        hulls,
        problem.scale,
        problem.softcap,
        problem.left,
        problem.right,
    )
    if cut.groups is None:
        kernel = kernel_of(attention, dtype)
        arguments += (cut.row_step, cut.key_block)
    else:
        kernel = kernel_of(decode, dtype)
        arguments += (
            cut.part_keys,
            cut.row_step,
            cut.groups,
            np.empty(cut.partial, dtype),
            np.zeros(len(cut.groups) - 1, np.int64),
        )
    launch.run(kernel, arguments, workers, cut.tasks, flops, elements, execution)
    check(problem, extra)
