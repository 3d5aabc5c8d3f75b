"""The specification: NumPy in float64 or wider, unblocked, head by head.

What numbattn means by its options is what this file computes. It is slow, keeps
whole score matrices of the wider type, and rounds once, at the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from numbattn.functions.evaluation import apply_score_mod

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..problem import AttentionProblem
    from . import Execution


def wide_dtype(problem: AttentionProblem) -> np.dtype[Any]:
    """Return what to compute in: float64 for float32, long double for float64."""
    return np.dtype(np.longdouble if problem.acc_dtype.itemsize == 8 else np.float64)


def at(
    array: NDArray[Any], head: tuple[int, ...], lead: tuple[int, ...], trailing: int = 2
) -> NDArray[Any]:
    """Return what `array` has for one place of the broadcast leading axes.

    Axes are aligned at the right. One of length 1 serves all places; a shorter heads
    axis serves equal groups of heads; `trailing` axes are no leading ones.
    """
    axes = array.shape[: max(0, array.ndim - trailing)]
    skip = len(lead) - len(axes)
    place = zip(head[skip:], axes, lead[skip:], strict=True)
    found: NDArray[Any] = array[tuple(i * own // size for i, own, size in place)]
    return found


def visible(problem: AttentionProblem, head: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return (n, m): True where this head's query attends the key."""
    length = problem.kv_lengths
    if not isinstance(length, int):
        length = at(length, head, problem.lead, trailing=0)
    offset = problem.q_offset
    if not isinstance(offset, int):
        offset = at(offset, head, problem.lead, trailing=0)
    q_idx = np.arange(problem.n, dtype=np.int64)[:, None] + offset
    j = np.arange(problem.m, dtype=np.int64)
    seen = (q_idx - problem.left <= j) & (j <= q_idx + problem.right) & (j < length)
    if problem.mask is not None:
        seen = seen & at(problem.mask, head, problem.lead)
    if problem.bias is not None:  # -inf masks, also where it meets NaN or +inf
        seen = seen & (at(problem.bias, head, problem.lead) != -np.inf)
    if problem.pattern is not None:
        b, h = place(problem, head)
        rows = np.arange(problem.n, dtype=np.int64) + problem.first_row
        position = int(offset) + problem.first_key - problem.first_row
        pattern = problem.pattern
        seen = seen & pattern.attended(b, h, rows, j + problem.first_key, position)
    return seen


def place(problem: AttentionProblem, head: tuple[int, ...]) -> tuple[int, int]:
    """Return what a score_mod or a mask object gets as b and h."""
    assert problem.indices is not None
    flat = int(np.ravel_multi_index(head, problem.lead)) if head else 0
    b, h = problem.indices[flat].tolist()
    return b, h


def modify(
    problem: AttentionProblem, head: tuple[int, ...], s: NDArray[Any]
) -> NDArray[Any]:
    """Return the scores as the score_mod changes them."""
    assert problem.score_mod is not None
    offset = problem.q_offset
    if not isinstance(offset, int):
        offset = at(offset, head, problem.lead, trailing=0)
    q_idx = np.arange(problem.n, dtype=np.int64) + (offset + problem.first_key)
    kv_idx = np.arange(problem.m, dtype=np.int64) + problem.first_key
    for part in problem.score_mod.parts:
        function: Any = part.function
        args = [_argument(x, problem.acc_dtype, s.dtype) for x in part.args]
        b, h = place(problem, head)
        s = apply_score_mod(function, s, b, h, q_idx, kv_idx, tuple(args))
    return s


def _argument(value: Any, dtype: np.dtype[Any], wide: np.dtype[Any]) -> Any:
    """Return an argument as every backend reads it: its floats in `dtype`, rounded."""
    if isinstance(value, np.ndarray) and value.dtype.kind not in "biu":
        with np.errstate(over="ignore"):  # infinite, as what it is rounded to
            return value.astype(dtype).astype(wide)
    return value


def scores(problem: AttentionProblem, head: tuple[int, ...]) -> NDArray[Any]:
    """Return (n, m): scale, softcap, score_mod, bias, masks, in this order."""
    wide = wide_dtype(problem)
    query = at(problem.query, head, problem.lead).astype(wide)
    key = at(problem.key, head, problem.lead).astype(wide)
    s = (query @ key.T) * problem.scale
    if problem.softcap:
        s = problem.softcap * np.tanh(s / problem.softcap)
    if problem.score_mod is not None:
        s = modify(problem, head, s)
    if problem.bias is not None:
        s = s + at(problem.bias, head, problem.lead)
    # beyond the range of the accumulation dtype it is infinite, in a wider one, too
    s = np.where(abs(s) > np.finfo(problem.acc_dtype).max, np.copysign(np.inf, s), s)
    return np.where(visible(problem, head), s, -np.inf)


