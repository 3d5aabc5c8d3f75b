"""How much memory a call takes, without making it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from . import admission, dispatch, outputs
from .arrays import on_device, outline
from .errors import OptionError
from .memory import MemoryEstimate
from .options import flag
from .problem import OPERATIONS

if TYPE_CHECKING:
    from typing import Literal

    from numpy.typing import ArrayLike

    from .masks import Mask
    from .score_mods import ScoreMod


def estimate_memory(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike | None = None,
    *,
    operation: Literal["scores", "weights", "attention", "iter_scores"] | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    score_mod: Callable[..., Any] | ScoreMod | None = None,
    score_mod_args: tuple[Any, ...] = (),
    bias: ArrayLike | None = None,
    mask: ArrayLike | Mask | None = None,
    is_causal: bool = False,
    window_size: tuple[int | None, int | None] | None = None,
    q_offset: ArrayLike = 0,
    kv_lengths: ArrayLike | None = None,
    sinks: ArrayLike | None = None,
    return_lse: bool = False,
    out: Any = None,
    block_shape: tuple[int, int] | None = None,
    backend: str | None = None,
    num_threads: int | None = None,
    max_memory: int | str | None = None,
    precision: Literal["float32", "tf32"] | None = None,
) -> MemoryEstimate:
    """Return how many bytes a call would allocate, without making it.

    It is the number that the call itself compares with `max_memory` and with what the
    machine has free. Memory of the arguments, `out` too, is not counted, nor compiled
    code, nor what `numpy.asarray` makes of lists.

    Parameters
    ----------
    query, key, value : array_like
        As for `attention`, `scores` and `weights`, or anything with a shape and a
        dtype: no element is read. `bias` and `mask` likewise.
    operation : {"scores", "weights", "attention", "iter_scores"}, optional
        Which call; "attention" with a value and "scores" without one unless given.
    scale, softcap, score_mod, score_mod_args, bias, mask, is_causal : optional
        The options of the call; a score_mod is compiled.
    window_size, q_offset, kv_lengths, sinks : optional
        Likewise; `sinks` not for scores.
    return_lse : bool
        As for `attention`.
    out : array, optional
        As for the call, or anything with a shape and a dtype.
    block_shape : (int, int), optional
        As for `iter_scores`.
    backend, num_threads, max_memory, precision : optional
        The execution options of the call. Blocks shrink to fit `max_memory`; an
        estimate above it is what the call would be refused for.

    Returns
    -------
    MemoryEstimate
        ``total`` bytes at the peak, and its parts: ``result``, ``lse``, ``blocks``,
        ``workspace`` and ``copies`` of inputs. It prints well. For `iter_scores`, what
        is taken at a time: the block in your hands, and the next.

    Raises
    ------
    NumbattnError
        What the call itself would raise, but for `MemoryLimitError`.

    See Also
    --------
    explain : How a call is going to run.

    Examples
    --------
    >>> import numpy as np
    >>> import numbattn
    >>> from types import SimpleNamespace
    >>> long = SimpleNamespace(shape=(8, 100_000, 64), dtype="float16")
    >>> found = numbattn.estimate_memory(long, long, operation="scores")
    >>> found.result, found.copies
    (160000000000, 409600000)
    >>> found.total > 160 * 10**9
    True
    >>> how = {"operation": "iter_scores", "block_shape": (100, 1000)}
    >>> print(numbattn.estimate_memory(long, long, backend="reference", **how))
    iter_scores of shape (8, 100000, 100000) on backend 'reference': 398.9 MiB
      blocks            6.104 MiB
      workspace         2.158 MiB
      copies of inputs  390.6 MiB
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
    allowed = (*OPERATIONS, "iter_scores")
    arrays = query, key, value
    problem, chosen, execution = dispatch.foresee(
        operation, allowed, arrays, options, backend, num_threads, max_memory, precision
    )
    streamed = operation == "iter_scores"
    return_lse = flag(return_lse, "return_lse")
    for name, given, taken in (
        ("return_lse", return_lse, problem.operation == "attention"),
        ("out", out is not None, not streamed),
        ("block_shape", block_shape is not None, streamed),
    ):
        if given and not taken:
            called = "iter_scores" if streamed else problem.operation
            raise OptionError(f"{name} is given, which {called} does not take")
    if streamed:
        return admission.stream_cut(problem, block_shape, chosen, execution)[1]
    if out is not None:
        if on_device(out) or hasattr(out, "__setitem__"):
            problem = outputs.separate(problem, outputs.check_out(problem, out))
        else:
            out = outline(out, "out")
    cut = None
    if not problem.on_device:
        _, cut = admission.way(problem, out, return_lse, chosen, execution)
    return admission.estimate(problem, out, return_lse, cut, chosen, execution)
