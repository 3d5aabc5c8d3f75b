"""A call, checked once for all backends: shapes, dtypes, heads, options."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from . import options
from .arrays import (
    CONTIGUOUS_ALIGNED,
    FLOAT32,
    FLOAT64,
    device_dtypes,
    ready,
    result_dtype,
)
from .device_arrays import DeviceArray
from .errors import DTypeError, OptionError
from .interchange import as_input
from .masks import Mask
from .options import UNBOUNDED
from .problem import AttentionProblem, Operation, lead_indices, unfit
from .shapes import differ, leading

_Named = list[tuple[str, Any]]
NO_OFFSET = 0
NO_ARGS: tuple[()] = ()
_OUT_FLAGS = CONTIGUOUS_ALIGNED | 0x400  # NPY_ARRAY_WRITEABLE


def check(
    operation: Operation,
    query: Any,
    key: Any,
    value: object = None,
    *,
    scale: object = None,
    softcap: object = None,
    score_mod: object = None,
    score_mod_args: object = (),
    bias: object = None,
    mask: object = None,
    is_causal: object = False,
    window_size: object = None,
    q_offset: object = 0,
    kv_lengths: object = None,
    sinks: object = None,
) -> AttentionProblem:
    """Check a call; `prepared` then brings it into the one form that backends take.

    Nothing large is allocated here: what has to be copied is only named.

    Parameters
    ----------
    operation : {"scores", "weights", "attention"}
        What to compute.
    query, key, value : array_like
        The inputs; `value` for "attention" only. All on the host, or all on a device.
    scale, softcap, score_mod, score_mod_args, bias, mask, is_causal, window_size, \
