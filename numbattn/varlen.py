"""Attention over packed sequences of unequal lengths."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar, Unpack, overload

import numpy as np

from . import dispatch, outputs, packed, selector
from .arrays import DeviceArrayError, as_array
from .errors import OptionError, ShapeError
from .masks import Mask
from .options import flag, sequence_offsets, sequence_starts
from .progress import reporting

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from .score_mods import ScoreMod

_Out = TypeVar("_Out")
_REFUSED = {
    "bias": "it would need a shape of its own for each sequence",
    "mask": "who attends whom is told by is_causal, window_size, q_offset, an object "
    "of numbattn.masks and the sequences themselves",
}


class _Options(TypedDict, total=False):
    """What the call takes, for type checkers."""

    scale: float | None
    softcap: float | None
    score_mod: Callable[..., Any] | ScoreMod | None
    score_mod_args: tuple[Any, ...]
    mask: Mask | None
    is_causal: bool
    window_size: tuple[int | None, int | None] | None
    q_offset: ArrayLike
    sinks: ArrayLike | None
    backend: str | None
    num_threads: int | None
    max_memory: int | str | None
    progress: bool | Callable[[int, int], None] | None
    precision: Literal["float32", "tf32"] | None


@overload
def attention_varlen(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    cu_seqlens_q: ArrayLike,
    cu_seqlens_k: ArrayLike,
    *,
    return_lse: Literal[False] = False,
    out: None = None,
    **options: Unpack[_Options],
) -> NDArray[Any]: ...
@overload
def attention_varlen(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    cu_seqlens_q: ArrayLike,
    cu_seqlens_k: ArrayLike,
    *,
    return_lse: Literal[False] = False,
    out: _Out,
    **options: Unpack[_Options],
) -> _Out: ...
@overload
def attention_varlen(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    cu_seqlens_q: ArrayLike,
    cu_seqlens_k: ArrayLike,
    *,
    return_lse: Literal[True],
    out: None = None,
    **options: Unpack[_Options],
) -> tuple[NDArray[Any], NDArray[Any]]: ...
@overload
def attention_varlen(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    cu_seqlens_q: ArrayLike,
    cu_seqlens_k: ArrayLike,
    *,
    return_lse: Literal[True],
    out: _Out,
    **options: Unpack[_Options],
) -> tuple[_Out, NDArray[Any]]: ...
@overload
def attention_varlen(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    cu_seqlens_q: ArrayLike,
    cu_seqlens_k: ArrayLike,
    *,
    return_lse: bool,
    out: Any = None,
    **options: Unpack[_Options],
) -> Any: ...
def attention_varlen(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    cu_seqlens_q: ArrayLike,
    cu_seqlens_k: ArrayLike,
    *,
    scale: float | None = None,
    softcap: float | None = None,
    score_mod: Callable[..., Any] | ScoreMod | None = None,
    score_mod_args: tuple[Any, ...] = (),
    is_causal: bool = False,
    window_size: tuple[int | None, int | None] | None = None,
    q_offset: ArrayLike = 0,
    sinks: ArrayLike | None = None,
    bias: None = None,
    mask: Mask | None = None,
    return_lse: bool = False,
    out: Any = None,
    backend: str | None = None,
    num_threads: int | None = None,
    max_memory: int | str | None = None,
    progress: bool | Callable[[int, int], None] | None = None,
    precision: Literal["float32", "tf32"] | None = None,
) -> Any:
    """Return attention within each of many sequences, packed one behind the other.

    Sequence s is a call of `attention` of its own, to the bit: rows
    ``cu_seqlens_q[s]`` to ``cu_seqlens_q[s + 1]`` of the query attend rows
    ``cu_seqlens_k[s]`` to ``cu_seqlens_k[s + 1]`` of the key, both counted from 0
    there. Nothing is padded.

    Parameters
    ----------
    query : array_like
        Shape (H_q, total_q, d_k), with any strides: FlashAttention's layout (total_q,
        H_q, d_k) comes in by ``x.swapaxes(0, 1)``, and nothing is copied.
    key : array_like
        Shape (H_kv, total_k, d_k); H_q is a multiple of H_kv, or one of them is 1.
    value : array_like
        Shape (H_kv, total_k, d_v).
    cu_seqlens_q : array_like
        Of ints, shape (S + 1,): where the sequences start in the query, from 0, and
        at last total_q. Equal neighbours are a sequence without queries.
    cu_seqlens_k : array_like
        The same for key and value, up to total_k.
    scale : float, optional
        Multiplies the dot products; None is ``1 / sqrt(d_k)``.
    softcap : float, optional
        Above 0; turns every score s into ``softcap * tanh(s / softcap)``.
    score_mod : callable or ScoreMod, optional
        ``f(score, b, h, q_idx, kv_idx, *score_mod_args)``, the new score, as for
        `attention`; b is the sequence's number, indices count within the sequence.
    score_mod_args : tuple
        Numbers and arrays that it reads.
    is_causal : bool
        Whether query i attends only keys ``j <= i + q_offset`` of its sequence.
    window_size : (left, right), optional
        Query i attends only ``i + q_offset - left <= j <= i + q_offset + right``;
        None or -1 is no end.
    q_offset : int, array_like or "lower_right"
        Position of a sequence's query row 0 among its keys; an array has one for each
        sequence, shape (S,). "lower_right" puts the last query at the last key.
    sinks : array_like, optional
        Of real numbers, shape (H_q,); as for `attention`.
    bias : None
        Not taken. Sequences that need one are calls of `attention`.
    mask : Mask, optional
        One of `numbattn.masks`; b is the sequence's number. Arrays are not taken.
    return_lse : bool
        Whether to return the log-sum-exp of the scores, too.
    out : array, optional
        Where the result goes; as for `attention`. It may be ``x.swapaxes(0, 1)``, too.
    backend : str, optional
        "auto", "cpu", "cuda", "reference" or that of another package; what
        `use_backend` or `set_backend` chose unless given.
    num_threads : int, optional
        Threads at most.
    max_memory : int or str, optional
        Bytes that the call may allocate in all, or text such as "2 GB".
    progress : bool or callable, optional
        True for a bar on stderr, or f(done, total), called in score elements.
    precision : {"float32", "tf32"}, optional
        As for `attention`.

    Returns
    -------
    out : ndarray
        Shape (H_q, total_q, d_v), `out` itself where it is given; dtype as for
        `attention`. A query without an attended key gets 0.
    lse : ndarray
        With `return_lse`: shape (H_q, total_q), natural logarithm, in float32 or
        float64; for a row without an attended key its sink, or ``-inf``.

    Raises
    ------
    ShapeError, DTypeError, OptionError
        An argument that does not fit; nothing has been written to `out`.
    BackendUnavailableError
        The backend cannot run here, or not on arrays of a CUDA device.
    MemoryLimitError
        The call would take more than `max_memory`, or than the machine has free.

    See Also
    --------
    attention : One sequence, or a batch of equal or padded ones (``kv_lengths=``).

    Notes
    -----
    Layout and names of ``flash_attn_varlen_func`` of FlashAttention-2 (Dao, 2023).
    There a causal mask is at the lower right, here at the upper left unless
    ``q_offset="lower_right"``.

    Examples
    --------
    >>> import numpy as np
    >>> import numbattn
    >>> query, key = np.zeros((1, 3, 2)), np.zeros((1, 5, 2))  # of 2 + 1, of 3 + 2
    >>> value = np.arange(5.0).reshape(1, 5, 1)
    >>> print(numbattn.attention_varlen(query, key, value, [0, 2, 3], [0, 3, 5]))
    [[[1. ]
      [1. ]
      [3.5]]]
    """
    for name, given in (("bias", bias), ("mask", mask)):
        if given is not None and not isinstance(given, Mask):
            raise OptionError(
                f"{name} is given, which attention_varlen does not take: "
                f"{_REFUSED[name]}. Pass None, or call attention for each sequence"
            )
    return_lse = flag(return_lse, "return_lse")
    try:
        arrays = _packed_arrays(query, key, value)
        starts_q = sequence_starts(cu_seqlens_q, "cu_seqlens_q", arrays[0].shape[1])
        starts_k = sequence_starts(cu_seqlens_k, "cu_seqlens_k", arrays[1].shape[1])
        if len(starts_q) != len(starts_k):
            raise ShapeError(
                f"cu_seqlens_q has {len(starts_q)} entries and cu_seqlens_k "
                f"{len(starts_k)}; they have to have as many, one more than sequences"
            )
        offsets = sequence_offsets(q_offset, np.diff(starts_q), np.diff(starts_k))
    except DeviceArrayError as error:
        why = "attention_varlen takes arrays in host memory; attention takes these"
        raise selector.refuse_device(backend, str(error), why) from None
    options = {
        "scale": scale,
        "softcap": softcap,
        "score_mod": score_mod,
        "score_mod_args": score_mod_args,
        "is_causal": is_causal,
        "window_size": window_size,
        "sinks": sinks,
    }
    problem, chosen, execution = dispatch.start(
        "attention", arrays, options, backend, num_threads, max_memory, precision
    )
    if out is not None:
        outputs.check_out(problem, out)
        problem = outputs.separate(problem, out)
    call = packed.Packed(problem, starts_q, starts_k, offsets)
    if mask is not None:
        call = call.masked(mask)
        if call.problem.indices is not None:
            dispatch.check_functions(call.problem, chosen)
    with reporting(progress, "attention_varlen") as report:
        execution = execution._replace(progress=report)
        return packed.compute(call, out, return_lse, chosen, execution)


def _packed_arrays(*given: object) -> list[NDArray[Any]]:
    """Return query, key and value with three axes each."""
    arrays = []
    for name, value in zip(("query", "key", "value"), given, strict=True):
        array = as_array(value, name)
        if array.ndim != 3:
            hint = f": for one head pass {name}[None]" if array.ndim == 2 else ""
            raise ShapeError(
                f"{name} has shape {array.shape}; it has to be (heads, total, d), "
                f"sequences one behind the other along axis 1{hint}"
            )
        arrays.append(array)
    return arrays
