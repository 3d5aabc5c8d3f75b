"""The options of a call, read one by one; each function returns what kernels need."""

from __future__ import annotations

import numbers
import operator
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import as_array, check_layout, describe, float_name, once
from .device_arrays import DeviceArray
from .errors import DTypeError, OptionError, ShapeError, shown
from .interchange import as_input
from .score_mod import ScoreMod

UNBOUNDED = 2**62
"""A side of the window without end."""
FAR = 2**61  # offsets are cut here: sums with UNBOUNDED stay within int64


def is_number(value: object) -> bool:
    """Whether it is one real number; a bool and a span of time are none."""
    return isinstance(value, (numbers.Real, np.floating)) and not isinstance(
        value, (bool, np.bool_, np.timedelta64)
    )


def number(value: object, name: str, dtype: np.dtype[Any]) -> float:
    """Return a finite number as a value of the accumulation dtype."""
    if not is_number(value):
        what = describe(value) if isinstance(value, np.ndarray) else shown(value)
        raise OptionError(f"{name} is {what}; it has to be one real number")
    with np.errstate(over="ignore"):
        try:
            result = float(dtype.type(value))
        except OverflowError:  # an int, or a fraction, beyond all floats
            result = np.inf
    if not -np.inf < result < np.inf:
        raise OptionError(
            f"{name} is {shown(value)}; it has to be finite as a {dtype} number"
        )
    return result


@lru_cache(maxsize=256)
def default_scale(d_k: int, dtype: np.dtype[Any]) -> float:
    """Return 1 / sqrt(d_k) as a value of the accumulation dtype."""
    return float(dtype.type(1 / max(1, d_k) ** 0.5))


def softcap_number(value: object, dtype: np.dtype[Any]) -> float:
    """Return the softcap; 0.0 stands for none."""
    if value is None:
        return 0.0
    cap = number(value, "softcap", dtype)
    if cap <= 0:
        raise OptionError(
            f"softcap is {shown(value)}; it has to be above 0 (as a {dtype} number), "
            "or None for none"
        )
    return cap


def flag(value: object, name: str) -> bool:
    """Return a bool; nothing else is taken for one."""
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    hint = ""
    if isinstance(value, str) and name == "is_causal":
        hint = '; alignment is an option of its own: q_offset="lower_right"'
    raise OptionError(f"{name} is {shown(value)}; it has to be True or False{hint}")


def window(value: object) -> tuple[int, int]:
    """Return (left, right) with `UNBOUNDED` where there is no end."""
    if value is None:
        return UNBOUNDED, UNBOUNDED
    if (
        not isinstance(value, (tuple, list, np.ndarray))
        or (isinstance(value, np.ndarray) and not value.ndim)
        or len(value) != 2
    ):
        raise OptionError(
            f"window_size is {shown(value)}; it has to be a pair (left, right) of "
            "ints, each None or -1 for no end"
        )
    return _side(value[0], "left", value), _side(value[1], "right", value)


def _side(side: object, word: str, value: object) -> int:
    if side is None:
        return UNBOUNDED
    size = integer(side)
    if size is None or size < -1:
        raise OptionError(
            f"window_size is {shown(value)}; its {word} side has to be an int of 0 or "
            "more, or None or -1 for no end"
        )
    return UNBOUNDED if size == -1 else min(size, UNBOUNDED)


def integer(value: object) -> int | None:
    """Return an int for an int of any kind, but not for a bool."""
    if isinstance(value, (bool, np.bool_)):
        return None
    if isinstance(value, np.ndarray) and (value.ndim or value.dtype.kind not in "iu"):
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except Exception:  # someone else's __index__ may raise anything
        return None


def positive(value: object, name: str, meaning: str) -> int:
    """Return an int of 1 or more."""
    result = integer(value)
    if result is None or result < 1:
        raise OptionError(
            f"{name} is {shown(value)}; it has to be an int of 1 or more ({meaning})"
        )
    return result


def key_lengths(
    value: object, lead: tuple[int, ...], m: int
) -> int | NDArray[np.int64]:
    """Return how many keys exist, one number or by leading axes; m without any."""
    if value is None:
        return m
    result = _by_lead(value, "kv_lengths", lead)
    low, high = (
        (result, result)
        if isinstance(result, int)
        else (int(result.min(initial=m)), int(result.max(initial=0)))
    )
    if low < 0 or high > m:
        wrong = shown(low if low < 0 else high)
        raise OptionError(
            f"kv_lengths has the value {wrong}; it has to be in 0..m, and key has "
            f"m = {m} rows"
        )
    return result


