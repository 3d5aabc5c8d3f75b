"""Arrays as kernels see them: a matrix at leading index 0, and a table of offsets.

However a problem is broadcast, grouped or strided, a kernel gets two-dimensional
views and, for each flat leading index, where its matrices start. Nothing is ever
copied or expanded for broadcasting.
"""

from __future__ import annotations

import threading
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from numbattn.problem import AttentionProblem

# columns of the int64 table `lead`, a row for each leading index: element offsets,
# the position of query row 0 and the number of keys that exist; with a score_mod or a
# mask object b and h, and where its blocks start in their table
QUERY, KEY, VALUE, OUT, BIAS, MASK, POSITION, LENGTH, BATCH, HEAD, BLOCKS = range(11)
COLUMNS = 11
PANELS = VALUE  # where there are no values: offsets of packed keys
SHORT_ROWS = 16  # documented: at most so many queries take the path for few rows
LEAD_BYTES = 8 * COLUMNS + 8  # of a row of it, and of a sink
KEPT_LEADS = 1024  # leading indices up to which offsets are kept for further calls

KEPT_BYTES = 8 << 20
_kept = threading.local()

LINE = 16  # elements: at least a cache line of 64 bytes

_BOOL = np.dtype(np.bool_)
_NOTHING: dict[np.dtype[Any], np.ndarray] = {
    kind: np.empty((0, 0), kind)
    for kind in (np.dtype(np.float32), np.dtype(np.float64), _BOOL)
}
_NO_NUMBERS = {kind: array.ravel() for kind, array in _NOTHING.items()}


def matrix(array: np.ndarray | None, dtype: np.dtype[Any] = _BOOL) -> np.ndarray:
    """The last two axes at leading index 0; an empty matrix for None."""
    if array is None:
        return _NOTHING[dtype]
    if array.ndim == 2:
        return array
    if array.ndim < 2:
        return array.reshape((1,) * (2 - array.ndim) + array.shape)
    view: np.ndarray = array[(0,) * (array.ndim - 2)]
    return view


def _fill(
    total: np.ndarray, shape: tuple[int, ...], strides: tuple[int, ...], item: int
) -> None:
    """Add offsets in elements, for each index of `total`, for one array's axes."""
    for back in range(1, len(shape) + 1):
        size, wanted = shape[-back], total.shape[-back]
        if size == 1:
            continue
        along = np.moveaxis(total, -back, -1)
        for first in range(0, wanted, KEPT_LEADS):  # in parts that take no memory
            index = np.arange(first, min(wanted, first + KEPT_LEADS))
            index //= wanted // size  # grouped heads
            along[..., first : first + KEPT_LEADS] += index * (strides[-back] // item)


@lru_cache(maxsize=64)
def _offsets(
    shape: tuple[int, ...], strides: tuple[int, ...], lead: tuple[int, ...], item: int
) -> np.ndarray:
    """Offsets for each flat index of `lead`, remembered."""
    total = np.zeros(lead, np.int64)
    _fill(total, shape, strides, item)
    return total.ravel()


@lru_cache(maxsize=256)
def _single(position: int, length: int) -> np.ndarray:
    """The table of a problem of matrices; kernels only read it."""
    return np.array(((0,) * 6 + (position, length, 0, 0, 0),), np.int64)


def key_starts(key: np.ndarray) -> np.ndarray:
    """Element offsets of all key matrices, one after the other."""
    own = key.shape[:-2]
    return _offsets(own, key.strides[:-2], own, key.itemsize)


def panel_offsets(
    key: np.ndarray, lead: tuple[int, ...], size: int
) -> np.ndarray | int:
    """Where the panels of each leading index start, `size` elements a key matrix."""
    own = key.shape[:-2]
    strides = tuple(size * prod(own[i + 1 :]) for i in range(len(own)))
    return _offsets(own, strides, lead, 1) if own else 0


@lru_cache(maxsize=64)
def _same(
    lead: tuple[int, ...],
    item: int,
    position: int,
    length: int,
    axes: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...],
) -> np.ndarray:
    """The table of a problem with one position and length; kernels only read it."""
    table = np.zeros((prod(lead), COLUMNS), np.int64)
    for column, (shape, strides) in enumerate(axes):
        size = 1 if column == MASK else item
        table[:, column] = _offsets(shape, strides, lead, size)
    table[:, POSITION], table[:, LENGTH] = position, length
    return table


