"""PyTorch's argument list, for code that is ported from there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import api, options, selector, shapes
from .arrays import DeviceArrayError, as_array, describe, float_name, on_device
from .errors import DTypeError, OptionError, ShapeError, shown
from .interchange import as_input

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from .api import _Options


def scaled_dot_product_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    attn_mask: ArrayLike | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> NDArray[Any]:
    r"""Return attention, called as in PyTorch.

    The arguments of ``torch.nn.functional.scaled_dot_product_attention`` with their
    meaning, for NumPy arrays. New code has more options in `attention`.

    Parameters
    ----------
    query : array_like
        Shape (..., L, E).
    key : array_like
        Shape (..., S, E). Leading axes broadcast, 1 against any.
    value : array_like
        Shape (..., S, E_v).
    attn_mask : array_like, optional
        Broadcastable to (..., L, S). Of bools, True where the query attends the key;
        or of floats, added to the scores.
    dropout_p : float
        0.0 and nothing else.
    is_causal : bool
        Whether query i attends only keys ``j <= i``, also where L and S differ (the
        upper left). Not together with `attn_mask`.
    scale : float, optional
        Multiplies the dot products; None is ``1 / sqrt(E)``.
    enable_gqa : bool
        Whether the query may have a multiple of the key's and value's heads (axis
        -3). Without it they have to be equal, or 1.

    Returns
    -------
    ndarray
        Shape (..., L, E_v).

    Raises
    ------
    ShapeError, DTypeError, OptionError
        An argument that does not fit.
    BackendUnavailableError
        The backend cannot run here, or not on arrays of a CUDA device.
    MemoryLimitError
        The call would take more memory than it may, or than the machine has free.

    See Also
    --------
    attention : What it calls; it has `out`, the log-sum-exp, windows, offsets, sinks.
    use_backend : Which backend runs it.

    Notes
    -----
    Other than in PyTorch (2.13):

    * There is no dropout, and there are no gradients.
    * A query whose keys are all masked gets 0; older versions had NaN.
    * Masked keys and values are not read: NaN there does not reach the result.
    * Dtypes may differ, and the common one is that of the result; integers and bools
      become float64. A mask of floats of any dtype changes nothing about that.
    * float16 and bfloat16 are accumulated in float32 and rounded once.
    * With ``enable_gqa=True`` key and value have equally many heads, or one has 1.
    * `attn_mask` together with `is_causal` is always refused; some of PyTorch's
      kernels take both.

    Examples
    --------
    >>> import numpy as np
    >>> import numbattn
    >>> query, key = np.zeros((1, 2, 4)), np.ones((1, 3, 4))
    >>> value = np.array([[[0.0], [2.0], [7.0]]])
    >>> sdpa = numbattn.scaled_dot_product_attention
    >>> print(sdpa(query, key, value, is_causal=True))
    [[[0.]
      [1.]]]
    >>> print(sdpa(query, key, value, attn_mask=np.array([True, False, False])))
    [[[0.]
      [0.]]]
    """
    if not options.is_number(dropout_p) or dropout_p != 0:
        raise OptionError(
            f"dropout_p is {shown(dropout_p)}; it has to be 0.0: dropout is for "
            "training, and there is none here (a model in eval mode passes 0.0)"
        )
    causal = options.flag(is_causal, "is_causal")
    grouped = options.flag(enable_gqa, "enable_gqa")
    if causal and attn_mask is not None:
        raise OptionError(
            "attn_mask is given and is_causal is True; pass one of them. Masked and "
            "causal at once is attention(..., mask=attn_mask, is_causal=True), or "
            "bias= where it is of floats"
        )
    given = {"query": query, "key": key, "value": value}
    there = on_device(query)
    try:
        arrays = [(name, as_input(array, name)) for name, array in given.items()]
        read = as_input if there else as_array
        mask = None if attn_mask is None else read(attn_mask, "attn_mask")
    except DeviceArrayError as error:
        raise selector.refuse_device(None, str(error)) from None
    if not grouped:
        _check_heads(arrays)
    taken: _Options = {"scale": scale, "is_causal": causal}
    if mask is not None:
        lead = shapes.leading(arrays)
        scores = (*lead, arrays[0][1].shape[-2], arrays[1][1].shape[-2])
        taken |= _mask_option(mask, scores)
    if not there:
        given = dict(arrays)
    return api.attention(*given.values(), **taken)  # of the query's library


def _check_heads(arrays: list[tuple[str, NDArray[Any]]]) -> None:
    heads = {array.shape[-3] for _, array in arrays if array.ndim > 2}
    if len(heads - {1}) > 1:
        found = ", ".join(f"{name} has shape {array.shape}" for name, array in arrays)
        raise ShapeError(
            f"the heads (axis -3) differ: {found}. They have to be equal, or 1; with "
            "enable_gqa=True the query's may be a multiple of the key's and value's"
        )


def _mask_option(mask: NDArray[Any], scores: tuple[int, ...]) -> _Options:
    """Return the mask under the name that `attention` has for its kind."""
    if mask.dtype.kind in "iu":
        raise DTypeError(
            f"attn_mask is {describe(mask)}; it has to be of bools (True = attend), or "
            "of floats, which are added to the scores: pass attn_mask.astype(bool)"
        )
    float_name(mask.dtype, "attn_mask")
    options.broadcasts(mask, "attn_mask", scores)
    return {"mask": mask} if mask.dtype.kind == "b" else {"bias": mask}
