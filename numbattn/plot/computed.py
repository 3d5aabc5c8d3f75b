"""What pictures are of: cells of scores and weights, and single rows of them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import api, dispatch
from ..backends import Backend, Execution
from ..cells import Cells
from ..checks import check
from ..errors import DTypeError, MemoryLimitError, OptionError, shown
from ..memory import show
from ..options import UNBOUNDED, integer, positive
from ..problem import AttentionProblem
from ..progress import reporting
from .reduction import REDUCTIONS, Reduced, means

_EXECUTION = ("backend", "num_threads", "max_memory", "precision", "progress")
_PROBLEM = [
    name
    for name, each in inspect.signature(check).parameters.items()
    if each.kind is each.KEYWORD_ONLY
]
_CELL_BYTES = 24  # the sum, the count of what is masked, and what is drawn


class Call(NamedTuple):
    """A checked call, and how to run it."""

    problem: AttentionProblem
    backend: Backend
    execution: Execution
    progress: object

    def run(self, problem: AttentionProblem, out: Any) -> Any:
        """Compute a part of the problem."""
        with reporting(self.progress, problem.operation) as report:
            execution = self.execution._replace(progress=report)
            return dispatch.compute(problem, out, False, self.backend, execution)


def start(
    operation: object, query: object, key: object, options: Mapping[str, Any]
) -> Call:
    """Check the arguments of a picture that are those of `numbattn.scores`.

    Raises
    ------
    TypeError
        An option that there is not.
    NumbattnError
        As the call itself would raise.
    """
    if operation not in ("scores", "weights"):
        raise OptionError(
            f"operation is {shown(operation)}; it has to be 'scores' or 'weights'"
        )
    unknown = set(options) - set(_EXECUTION) - set(_PROBLEM)
    if unknown:
        raise TypeError(
            f"there is no option {', '.join(sorted(unknown))}; the options are "
            f"{', '.join((*_PROBLEM, *_EXECUTION))}"
        )
    given = {name: options[name] for name in _PROBLEM if name in options}
    if operation == "scores":
        given = {"scale": 1.0, **given}
    backend, threads, limit, precision, progress = map(options.get, _EXECUTION)
    problem, chosen, execution = dispatch.start(
        operation, (query, key), given,
        backend, threads, limit, precision,
    )  # fmt: skip
    if problem.on_device:
        raise DTypeError(
            "query and key lie on a CUDA device; a picture is drawn on the host: pass "
            ".get() in CuPy, .cpu().numpy() in PyTorch, with backend='cuda'"
        )
    return Call(problem, chosen, execution, progress)


def one_head(problem: AttentionProblem, head: object) -> AttentionProblem:
    """Return the problem of one matrix of several."""
    return problem.at(_place(problem.lead, head, "head", "plot.heads draws all heads"))


def all_heads(problem: AttentionProblem, batch: object) -> AttentionProblem:
    """Return the problem of the heads of one batch entry."""
    if not problem.lead:
        raise OptionError(
            "query and key are matrices, without heads: plot.scores and plot.weights "
            "draw those"
        )
    place = _place(problem.lead[:-1], batch, "batch", "a picture has one batch entry")
    return problem.at((*place, slice(0, problem.lead[-1])))


def _place(
    lead: tuple[int, ...], given: object, name: str, other: str
) -> tuple[slice, ...]:
    index = given if isinstance(given, tuple) else (given,)
    if given is None and prod(lead) == 1:
        index = (0,) * len(lead)
    found = [integer(each) for each in index]
    fit = len(found) == len(lead) and all(
        at is not None and -size <= at < size
        for at, size in zip(found, lead, strict=True)
    )
    if not fit:
        axes = f"{lead} of the scores" if lead else "scores, which have none here"
        raise OptionError(
            f"{name} is {shown(given)}; it has to be an index into the leading axes "
            f"{axes} ({other})"
        )
    places = [(at or 0) % size for at, size in zip(found, lead, strict=True)]
    return tuple(slice(at, at + 1) for at in places)


def reduced(
    call: Call, problem: AttentionProblem, pixels: object, reduction: object
) -> tuple[NDArray[np.float64], Cells]:
    """Return what is drawn: no matrix is formed that has more than `pixels` a side.

    Parameters
    ----------
    call : Call
        How to run.
    problem : AttentionProblem
        The call's, or a part of it.
    pixels : int
        Cells along an axis, at most.
    reduction : {"mean", "max"}
        What becomes of the elements of a cell.

    Returns
    -------
    values : ndarray of float64
        Of the cells, (..., rows, columns); -inf where all is masked.
    cells : Cells
        The cells.
    """
    if reduction not in REDUCTIONS:
        raise OptionError(
            f"reduction is {shown(reduction)}; it has to be 'mean' or 'max'"
        )
    most = positive(pixels, "pixels", "cells along an axis")
    cells = Cells.fitting(problem.n, problem.m, most)
    call = _within(call, prod(problem.lead) * prod(cells.shape) * _CELL_BYTES)
    if reduction == "mean" and _linear(problem):
        found = _of_means(problem, cells)
        if found is not None:
            return found, cells
    out = Reduced(problem.lead, cells, problem.array_dtype, reduction)
    call.run(problem, out)
    return out.values(), cells


def _within(call: Call, taken: int) -> Call:
    """Leave to the computation what the picture does not take of `max_memory`."""
    limit = call.execution.max_memory
    if limit is None:
        return call
    if taken >= limit:
        error = MemoryLimitError(
            f"the picture itself needs {taken} bytes ({show(taken)}); max_memory is "
            f"{limit} ({show(limit)}): draw fewer cells, by pixels="
        )
        error.wanted = taken
        raise error
    return call._replace(execution=call.execution._replace(max_memory=limit - taken))


def _linear(problem: AttentionProblem) -> bool:
    """Whether a mean of scores is the score of means: nothing bends or masks them."""
    return (
        problem.operation == "scores"
        and not problem.softcap
        and problem.score_mod is None
        and problem.pattern is None
        and problem.mask is None
        and problem.left == problem.right == UNBOUNDED
        and bool(np.all(np.asarray(problem.kv_lengths) >= problem.m))
    )


def _of_means(problem: AttentionProblem, cells: Cells) -> NDArray[np.float64] | None:
    """Return the scores of mean queries and mean keys; None where not all is finite.

    It takes the time of reading the inputs once: mean_ij q_i·k_j = mean(q)·mean(k).
    """
    bias = problem.bias
    with np.errstate(over="ignore", invalid="ignore"):
        if bias is not None:
            bias = means(np.atleast_2d(bias), cells.rows, -2)
            bias = means(bias, cells.keys, -1)
        # an inf or a NaN: its scores may be -inf, which is masked and no number
        found: NDArray[np.float64] = api.scores(
            means(problem.query, cells.rows, -2),
            means(problem.key, cells.keys, -2),
            scale=problem.scale,
            bias=bias,
            backend="reference",
        )
    return found if np.isfinite(found).all() else None


def one_row(call: Call, head: object, index: object) -> tuple[NDArray[Any], int]:
    """Return the row of one query, and which it is."""
    problem = one_head(call.problem, head)
    place = integer(index)
    if place is None or not -problem.n <= place < problem.n:
        raise OptionError(
            f"index is {shown(index)}; it has to be one of the {problem.n} queries"
        )
    place %= problem.n
    row: NDArray[Any] = call.run(problem.rows(place, place + 1), None)
    return row.reshape(-1), place
