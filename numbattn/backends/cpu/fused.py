"""Attention on the CPU: block sizes, arguments, launch."""

from __future__ import annotations

from math import prod
from typing import NamedTuple

import numpy as np

from numbattn.backends import Execution
from numbattn.problem import AttentionProblem

from . import attention, launch
from .layout import lead_table, matrix, workspace
from .matrix import SHORT_ROWS, kernel_of, shape_of_tile, short_workspace, up

BLOCK_ROWS = 96  # query rows of a task: packing keys for them costs 8 %
BLOCK_KEYS = 256
BLOCK_FLOPS = 2**29  # of a block: 5 ms on one core, reached from d = 5,000 on


class Blocks(NamedTuple):
    """How a problem is cut; every number follows from shapes and dtype."""

    row_step: int  # query rows of a task
    key_block: int
    tasks: int
    workspace: int  # elements of a worker
    short: bool


def blocks(problem: AttentionProblem) -> Blocks:
    """Choose the blocks of an attention problem."""
    rows, columns = shape_of_tile(problem.acc_dtype)
    short = problem.n_total <= SHORT_ROWS
    row_step = problem.n if short else min(up(problem.n, rows), up(BLOCK_ROWS, rows))
    key_block = min(BLOCK_KEYS, up(max(1, problem.m), columns))
    most = BLOCK_FLOPS // (2 * (problem.d_k + problem.d_v) + 1)
    if max(rows, row_step) * key_block > most:  # nothing stops a worker within a block
        key_block = min(key_block, max(columns, most // rows // columns * columns))
        if not short:
            row_step = min(row_step, max(rows, most // key_block // rows * rows))
    padded = up(problem.d_v, columns)
    size = 3 * rows * columns + 2 * row_step * key_block + 3 * row_step * padded
    size += 4 * row_step + key_block * padded
    if short:
        size += short_workspace(problem.acc_dtype, problem.n, problem.d_k)
    else:
        size += up(key_block, columns) * problem.d_k
    tasks = prod(problem.lead) * -(-problem.n // row_step)
    return Blocks(row_step, key_block, tasks, size, short)


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
    arguments = (
        matrix(problem.query),
        matrix(problem.key),
        matrix(problem.value),
        matrix(problem.bias, dtype),
        matrix(problem.mask),
        matrix(out),
        np.empty(0, dtype) if lse is None else lse.reshape(-1),
        lead_table(problem, out),
        workspace(workers, cut.workspace, dtype, keep=not launch.has_slabs(flops)),
        problem.scale,
        problem.softcap,
        problem.left,
        problem.right,
        cut.row_step,
        cut.key_block,
        cut.short,
    )
    kernel = kernel_of(attention, dtype)
    launch.run(kernel, arguments, workers, cut.tasks, flops, elements, execution)
