"""Where results go: whether `out` fits, who can write it, which inputs it overlaps."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import check_layout, fits, has, on_device, ready
from .checks import one_place
from .device_arrays import DeviceArray
from .errors import DTypeError, OptionError, ShapeError, shown
from .interchange import device_array
from .problem import AttentionProblem, copying

_EXACTLY = 10**5  # steps to find out whether two arrays overlap; beyond, they do


def check_out(problem: AttentionProblem, out: Any) -> Any:
    """Return what is written: `out`, or where it lies on a device; checked.

    Parameters
    ----------
    problem : AttentionProblem
        The call.
    out : object
        An array, or anything with a shape, a NumPy dtype and slice assignment; an
        array on the device where the inputs are there.

    Returns
    -------
    object
        `out` itself, or a DeviceArray.

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
        and not problem.on_device
    ):
        return out
    if isinstance(out, (np.ma.MaskedArray, np.matrix)):
        raise DTypeError(f"out is a {type(out).__name__}; pass a plain array")
    kind = type(out).__name__
    if on_device(out):
        out = device_array(out, "out")
    _check_place(problem, out)
    missing = [name for name in ("shape", "dtype", "__setitem__") if not has(out, name)]
    if missing and not isinstance(out, DeviceArray):
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
    if isinstance(out, (np.ndarray, DeviceArray)):
        if out.readonly if isinstance(out, DeviceArray) else not out.flags.writeable:
            raise OptionError("out is read-only; pass an array that can be written")
        if out.size and any(
            stride == 0 and size > 1
            for stride, size in zip(out.strides, out.shape, strict=True)
        ):
            raise OptionError(
                f"out repeats its elements (strides {out.strides}); every element of "
                "the result needs a place of its own"
            )
    if isinstance(out, DeviceArray):
        check_layout(out, "out")
    return out


def _check_place(problem: AttentionProblem, out: object) -> None:
    arrays = {"query": problem.query, "key": problem.key, "value": problem.value}
    named = [(name, array) for name, array in arrays.items() if array is not None]
    one_place([*named, ("out", out)])


def direct(problem: AttentionProblem, out: Any) -> NDArray[Any] | None:
    """Return `out` as the array that a backend can fill, None where it cannot."""
    if type(out) is np.ndarray and ready(out, problem.array_dtype):
        return out
    if not isinstance(out, np.ndarray) or not fits(out, problem.array_dtype):
        return None
    # backends write rows that are contiguous
    if out.shape[-1] > 1 and out.strides[-1] != out.itemsize:
        return None
    return out.view(np.ndarray)


def separate(problem: AttentionProblem, out: Any) -> AttentionProblem:
    """Return the problem with the inputs that `out` overlaps to be copied.

    Raises
    ------
    OptionError
        They are on a device, where nothing is copied.
    """
    if isinstance(out, DeviceArray):
        _check_apart(problem, out)
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


def _check_apart(problem: AttentionProblem, out: DeviceArray) -> None:
    names = ("query", "key", "value", "bias", "mask")
    for name in names:
        array = getattr(problem, name)
        if isinstance(array, DeviceArray) and _overlap(array, out):
            raise OptionError(
                f"out overlaps {name}; on a CUDA device inputs are not copied. Pass an "
                f"array apart from it, or a copy of {name}"
            )


def _overlap(one: DeviceArray, other: DeviceArray) -> bool:
    """Whether two arrays have an element in common, by NumPy's arithmetic."""
    if not one.size or not other.size:
        return False
    work: Any = _EXACTLY  # NumPy's stubs know 0 and -1 only
    try:
        return bool(np.shares_memory(_shadow(one), _shadow(other), max_work=work))
    except np.exceptions.TooHardError:
        return True


class _Shadow:
    """What NumPy makes an array of."""

    def __init__(self, array: DeviceArray) -> None:
        self.__array_interface__ = {
            "data": (array.address, True),
            "shape": array.shape,
            "strides": array.strides,
            "typestr": f"|V{array.itemsize}",
            "version": 3,
        }


def _shadow(array: DeviceArray) -> NDArray[Any]:
    """Return an array of the host at the same addresses, never to be read."""
    return np.asarray(_Shadow(array))
