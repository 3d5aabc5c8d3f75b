"""Work block by block: into outputs that no backend writes itself, and `iter_scores`.

Blocks are cut along queries, and for scores along keys; neither changes a bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import memory
from .arrays import duplicate, fits, ready
from .backends import Execution
from .errors import OptionError
from .options import positive

if TYPE_CHECKING:
    from .backends import Backend
    from .problem import AttentionProblem

SCRATCH_BYTES = 64 * 1024**2
"""Of a block, where the caller sets no limit."""

_ROWS = 64  # blocks of whole rows are not made lower than this; keys are cut instead
_KEYS = 256
Block = tuple[int, int, int, int]


def direct(problem: AttentionProblem, out: Any) -> NDArray[Any] | None:
    """Return `out` as the array that a backend can fill, None where it cannot."""
    if type(out) is np.ndarray and ready(out, problem.acc_dtype):
        return out
    if not isinstance(out, np.ndarray) or not fits(out, problem.acc_dtype):
        return None
    # backends write rows that are contiguous
    if out.shape[-1] > 1 and out.strides[-1] != out.itemsize:
        return None
    return out.view(np.ndarray)


def separate(
    problem: AttentionProblem, out: Any, max_memory: int | None
) -> AttentionProblem:
    """Return the problem with copies of the inputs that `out` overlaps."""
    if not isinstance(out, np.ndarray):
        return problem
    share = np.may_share_memory
    touched = share(problem.query, out) or share(problem.key, out)
    for array in problem.value, problem.bias, problem.mask:
        touched = touched or (array is not None and share(array, out))
    if not touched:
        return problem
    arrays = {
        name: array
        for name in ("query", "key", "value", "bias", "mask")
        if (array := getattr(problem, name)) is not None and share(array, out)
    }
    copied = sum(array.nbytes for array in arrays.values())
    memory.require(
        copied + problem.copied_bytes,
        max_memory,
        f"{problem.operation} with copies of {', '.join(arrays)}, which out overlaps,",
        "Pass an out that overlaps no input",
    )
    copies: Any = {name: duplicate(array) for name, array in arrays.items()}
    return problem._replace(**copies, copied_bytes=problem.copied_bytes + copied)


def fitting(problem: AttentionProblem, budget: int) -> tuple[int, int]:
    """Return rows and keys of blocks that keep within a number of bytes.

    Only scores are cut along keys. One row, or one element, is the least.
    """
    n, m = max(1, problem.n), max(1, problem.m)
    width = max(1, problem.out_shape[-1] + (problem.operation == "attention"))
    elements = budget // (prod(problem.lead) * problem.acc_dtype.itemsize or 1)
    if problem.operation != "scores" or elements >= width * min(n, _ROWS):
        rows = min(n, max(1, elements // width))
        return _down(rows, _ROWS, n), m
    rows = min(n, _ROWS, max(1, elements))
    return rows, _down(max(1, elements // rows), _KEYS, m)


def choose_shape(
    problem: AttentionProblem, backend: Backend, execution: Execution, left: int | None
) -> tuple[int, int]:
    """Return rows and keys of the largest blocks for the bytes that are left."""
    size = SCRATCH_BYTES if left is None else min(SCRATCH_BYTES, left)
    while True:
        rows, keys = fitting(problem, size)
        if left is None or size < 1:
            return rows, keys
        if needed_bytes(problem, rows, keys, backend, execution) <= left:
            return rows, keys
        size //= 2


def needed_bytes(
    problem: AttentionProblem,
    rows: int,
    keys: int,
    backend: Backend,
    execution: Execution,
) -> int:
    """Return what computing one block takes: it, its rounded copy, the workspace."""
    part = first(problem, rows, keys)
    item = problem.acc_dtype.itemsize
    if problem.dtype != problem.acc_dtype:
        item += problem.dtype.itemsize
    return elements(part) * item + backend.workspace_bytes(part, execution)


def first(problem: AttentionProblem, rows: int, keys: int) -> AttentionProblem:
    """Return the first block, which is as large as any."""
    if problem.operation != "scores":
        keys = problem.m
    return problem.block(0, min(rows, problem.n), 0, min(keys, problem.m))


def elements(part: AttentionProblem) -> int:
    """Return the elements of a block of the result, with the log-sum-exp."""
    more = prod(part.lse_shape) if part.operation == "attention" else 0
    return prod(part.out_shape) + more


def _down(size: int, step: int, whole: int) -> int:
    """Round down to whole tiles, where that leaves any."""
    return size if size >= whole or size < step else size // step * step


def cut(problem: AttentionProblem, rows: int, keys: int) -> Iterator[Block]:
    """Yield (q0, q1, k0, k1) in row-major order."""
    n, m = problem.n, problem.m
    for q0 in range(0, n, rows):
        for k0 in range(0, m, keys):
            yield q0, min(n, q0 + rows), k0, min(m, k0 + keys)


def given_shape(problem: AttentionProblem, block_shape: object) -> tuple[int, int]:
    """Return the rows and keys of a block that the user asks for.

    Raises
    ------
    OptionError
        `block_shape` is no pair of ints of 1 or more.
    """
    if not isinstance(block_shape, (tuple, list)) or len(block_shape) != 2:
        raise OptionError(
            f"block_shape is {block_shape!r}; it has to be a pair (queries, keys) of "
            "ints, or None"
        )
    rows, keys = (positive(x, "block_shape", "queries, keys") for x in block_shape)
    return min(rows, max(1, problem.n)), min(keys, max(1, problem.m))


def write(
    problem: AttentionProblem,
    out: Any,
    lse: NDArray[Any] | None,
    backend: Backend,
    execution: Execution,
    rows: int,
    keys: int,
) -> None:
    """Compute by blocks and assign each to its place in `out`, in `out`'s dtype."""
    leading = tuple(slice(0, size) for size in problem.lead)
    wide = problem.operation == "scores"
    if not prod(problem.out_shape) and (lse is None or not lse.size):
        return
    blocks = cut(problem, rows, keys) if wide else cut(problem, rows, max(1, problem.m))
    if not problem.m:  # weights are then empty, the attention output is not
        blocks = (
            (q0, min(problem.n, q0 + rows), 0, 0) for q0 in range(0, problem.n, rows)
        )
    scratch = np.empty(elements(first(problem, rows, keys)), problem.acc_dtype)
    for part, (q0, q1, k0, k1), run_so in _parts(problem, blocks, execution):
        size, rows_here = prod(part.out_shape), prod(part.lse_shape)
        target = scratch[:size].reshape(part.out_shape)
        row_lse = None
        if lse is not None:
            row_lse = scratch[size : size + rows_here].reshape(part.lse_shape)
        backend.run(part, target, row_lse, run_so)
        columns = slice(k0, k1) if wide else slice(0, problem.out_shape[-1])
        with np.errstate(over="ignore", invalid="ignore"):  # 1e5 is inf in float16
            result = target
            if not isinstance(out, np.ndarray):
                result = target.astype(out.dtype, copy=False)
            out[(*leading, slice(q0, q1), columns)] = result
        if lse is not None:
            lse[(*leading, slice(q0, q1))] = row_lse


