"""Scores and weights on the CPU: tile sizes, arguments, launches."""

from __future__ import annotations

from functools import lru_cache
from itertools import cycle
from math import prod
from typing import Any, NamedTuple

import numpy as np

from numbattn.backends import Execution
from numbattn.problem import AttentionProblem

from . import few_rows, launch, panels, scores, softmax, weights
from .dots import DOT_KEYS
from .layout import (
    LINE,
    PANELS,
    SHORT_ROWS,
    behind,
    borrow,
    empty_panels,
    give_back,
    key_starts,
    lead_sinks,
    lead_table,
    matrix,
    panel_offsets,
    workspace,
)
from .levels import chosen
from .modified import check, modified
from .tiles import SHAPES

PACKED_BYTES = 192 * 1024  # of packed keys at a time: they stay in the L2 cache
READ_BYTES = 512 * 1024  # of keys of a task for few rows: the turns of `few_rows` help
# Of keys that few queries read: beyond it the caches keep nothing for the next call.
KEPT_KEYS = 16 << 20
ROWS_BYTES = 512 * 1024  # of score rows between their first and last touch
FUSED_KEYS = 32 * 1024  # longer rows leave the cache before their softmax anyway
# Rows that share a packing of keys, at least: it costs 3 % of a task of 256 rows. Small
# problems need tasks of 64 to have any to share.
ROW_STEP = (64, 256)
MEDIUM_FLOPS = 16e6
# Bytes of `out` from which it is streamed past the caches: 2048 x 2048, d 64, gains
# 5 %; where d is small the stores are all there is, and the caches take them faster.
STREAM_BYTES = 12 << 20
SHALLOW_STREAM_BYTES = 64 << 20
SHALLOW = 16
# Keys are packed once for all tasks where many small tasks need them (it saves 8 %
# of the weights of 8 heads of 2048 x 2048, d 64; nothing from 500 rows on), the launch
# is worth it, and the panels stay in a shared cache.
SHARED_TASKS = 4
SHARED_ROWS = 320
SHARED_FLOPS = 64e6
SHARED_BYTES = 32 << 20
TASKS = 8  # wanted at least, to share the work evenly
TASK_FLOPS = (1e6, 48e6)  # 10 to 400 us on one core
LONG_FLOPS = 2**29  # of a task at most: nothing stops a worker in between
# Bytes of the rows of a task, whole: where `out` is fresh memory in huge pages, its
# part of each row makes the system clear as much, which took seconds
TOUCHED_BYTES = 32 << 20
_kernels: dict[tuple[str, np.dtype[Any]], launch.Kernel] = {}

# shared by threads, as it only affects speed
_turns = cycle((few_rows.FORWARDS, few_rows.BACKWARDS))


class Tiling(NamedTuple):
    """How a problem is cut; every number follows from shapes and dtype."""

    row_step: int  # query rows of a task
    key_step: int  # keys of a task
    key_block: int  # keys packed at a time
    tasks: int
    workspace: int  # elements of a worker
    fused: bool  # softmax inside the score tasks
    short: bool  # few queries: keys are read as they lie, once


def kernel_of(module: Any, dtype: np.dtype[Any]) -> launch.Kernel:
    """The kernel of a module for one element type (0.1 us where it is known)."""
    key = module.__name__, dtype
    found = _kernels.get(key)
    if found is None:
        found = _kernels[key] = module.kernel(dtype.name, chosen())
    return found


