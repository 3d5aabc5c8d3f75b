"""The way of every call: check, choose, admit, run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from . import blocks, config, memory, selector
from .arrays import DeviceArrayError
from .backends import Execution
from .options import positive
from .problem import NO_OFFSET, AttentionProblem, Operation, check, check_out, plain
from .progress import reporting

if TYPE_CHECKING:
    from .backends import Backend

_PLAIN = Execution()
_SMALL = 2**21  # elements: 64 MiB at 32 bytes each, below what is ever looked up
_ADVICE = {
    "scores": "Take iter_scores, or out= a numpy.memmap, or raise max_memory",
    "weights": "Take out= a numpy.memmap, or fewer queries at a time, or raise "
    "max_memory",
    "attention": "Take fewer queries at a time, or raise max_memory",
}


def start(
    operation: Operation,
    arrays: Sequence[object],
    options: Mapping[str, Any],
    backend: str | None,
    num_threads: object,
    max_memory: object,
    allocates_out: bool,
) -> tuple[AttentionProblem, Backend, Execution]:
    """Check a call and choose who runs it."""
    settings = config.current()
    threads = settings.num_threads
    if num_threads is not None:
        threads = positive(num_threads, "num_threads", "threads")
    limit = settings.max_memory
    if max_memory is not None:
        limit = memory.parse_bytes(max_memory)
    try:
        problem = check(
            operation,
            *arrays,
            max_memory=limit,
            allocates_out=allocates_out,
            **options,
        )
    except DeviceArrayError as error:
        raise selector.refuse_device(backend, str(error)) from None
    chosen = selector.choose(backend, problem)
    if threads is None is limit:
        return problem, chosen, _PLAIN
    return problem, chosen, Execution(threads, None, limit)


def run(
    operation: Operation,
    query: object,
    key: object,
    value: object,
    return_lse: bool,
    out: Any,
    scale: object,
    softcap: object,
    bias: object,
    mask: object,
    is_causal: object,
    window_size: object,
    q_offset: object,
    kv_lengths: object,
    backend: str | None,
    num_threads: object,
    max_memory: object,
    progress: object,
) -> Any:
    """Run a call; return `out`, or (out, lse)."""
    if (
        softcap is None
        and bias is None
        and mask is None
        and is_causal is False
        and window_size is None
        and q_offset is NO_OFFSET
        and kv_lengths is None
        and backend is None
        and num_threads is None
        and max_memory is None
        and progress is None
        and operation != "attention"
    ):
        result = _at_once(operation, query, key, scale, out)
        if result is not None:
            return result
    arrays = (query, key, value) if operation == "attention" else (query, key)
    options = {
        "scale": scale,
        "softcap": softcap,
        "bias": bias,
        "mask": mask,
        "is_causal": is_causal,
        "window_size": window_size,
        "q_offset": q_offset,
        "kv_lengths": kv_lengths,
    }
    problem, chosen, execution = start(
        operation, arrays, options, backend, num_threads, max_memory, out is None
    )
    if out is not None:
        check_out(problem, out)
        problem = blocks.separate(problem, out, execution.max_memory)
    if progress is None or progress is False:
        return _compute(problem, out, return_lse, chosen, execution)
    with reporting(progress, operation) as report:
        execution = execution._replace(progress=report)
        return _compute(problem, out, return_lse, chosen, execution)


def _at_once(
    operation: Operation, query: object, key: object, scale: object, out: Any
) -> Any:
    """Run a small call without options, on plain matrices; None for any other.

    It makes the way of such a call, where Python is most of the time, 5 us shorter.
    """
    settings = config.current()
    if settings.num_threads is not None or settings.max_memory is not None:
        return None
    problem = plain(operation, query, key, scale, out)
    if problem is None or not _is_small(problem):
        return None
    chosen = selector.choose(None, problem)
    if out is None:
        out = np.empty((problem.n, problem.m), problem.dtype)
    chosen.run(problem, out, None, _PLAIN)
    return out


def _compute(
    problem: AttentionProblem,
    out: Any,
    return_lse: bool,
    backend: Backend,
    execution: Execution,
) -> Any:
    target, by_blocks = None, None
    if out is not None:
        target = blocks.direct(problem, out)
    if target is None and (out is not None or problem.dtype is not problem.acc_dtype):
        by_blocks = _block_shape(problem, out, return_lse, backend, execution)
    if execution is not _PLAIN or not _is_small(problem):
        _admit(problem, out, return_lse, by_blocks, backend, execution)
    if out is None:
        out = target = np.empty(problem.out_shape, problem.dtype)
    lse = np.empty(problem.lse_shape, problem.acc_dtype) if return_lse else None
    if by_blocks is not None:
        blocks.write(problem, out, lse, backend, execution, *by_blocks)
    elif target is not None and (target.size or (lse is not None and lse.size)):
        backend.run(problem, target, lse, execution)
    return (out, lse) if return_lse else out


def _block_shape(
    problem: AttentionProblem,
    out: Any,
    return_lse: bool,
    backend: Backend,
    execution: Execution,
) -> tuple[int, int]:
    """Return rows and keys of blocks that what max_memory leaves has room for."""
    left = execution.max_memory
    if left is not None:
        left -= memory_bytes(problem, out is None, return_lse)
    return blocks.choose_shape(problem, backend, execution, left)


def memory_bytes(
    problem: AttentionProblem, allocates_out: bool, return_lse: bool = False
) -> int:
    """Return the bytes of what a call makes, but for workspace and blocks."""
    size = problem.copied_bytes
    if allocates_out:
        size += prod(problem.out_shape) * problem.dtype.itemsize
    if return_lse:
        size += prod(problem.lse_shape) * problem.acc_dtype.itemsize
    return size


def _is_small(problem: AttentionProblem) -> bool:
    """Whether no backend could come near the bytes from which memory is guarded."""
    n, m = problem.n, problem.m
    size = n * m + (n + m) * (problem.d_k + problem.d_v)
    for heads in problem.lead:
        size *= heads
    return size < _SMALL


def _admit(
    problem: AttentionProblem,
    out: Any,
    return_lse: bool,
    by_blocks: tuple[int, int] | None,
    backend: Backend,
    execution: Execution,
) -> None:
    """Refuse a call that would take too much memory, before it takes any."""
    wanted = memory_bytes(problem, out is None, return_lse)
    if by_blocks is None:
        wanted += backend.workspace_bytes(problem, execution)
    else:
        wanted += blocks.needed_bytes(problem, *by_blocks, backend, execution)
    if execution.max_memory is None and wanted < memory.UNGUARDED_BYTES:
        return
    shape = f"{problem.operation} of shape {problem.out_shape} on {backend.name!r}"
    memory.require(wanted, execution.max_memory, shape, _ADVICE[problem.operation])
