"""A call, checked once for all backends: shapes, dtypes, heads, options, `out`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import options
from .arrays import (
    CONTIGUOUS_ALIGNED,
    FLOAT32,
    FLOAT64,
    as_array,
    copy_bytes,
    duplicate,
    fits,
    ready,
    result_dtype,
)
from .errors import OptionError
from .options import UNBOUNDED
from .shapes import differ, leading

Operation = Literal["scores", "weights", "attention"]
OPERATIONS: tuple[Operation, ...] = ("scores", "weights", "attention")
_Named = list[tuple[str, NDArray[Any]]]
NO_OFFSET = 0
_OUT_FLAGS = CONTIGUOUS_ALIGNED | 0x400  # NPY_ARRAY_WRITEABLE

_ARRAYS = ("query", "key", "value", "bias", "mask")


class AttentionProblem(NamedTuple):
    """What to compute; made by `check`, never by hand.

    Arrays, but those that `copies` names, are plain, native, aligned, of the
    accumulation dtype, with strides that are multiples of the item size, and keep
    their own leading axes: nothing is repeated to broadcast it. Query head h reads
    key head ``h // (H_q // H_k)``.

    Key j is attended by query i where ``q_idx - left <= j <= q_idx + right`` with
    ``q_idx = i + q_offset``, and ``j < kv_lengths``, and the mask, broadcast, is True.
    """

    # a named tuple: it is frozen, and made in a third of a frozen dataclass's time
    operation: Operation
    query: NDArray[Any]
    """(..., n, d_k)"""
    key: NDArray[Any]
    """(..., m, d_k)"""
    value: NDArray[Any] | None
    """(..., m, d_v); None unless the operation is "attention"."""
    lead: tuple[int, ...]
    """Leading axes of the result, the heads last; () for matrices."""
    n: int
    m: int
    d_k: int
    d_v: int
    """0 unless the operation is "attention"."""
    dtype: np.dtype[Any]
    """Of the result."""
    acc_dtype: np.dtype[Any]
    """float32 or float64: of all arrays here, and to accumulate in."""
    scale: float
    """Exactly a value of `acc_dtype`, as `softcap` is."""
    softcap: float = 0.0
    """0.0 for none."""
    bias: NDArray[Any] | None = None
    """Own axes, broadcastable to ``lead + (n, m)``."""
    mask: NDArray[np.bool_] | None = None
    """Own axes, broadcastable to ``lead + (n, m)``; True = attend."""
    left: int = UNBOUNDED
    right: int = UNBOUNDED
    """0 or less where the call is causal."""
    q_offset: int | NDArray[np.int64] = 0
    """One number, or an array of as many axes as `lead`, each 1 or equal."""
    kv_lengths: int | NDArray[np.int64] = 0
    """Likewise; m where the call gave none."""
    sinks: NDArray[Any] | None = None
    """(heads,), C-contiguous: ``lead[-1]`` of them, 1 for matrices; not of scores."""
    n_total: int = 0
    """Rows of the whole call; what is cut from it keeps the path of the whole."""
    copies: tuple[str, ...] = ()
    """Fields that are not yet as above: `prepared` copies them."""

    @property
    def copied_bytes(self) -> int:
        """Bytes of the copies that `prepared` is going to make."""
        return sum(
            copy_bytes(getattr(self, name), _copy_dtype(self, name))
            for name in self.copies
        )

    @property
    def out_shape(self) -> tuple[int, ...]:
        """Shape of the result."""
        last = self.d_v if self.operation == "attention" else self.m
        return (*self.lead, self.n, last)

    @property
    def lse_shape(self) -> tuple[int, ...]:
        """Shape of the log-sum-exp."""
        return (*self.lead, self.n)

    def block(self, q0: int, q1: int, k0: int, k1: int) -> AttentionProblem:
        """Return the problem of query rows q0..q1 and keys k0..k1 of the scores."""
        lengths = self.kv_lengths
        bounded = self.left != UNBOUNDED or self.right != UNBOUNDED
        return self._replace(
            query=self.query[..., q0:q1, :],
            key=self.key[..., k0:k1, :],
            value=None if self.value is None else self.value[..., k0:k1, :],
            n=q1 - q0,
            m=k1 - k0,
            bias=_cut(self.bias, q0, q1, k0, k1),
            mask=_cut(self.mask, q0, q1, k0, k1),
            q_offset=self.q_offset + (q0 - k0) if bounded else 0,
            kv_lengths=max(0, min(lengths - k0, k1 - k0))
            if isinstance(lengths, int)
            else np.clip(lengths - k0, 0, k1 - k0),
        )

    def at(self, place: tuple[slice, ...]) -> AttentionProblem:
        """Return the problem of some leading indices, a slice for each axis.

        Of grouped heads it takes one, some of one group, or whole groups.
        """

        def cut(array: Any, trailing: int) -> Any:
            if not isinstance(array, np.ndarray):
                return array
            axes = max(0, array.ndim - trailing)
            skip = len(place) - axes
            whole = zip(place[skip:], array.shape, self.lead[skip:], strict=False)
            # an axis of 1 serves all places, a shorter heads axis equal groups
            index = [
                slice(part.start * own // size, -(-part.stop * own // size))
                if size
                else slice(None)
                for part, own, size in whole
            ]
            return array[tuple(index)]

        return self._replace(
            lead=tuple(part.stop - part.start for part in place),
            q_offset=cut(self.q_offset, 0),
            kv_lengths=cut(self.kv_lengths, 0),
            sinks=self.sinks[place[-1]]
            if self.sinks is not None and place
            else self.sinks,
            **{name: cut(getattr(self, name), 2) for name in _ARRAYS},
        )

    def rows(self, q0: int, q1: int) -> AttentionProblem:
        """Return the problem of query rows q0..q1, with all keys."""
        return self.block(q0, q1, 0, self.m)


def _cut(array: NDArray[Any] | None, q0: int, q1: int, k0: int, k1: int) -> Any:
    if array is None:
        return None
    if array.ndim and array.shape[-1] != 1:
        array = array[..., k0:k1]
    if array.ndim > 1 and array.shape[-2] != 1:
        array = array[..., q0:q1, :]
    return array


def check(
    operation: Operation,
    query: object,
    key: object,
    value: object = None,
    *,
    scale: object = None,
    softcap: object = None,
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
        The inputs; `value` for "attention" only.
    scale, softcap, bias, mask, is_causal, window_size, q_offset, kv_lengths, sinks
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
        An array lies on a CUDA device.
    """
    query = as_array(query, "query")
    key = as_array(key, "key")
    values = as_array(value, "value") if operation == "attention" else None

    # Each step has a general way and, for speed, a test whether nothing is to be done.
    dtype = acc_dtype = query.dtype
    simple = (
        (dtype is FLOAT32 or dtype is FLOAT64)
        and ready(query, dtype)
        and ready(key, dtype)
        and (values is None or ready(values, dtype))
    )
    if not simple:
        named = _named(query, key, values)
        dtype, acc_dtype = result_dtype(named)
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
        kv_lengths=m, n_total=n,
    )  # fmt: skip
    if (
        softcap is not None
        or bias is not None
        or mask is not None
        or is_causal is not False
        or window_size is not None
        or q_offset is not NO_OFFSET  # by identity: it may be an array
        or kv_lengths is not None
        or sinks is not None
    ):
        problem = _with_options(
            problem, softcap, bias, mask, is_causal, window_size, q_offset, kv_lengths,
            sinks,
        )  # fmt: skip
    if not simple or problem.bias is not None:
        problem = copying(problem, _unfit(problem))
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


