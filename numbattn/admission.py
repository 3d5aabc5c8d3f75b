"""What a call is going to allocate: said before, and held to, by one arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import blocks, memory, outputs
from .arrays import blank
from .blocks import Cut
from .memory import MemoryEstimate, show

if TYPE_CHECKING:
    from .backends import Backend, Execution
    from .problem import AttentionProblem

_SMALL = 2**19  # elements: 64 MiB at 128 bytes each, below what is ever looked up


def way(
    problem: AttentionProblem,
    out: Any,
    return_lse: bool,
    backend: Backend,
    execution: Execution,
) -> tuple[NDArray[Any] | None, Cut | None]:
    """Return the array that the backend fills itself, or the blocks to go by."""
    target = None if out is None else outputs.direct(problem, out)
    if target is not None or (out is None and problem.dtype is problem.array_dtype):
        return target, None
    left = execution.max_memory
    if left is not None:
        left -= sum(_fixed(problem, out is None, return_lse))
    more = rounded_bytes(problem, out)
    return None, blocks.choose_shape(problem, backend, execution, left, more, True)


def _fixed(
    problem: AttentionProblem, allocates_out: bool, return_lse: bool
) -> tuple[int, int, int]:
    """Return the bytes of result, log-sum-exp and copies."""
    return (
        prod(problem.out_shape) * problem.dtype.itemsize * allocates_out,
        prod(problem.lse_shape) * problem.acc_dtype.itemsize * return_lse,
        problem.copied_bytes,
    )


def rounded_bytes(problem: AttentionProblem, out: Any) -> int:
    """Return the bytes of an element in `out`'s dtype, where a block is converted.

    NumPy converts while it assigns; other objects get an array of their dtype.
    """
    if out is None or isinstance(out, np.ndarray) or out.dtype == problem.array_dtype:
        return 0
    return int(np.dtype(out.dtype).itemsize)


def estimate(
    problem: AttentionProblem,
    out: Any,
    return_lse: bool,
    cut: Cut | None,
    backend: Backend,
    execution: Execution,
) -> MemoryEstimate:
    """Return the bytes of a call that goes by these blocks, or by none."""
    result, lse, copies = _fixed(problem, out is None, return_lse)
    scratch, part = 0, problem
    if cut is not None:
        part = blocks.first(problem, cut)
        scratch = blocks.block_bytes(part, rounded_bytes(problem, out))
    workspace = blocks.workspace_bytes(part, backend, execution)
    return MemoryEstimate(
        problem.operation, problem.out_shape, backend.name,
        result, lse, scratch, workspace, copies,
    )  # fmt: skip


def is_small(problem: AttentionProblem, elements: int = _SMALL) -> bool:
    """Whether no backend could come near the bytes from which memory is guarded."""
    n, m = problem.n, problem.m
    size = n * m + (n + m) * (problem.d_k + problem.d_v)
    for heads in problem.lead:
        size *= heads or 1
    return size < elements


def admit(
    problem: AttentionProblem,
    out: Any,
    return_lse: bool,
    cut: Cut | None,
    backend: Backend,
    execution: Execution,
) -> None:
    """Refuse a call that would take too much memory, before it takes any."""
    found = estimate(problem, out, return_lse, cut, backend, execution)

    def advice(room: int) -> str:
        return _advice(problem, out, return_lse, found, backend, execution, room)

    memory.require(found, execution.max_memory, advice)


def stream_cut(
    problem: AttentionProblem,
    block_shape: object,
    backend: Backend,
    execution: Execution,
) -> tuple[Cut, MemoryEstimate]:
    """Return the blocks of `iter_scores`, and the bytes that it takes at a time."""
    left = execution.max_memory
    rounded = problem.dtype.itemsize if problem.dtype != problem.array_dtype else 0
    if block_shape is not None:
        cut = Cut(problem.lead, *blocks.given_shape(problem, block_shape))
    else:
        left = None if left is None else left - problem.copied_bytes
        # room for the block before, which the caller still has
        more = rounded + problem.dtype.itemsize
        cut = blocks.choose_shape(problem, backend, execution, left, more, False)
    part = blocks.first(problem, cut)
    scratch = blocks.block_bytes(part, rounded)
    if part.m < problem.m:  # blocks come along the keys
        again = part.n * min(part.m, problem.m - part.m)
    else:
        again = min(part.n, problem.n - part.n) * part.m
    scratch += prod(problem.lead) * again * problem.dtype.itemsize
    workspace = blocks.workspace_bytes(part, backend, execution)
    return cut, MemoryEstimate(
        "iter_scores", problem.out_shape, backend.name,
        0, 0, scratch, workspace, problem.copied_bytes,
    )  # fmt: skip


def admit_stream(
    problem: AttentionProblem,
    block_shape: object,
    backend: Backend,
    execution: Execution,
) -> Cut:
    """Return the blocks of `iter_scores`, or refuse them."""
    cut, found = stream_cut(problem, block_shape, backend, execution)
    if problem.on_device:
        if execution.max_memory is not None:
            memory.require_within(found, execution.max_memory)
        return cut

    def advice(room: int) -> str:
        ways = _stream_ways(problem, backend, execution, room)
        ways += _raised(found, execution, room)
        least = stream_cut(problem, (1, 1), backend, execution)[1].total
        return _said(ways, f"a block of one query and one key takes {least} bytes")

    memory.require(found, execution.max_memory, advice)
    return cut


def _stream_ways(
    problem: AttentionProblem, backend: Backend, execution: Execution, room: int
) -> list[str]:
    limited = execution._replace(max_memory=room)
    cut, found = stream_cut(problem, None, backend, limited)
    if found.total > room:
        return []
    return [f"iter_scores(..., block_shape=({cut.rows}, {cut.keys}))"]


def _raised(found: MemoryEstimate, execution: Execution, room: int) -> list[str]:
    if room != execution.max_memory or found.total > memory.available_bytes():
        return []
    return [f"max_memory={found.total}"]


def _said(ways: list[str], least: str) -> str:
    if not ways:
        return f"Nothing smaller fits: {least}"
    return f"What fits: {'; or '.join(ways)}"


def _advice(
    problem: AttentionProblem,
    out: Any,
    return_lse: bool,
    found: MemoryEstimate,
    backend: Backend,
    execution: Execution,
    room: int,
) -> str:
    """Return what fits into so many bytes, found by the arithmetic that refused."""

    def total(part: AttentionProblem, target: Any, how: Execution) -> int:
        _, cut = way(part, target, return_lse, backend, how)
        return estimate(part, target, return_lse, cut, backend, how).total

    def like_out(part: AttentionProblem) -> Any:
        return None if out is None else blank(part.out_shape, part.dtype, "out")

    limited = execution._replace(max_memory=room)
    ways: list[str] = []
    if out is None and problem.operation == "scores":
        ways += _stream_ways(problem, backend, execution, room)
    if out is None:
        elsewhere = blank(problem.out_shape, problem.dtype, "out")
        if total(problem, elsewhere, limited) <= room:
            ways.append("out= a numpy.memmap")
    if found.copies and found.total - found.copies <= room:
        ways.append(
            f"aligned {problem.array_dtype} arrays, which are not copied unless out "
            "overlaps them"
        )
    one = problem
    if prod(problem.lead) > 1:
        one = problem.at(tuple(slice(0, 1) for _ in problem.lead))

    def rows_take(rows: int) -> int:
        part = problem.rows(0, rows)._replace(n_total=rows)
        return total(part, like_out(part), limited)

    rows = _most(rows_take, problem.n - 1, room)
    if rows:
        ways.append(f"{rows} queries at a time, query[..., i:i + {rows}, :]")
    elif one is not problem and total(one, like_out(one), limited) <= room:
        ways.append("one index of the leading axes at a time")
    single = limited._replace(num_threads=1)
    if total(problem, out, single) <= room:
        ways.append("num_threads=1")
    ways += _raised(found, execution, room)
    row = one.rows(0, min(1, problem.n))
    least = total(row, like_out(row), single)
    return _said(ways, f"one query takes {least} bytes ({show(least)})")


def _most(bytes_of: Callable[[int], int], most: int, room: int) -> int:
    """Return the greatest number, 0 to `most`, whose bytes keep within `room`."""
    low, high = 0, max(0, most)
    while low < high:
        middle = (low + high + 1) // 2
        if bytes_of(middle) <= room:
            low = middle
        else:
            high = middle - 1
    return low
