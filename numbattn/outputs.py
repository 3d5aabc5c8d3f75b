"""Where results go: whether `out` fits, who can write it, which inputs it overlaps."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import fits, has, on_device, ready
from .errors import DTypeError, OptionError, ShapeError, shown
from .problem import AttentionProblem, copying


def check_out(problem: AttentionProblem, out: Any) -> None:
    """Check that the result can be written into `out`.

    Parameters
    ----------
    problem : AttentionProblem
        The call.
    out : object
        An array, or anything with a shape, a NumPy dtype and slice assignment.

    Raises
    ------
    ShapeError, DTypeError, OptionError
        It does not fit, or cannot be written.
    """
    if (
        type(out) is np.ndarray
        and ready(out, problem.dtype)
        and out.shape == problem.out_shape
        and out.flags.writeable
    ):
        return
    if isinstance(out, (np.ma.MaskedArray, np.matrix)):
        raise DTypeError(f"out is a {type(out).__name__}; pass a plain array")
    kind = type(out).__name__
    if on_device(out):
        raise DTypeError(f"out ({kind}) is on a CUDA device; pass an array on the host")
    missing = [name for name in ("shape", "dtype", "__setitem__") if not has(out, name)]
    if missing:
        raise DTypeError(
            f"out ({kind}) has no {', no '.join(missing)}; it has to be an array, or "
            "an object with shape, dtype and slice assignment"
        )
    try:
        shape = tuple(out.shape)
    except TypeError:
        raise DTypeError(
            f"out ({kind}) has shape {shown(out.shape)}, which is not a tuple of ints"
        ) from None
    if shape != problem.out_shape:
        raise ShapeError(
            f"out has shape {shape}; {problem.operation} writes "
            f"{problem.out_shape} here"
        )
    try:
        dtype = np.dtype(out.dtype)
    except (TypeError, ValueError):
        raise DTypeError(
            f"out ({kind}) has dtype {shown(out.dtype)}, which is not a NumPy dtype"
        ) from None
    if dtype.newbyteorder("=") != problem.dtype:
        raise DTypeError(
            f"out has dtype {dtype}; it has to be {problem.dtype}, as the result is"
        )
    if isinstance(out, np.ndarray):
        if not out.flags.writeable:
            raise OptionError("out is read-only; pass an array that can be written")
        if out.size and any(
            stride == 0 and size > 1
            for stride, size in zip(out.strides, out.shape, strict=True)
        ):
            raise OptionError(
                f"out repeats its elements (strides {out.strides}); every element of "
                "the result needs a place of its own"
            )


def direct(problem: AttentionProblem, out: Any) -> NDArray[Any] | None:
    """Return `out` as the array that a backend can fill, None where it cannot."""
    if type(out) is np.ndarray and ready(out, problem.acc_dtype):
        return out
    if not isinstance(out, np.ndarray) or not fits(out, problem.acc_dtype):
        return None
    # backends write rows that are contiguous
    if out.shape[-1] > 1 and out.strides[-1] != out.itemsize:
        return None
    return out.view(np.ndarray)


def separate(problem: AttentionProblem, out: Any) -> AttentionProblem:
    """Return the problem with the inputs that `out` overlaps to be copied."""
    if not isinstance(out, np.ndarray):
        return problem
    share = np.may_share_memory
    if problem.score_mod is not None:
        problem = problem._replace(score_mod=problem.score_mod.apart_from(out))
    touched = share(problem.query, out) or share(problem.key, out)
    for array in problem.value, problem.bias, problem.mask:
        touched = touched or (array is not None and share(array, out))
    if not touched:
        return problem
    names = ("query", "key", "value", "bias", "mask")
    arrays = {name: getattr(problem, name) for name in names}
    overlapped = [
        name
        for name, array in arrays.items()
        if array is not None and share(array, out)
    ]
    return copying(problem, overlapped)