def scores_by_block(
    problem: AttentionProblem,
    backend: Backend,
    execution: Execution,
    rows: int,
    keys: int,
) -> Iterator[tuple[slice, slice, NDArray[Any]]]:
    """Yield (query slice, key slice, block), each block a fresh array."""
    blocks = cut(problem, rows, keys)
    for part, (q0, q1, k0, k1), run_so in _parts(problem, blocks, execution):
        block = np.empty(part.out_shape, problem.acc_dtype)
        if block.size:
            backend.run(part, block, None, run_so)
        if problem.dtype != problem.acc_dtype:
            with np.errstate(over="ignore", invalid="ignore"):
                block = block.astype(problem.dtype)
        yield slice(q0, q1), slice(k0, k1), block


def _parts(
    problem: AttentionProblem, blocks: Iterator[Block], execution: Execution
) -> Iterator[tuple[AttentionProblem, Block, Execution]]:
    """Yield each block's problem, place, and execution with the whole's progress."""
    report, done = execution.progress, 0
    total = prod(problem.lead) * problem.n * problem.m
    for place in blocks:
        part = problem.block(*place)
        if report is None:
            yield part, place, execution
            continue
        before = done

        def onward(some: int, _: int, before: int = before) -> None:
            report(before + some, total)

        yield part, place, execution._replace(progress=onward)
        done += prod(problem.lead) * part.n * part.m
