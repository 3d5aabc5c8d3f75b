"""Work block by block: into outputs that no backend writes itself, and `iter_scores`.

Blocks are cut along leading axes and queries, and for scores along keys; none of it
changes a bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .backends import Execution
from .errors import OptionError, shown
from .options import positive

if TYPE_CHECKING:
    from .backends import Backend
    from .problem import AttentionProblem

SCRATCH_BYTES = 64 * 1024**2
"""Of a block, where the caller sets no limit."""

_ROWS = 64  # blocks of whole rows are not made lower than this; keys are cut instead
_KEYS = 256
Place = tuple[tuple[slice, ...], int, int, int, int]
"""Leading indices, first and last query, first and last key."""


class Cut(NamedTuple):
    """How large blocks are."""

    lead: tuple[int, ...]
    """Steps along the leading axes."""
    rows: int
    keys: int


def fitting(problem: AttentionProblem, budget: int, by_lead: bool) -> Cut:
    """Return blocks that keep within a number of bytes.

    Leading axes are cut first, where they may be (the rows of a head share the
    packing of its keys), then queries; only scores are cut along keys. One row, or
    one element, of a leading index is the least.
    """
    n, m = max(1, problem.n), max(1, problem.m)
    width = max(1, problem.out_shape[-1] + (problem.operation == "attention"))
    elements = budget // problem.array_dtype.itemsize
    lead = problem.lead
    if by_lead:
        lead = _lead_steps(problem, max(1, elements // (n * width)))
    elements //= prod(lead) or 1
    if problem.operation != "scores" or elements >= width * min(n, _ROWS):
        rows = min(n, max(1, elements // width))
        return Cut(lead, _down(rows, _ROWS, n), m)
    rows = min(n, _ROWS, max(1, elements))
    return Cut(lead, rows, _down(max(1, elements // rows), _KEYS, m))


def _lead_steps(problem: AttentionProblem, count: int) -> tuple[int, ...]:
    """Return steps along the leading axes for up to `count` indices at a time."""
    steps: list[int] = []
    for size in reversed(problem.lead):
        step = min(count, size)
        if not steps and step < size:
            step = _head_step(problem, step)
        steps.append(max(1, step))
        count = count // size if step == size and size else 1
    return tuple(reversed(steps))


def _head_step(problem: AttentionProblem, count: int) -> int:
    """Return up to `count` heads: whole groups of them, or a part of one group."""
    heads = problem.lead[-1]
    arrays = (problem.key, problem.value)
    own = [a.shape[-3] for a in arrays if a is not None and a.ndim > 2]
    group = heads // max(own, default=heads)
    if count >= group:
        return count // group * group
    return max(step for step in range(1, count + 1) if group % step == 0)


def choose_shape(
    problem: AttentionProblem,
    backend: Backend,
    execution: Execution,
    left: int | None,
    more: int,
    by_lead: bool,
) -> Cut:
    """Return the largest blocks for the bytes that are left; `more`: `block_bytes`."""
    size = SCRATCH_BYTES if left is None else min(SCRATCH_BYTES, left)
    while True:
        cut = fitting(problem, size, by_lead)
        if left is None or size < 1:
            return cut
        part = first(problem, cut)
        needed = block_bytes(part, more) + workspace_bytes(part, backend, execution)
        if needed <= left:
            return cut
        size //= 2


def block_bytes(part: AttentionProblem, more: int) -> int:
    """Return the bytes of a block, and of `more` for each element: its copies."""
    each = part.array_dtype.itemsize + more
    size = prod(part.out_shape) * each
    if part.operation == "attention":  # the log-sum-exp
        size += prod(part.lse_shape) * part.acc_dtype.itemsize
    return size


def workspace_bytes(
    part: AttentionProblem, backend: Backend, execution: Execution
) -> int:
    """Return what the backend takes; it is not asked to fill what has no elements."""
    return backend.workspace_bytes(part, execution) if elements(part) else 0


def first(problem: AttentionProblem, cut: Cut) -> AttentionProblem:
    """Return the first block, which is as large as any."""
    keys = cut.keys if problem.operation == "scores" else problem.m
    part = problem.block(0, min(cut.rows, problem.n), 0, min(keys, problem.m))
    if cut.lead == problem.lead:
        return part
    return part.at(tuple(slice(0, step) for step in cut.lead))


def elements(part: AttentionProblem) -> int:
    """Return the elements of a block of the result, with the log-sum-exp."""
    more = prod(part.lse_shape) if part.operation == "attention" else 0
    return prod(part.out_shape) + more


def _down(size: int, step: int, whole: int) -> int:
    """Round down to whole tiles, where that leaves any."""
    return size if size >= whole or size < step else size // step * step


def cut_up(problem: AttentionProblem, cut: Cut) -> Iterator[Place]:
    """Yield the place of every block, in row-major order."""
    n, m = problem.n, problem.m
    keys = cut.keys if problem.operation == "scores" else max(1, m)
    # without keys weights are empty, the attention output is not
    starts = range(0, m, keys) if m or problem.operation != "attention" else (0,)
    boxes = [
        [slice(at, min(size, at + step)) for at in range(0, size or 1, step or 1)]
        for size, step in zip(problem.lead, cut.lead, strict=True)
    ]
    for lead in product(*boxes):
        for q0 in range(0, n, cut.rows):
            for k0 in starts:
                yield lead, q0, min(n, q0 + cut.rows), k0, min(m, k0 + keys)


def given_shape(problem: AttentionProblem, block_shape: object) -> tuple[int, int]:
    """Return the rows and keys of a block that the user asks for.

    Raises
    ------
    OptionError
        `block_shape` is no pair of ints of 1 or more.
    """
    if not isinstance(block_shape, (tuple, list)) or len(block_shape) != 2:
        raise OptionError(
            f"block_shape is {shown(block_shape)}; it has to be a pair (queries, keys) "
            "of ints, or None"
        )
    rows, keys = (
        positive(x, "a side of block_shape", "queries, keys") for x in block_shape
    )
    return min(rows, max(1, problem.n)), min(keys, max(1, problem.m))


def write(
    problem: AttentionProblem,
    out: Any,
    lse: NDArray[Any] | None,
    backend: Backend,
    execution: Execution,
    cut: Cut,
) -> None:
    """Compute by blocks and assign each to its place in `out`, in `out`'s dtype."""
    wide = problem.operation == "scores"
    if not prod(problem.out_shape) and (lse is None or not lse.size):
        return
    largest = first(problem, cut)
    scratch = np.empty(prod(largest.out_shape), problem.array_dtype)
    lse_scratch = np.empty(
        prod(largest.lse_shape) if lse is not None else 0, problem.acc_dtype
    )
    for part, place, run_so in parts(problem, cut, execution):
        lead, q0, q1, k0, k1 = place
        size, rows_here = prod(part.out_shape), prod(part.lse_shape)
        target = scratch[:size].reshape(part.out_shape)
        row_lse = None
        if lse is not None:
            row_lse = lse_scratch[:rows_here].reshape(part.lse_shape)
        backend.run(part, target, row_lse, run_so)
        columns = slice(k0, k1) if wide else slice(0, problem.out_shape[-1])
        with np.errstate(over="ignore", invalid="ignore"):  # 1e5 is inf in float16
            result = target
            if not isinstance(out, np.ndarray):
                result = target.astype(out.dtype, copy=False)
            out[(*lead, slice(q0, q1), columns)] = result
        if lse is not None:
            lse[(*lead, slice(q0, q1))] = row_lse