def query_offset(
    value: object,
    lead: tuple[int, ...],
    n: int,
    m: int,
    lengths: int | NDArray[np.int64],
) -> int | NDArray[np.int64]:
    """Return the position of query row 0, one number or by leading axes.

    `lengths` is what `key_lengths` returned: "lower_right" puts the last query at
    the last key that exists.
    """
    if _is_lower_right(value):
        at_end: int | NDArray[np.int64] = lengths - n
        return at_end
    result = _by_lead(value, "q_offset", lead)
    return max(-FAR, min(result, FAR)) if isinstance(result, int) else result


def _is_lower_right(value: object) -> bool:
    if isinstance(value, str) and value != "lower_right":
        raise OptionError(
            f'q_offset is {shown(value)}; it has to be an int, "lower_right", or an '
            "array of ints"
        )
    return isinstance(value, str)


def _by_lead(
    value: object, name: str, lead: tuple[int, ...]
) -> int | NDArray[np.int64]:
    """Return an int, or an int64 copy of an array that goes with the leading axes."""
    single = integer(value)
    if single is not None:
        return single
    array = _int_array(value, name)
    if array.ndim != len(lead) or any(
        own not in (1, size) for own, size in zip(array.shape, lead, strict=True)
    ):
        example = ", for (batch, heads) pass x[:, None]" if len(lead) == 2 else ""
        raise ShapeError(
            f"{name} has shape {array.shape}; it has to be an int, or an array with "
            f"exactly as many axes as there are leading axes, {lead} here, each 1 or "
            f"equal{example}"
        )
    return _clipped(array)


def _int_array(value: object, name: str) -> NDArray[Any]:
    if value is None or isinstance(value, (bool, np.bool_, float, str, bytes)):
        raise OptionError(
            f"{name} is {shown(value)}; it has to be an int or an int array"
        )
    array = as_array(value, name)
    if array.dtype.kind not in "iu":
        raise DTypeError(
            f"{name} is {describe(array)}; it has to be of an int dtype: pass "
            f"{name}.astype(int)"
        )
    return array


def _clipped(array: NDArray[Any]) -> NDArray[np.int64]:
    """Return a copy within a range that can be reckoned with."""
    array = once(array)
    if array.dtype.kind == "u":
        array = np.minimum(array, np.uint64(FAR))
    return np.clip(array.astype(np.int64, order="C"), -FAR, FAR)


def sequence_starts(value: object, name: str, total: int) -> NDArray[np.int64]:
    """Return where packed sequences start, and at last the total; checked."""
    what = f"where the sequences start, from 0, and at last their total, {total}"
    if value is None or np.isscalar(value):
        raise OptionError(
            f"{name} is {shown(value)}; it has to be an int array: {what}"
        )
    array = _int_array(value, name)
    if array.ndim != 1 or not array.size:
        raise ShapeError(
            f"{name} has shape {array.shape}; it has to have one axis: {what}"
        )
    starts = _clipped(np.ascontiguousarray(array))
    if starts[0] != 0:
        raise OptionError(
            f"{name}[0] is {starts[0]}; it has to be 0: the first sequence starts there"
        )
    back = np.flatnonzero(np.diff(starts) < 0)
    if back.size:
        s = int(back[0]) + 1
        raise OptionError(
            f"{name}[{s}] is {starts[s]}, below {name}[{s - 1}], which is "
            f"{starts[s - 1]}; no sequence may end before it starts"
        )
    if starts[-1] != total:
        raise OptionError(
            f"{name}[{len(starts) - 1}], the last, is {starts[-1]}; it has to be "
            f"{total}, the number of packed rows (axis -2). FlashAttention's (total, "
            "heads, d) comes in by x.swapaxes(0, 1)"
        )
    return starts


