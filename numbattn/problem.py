"""A call as backends take it."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .arrays import copy_bytes, duplicate, fits
from .device_arrays import DeviceArray
from .masks import Mask
from .options import UNBOUNDED
from .score_mod import ScoreMod

Operation = Literal["scores", "weights", "attention"]
OPERATIONS: tuple[Operation, ...] = ("scores", "weights", "attention")
_ARRAYS = ("query", "key", "value", "bias", "mask")
_INPUTS = ("query", "key", "value")


class AttentionProblem(NamedTuple):
    """What to compute; made by `checks.check`, never by hand.

    Arrays, but those that `copies` names, are plain, native, aligned, with strides
    that are multiples of the item size, and keep their own leading axes: nothing is
    repeated to broadcast it. Query, key and value are of `array_dtype`, a bias is of
    `acc_dtype`. Query head h reads key head ``h // (H_q // H_k)``.

    Where the call is of arrays on a device, query, key and value are `DeviceArray`s;
    bias and mask are that, or ndarrays. Everything else is on the host.

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
    """float32 or float64: to accumulate in."""
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
    score_mod: ScoreMod | None = None
    pattern: Mask | None = None
    """A mask object, but for its windows: nothing of the scores' size is made of it."""
    indices: NDArray[np.int64] | None = None
    """(leading, 2): what a score_mod or a mask object gets as b and h; else None."""
    first_row: int = 0
    """Number of query row 0, and of key 0, within the whole call."""
    first_key: int = 0
    n_total: int = 0
    """Rows of the whole call; what is cut from it keeps the path of the whole."""
    copies: tuple[str, ...] = ()
    """Fields that are not yet as above: `prepared` copies them."""
    halves: bool = False
    """Whether query, key, value and result are of `dtype`, not of `acc_dtype`."""

    @property
    def array_dtype(self) -> np.dtype[Any]:
        """Dtype of query, key and value, and of what the backend writes."""
        return self.dtype if self.halves else self.acc_dtype

    @property
    def on_device(self) -> bool:
        """Whether query, key and value lie on a device."""
        query: Any = self.query
        return type(query) is DeviceArray

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
        bounded = bounded or self.indices is not None
        return self._replace(
            query=self.query[..., q0:q1, :],
            key=self.key[..., k0:k1, :],
            value=None if self.value is None else self.value[..., k0:k1, :],
            n=q1 - q0,
            m=k1 - k0,
            first_row=self.first_row + q0,
            first_key=self.first_key + k0,
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
            if not isinstance(array, (np.ndarray, DeviceArray)):
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
            indices=None
            if self.indices is None
            else self.indices.reshape(*self.lead, 2)[place].reshape(-1, 2),
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


def lead_indices(lead: tuple[int, ...]) -> NDArray[np.int64]:
    """Return b, the flat index over all leading axes but the last, and h."""
    heads = lead[-1] if lead else 1
    flat = np.arange(prod(lead))
    return np.stack([flat // max(1, heads), flat % max(1, heads)], axis=1)


def copying(problem: AttentionProblem, names: Iterable[str]) -> AttentionProblem:
    """Return the problem with further arrays to be copied."""
    found = dict.fromkeys((*problem.copies, *names))
    return problem._replace(copies=tuple(found)) if found else problem


def unfit(problem: AttentionProblem) -> AttentionProblem:
    """Return the problem with what kernels cannot take as it lies in its `copies`.

    Masks they can; on a device nothing is copied.
    """
    names = ("bias",) if problem.on_device else (*_INPUTS, "bias")
    found = [
        name
        for name in names
        if isinstance(array := getattr(problem, name), np.ndarray)
        and not fits(array, _copy_dtype(problem, name))
    ]
    return problem._replace(copies=tuple(found)) if found else problem


def in_halves(problem: AttentionProblem) -> AttentionProblem:
    """Return the problem for a backend that takes half precision as it comes."""
    if problem.halves or problem.dtype is problem.acc_dtype:
        return problem
    return unfit(problem._replace(halves=True, copies=()))


def prepared(problem: AttentionProblem) -> AttentionProblem:
    """Return the problem with copies, in the dtypes that it says, of all `copies`."""
    if not problem.copies:
        return problem
    made: Any = {
        name: duplicate(getattr(problem, name), _copy_dtype(problem, name))
        for name in problem.copies
    }
    return problem._replace(**made, copies=())


def _copy_dtype(problem: AttentionProblem, name: str) -> np.dtype[Any]:
    if name == "mask":
        return np.dtype(np.bool_)
    return problem.array_dtype if name in _INPUTS else problem.acc_dtype