def _named(
    query: NDArray[Any], key: NDArray[Any], values: NDArray[Any] | None
) -> _Named:
    named = [("query", query), ("key", key)]
    return named if values is None else [*named, ("value", values)]


def _with_options(
    problem: AttentionProblem,
    softcap: object,
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
    if left == UNBOUNDED == right:
        offset = 0  # checked, and without effect
    return problem._replace(
        softcap=options.softcap_number(softcap, problem.acc_dtype),
        bias=options.additive(bias, (*lead, n, m)),
        mask=options.boolean(mask, (*lead, n, m)),
        left=left,
        right=right,
        q_offset=offset,
        kv_lengths=lengths,
        sinks=options.head_sinks(sinks, lead[-1] if lead else 1, problem.acc_dtype),
    )


def _unfit(problem: AttentionProblem) -> list[str]:
    """Return the arrays that kernels cannot take as they lie; masks they can."""
    return [
        name
        for name in ("query", "key", "value", "bias")
        if (array := getattr(problem, name)) is not None
        and not fits(array, problem.acc_dtype)
    ]


def copying(problem: AttentionProblem, names: Iterable[str]) -> AttentionProblem:
    """Return the problem with further arrays to be copied."""
    found = dict.fromkeys((*problem.copies, *names))
    return problem._replace(copies=tuple(found)) if found else problem


def prepared(problem: AttentionProblem) -> AttentionProblem:
    """Return the problem with copies, in the accumulation dtype, of all `copies`."""
    if not problem.copies:
        return problem
    made: Any = {
        name: duplicate(getattr(problem, name), _copy_dtype(problem, name))
        for name in problem.copies
    }
    return problem._replace(**made, copies=())


def _copy_dtype(problem: AttentionProblem, name: str) -> np.dtype[Any]:
    return np.dtype(np.bool_) if name == "mask" else problem.acc_dtype