def sequence_offsets(
    value: object, lengths_q: NDArray[np.int64], lengths_k: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return the position of query row 0 of every sequence."""
    count = len(lengths_q)
    if _is_lower_right(value):
        return lengths_k - lengths_q
    single = integer(value)
    if single is not None:
        return np.full(count, max(-FAR, min(single, FAR)))
    array = _int_array(value, "q_offset")
    if array.shape not in ((count,), (1,)):
        raise ShapeError(
            f"q_offset has shape {array.shape}; it has to be an int, or one for each "
            f"of the {count} sequences, of shape ({count},)"
        )
    return np.broadcast_to(_clipped(array), (count,))


def score_function(value: object, args: object) -> ScoreMod | None:
    """Return the score_mod with its arguments."""
    empty = isinstance(args, (tuple, list)) and not args
    if value is None:
        if not empty:
            raise OptionError(
                f"score_mod_args is {shown(args)}, and there is no score_mod that "
                "would take it; pass score_mod, too"
            )
        return None
    if not isinstance(value, ScoreMod):
        return ScoreMod.of_call(value, args)
    if not empty:
        raise OptionError(
            f"score_mod_args is {shown(args)}; with a ScoreMod, which has its own, it "
            "has to be empty"
        )
    return value


def additive(
    value: object, shape: tuple[int, ...], on_device: np.dtype[Any] | None
) -> Any:
    """Return the bias as it came, checked against the scores' shape.

    `on_device` is the accumulation dtype of a call of device arrays, which may have
    its bias there, too; None for others.
    """
    if value is None:
        return None
    array = as_array(value, "bias") if on_device is None else as_input(value, "bias")
    if array.dtype.kind in "biu":
        hint = (
            "pass it as mask= (True = attend)"
            if array.dtype.kind == "b"
            else "pass bias.astype(numpy.float32)"
        )
        raise DTypeError(
            f"bias is {describe(array)}; it has to be of a floating dtype, it is "
            f"added to the scores: {hint}"
        )
    float_name(array.dtype, "bias")
    broadcasts(array, "bias", shape)
    if isinstance(array, DeviceArray):
        check_layout(array, "bias")
        if array.dtype != on_device:
            raise DTypeError(
                f"bias is {describe(array)} on a CUDA device, where nothing is "
                f"converted; it has to be of {on_device}, in which the scores are: "
                f"bias.astype({str(on_device)!r}) in CuPy, bias.to(torch.{on_device}) "
                "in PyTorch"
            )
    return array


def boolean(value: object, shape: tuple[int, ...], on_device: bool) -> Any:
    """Return the mask as it came, checked against the scores' shape.

    `on_device` says whether the call is of device arrays: it may be there, too.
    """
    if value is None:
        return None
    array = as_input(value, "mask") if on_device else as_array(value, "mask")
    if array.dtype.kind != "b":
        hint = (
            "pass what is added to the scores as bias="
            if array.dtype.kind == "f" or array.dtype.name == "bfloat16"
            else "pass mask.astype(bool)"
        )
        raise DTypeError(
            f"mask is {describe(array)}; it has to be of dtype bool, True = attend: "
            f"{hint}"
        )
    broadcasts(array, "mask", shape)
    return array


def head_sinks(value: object, heads: int, dtype: np.dtype[Any]) -> NDArray[Any] | None:
    """Return a copy of the sinks in the accumulation dtype, one for each head."""
    if value is None:
        return None
    array = as_array(value, "sinks")
    if array.dtype.kind == "b":
        raise DTypeError(
            f"sinks is {describe(array)}; it has to be of real numbers, one logit for "
            "each head"
        )
    float_name(array.dtype, "sinks")
    if array.shape != (heads,):
        same = f"numpy.full({heads}, sinks)"
        hint = f": for one sink for all heads pass {same}" if not array.ndim else ""
        raise ShapeError(
            f"sinks has shape {array.shape}; it has to be ({heads},), one number for "
            f"each head of the result (axis -3; 1 head without that axis){hint}"
        )
    with np.errstate(over="ignore", invalid="ignore"):  # 1e300 is inf in float32
        return np.array(array, dtype, order="C")


def broadcasts(array: Any, name: str, shape: tuple[int, ...]) -> None:
    """Check that an array broadcasts to the scores."""
    extra = array.ndim - len(shape)
    if extra > 0 or any(
        own not in (1, size)
        for own, size in zip(array.shape, shape[-extra:], strict=True)
    ):
        raise ShapeError(
            f"{name} has shape {array.shape}; it has to broadcast to the scores' "
            f"(..., n, m) = {shape}: aligned at the right, each axis 1 or equal"
        )


def scale_number(value: object, d_k: int, dtype: np.dtype[Any]) -> float:
    """Return the scale; None is 1 / sqrt(d_k)."""
    if value is None:
        return default_scale(d_k, dtype)
    if type(value) is float and value == 1.0:
        return 1.0
    return number(value, "scale", dtype)
