"""Attention over two sets of keys, from the results of each: NumPy, row by row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .arrays import DeviceArrayError, as_array, describe, result_dtype
from .errors import DTypeError, ShapeError
from .shapes import differ

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


def merge_states(
    out_a: ArrayLike, lse_a: ArrayLike, out_b: ArrayLike, lse_b: ArrayLike
) -> tuple[NDArray[Any], NDArray[Any]]:
    r"""Return attention over two disjoint sets of keys, from that over each.

    A state is what `attention` returns with ``return_lse=True``. States of the same
    queries merge in any order and grouping, up to rounding: so keys can be kept in
    parts, a shared prefix be attended once, or machines share a long context.

    Parameters
    ----------
    out_a : array_like
        Shape (..., n, d_v): the output over the first keys.
    lse_a : array_like
        Shape (..., n): its log-sum-exp, in natural logarithm.
    out_b : array_like
        The output over the other keys; shape as `out_a`.
    lse_b : array_like
        Its log-sum-exp; shape as `lse_a`.

    Returns
    -------
    out : ndarray
        Shape (..., n, d_v): the output over all keys, in the common dtype of the two
        outputs. It is merged in the dtype of the log-sum-exp and rounded once.
    lse : ndarray
        Shape (..., n), float32, or float64 where any of the four is.

    Raises
    ------
    ShapeError, DTypeError
        Shapes that do not agree, or arrays of no real numbers; arrays of a CUDA
        device are refused with a word on how to copy them.

    See Also
    --------
    attention : What makes states.

    Notes
    -----
    With :math:`s` the log-sum-exp, :math:`s = \log(e^{s_a} + e^{s_b})` and
    :math:`o = e^{s_a - s} o_a + e^{s_b - s} o_b`: the operator :math:`\oplus` of Ye et
    al., "FlashInfer: Efficient and Customizable Attention Engine for LLM Inference
    Serving" (2025), section 2.2.

    A row whose log-sum-exp is ``-inf`` has attended no key: merging it returns the
    other state's row to the bit, and its output is not read. NaN, and a log-sum-exp of
    ``+inf``, make NaN of their rows only, NaN in an output of its element only.

    A sink is in a state's log-sum-exp, so that at most one of the states may have
    sinks: in two it would count twice.

    Examples
    --------
    >>> import numpy as np
    >>> import numbattn
    >>> query, key = np.ones((2, 4)), np.linspace(0, 1, 12).reshape(3, 4)
    >>> value = np.array([[1.0], [2.0], [6.0]])
    >>> first = numbattn.attention(query, key[:2], value[:2], return_lse=True)
    >>> other = numbattn.attention(query, key[2:], value[2:], return_lse=True)
    >>> out, lse = numbattn.merge_states(*first, *other)
    >>> bool(np.allclose(out, numbattn.attention(query, key, value)))
    True
    """
    given = {"out_a": out_a, "lse_a": lse_a, "out_b": out_b, "lse_b": lse_b}
    arrays = {name: _on_host(array, name) for name, array in given.items()}
    _check_shapes(**arrays)
    outputs = [(name, arrays[name]) for name in ("out_a", "out_b")]
    dtype, _ = result_dtype(outputs)
    _, acc_dtype = result_dtype(arrays.items())
    a, s_a, b, s_b = (array.astype(acc_dtype, copy=False) for array in arrays.values())

    empty_a, empty_b = s_a == -np.inf, s_b == -np.inf
    with np.errstate(all="ignore"):  # inf and NaN are answers here
        top = np.maximum(s_a, s_b)
        e_a, e_b = np.exp(s_a - top), np.exp(s_b - top)
        total = e_a + e_b
        lse = np.asarray(top + np.log(total))
        # shares of 1 first: two outputs near the end of the range do not overflow
        out = (e_a / total)[..., None] * a
        out += (e_b / total)[..., None] * b
        lse = np.where(empty_b, s_a, np.where(empty_a, s_b, lse))
        if empty_a.any() or empty_b.any():
            np.copyto(out, b, where=empty_a[..., None])
            np.copyto(out, a, where=empty_b[..., None])
            out[empty_a & empty_b] = 0
        return out.astype(dtype, copy=False), lse


def _on_host(array: object, name: str) -> NDArray[Any]:
    try:
        return as_array(array, name)
    except DeviceArrayError:
        raise DTypeError(
            f"{name} is an array on a CUDA device; merge_states takes arrays in host "
            f"memory: {name}.get() in CuPy, .cpu().numpy() in PyTorch"
        ) from None


def _check_shapes(
    out_a: NDArray[Any], lse_a: NDArray[Any], out_b: NDArray[Any], lse_b: NDArray[Any]
) -> None:
    if not out_a.ndim:
        raise ShapeError(f"out_a is {describe(out_a)}; it has to be (..., n, d_v)")
    if out_a.shape != out_b.shape:
        raise differ("out_a", out_a, "out_b", out_b, "their shapes")
    for name, lse in (("lse_a", lse_a), ("lse_b", lse_b)):
        if lse.shape != out_a.shape[:-1]:
            raise ShapeError(
                f"{name} has shape {lse.shape}; it has to be {out_a.shape[:-1]}, one "
                f"number for each row of the outputs, whose shape is {out_a.shape}"
            )
