"""Score matrices that need not fit into memory, block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal

from . import admission, blocks, device_calls, dispatch
from .problem import prepared
from .progress import check_progress, reporting

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from .backends import Backend, Execution
    from .blocks import Cut
    from .masks import Mask
    from .problem import AttentionProblem
    from .score_mods import ScoreMod


def iter_scores(
    query: ArrayLike,
    key: ArrayLike,
    *,
    scale: float | None = 1.0,
    softcap: float | None = None,
    score_mod: Callable[..., Any] | ScoreMod | None = None,
    score_mod_args: tuple[Any, ...] = (),
    bias: ArrayLike | None = None,
    mask: ArrayLike | Mask | None = None,
    is_causal: bool = False,
    window_size: tuple[int | None, int | None] | None = None,
    q_offset: ArrayLike = 0,
    kv_lengths: ArrayLike | None = None,
    block_shape: tuple[int, int] | None = None,
    backend: str | None = None,
    num_threads: int | None = None,
    max_memory: int | str | None = None,
    progress: bool | Callable[[int, int], None] | None = None,
    precision: Literal["float32", "tf32"] | None = None,
) -> Iterator[tuple[slice, slice, NDArray[Any]]]:
    """Return an iterator over the blocks of a score matrix that need not fit.

    The blocks come in row-major order and have the bits of `scores`. The call is
    checked, and its backend chosen, before the iterator is returned.

    Parameters
    ----------
    query : array_like
        Shape (..., n, d_k); read as in `scores`.
    key : array_like
        Shape (..., m, d_k); read as in `scores`.
    scale : float, optional
        Multiplies the dot products; None is ``1 / sqrt(d_k)``.
    softcap : float, optional
        Above 0; turns every score s into ``softcap * tanh(s / softcap)``.
    score_mod : callable or ScoreMod, optional
        ``f(score, b, h, q_idx, kv_idx, *score_mod_args)``, a plain function of numbers
        that returns the new score, or one of `numbattn.score_mods`. b counts the
        leading axes before the heads, h the query's heads, ``q_idx = i + q_offset``.
        Called in any order, also for masked keys.
    score_mod_args : tuple
        Numbers and arrays that it reads; arrays may change from call to call.
    bias : array_like, optional
        Of a floating dtype, broadcastable to (..., n, m); added after the score_mod.
        Where a score becomes ``-inf`` the key is not attended.
    mask : array_like or Mask, optional
        Of bools, broadcastable to (..., n, m); True where the query attends the key. Or
        one of `numbattn.masks`, of which nothing of that size is made.
    is_causal : bool
        Whether query i attends only keys ``j <= i + q_offset``.
    window_size : (left, right), optional
        Query i attends only ``i + q_offset - left <= j <= i + q_offset + right``;
        None or -1 is no end.
    q_offset : int, array_like or "lower_right"
        Position of query row 0 among the keys, such as the length of a cache. An
        array has exactly as many axes as there are leading axes, each 1 or equal.
        "lower_right" puts the last query at the last key.
    kv_lengths : int or array_like, optional
        How many of the m keys exist; shapes as for `q_offset`.
    block_shape : (int, int), optional
        Queries and keys of a block; the last ones may be smaller. Unless given,
        blocks take up to 64 MiB, or what `max_memory` allows: with several of them it
        counts two, the one in your hands and the next.
    backend : str, optional
        "auto", "cpu", "cuda", "reference" or that of another package; what
        `use_backend` or `set_backend` chose unless given.
    num_threads : int, optional
        Threads at most.
    max_memory : int or str, optional
        Bytes that may be allocated at a time, or text such as "2 GB".
    progress : bool or callable, optional
        True for a bar on stderr, or f(done, total), called in score elements.
    precision : {"float32", "tf32"}, optional
        As for `scores`.

    Returns
    -------
    iterator of (slice, slice, ndarray)
        Where the block lies along the queries and along the keys, and the block, a
        fresh array of shape (..., rows, columns); dtype, units and kind as in `scores`.

    Raises
    ------
    ShapeError, DTypeError, OptionError
        An argument that does not fit; raised by the call, not by the iterator.
    BackendUnavailableError
        The backend cannot run here, or not on arrays of a CUDA device.
    MemoryLimitError
        A block would take more than `max_memory`, or than the machine has free.

    See Also
    --------
    scores : The whole matrix at once; into a `numpy.memmap` by ``out=``.

    Examples
    --------
    >>> import numpy as np
    >>> import numbattn
    >>> query, key = np.ones((3, 2)), np.ones((5, 2))
    >>> blocks = numbattn.iter_scores(query, key, block_shape=(2, 4))
    >>> for rows, columns, block in blocks:
    ...     print(rows.start, rows.stop, columns.start, columns.stop, block.sum())
    0 2 0 4 16.0
    0 2 4 5 4.0
    2 3 0 4 8.0
    2 3 4 5 2.0
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
    }
    problem, chosen, execution = dispatch.start(
        "scores", (query, key), options, backend, num_threads, max_memory, precision
    )
    cut = admission.admit_stream(problem, block_shape, chosen, execution)
    check_progress(progress)
    return _iterate(prepared(problem), query, chosen, execution, cut, progress)


def _iterate(
    problem: AttentionProblem,
    query: object,
    backend: Backend,
    execution: Execution,
    cut: Cut,
    progress: object,
) -> Iterator[tuple[slice, slice, NDArray[Any]]]:
    with reporting(progress, "scores") as report:
        execution = execution._replace(progress=report)
        call = problem, backend, execution, cut
        if problem.on_device:
            yield from device_calls.scores_by_block(query, *call)
        else:
            yield from blocks.scores_by_block(*call)
