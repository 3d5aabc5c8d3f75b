"""Packed sequences: a problem for each, their memory, and the way through a backend."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import admission, memory, outputs
from .arrays import blank
from .blocks import SCRATCH_BYTES, workspace_bytes
from .masks import Mask
from .memory import MemoryEstimate, show
from .options import UNBOUNDED
from .problem import AttentionProblem, lead_indices, prepared

if TYPE_CHECKING:
    from .backends import Backend, Execution

_Run = tuple[AttentionProblem, NDArray[Any], NDArray[Any] | None]


class Packed(NamedTuple):
    """A call on packed sequences, checked."""

    problem: AttentionProblem
    """Of the packed arrays, (heads, total, d): all but who attends whom."""
    starts_q: NDArray[np.int64]
    """(S + 1,): the packed rows of sequence s are starts[s]..starts[s + 1]."""
    starts_k: NDArray[np.int64]
    offsets: NDArray[np.int64]
    """(S,): q_offset."""

    def first(self, count: int) -> Packed:
        """Return the call on so many sequences."""
        starts_q, starts_k = self.starts_q[: count + 1], self.starts_k[: count + 1]
        some = self.problem.block(0, int(starts_q[-1]), 0, int(starts_k[-1]))
        return Packed(some, starts_q, starts_k, self.offsets[:count])

    def masked(self, mask: Mask) -> Packed:
        """Return the call with a mask object, checked against every sequence."""
        heads, count = self.problem.lead[0], len(self.offsets)
        pairs = zip(np.diff(self.starts_q), np.diff(self.starts_k), strict=True)
        for n, m in dict.fromkeys((int(n), int(m)) for n, m in pairs):
            mask.check(n, m, count, heads)
        problem, (left, right, rest) = self.problem, mask.split
        problem = problem._replace(
            left=min(left, problem.left), right=min(right, problem.right), pattern=rest
        )
        if rest is not None:
            problem = problem._replace(indices=lead_indices(problem.lead))
        return self._replace(problem=problem)

    def sequence(self, s: int) -> AttentionProblem:
        """Return the problem of one sequence, as a call of its own has it."""
        whole = self.problem
        q0, q1 = self.starts_q[s : s + 2].tolist()
        k0, k1 = self.starts_k[s : s + 2].tolist()
        bounded = whole.left != UNBOUNDED or whole.right != UNBOUNDED
        indices = whole.indices
        if indices is not None:  # the sequence's number is b
            indices = lead_indices(whole.lead) + np.array([s, 0])
            bounded = True
        assert whole.value is not None
        return whole._replace(
            query=whole.query[..., q0:q1, :],
            key=whole.key[..., k0:k1, :],
            value=whole.value[..., k0:k1, :],
            n=q1 - q0,
            m=k1 - k0,
            q_offset=int(self.offsets[s]) if bounded else 0,
            kv_lengths=k1 - k0,
            indices=indices,
            n_total=q1 - q0,
        )


class _Way(NamedTuple):
    """How the results get to where they belong."""

    scratch: bool
    """Whether by a block that is then rounded; else the backend fills `out` itself."""
    rows: int
    """Packed query rows at a time."""


def compute(
    packed: Packed, out: Any, return_lse: bool, backend: Backend, execution: Execution
) -> Any:
    """Run all sequences; return `out`, or (out, lse)."""
    problem = packed.problem
    way = _way(packed, out, return_lse, backend, execution)
    if execution.max_memory is not None or not admission.is_small(problem):
        found = _estimate(packed, out, return_lse, way, backend, execution)

        def advice(room: int) -> str:
            return _advice(packed, out, return_lse, backend, execution, room)

        memory.require(found, execution.max_memory, advice)
    packed = packed._replace(problem=prepared(problem))
    if out is None:
        out = np.empty(problem.out_shape, problem.dtype)
    lse = np.empty(problem.lse_shape, problem.acc_dtype) if return_lse else None
    _go(packed, out, lse, way, backend, execution)
    return (out, lse) if return_lse else out


def _go(
    packed: Packed,
    out: Any,
    lse: NDArray[Any] | None,
    way: _Way,
    backend: Backend,
    execution: Execution,
) -> None:
    """Fill `out` and `lse`, so many rows at a time."""
    problem = packed.problem
    heads = problem.lead
    direct = None if way.scratch else outputs.direct(problem, out)
    report, done = execution.progress, 0
    areas = np.diff(packed.starts_q) * np.diff(packed.starts_k)
    total = int(areas.sum()) * heads[0]
    for first, last, pieces in _groups(packed.starts_q, way.rows):
        if direct is not None:
            target = direct[:, first:last]
        else:
            shape = (*heads, last - first, problem.d_v)
            target = np.empty(shape, problem.array_dtype)
        # a backend takes a contiguous lse: here that of each sequence in its turn
        count = 0 if lse is None else heads[0] * (last - first)
        flat = np.empty(count, problem.acc_dtype)
        runs: list[_Run] = []
        for s, a, b in pieces:
            part = packed.sequence(s)
            start = int(packed.starts_q[s])
            if b - a < part.n:
                part = part.rows(a - start, b - start)
            row_lse = None
            if lse is not None:
                row_lse = flat[heads[0] * (a - first) : heads[0] * (b - first)]
                row_lse = row_lse.reshape(part.lse_shape)
            runs.append((part, target[:, a - first : b - first], row_lse))
        done = _run(runs, backend, execution, report, done, total)
        if direct is None:
            with np.errstate(over="ignore", invalid="ignore"):  # 1e5: inf in float16
                if not isinstance(out, np.ndarray):
                    target = target.astype(out.dtype, copy=False)
                out[:, first:last, :] = target
        if lse is not None:
            for (_, a, b), (_, _, row_lse) in zip(pieces, runs, strict=True):
                lse[:, a:b] = row_lse


def _run(
    runs: list[_Run],
    backend: Backend,
    execution: Execution,
    report: Any,
    done: int,
    total: int,
) -> int:
    """Run problems one after the other; return the score elements done in all.

    They write to places of their own: a backend may take them all at once.
    """
    for part, target, row_lse in runs:
        if report is not None:

            def onward(some: int, _: int, before: int = done) -> None:
                report(before + some, total)

            execution = execution._replace(progress=onward)
        if target.size or (row_lse is not None and row_lse.size):
            backend.run(part, target, row_lse, execution)
        done += part.lead[0] * part.n * part.m
    return done


def _groups(
    starts: NDArray[np.int64], rows: int
) -> Iterator[tuple[int, int, list[tuple[int, int, int]]]]:
    """Yield (first row, last row, pieces (sequence, first row, last row)).

    A group has up to so many rows; only sequences that are longer are cut.
    """
    first = last = 0
    pieces: list[tuple[int, int, int]] = []
    for s, (start, stop) in enumerate(pairwise(starts.tolist())):
        for a in range(start, stop, rows):
            b = min(stop, a + rows)
            if b - first > rows:
                yield first, last, pieces
                first, pieces = a, []
            last = b
            pieces.append((s, a, b))
    if pieces:
        yield first, last, pieces


def _way(
    packed: Packed, out: Any, return_lse: bool, backend: Backend, execution: Execution
) -> _Way:
    """Return how to go: where there is a scratch block, by as many rows as fit."""
    problem = packed.problem
    total = max(1, problem.n)
    plain = problem.dtype == problem.array_dtype
    if out is not None:
        plain = outputs.direct(problem, out) is not None
    if plain:
        return _Way(False, total)
    row = max(1, _row_bytes(problem, out, return_lse))
    way = _Way(True, max(1, min(total, SCRATCH_BYTES // row)))
    limit = execution.max_memory
    while limit is not None and way.rows > 1:
        found = _estimate(packed, out, return_lse, way, backend, execution)
        if found.total <= limit:
            break
        way = _Way(True, way.rows // 2)
    return way


def _row_bytes(problem: AttentionProblem, out: Any, return_lse: bool) -> int:
    """Return the bytes of a packed row of a scratch block, and of its copies."""
    each = problem.array_dtype.itemsize + admission.rounded_bytes(problem, out)
    of_lse = problem.acc_dtype.itemsize * return_lse
    return problem.lead[0] * (problem.d_v * each + of_lse)


def _estimate(
    packed: Packed,
    out: Any,
    return_lse: bool,
    way: _Way,
    backend: Backend,
    execution: Execution,
) -> MemoryEstimate:
    """Return the bytes of a call that goes this way."""
    problem = packed.problem
    heads, total, item = problem.lead[0], problem.n, problem.acc_dtype.itemsize
    scratch = heads * total * item * return_lse  # each sequence has its own lse first
    if way.scratch:
        scratch = min(total, way.rows) * _row_bytes(problem, out, return_lse)
    lengths = zip(np.diff(packed.starts_q), np.diff(packed.starts_k), strict=True)
    of_each_kind = {pair: s for s, pair in enumerate(lengths)}.values()
    workspace = 0
    for s in of_each_kind:
        part = packed.sequence(s)
        part = part.rows(0, min(part.n, way.rows))
        workspace = max(workspace, workspace_bytes(part, backend, execution))
    return MemoryEstimate(
        "attention_varlen", problem.out_shape, backend.name,
        0 if out is not None else heads * total * problem.d_v * problem.dtype.itemsize,
        heads * total * item * return_lse,
        scratch, workspace, problem.copied_bytes,
    )  # fmt: skip


def _advice(
    packed: Packed,
    out: Any,
    return_lse: bool,
    backend: Backend,
    execution: Execution,
    room: int,
) -> str:
    """Return what fits into so many bytes."""
    limited = execution._replace(max_memory=room)

    def takes(count: int) -> int:
        some = packed.first(count)
        problem = some.problem
        like = None if out is None else blank(problem.out_shape, problem.dtype, "out")
        way = _way(some, like, return_lse, backend, limited)
        return _estimate(some, like, return_lse, way, backend, limited).total

    count = len(packed.offsets) // 2
    while count > 1 and takes(count) > room:
        count //= 2
    if count and takes(count) <= room:
        return f"What fits: fewer sequences at a time, such as the first {count}"
    least = takes(1)
    return f"Nothing smaller fits: the first sequence takes {least} ({show(least)})"