def scores_by_block(
    problem: AttentionProblem,
    backend: Backend,
    execution: Execution,
    cut: Cut,
) -> Iterator[tuple[slice, slice, NDArray[Any]]]:
    """Yield (query slice, key slice, block), each block a fresh array."""
    for part, (_, q0, q1, k0, k1), run_so in parts(problem, cut, execution):
        block = np.empty(part.out_shape, problem.array_dtype)
        if block.size:
            backend.run(part, block, None, run_so)
        if problem.dtype != problem.array_dtype:
            with np.errstate(over="ignore", invalid="ignore"):
                block = block.astype(problem.dtype)
        yield slice(q0, q1), slice(k0, k1), block
        del block  # or it would be kept while the next one is made


def parts(
    problem: AttentionProblem, cut: Cut, execution: Execution
) -> Iterator[tuple[AttentionProblem, Place, Execution]]:
    """Yield each block's problem, place, and execution with the whole's progress."""
    report, done = execution.progress, 0
    total = prod(problem.lead) * problem.n * problem.m
    whole = cut.lead == problem.lead
    for place in cut_up(problem, cut):
        part = problem.block(*place[1:])
        if not whole:
            part = part.at(place[0])
        if report is None:
            yield part, place, execution
            continue
        before = done

        def onward(some: int, _: int, before: int = before) -> None:
            report(before + some, total)

        yield part, place, execution._replace(progress=onward)
        done += prod(part.lead) * part.n * part.m