q_offset, kv_lengths, sinks
        The options of `numbattn.attention`; here a scale of None is 1/sqrt(d_k) for
        every operation.

    Returns
    -------
    AttentionProblem
        The call, ready for a backend but for its `copies`.

    Raises
    ------
    ShapeError, DTypeError, OptionError
        As the public functions say.
    DeviceArrayError
        An option lies on a CUDA device, and not the inputs; or has to be on the host.
    """
    query = as_input(query, "query")
    key = as_input(key, "key")
    values = as_input(value, "value") if operation == "attention" else None

    # Each step has a general way and, for speed, a test whether nothing is to be done.
    dtype = acc_dtype = query.dtype
    simple = (
        (dtype is FLOAT32 or dtype is FLOAT64)
        and type(query) is np.ndarray is type(key)
        and ready(query, dtype)
        and ready(key, dtype)
        and (values is None or (type(values) is np.ndarray and ready(values, dtype)))
    )
    if not simple:
        named = _named(query, key, values)
        on_device = one_place(named)
        dtype, acc_dtype = (device_dtypes if on_device else result_dtype)(named)
    if query.ndim == 2 == key.ndim and (values is None or values.ndim == 2):
        lead: tuple[int, ...] = ()
    else:
        lead = leading(_named(query, key, values))
    n, d_k = query.shape[-2:]
    m, key_depth = key.shape[-2:]
    d_v = 0
    if d_k != key_depth:
        raise differ("query", query, "key", key, "their last axis, d_k")
    if values is not None:
        m_value, d_v = values.shape[-2:]
        if m_value != m:
            raise differ("key", key, "value", values, "axis -2, the number of keys m")
    factor = options.scale_number(scale, d_k, acc_dtype)
    problem = AttentionProblem(
        operation, query, key, values, lead, n, m, d_k, d_v, dtype, acc_dtype, factor,
        kv_lengths=m, n_total=n, halves=not simple and on_device,
    )  # fmt: skip
    if (
        softcap is not None
        or score_mod is not None
        or score_mod_args is not NO_ARGS  # by identity: it may be an array
        or bias is not None
        or mask is not None
        or is_causal is not False
        or window_size is not None
        or q_offset is not NO_OFFSET  # by identity: it may be an array
        or kv_lengths is not None
        or sinks is not None
    ):
        problem = _with_options(
            problem, softcap, score_mod, score_mod_args, bias, mask, is_causal,
            window_size, q_offset, kv_lengths, sinks,
        )  # fmt: skip
    if not simple or problem.bias is not None:
        problem = unfit(problem)
    return problem


def plain(
    operation: Operation, query: Any, key: Any, scale: object, out: Any
) -> AttentionProblem | None:
    """Return what `check` makes of plain matrices without options, at a glance.

    Parameters
    ----------
    operation : {"scores", "weights"}
        What to compute.
    query, key : object
        The inputs.
    scale : object
        The option; None is 1/sqrt(d_k).
    out : object
        What the caller passed, None for nothing.

    Returns
    -------
    AttentionProblem or None
        None where anything is not plain, overlaps or does not fit, and for an empty
        result: `check` and `check_out` know what to do then.
    """
    array = np.ndarray
    if type(query) is not array or type(key) is not array:
        return None
    dtype = query.dtype
    if (
        (dtype is not FLOAT32 and dtype is not FLOAT64)
        or key.dtype is not dtype
        or query.flags.num & key.flags.num & CONTIGUOUS_ALIGNED != CONTIGUOUS_ALIGNED
        or not query.ndim == 2 == key.ndim
    ):
        return None
    n, d_k = query.shape
    m, key_depth = key.shape
    if d_k != key_depth or not n * m:
        return None
    if out is not None and (
        type(out) is not array
        or out.dtype is not dtype
        or out.flags.num & _OUT_FLAGS != _OUT_FLAGS
        or out.shape != (n, m)
        or np.may_share_memory(query, out)
        or np.may_share_memory(key, out)
    ):
        return None
    factor = options.scale_number(scale, d_k, dtype)
    return AttentionProblem(
        operation, query, key, None, (), n, m, d_k, 0, dtype, dtype, factor,
        kv_lengths=m, n_total=n,
    )  # fmt: skip


def one_place(named: Sequence[tuple[str, object]]) -> bool:
    """Return whether arrays are on a device; refuse some there and some not."""
    there = [name for name, array in named if type(array) is DeviceArray]
    if len(there) in (0, len(named)):
        return bool(there)
    here = [name for name, _ in named if name not in there]
    on, off = (
        f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'}"
        for names in (there, here)
    )
    raise DTypeError(
        f"{on} on a CUDA device, {off} in host memory; query, key, value and out have "
        "to be in one place. Copy to the device by cupy.asarray(x), torch.as_tensor(x, "
        "device='cuda') or Numba's cuda.to_device(x), or to the host by x.get() in "
        "CuPy, x.cpu().numpy() in PyTorch, x.copy_to_host() in Numba"
    )


def _named(query: Any, key: Any, values: Any) -> _Named:
    named = [("query", query), ("key", key)]
    return named if values is None else [*named, ("value", values)]


def _with_options(
    problem: AttentionProblem,
    softcap: object,
    score_mod: object,
    score_mod_args: object,
    bias: object,
    mask: object,
    is_causal: object,
    window_size: object,
    q_offset: object,
    kv_lengths: object,
    sinks: object,
) -> AttentionProblem:
    if sinks is not None and problem.operation == "scores":
        raise OptionError(
            "sinks is given, which scores does not take: a sink is in the softmax only"
        )
    lead, n, m = problem.lead, problem.n, problem.m
    left, right = options.window(window_size)
    if options.flag(is_causal, "is_causal"):
        right = min(right, 0)
    lengths = options.key_lengths(kv_lengths, lead, m)
    offset = options.query_offset(q_offset, lead, n, m, lengths)
    function, pattern = options.score_function(score_mod, score_mod_args), None
    if isinstance(mask, Mask):
        mask.check(n, m, prod(lead[:-1]), lead[-1] if lead else 1)
        *window, pattern = mask.split
        left, right = min(left, window[0]), min(right, window[1])
        mask = None
    indices = None
    if function is not None or pattern is not None:
        indices = lead_indices(lead)
    elif left == UNBOUNDED == right:
        offset = 0  # checked, and without effect
    there = problem.acc_dtype if problem.on_device else None
    return problem._replace(
        score_mod=function,
        pattern=pattern,
        indices=indices,
        softcap=options.softcap_number(softcap, problem.acc_dtype),
        bias=options.additive(bias, (*lead, n, m), there),
        mask=options.boolean(mask, (*lead, n, m), problem.on_device),
        left=left,
        right=right,
        q_offset=offset,
        kv_lengths=lengths,
        sinks=options.head_sinks(sinks, lead[-1] if lead else 1, problem.acc_dtype),
    )
