"""What the options make of one score, and the loading of tiles to shared memory."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import layout, ptx
from .device import device_function
from .geometry import Geometry, TensorGeometry
from .layout import (
    B_COL,
    B_ROW,
    BIAS,
    D_K,
    FIRST_KEY,
    FIRST_ROW,
    FLAGS,
    HAS_BIAS,
    HAS_MASK,
    HAS_MOD,
    HAS_PATTERN,
    HAS_SOFTCAP,
    K_COL,
    K_ROW,
    K_VECTOR,
    KEY,
    LEFT,
    LENGTH,
    M_COL,
    M_ROW,
    MASK,
    POSITION,
    Q_COL,
    Q_ROW,
    Q_VECTOR,
    QUERY,
    RIGHT,
    SOFTCAP,
    M,
    N,
)  # fmt: skip

BATCH, HEAD = layout.BATCH, layout.HEAD


def unchanged(s, b, h, q_idx, kv_idx, arguments, status):  # type: ignore[no-untyped-def]
    """The score_mod of calls without one."""
    return s


def everywhere(b, h, q_idx, kv_idx, row, arguments, status):  # type: ignore[no-untyped-def]
    """The mask object of calls without one."""
    return True


def changed_by(real: type[np.floating[Any]], modify: Any, attends: Any) -> Any:
    """The function that makes the final score of query i and key j.

    Parameters
    ----------
    real : type
        Of scores: numpy.float32 or float64.
    modify, attends : callable
        Device functions: a call's score_mod and its mask object.

    Returns
    -------
    callable
        ``changed(s, i, j, at, ...)``; `at` is where the table has the leading index.
    """
    hidden = real(-np.inf)

    @device_function
    def changed(s, i, j, at, bias, mask, leads, sizes, reals, flags, arguments, status):  # type: ignore[no-untyped-def]
        q = i + ptx.read(leads, at + POSITION)
        if j >= ptx.read(leads, at + LENGTH) or j < q - sizes[LEFT]:
            return hidden
        if j > q + sizes[RIGHT]:
            return hidden
        if flags & HAS_MASK:
            place = ptx.read(leads, at + MASK) + i * sizes[M_ROW] + j * sizes[M_COL]
            if ptx.read(mask, place) == 0:
                return hidden
        if flags & (HAS_PATTERN | HAS_MOD):
            b, h = ptx.read(leads, at + BATCH), ptx.read(leads, at + HEAD)
            q_idx, kv_idx = q + sizes[FIRST_KEY], j + sizes[FIRST_KEY]
            if flags & HAS_PATTERN:
                row = i + sizes[FIRST_ROW]
                if not attends(b, h, q_idx, kv_idx, row, arguments, status):
                    return hidden
        if flags & HAS_SOFTCAP:
            s = reals[SOFTCAP] * ptx.tanh(s / reals[SOFTCAP])
        if flags & HAS_MOD:
            b, h = ptx.read(leads, at + BATCH), ptx.read(leads, at + HEAD)
            q_idx, kv_idx = q + sizes[FIRST_KEY], j + sizes[FIRST_KEY]
            s = real(modify(s, b, h, q_idx, kv_idx, arguments, status))
        if flags & HAS_BIAS:
            place = ptx.read(leads, at + BIAS) + i * sizes[B_ROW] + j * sizes[B_COL]
            added = ptx.read(bias, place)
            if added == hidden:  # masks, also where it meets NaN or +inf
                return hidden
            s += added
        return s

    return changed


def corner(shape: Geometry | TensorGeometry) -> Any:
    """``place()``: x and y of the thread, which has rows y, y + down, y + 2 down, ...

    On tensor cores x counts on from one warp along keys to the next.
    """
    across, tensor = shape.across, isinstance(shape, TensorGeometry)
    key_warps = shape.key_warps if isinstance(shape, TensorGeometry) else 1
    height = 8 * shape.rows

    @device_function
    def place():  # type: ignore[no-untyped-def]
        t = ptx.thread()
        if not tensor:
            return t % across, t // across
        lane, warp = t % 32, t // 32
        return lane % 4 + warp % key_warps * 8, warp // key_warps * height + lane // 4

    return place


def loader(
    real: Any,
    threads: int,
    rows: int,
    columns: int,
    pitch: int,
    width: int,
    turn: tuple[int, int] = (0, 0),
    finite: Any = ptx.finite,
) -> Any:
    """The function that begins to copy a rows x columns piece to shared memory.

    Parameters
    ----------
    real : type
        Of an element.
    threads : int
        Of a block; all take part.
    rows, columns : int
        Of the piece in shared memory; what the matrix lacks of it becomes zeros.
    pitch : int
        Elements from one row of it to the next.
    width : int
        Elements in 16 bytes.
    turn : tuple of int
        How vectors change places in a row, see `geometry.turn`; not at all by default.
    finite : callable
        Whether an element is; by default those that are floats.

    Returns
    -------
    callable
        ``load(target, to, source, start, row_step, column_step, height, breadth,
        aligned, clean, t)`` of thread t: element (r, c) comes from
        start + r row_step + c column_step where r < height and c < breadth; where
        `clean`, as 0 if it is not finite. Complete after `ptx.copy_wait` and a barrier.
    """
    groups, zero, (shift, bits) = columns // width, real(0), turn
    lanes = min(threads, groups)
    down = threads // lanes
    copy16 = ptx.copier(width)

    @device_function
    def load(  # type: ignore[no-untyped-def]
        target, to, source, start, row_step, column_step, height, breadth, aligned,
        clean, t,
    ):  # fmt: skip
        for c in range(t % lanes, groups, lanes):
            some = max(0, min(width, breadth - c * width))
            r = t // lanes
            begin = start + c * width * column_step
            while r < rows:
                count = some if r < height else 0
                from_ = begin + r * row_step
                place = to + r * pitch + (c ^ ((r >> shift) & bits)) * width
                if aligned and not clean:
                    copy16(target, place, source, from_ if count else 0, count)
                else:
                    k = 0
                    while k < width:
                        value = zero
                        if k < count:
                            value = ptx.read(source, from_ + k * column_step)
                            if clean and not finite(value):
                                value = zero
                        ptx.write(target, place + k, value)
                        k = ptx.onward(k, 1)
                r = ptx.onward(r, down)

    return load


def pieces(load_q: Any, load_k: Any, q_size: int, depth: int) -> Any:
    """``bring(...)``: begin to copy piece `step` of d_k of a tile of Q, and of K."""

    @device_function
    def bring(staged, to, query, key, leads, sizes, at, first, k_first, step):  # type: ignore[no-untyped-def]
        t, flags, c = ptx.thread(), sizes[FLAGS], step * depth
        load_q(
            staged, to, query,
            ptx.read(leads, at + QUERY) + first * sizes[Q_ROW] + c * sizes[Q_COL],
            sizes[Q_ROW], sizes[Q_COL], sizes[N] - first, sizes[D_K] - c,
            flags & Q_VECTOR, False, t,
        )  # fmt: skip
        load_k(
            staged, to + q_size, key,
            ptx.read(leads, at + KEY) + k_first * sizes[K_ROW] + c * sizes[K_COL],
            sizes[K_ROW], sizes[K_COL], sizes[M] - k_first, sizes[D_K] - c,
            flags & K_VECTOR, False, t,
        )  # fmt: skip

    return bring