def softmax(
    s: NDArray[Any], sink: np.floating[Any] | float = -np.inf
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the weights (n, m) and the log-sum-exp (n,).

    The sink is one more score in the sum, without a weight. Rows without an attended
    key have weights 0, and the sink for their log-sum-exp.
    """
    row_max = s.max(axis=-1, keepdims=True, initial=-np.inf)
    some = row_max != -np.inf
    top = np.where(some, np.maximum(row_max, sink), 0)
    p = np.exp(s - top)
    row_sum = p.sum(axis=-1, keepdims=True) + np.exp(sink - top)
    lse = np.where(some, top + np.log(row_sum), sink)[:, 0]
    return p / np.where(some, row_sum, 1), lse


def mix(p: NDArray[Any], s: NDArray[Any], value: NDArray[Any]) -> NDArray[Any]:
    """Return (n, d_v): the weighted sum over attended keys; others are not read."""
    if np.isfinite(value).all():
        return np.asarray(p @ value)
    attended = s != -np.inf
    return np.stack([p[i, keys] @ value[keys] for i, keys in enumerate(attended)])


def compute(
    problem: AttentionProblem,
    head: tuple[int, ...],
    out: NDArray[Any],
    lse: NDArray[Any] | None,
) -> None:
    """Write one head; its arrays are gone when the next one begins."""
    s = scores(problem, head)
    sink = s.dtype.type(-np.inf)
    if problem.sinks is not None:
        sink = s.dtype.type(problem.sinks[head[-1] if head else 0])
    if problem.operation == "scores":
        out[head] = s
    elif problem.operation == "weights":
        out[head] = softmax(s, sink)[0]
    elif problem.value is not None:
        p, row_lse = softmax(s, sink)
        value = at(problem.value, head, problem.lead).astype(p.dtype)
        out[head] = mix(p, s, value)
        if lse is not None:
            lse[head] = row_lse


class ReferenceBackend:
    """NumPy; see `numbattn.backends.Backend`."""

    name = "reference"

    def unavailable_reason(self) -> str | None:
        """None: it always can."""
        return None

    def run(
        self,
        problem: AttentionProblem,
        out: NDArray[Any],
        lse: NDArray[Any] | None,
        execution: Execution,
    ) -> None:
        """Compute every head by itself."""
        area, heads = problem.n * problem.m, prod(problem.lead)
        for done, head in enumerate(np.ndindex(problem.lead), 1):
            with np.errstate(all="ignore"):  # inf and NaN are answers here
                compute(problem, head, out, lse)
            if execution.progress is not None:
                execution.progress(done * area, heads * area)

    def check_functions(self, problem: AttentionProblem) -> None:
        """Call a score_mod, and a mask object's functions, for one score."""
        if not (problem.n and problem.m and prod(problem.lead)):
            return
        head = (0,) * len(problem.lead)
        if not isinstance(problem.kv_lengths, int):
            problem = problem._replace(kv_lengths=problem.m)
        one = problem.block(0, 1, 0, 1)
        if one.score_mod is not None:
            modify(one, head, np.zeros((1, 1), wide_dtype(one)))
        if one.pattern is not None:
            visible(one._replace(bias=None, mask=None), head)

    def workspace_bytes(self, problem: AttentionProblem, execution: Execution) -> int:
        """Return the bytes of one head: score matrices at once, wide copies of inputs.

        The most of three moments: the last step of `scores`, the last one of
        `softmax`, and `mix`.
        """
        n, m, d_k, d_v = problem.n, problem.m, problem.d_k, problem.d_v
        item, area = wide_dtype(problem).itemsize, n * m
        kept = 3 if problem.softcap else 2
        if problem.indices is not None:  # a user's function has what it likes
            kept += 3
        moments = [kept * item * area + area + item * (n + m) * d_k]
        if problem.operation != "scores":
            moments.append(3 * item * area)
        if problem.operation == "attention":
            moments.append(2 * item * area + item * (n + m) * d_v + m * d_v)
        return max(moments)

    def plan(
        self, problem: AttentionProblem, execution: Execution
    ) -> Mapping[str, object]:
        """Return the dtype; there are no tiles."""
        return {"computes in": wide_dtype(problem).name, "blocks": "none, whole heads"}

    def describe(self) -> str:
        """One line on what runs here."""
        return f"NumPy {np.__version__}, float64 or wider, unblocked"


backend = ReferenceBackend()
