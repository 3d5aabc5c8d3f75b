"""What a call is going to do, before it is done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, Literal

from . import admission, config, dispatch, selector
from .memory import MemoryEstimate, show
from .problem import OPERATIONS, Operation

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from .backends import Backend, Execution
    from .blocks import Cut
    from .masks import Mask
    from .problem import AttentionProblem
    from .score_mods import ScoreMod


@dataclass(frozen=True)
class Explanation:
    """What `explain` found; ``print`` it.

    Parameters
    ----------
    operation : str
        What would be called.
    axes : dict
        By argument, how its axes were read.
    backend : str
        Who would run it.
    reason : str
        Why this backend.
    others : dict
        By name, why not another one.
    dtype : str
        Of the result.
    acc_dtype : str
        What is computed in.
    plan : dict
        Of the backend: tiles, threads, and the like.
    memory : MemoryEstimate
        As `estimate_memory` says.

    Examples
    --------
    >>> import numpy as np
    >>> import numbattn
    >>> found = numbattn.explain(np.ones((5, 4)), np.ones((6, 4)), backend="reference")
    >>> found.operation, found.dtype, found.memory.result
    ('scores', 'float64', 240)
    """

    operation: str
    axes: dict[str, str]
    backend: str
    reason: str
    others: dict[str, str]
    dtype: str
    acc_dtype: str
    plan: dict[str, object]
    memory: MemoryEstimate

    def __str__(self) -> str:
        """Return it as lines of text."""
        sections: dict[str, dict[str, object]] = {
            f"{self.operation} on backend {self.backend!r}": {"because": self.reason},
            "axes": dict(self.axes),
            "dtype": {"result": self.dtype, "accumulates in": self.acc_dtype},
            "plan": self.plan,
            "memory": {name: show(size) for name, size in self.memory.parts.items()},
            "not chosen": dict(self.others),
        }
        lines = []
        for title, entries in sections.items():
            lines.append(title)
            width = max(map(len, entries), default=0)
            lines += [f"  {name:<{width}}  {text}" for name, text in entries.items()]
        return "\n".join(lines)


def explain(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike | None = None,
    *,
    operation: Operation | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    score_mod: Callable[..., Any] | ScoreMod | None = None,
    score_mod_args: tuple[Any, ...] = (),
    bias: ArrayLike | None = None,
    mask: ArrayLike | Mask | None = None,
    is_causal: bool = False,
    window_size: tuple[int | None, int | None] | None = None,
    q_offset: int | ArrayLike = 0,
    kv_lengths: int | ArrayLike | None = None,
    sinks: ArrayLike | None = None,
    backend: str | None = None,
    num_threads: int | None = None,
    max_memory: int | str | None = None,
    precision: Literal["float32", "tf32"] | None = None,
) -> Explanation:
    """Return how a call would run, without running it.

    Parameters
    ----------
    query, key, value : array_like
        As for `attention`, `scores` and `weights`, or anything with a shape and a
        dtype: no element is read. `bias` and `mask` likewise.
    operation : {"scores", "weights", "attention"}, optional
        Which call; "attention" with a value and "scores" without one unless given.
    scale, softcap, score_mod, score_mod_args, bias, mask, is_causal : optional
        The options of `attention`; a score_mod is compiled.
    window_size, q_offset, kv_lengths, sinks : optional
        Likewise.
    backend, num_threads, max_memory, precision : optional
        The execution options of `attention`.

    Returns
    -------
    Explanation
        The backend and why, how the axes were read, dtypes, tiles, threads and bytes,
        and why each other backend was not chosen. It prints well.

    Raises
    ------
    NumbattnError
        What the call itself would raise, but for a result or workspace beyond
        `max_memory`: these are reported, not refused.

    Examples
    --------
    >>> import numpy as np
    >>> import numbattn
    >>> query, key = np.ones((8, 5, 4)), np.ones((2, 6, 4))
    >>> found = numbattn.explain(query, key, backend="reference")
    >>> found.backend, found.reason
    ('reference', "backend='reference' in the call")
    >>> found.axes["key"]
    '(2 heads, m = 6, d_k = 4), each for 4 query heads'
    """
    options = {
        "scale": scale,
        "softcap": softcap,
        "score_mod": score_mod,
        "score_mod_args": score_mod_args,
        "bias": bias,
        "mask": mask,
        "is_causal": is_causal,
        "window_size": window_size,
        "q_offset": q_offset,
        "kv_lengths": kv_lengths,
        "sinks": sinks,
    }
    arrays = query, key, value
    problem, chosen, execution = dispatch.foresee(
        operation,
        OPERATIONS,
        arrays,
        options,
        backend,
        num_threads,
        max_memory,
        precision,
    )
    _, cut = admission.way(problem, None, False, chosen, execution)
    found = admission.estimate(problem, None, False, cut, chosen, execution)
    return Explanation(
        operation=problem.operation,
        axes=_axes(problem),
        backend=chosen.name,
        reason=_reason(backend, problem.on_device),
        others=_others(chosen.name, problem.on_device),
        dtype=problem.dtype.name,
        acc_dtype=problem.acc_dtype.name,
        plan=_plan(problem, chosen, execution, cut),
        memory=found,
    )


def _plan(
    problem: AttentionProblem,
    backend: Backend,
    execution: Execution,
    cut: Cut | None,
) -> dict[str, object]:
    plan = dict(backend.plan(problem, execution))
    if problem.score_mod is not None:
        plan["score_mod"] = problem.score_mod.name
    if problem.pattern is not None:
        plan["mask object"] = repr(problem.pattern)
    if cut is not None:
        indices = prod(cut.lead)
        heads = "" if cut.lead == problem.lead else f" of {indices} leading indices"
        plan["rounding"] = f"to {problem.dtype}, by blocks of {cut.rows} queries{heads}"
    return plan


def _reason(name: str | None, on_device: bool) -> str:
    where = "in the call"
    if name is None:
        name = config.current().backend
        where = {
            "context": "by use_backend or config_context",
            "set": "by set_backend or set_config",
            "default": "by default",
        }.get(source := config.origin("backend"), f"by the {source}")
    if name == selector.AUTO:
        place = "on a CUDA device" if on_device else "in host memory"
        return f"backend='auto' {where}: the arrays are {place}"
    return f"backend={name!r} {where}"


def _others(chosen: str, on_device: bool) -> dict[str, str]:
    def able(name: str) -> str:
        if on_device and not hasattr(selector.load(name), "run_device"):
            return "takes arrays in host memory"
        return "can run; name it to use it"

    return {
        name: reason or able(name)
        for name, reason in selector.list_backends().items()
        if name != chosen
    }


def _axes(problem: AttentionProblem) -> dict[str, str]:
    result_last = (
        f"d_v = {problem.d_v}"
        if problem.operation == "attention"
        else f"m = {problem.m}"
    )
    found = {
        "query": _read(problem.query, "n", "d_k"),
        "key": _read(problem.key, "m", "d_k") + _group(problem, problem.key),
    }
    if problem.value is not None:
        found["value"] = _read(problem.value, "m", "d_v")
        found["value"] += _group(problem, problem.value)
    lead = _lead_words(problem.lead)
    found["result"] = f"({', '.join([*lead, f'n = {problem.n}', result_last])})"
    if any(array.ndim == 3 for array in (problem.query, problem.key)):
        found["note"] = (
            "the first axis of a 3-D array is heads, not batch; a batch without heads "
            "is x[:, None]"
        )
    return found


def _read(array: NDArray[Any], rows: str, columns: str) -> str:
    *lead, n, d = array.shape
    words = [*_lead_words(tuple(lead)), f"{rows} = {n}", f"{columns} = {d}"]
    return f"({', '.join(words)})"


def _lead_words(lead: tuple[int, ...]) -> list[str]:
    batch = [f"{size} batch" for size in lead[:-1]]
    return [*batch, *(f"{size} heads" for size in lead[-1:])]


def _group(problem: AttentionProblem, array: NDArray[Any]) -> str:
    if array.ndim < 3 or array.shape[-3] in (0, problem.lead[-1]):
        return ""
    return f", each for {problem.lead[-1] // array.shape[-3]} query heads"