def up(number: int, step: int) -> int:
    """The next multiple of `step`."""
    return -(-number // step) * step


def even(size: int, step: int, unit: int) -> int:
    """About `step`, a multiple of `unit`, in parts that are alike."""
    parts = max(1, round(size / step))
    return up(-(-size // parts), unit)


def shape_of_tile(dtype: np.dtype[Any]) -> tuple[int, int]:
    """Rows and columns of the register tile."""
    level = chosen()
    rows, across = SHAPES[level.name]
    return rows, across * max(1, level.width // dtype.itemsize)


def short_workspace(dtype: np.dtype[Any], n: int, depth: int) -> int:
    """Elements that the path for few rows needs: packed queries, gathered keys."""
    lanes = max(1, chosen().width // dtype.itemsize)
    chunks = -(-depth // (scores.SOFTMAX.chunk * lanes))
    return n * (depth + 2 * lanes * chunks) + DOT_KEYS * (3 + depth)


def tiling(problem: AttentionProblem) -> Tiling:
    """Choose the blocks of a scores or weights problem."""
    leads = prod(problem.lead) if problem.lead else 1
    short = problem.n_total <= SHORT_ROWS
    whole_rows = problem.operation == "weights"
    return _tiling(
        leads, problem.n, problem.m, problem.d_k, problem.acc_dtype, whole_rows, short
    )


@lru_cache(maxsize=256)
def _tiling(
    leads: int,
    n: int,
    m: int,
    depth: int,
    dtype: np.dtype[Any],
    whole_rows: bool,
    short: bool,
) -> Tiling:
    item = dtype.itemsize
    rows, columns = shape_of_tile(dtype)
    depth = max(1, depth)
    fused = False
    if short:
        block = even(m, max(64, READ_BYTES // (depth * item)), 64)
        row_step, key_step = n, block
        size = short_workspace(dtype, n, depth)
    else:
        block = PACKED_BYTES // (depth * item) // columns * columns
        block = max(columns, min(block, 8 * columns, up(m, columns)))
        most = LONG_FLOPS // (2 * depth * m) // rows * rows
        fused = whole_rows and m <= FUSED_KEYS and most > 0
        if fused:
            key_step = m
            row_step = min(most, ROWS_BYTES // (m * item) // rows * rows)
            row_step = max(rows, min(row_step, 16 * rows, up(n, rows)))
        else:
            flops = 2.0 * depth * leads * n * m
            least = min(
                ROW_STEP[flops >= MEDIUM_FLOPS],
                up(LONG_FLOPS // (2 * depth * columns), rows),
            )
            flops = min(max(flops / TASKS, TASK_FLOPS[0]), TASK_FLOPS[1])
            area = int(flops / (2 * depth))
            block = min(block, up(max(1, area // min(n, least)), columns))
            # rather a narrow last block than narrow tiles in all of them
            block = max(1, round(even(m, block, 1) / columns)) * columns
            key_step = block
            touched = TOUCHED_BYTES // (m * item)
            row_step = even(n, max(least, min(area // block, touched)), rows)
        size = 3 * rows * columns + block * depth
        if fused:
            size += row_step * m
    tasks = leads * -(-n // row_step) * -(-m // key_step)
    return Tiling(row_step, key_step, block, tasks, size, fused, short)


class Plan(NamedTuple):
    """What a call needs to know beside its arrays."""

    kernel: launch.Kernel
    steps: tuple[Any, ...]
    """Arguments of the kernel behind the numbers of the options."""
    tasks: int
    flops: float
    workspace: int
    in_turns: bool
    """Whether few rows take tasks in turns."""
    unfused: bool
    """Whether a launch of its own makes weights of the scores."""
    panel: int = 0
    """Elements of the panels of a key matrix, where all keys are packed before."""
    shifted: bool = False
    """Whether panels have to start on a vector of `out`."""
    hulls: tuple[int, int, int] = (1, 1, 1)
    """Blocks of a mask object: rows of a task, of a group of them, keys."""


def plan(problem: AttentionProblem, out: np.ndarray) -> Plan:
    """How to run a problem into `out` (0.5 us where the like was run before)."""
    lead = problem.lead
    modified = problem.softcap or any(
        option is not None
        for option in (problem.bias, problem.mask, problem.score_mod, problem.pattern)
    )
    return _plan(
        problem.operation,
        prod(lead) if lead else 1,
        prod(problem.key.shape[:-2]) if lead else 1,
        problem.n,
        problem.m,
        problem.d_k,
        problem.acc_dtype,
        problem.n_total <= SHORT_ROWS,
        bool(modified),
        out.strides,
    )


@lru_cache(maxsize=256)
def _plan(
    operation: str,
    leads: int,
    key_leads: int,
    n: int,
    m: int,
    depth: int,
    dtype: np.dtype[Any],
    short: bool,
    modified: bool,
    strides: tuple[int, ...],
) -> Plan:
    whole_rows = operation == "weights"
    cut = _tiling(leads, n, m, depth, dtype, whole_rows, short)
    flops, tasks = 2.0 * leads * n * m * max(8, depth), cut.tasks
    unfused = whole_rows and not cut.fused
    if short:
        kept = leads * m * depth * dtype.itemsize <= KEPT_KEYS
        in_turns = (
            kept and tasks <= few_rows.MOST_CLAIMS and not launch.has_slabs(flops)
        )
        kernel, steps = kernel_of(few_rows, dtype), (cut.key_step, tasks)
        return Plan(
            *(kernel, steps, tasks, flops, cut.workspace, in_turns, unfused),
            hulls=(max(1, n), max(1, n), cut.key_step),
        )
    size = leads * n * m * dtype.itemsize
    streamed = cut.fused or not (whole_rows or modified)
    stream = streamed and streams(size, depth, strides[:-1])
    shifted = bool(stream) and not cut.fused  # blocks, by a part of a vector
    if shifted:
        reach = m + max(1, chosen().width // dtype.itemsize) - 1
        tasks = leads * -(-n // cut.row_step) * -(-reach // cut.key_step)
    kernel = kernel_of(weights if cut.fused else scores, dtype)
    blocks = (cut.row_step, cut.key_step, cut.key_block, stream)
    panel = panel_elements(leads, key_leads, n, m, depth, dtype, cut)
    return Plan(
        *(kernel, blocks, tasks, flops, cut.workspace, False, unfused),
        *(panel, shifted),
        (cut.row_step, mask_rows(dtype), cut.key_block),
    )


def mask_rows(dtype: np.dtype[Any]) -> int:
    """Rows of the blocks that a mask object is asked about."""
    return scores.GROUP * shape_of_tile(dtype)[0]


def panel_elements(
    leads: int,
    key_leads: int,
    n: int,
    m: int,
    depth: int,
    dtype: np.dtype[Any],
    cut: Tiling,
) -> int:
    """Elements of a key matrix's panels; 0 where tasks pack their own keys."""
    columns = shape_of_tile(dtype)[1]
    size = up(m + max(1, chosen().width // dtype.itemsize) - 1, columns) * depth
    times = leads // max(1, key_leads) * -(-n // cut.row_step)
    shared = (
        not cut.short
        and times >= SHARED_TASKS
        and cut.row_step <= SHARED_ROWS
        and 2.0 * leads * n * m * depth >= SHARED_FLOPS
        and key_leads * size * dtype.itemsize <= SHARED_BYTES
    )
    return size if shared else 0


def packed_elements(problem: AttentionProblem, cut: Tiling) -> int:
    """Elements of all keys, where they are packed once for all tasks."""
    leads, key_leads = prod(problem.lead), prod(problem.key.shape[:-2])
    sizes = problem.n, problem.m, problem.d_k
    panel = panel_elements(leads, key_leads, *sizes, problem.acc_dtype, cut)
    return key_leads * panel + LINE if panel else 0


def streams(size: int, depth: int, strides: tuple[int, ...]) -> bool:
    """Whether to write `size` bytes of scores past the caches.

    A store to a line outside the caches first reads it; streaming does not: 8192 x
    8192, d 64 runs at 91 % of the FMA peak instead of 79. Wanted where `out` does
    not fit into the caches anyway, is not touched again here (by options, or by a
    softmax that is not part of the task), and all of its rows start alike within a
    vector.
    """
    return (
        size >= (SHALLOW_STREAM_BYTES if depth < SHALLOW else STREAM_BYTES)
        and chosen().name in ("avx512", "avx2")
        and all(stride % 64 == 0 for stride in strides)
    )


def run(problem: AttentionProblem, out: np.ndarray, execution: Execution) -> None:
    """Fill `out` (..., n, m) with scores or weights."""
    if problem.m == 0:
        return
    dtype = problem.acc_dtype
    how = plan(problem, out)
    query, key, target = problem.query, problem.key, out
    if problem.lead:
        query, key, target = matrix(query), matrix(key), matrix(out)
    workers = launch.workers(execution, how.tasks, how.flops)
    steps = how.steps
    table = lead_table(problem, out)
    short = problem.n_total <= SHORT_ROWS
    lead, extra, hulls, _kept = modified(problem, table, *how.hulls)
    packed = empty_panels(dtype)
    if how.panel:
        if problem.lead:
            lead = lead.copy()
            lead[:, PANELS] = panel_offsets(problem.key, problem.lead, how.panel)
        packed = _pack(problem, key, out, how, execution)
    if short:
        steps += (workers, next(_turns) if how.in_turns else few_rows.ANY)
    arguments = (
        query,
        key,
        matrix(problem.bias, dtype),
        matrix(problem.mask),
        target,
        lead,
        workspace(workers, how.workspace, dtype),
        extra,
        hulls,
        *(() if short else (packed, lead_sinks(problem))),
        problem.scale,
        problem.softcap,
        problem.left,
        problem.right,
        *steps,
    )
    scored, weighed = execution, None
    if how.unfused:
        scored = launch.part(execution, 0, 3 / 4)
        weighed = launch.part(execution, 3 / 4, 1)
    try:
        launch.run(
            how.kernel, arguments, workers, how.tasks, how.flops, out.size, scored
        )  # fmt: skip
    finally:
        give_back(packed)
    check(problem, extra)
    if weighed is not None:
        softmax.run(target, lead, lead_sinks(problem), weighed)


def _pack(
    problem: AttentionProblem,
    key: np.ndarray,
    out: np.ndarray,
    how: Plan,
    execution: Execution,
) -> np.ndarray:
    """All keys in panels."""
    dtype = problem.acc_dtype
    starts = key_starts(problem.key)
    packed = borrow(len(starts) * how.panel, dtype)
    shift = 0
    if how.shifted:
        shift = behind(out, max(1, chosen().width // dtype.itemsize))
    step = 4 * shape_of_tile(dtype)[1]
    tasks = len(starts) * -(-how.panel // (problem.d_k * step))
    flops = 8.0 * packed.size
    workers = launch.workers(execution, tasks, flops)
    kernel = kernel_of(panels, dtype)
    arguments = key, starts, packed, problem.scale, step, shift
    silent = execution.without_progress()
    launch.run(kernel, arguments, workers, tasks, flops, packed.size, silent)
    return packed
