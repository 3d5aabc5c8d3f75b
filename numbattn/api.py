"""What users call: scores, weights, attention. What they share is in `dispatch`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar, Unpack, overload

from . import dispatch

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from .masks import Mask
    from .score_mods import ScoreMod

_Out = TypeVar("_Out")


class _Options(TypedDict, total=False):
    """What every call takes, for type checkers."""

    scale: float | None
    softcap: float | None
    score_mod: Callable[..., Any] | ScoreMod | None
    score_mod_args: tuple[Any, ...]
    bias: ArrayLike | None
    mask: ArrayLike | Mask | None
    is_causal: bool
    window_size: tuple[int | None, int | None] | None
    q_offset: ArrayLike
    kv_lengths: ArrayLike | None
    backend: str | None
    num_threads: int | None
    max_memory: int | str | None
    progress: bool | Callable[[int, int], None] | None
    precision: Literal["float32", "tf32"] | None
    stream: Any


class _Softmax(_Options, total=False):
    """What `weights` and `attention` take, too."""

    sinks: ArrayLike | None


@overload
def scores(
    query: ArrayLike, key: ArrayLike, *, out: None = None, **options: Unpack[_Options]
) -> NDArray[Any]: ...
@overload
def scores(
    query: ArrayLike, key: ArrayLike, *, out: _Out, **options: Unpack[_Options]
) -> _Out: ...
def scores(
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
    out: Any = None,
    backend: str | None = None,
    num_threads: int | None = None,
    max_memory: int | str | None = None,
    progress: bool | Callable[[int, int], None] | None = None,
    precision: Literal["float32", "tf32"] | None = None,
    stream: Any = None,
) -> Any:
    r"""Return the score matrix, query times key transposed.

    Without options it is the raw product. Options apply in the order scale, softcap,
    score_mod, bias, masks (`mask`, `is_causal`, `window_size`, `kv_lengths`).

    Parameters
    ----------
    query : array_like
        Shape (..., n, d_k). The axis at -3, where there is one, is the heads: the
        first axis of a 3-D array is heads, not batch.
    key : array_like
        Shape (..., m, d_k). Leading axes broadcast, 1 against any; on the heads axis
        the query may also have a multiple H_q of the key's H_k heads, and its head h
        reads the key's head ``h // (H_q // H_k)``.
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
    out : array, optional
        Where the result goes: an array of its shape and dtype with any strides, a
        `numpy.memmap`, or any object with shape, dtype and slice assignment, which
        is written by blocks. It may overlap an input; not on a CUDA device, where it
        is an array there.
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
        The least exact arithmetic allowed; "tf32" concerns float32 on CUDA only.
    stream : int or stream, optional
        Of CUDA: 1, 2, an address, or a stream of Numba, CuPy, PyTorch or cuda.core.

    Returns
    -------
    ndarray
        Shape (..., n, m), `out` itself where it is given; of arrays on a CUDA device,
        which are not copied, one of the query's library. Dimensionless, in units of
        the natural logarithm; masked entries are ``-inf``. The dtype is the inputs'
        common one; integers and bools count as float64, and float16 and bfloat16 are
        accumulated in float32 and rounded once.

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
    iter_scores : The same for matrices that do not fit into memory.
    weights : The softmax of the scores.
    explain : How a call is going to run.

    Notes
    -----
    :math:`S = QK^T` of Vaswani et al., "Attention Is All You Need" (2017), section
    3.2.1, equation 1; masks and alignment as in ONNX ``Attention``, opset 25.

    Examples
    --------
    >>> import numpy as np
    >>> import numbattn
    >>> query = np.array([[1.0, 0.0], [0.0, 2.0]])
    >>> key = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    >>> numbattn.scores(query, key)
    array([[ 1.,  3.,  5.],
           [ 4.,  8., 12.]])
    >>> numbattn.scores(query, key, is_causal=True)
    array([[  1., -inf, -inf],
           [  4.,   8., -inf]])
    """
    return dispatch.run(
        "scores", query, key, None, False, out, scale, softcap, score_mod,
        score_mod_args, bias, mask, is_causal, window_size, q_offset, kv_lengths,
        None, backend, num_threads, max_memory, progress, precision, stream,
    )  # fmt: skip


@overload
def weights(
    query: ArrayLike, key: ArrayLike, *, out: None = None, **options: Unpack[_Softmax]
) -> NDArray[Any]: ...
@overload
def weights(
    query: ArrayLike, key: ArrayLike, *, out: _Out, **options: Unpack[_Softmax]
) -> _Out: ...
def weights(
    query: ArrayLike,
    key: ArrayLike,
    *,
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
    out: Any = None,
    backend: str | None = None,
    num_threads: int | None = None,
    max_memory: int | str | None = None,
    progress: bool | Callable[[int, int], None] | None = None,
    precision: Literal["float32", "tf32"] | None = None,
    stream: Any = None,
) -> Any:
    r"""Return the softmax of the scores over the keys.

    Options apply in the order scale, softcap, score_mod, bias, masks (`mask`,
    `is_causal`, `window_size`, `kv_lengths`), softmax.

    Parameters
    ----------
    query : array_like
        Shape (..., n, d_k). The axis at -3, where there is one, is the heads: the
        first axis of a 3-D array is heads, not batch.
    key : array_like
        Shape (..., m, d_k). Leading axes and heads broadcast as in `scores`.
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
    sinks : array_like, optional
        Of real numbers, shape (H_q,), one for each head ((1,) without a heads axis): a
        logit, neither scaled nor capped, that takes part in the softmax's sum and has
        no key, so that rows sum to less than 1; ``-inf`` is none.
    out : array, optional
        Where the result goes: an array of its shape and dtype with any strides, a
        `numpy.memmap`, or any object with shape, dtype and slice assignment, which
        is written by blocks. It may overlap an input; not on a CUDA device, where it
        is an array there.
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
        The least exact arithmetic allowed; "tf32" concerns float32 on CUDA only.
    stream : int or stream, optional
        Of CUDA: 1, 2, an address, or a stream of Numba, CuPy, PyTorch or cuda.core.

    Returns
    -------
    ndarray
        Shape (..., n, m), `out` itself where it is given; dtype as in `scores`. Rows
        sum to 1, with a sink to less; those without an attended key are 0. A NaN or
        ``+inf`` among the attended scores of a row, or as its sink, makes it NaN.

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
    attention : The weighted sum of values, without forming the weights.
    scores : Before the softmax.

    Notes
    -----
    :math:`\operatorname{softmax}(QK^T / \sqrt{d_k})` of Vaswani et al., "Attention Is
    All You Need" (2017), section 3.2.1, equation 1; the row's maximum is subtracted
    first.

    Examples
    --------
    >>> import numpy as np
    >>> import numbattn
    >>> query, key = np.zeros((2, 3)), np.ones((4, 3))
    >>> print(numbattn.weights(query, key).round(3))
    [[0.25 0.25 0.25 0.25]
     [0.25 0.25 0.25 0.25]]
    >>> print(numbattn.weights(query, key, is_causal=True).round(3))
    [[1.  0.  0.  0. ]
     [0.5 0.5 0.  0. ]]
    """
    return dispatch.run(
        "weights", query, key, None, False, out, scale, softcap, score_mod,
        score_mod_args, bias, mask, is_causal, window_size, q_offset, kv_lengths,
        sinks, backend, num_threads, max_memory, progress, precision, stream,
    )  # fmt: skip


@overload
def attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    *,
    return_lse: Literal[False] = False,
    out: None = None,
    **options: Unpack[_Softmax],
) -> NDArray[Any]: ...
@overload
def attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    *,
    return_lse: Literal[False] = False,
    out: _Out,
    **options: Unpack[_Softmax],
) -> _Out: ...
@overload
def attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    *,
    return_lse: Literal[True],
    out: None = None,
    **options: Unpack[_Softmax],
) -> tuple[NDArray[Any], NDArray[Any]]: ...
@overload
def attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    *,
    return_lse: Literal[True],
    out: _Out,
    **options: Unpack[_Softmax],
) -> tuple[_Out, NDArray[Any]]: ...
@overload
def attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    *,
    return_lse: bool,
    out: Any = None,
    **options: Unpack[_Softmax],
) -> Any: ...
def attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    *,
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
    backend: str | None = None,
    num_threads: int | None = None,
    max_memory: int | str | None = None,
    progress: bool | Callable[[int, int], None] | None = None,
    precision: Literal["float32", "tf32"] | None = None,
    stream: Any = None,
) -> Any:
    r"""Return softmax(scores) times value, without forming the scores.

    Options apply in the order scale, softcap, score_mod, bias, masks (`mask`,
    `is_causal`, `window_size`, `kv_lengths`), softmax.

    Parameters
    ----------
    query : array_like
        Shape (..., n, d_k). The axis at -3, where there is one, is the heads: the
        first axis of a 3-D array is heads, not batch.
    key : array_like
        Shape (..., m, d_k). Leading axes and heads broadcast as in `scores`.
    value : array_like
        Shape (..., m, d_v), with as many heads as the key, or one of the two has 1.
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
    sinks : array_like, optional
        Of real numbers, shape (H_q,), one for each head ((1,) without a heads axis): a
        logit, neither scaled nor capped, that takes part in the softmax's sum and in
        the log-sum-exp and has no key; ``-inf`` is none.
    return_lse : bool
        Whether to return the log-sum-exp of the scores, too.
    out : array, optional
        Where the result goes: an array of its shape and dtype with any strides, a
        `numpy.memmap`, or any object with shape, dtype and slice assignment, which
        is written by blocks. It may overlap an input; not on a CUDA device, where it
        is an array there.
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
        The least exact arithmetic allowed; "tf32" concerns float32 on CUDA only.
    stream : int or stream, optional
        Of CUDA: 1, 2, an address, or a stream of Numba, CuPy, PyTorch or cuda.core.

    Returns
    -------
    out : ndarray
        Shape (..., n, d_v), `out` itself where it is given; dtype as in `scores`,
        over all three inputs. A row without an attended key is 0. Masked keys and
        values are not read: NaN there does not reach the result.
    lse : ndarray
        With `return_lse`: shape (..., n), natural logarithm, in float32 or float64,
        in which the call accumulates; ``-inf`` for a row without an attended key.

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
    weights : The softmax itself.
    scores : Before the softmax.

    Notes
    -----
    :math:`\operatorname{softmax}(QK^T / \sqrt{d_k}) V` of Vaswani et al., "Attention
    Is All You Need" (2017), section 3.2.1, equation 1; masks, alignment and softcap
    as in ONNX ``Attention``, opset 25.

    Examples
    --------
    >>> import numpy as np
    >>> import numbattn
    >>> query, key = np.zeros((2, 3)), np.ones((4, 3))
    >>> value = np.array([[0.0], [1.0], [2.0], [5.0]])
    >>> print(numbattn.attention(query, key, value).round(3))
    [[2.]
     [2.]]
    >>> out, lse = numbattn.attention(query, key, value, kv_lengths=2, return_lse=True)
    >>> print(out[0].round(3), np.exp(lse).round(3))
    [0.5] [2. 2.]
    """
    return dispatch.run(
        "attention", query, key, value, return_lse, out, scale, softcap, score_mod,
        score_mod_args, bias, mask, is_causal, window_size, q_offset, kv_lengths,
        sinks, backend, num_threads, max_memory, progress, precision, stream,
    )  # fmt: skip