def _axes(array: np.ndarray | None) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The leading axes: shape and strides."""
    return ((), ()) if array is None else (array.shape[:-2], array.strides[:-2])


def lead_table(problem: AttentionProblem, out: np.ndarray) -> np.ndarray:
    """The table of offsets, positions and lengths, (leading indices, COLUMNS) int64.

    Nobody may write to it: it serves all calls of the like (9 us to make).
    """
    lead = problem.lead
    position, length = problem.q_offset, problem.kv_lengths
    if not lead:
        return _single(int(position), int(length))
    arrays = (
        problem.query,
        problem.key,
        problem.value,
        out,
        problem.bias,
        problem.mask,
    )
    axes = tuple([_axes(array) for array in arrays])
    kept = prod(lead) <= KEPT_LEADS
    item = problem.acc_dtype.itemsize
    if kept and isinstance(position, int) and isinstance(length, int):
        return _same(lead, item, position, length, axes)
    table = np.zeros((prod(lead), COLUMNS), np.int64)
    for column, (shape, strides) in enumerate(axes):
        size = 1 if column == MASK else item
        if kept:
            table[:, column] = _offsets(shape, strides, lead, size)
        elif shape:
            _fill(table[:, column].reshape(lead), shape, strides, size)
    for column, number in ((POSITION, position), (LENGTH, length)):
        table[:, column].reshape(lead)[...] = number
    return table


def behind(array: np.ndarray, lanes: int) -> int:
    """How many elements an array starts behind a multiple of `lanes` of them."""
    place: int = array.__array_interface__["data"][0]
    return place // array.itemsize % lanes


def borrow(elements: int, dtype: np.dtype[Any]) -> np.ndarray:
    """Scratch of a whole call, uninitialised, from a cache line on.

    Nobody else has it until `give_back`: not the calls that a progress callback, or a
    signal handler, makes meanwhile.
    """
    kept: dict[Any, np.ndarray] = _kept.__dict__
    flat = kept.pop((dtype, "lent"), None)
    if flat is None or flat.size < elements + LINE:
        flat = np.empty(elements + LINE, dtype)
    return flat[-behind(flat, LINE) % LINE :][:elements]


def give_back(scratch: np.ndarray) -> None:
    """Keep for the next call what was borrowed."""
    flat = scratch.base
    if flat is not None and 0 < flat.nbytes <= KEPT_BYTES:
        kept: dict[Any, np.ndarray] = _kept.__dict__
        kept[flat.dtype, "lent"] = flat


def empty_panels(dtype: np.dtype[Any]) -> np.ndarray:
    """No packed keys."""
    return _NO_NUMBERS[dtype]


def lead_sinks(problem: AttentionProblem) -> np.ndarray:
    """The sink of each leading index; an empty array without sinks."""
    if problem.sinks is None:
        return _NO_NUMBERS[problem.acc_dtype]
    repeated = np.broadcast_to(problem.sinks, problem.lead or (1,))
    return np.ascontiguousarray(repeated).reshape(-1)


def workspace(
    workers: int, elements: int, dtype: np.dtype[Any], keep: bool = True
) -> np.ndarray:
    """Uninitialised scratch, (workers, elements and a cache line to align).

    A thread keeps what it used last, up to `KEPT_BYTES`: fresh memory costs a page
    fault for each 4 KiB, 40 us of the 180 that 512 x 512 scores take. Not so where
    `keep` is False: what carries something from slab to slab must be out of reach of
    the calls that a progress callback makes in between.
    """
    shape = workers, elements + LINE
    if not keep:
        return np.empty(shape, dtype)
    kept: dict[Any, np.ndarray] = _kept.__dict__
    last = kept.get((dtype, "last"))
    if last is not None and last.shape == shape:
        return last
    flat = kept.get((dtype, "flat"))
    if flat is None or flat.size < workers * shape[1]:
        flat = np.empty(workers * shape[1], dtype)
    last = flat[: workers * shape[1]].reshape(shape)
    if flat.nbytes <= KEPT_BYTES:
        kept[dtype, "flat"], kept[dtype, "last"] = flat, last
    return last
