"""Arrays of the host: copied to the device, in blocks where they do not fit.

Blocks are cut along leading axes and queries; where the keys alone are too many they
come in parts, and what rows have of the parts so far stays on the device. Two blocks
are under way at a time, each on a stream of its own: one is copied while the other
computes. None of it changes a bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any, NamedTuple

import numpy as np

from numbattn.backends import Execution
from numbattn.device_arrays import DeviceArray
from numbattn.errors import MemoryLimitError
from numbattn.memory import show
from numbattn.problem import AttentionProblem

from . import device, engine, layout, streams

_SHARE = 0.9  # of the free memory: the allocator rounds up
_READ = ("query", "key", "value", "bias", "mask")
_SLOTS = 2
_FIXED = 1 << 12  # bytes of tables and the like


class Cut(NamedTuple):
    """How large a block is; all of what is not cut."""

    leads: int
    """Indices of the first leading axis; 0 for one index of all axes at a time."""
    rows: int
    keys: int


def bytes_of(problem: AttentionProblem, keys: int) -> int:
    """Bytes on the device of a block with so many keys at a time."""
    item, acc = problem.array_dtype.itemsize, problem.acc_dtype.itemsize
    rows = prod(problem.lead) * problem.n
    part = problem.block(0, problem.n, 0, min(keys, problem.m))
    read = sum(
        prod(array.shape) * array.itemsize
        for name in _READ
        if (array := getattr(part, name)) is not None
    )
    wide = problem.out_shape[-1]
    if problem.operation == "scores":
        wide = min(keys, wide)
    carried = rows * (problem.d_v + 4) * acc
    table = prod(problem.lead) * layout.COLUMNS * 8
    return int(read + rows * (wide * item + acc) + carried + table + _FIXED)


def cut_for(
    problem: AttentionProblem, room: int | None, execution: Execution
) -> tuple[Cut, int]:
    """The largest blocks of which two fit into so many bytes, or one that is all.

    Returns
    -------
    tuple of Cut and int
        The blocks, and the bytes of those under way; the least there are, where not
        even they fit.
    """
    lead, n, m = problem.lead, problem.n, problem.m
    needed = bytes_of(problem, m)
    if room is None or needed <= room:
        return Cut(lead[0] if lead else 1, n, m), needed
    each = room // _SLOTS
    if len(lead) > 1:
        steps = lead[0]
        while steps > 1:
            steps = -(-steps // 2)
            needed = bytes_of(problem.at(_place(lead, 0, steps)), m)
            if needed <= each:
                return Cut(steps, n, m), _SLOTS * needed
    one = problem.at(tuple(slice(0, 1) for _ in lead))
    shape = engine.shape_of(problem, execution)
    rows, keys = n, m
    step = engine.stretch(shape, m) * shape.block_kv
    while (needed := bytes_of(one.rows(0, rows), keys)) > each:
        if rows > shape.block_q or (rows > 1 and keys <= step):
            rows = -(-rows // 2)
        elif keys > step:
            keys = max(1, keys // 2 // step) * step
        else:
            break
    return Cut(0, rows, keys), _SLOTS * needed


def _place(lead: tuple[int, ...], first: int, last: int) -> tuple[slice, ...]:
    return (slice(first, last), *(slice(0, size) for size in lead[1:]))


def _blocks(
    problem: AttentionProblem, cut: Cut
) -> Iterator[tuple[tuple[slice, ...], int, int, int, int]]:
    """Leading indices, rows and keys of each block; keys are cut for scores only."""
    lead, n, m = problem.lead, problem.n, problem.m
    if not lead:
        places: Any = [()]
    elif cut.leads:
        places = (
            _place(lead, first, min(first + cut.leads, lead[0]))
            for first in range(0, lead[0], cut.leads)
        )
    else:
        places = (tuple(slice(i, i + 1) for i in index) for index in np.ndindex(*lead))
    keys = cut.keys if problem.operation == "scores" else max(1, m)
    for place in places:
        for q0 in range(0, n, cut.rows):
            for k0 in range(0, max(1, m), keys):
                yield place, q0, min(q0 + cut.rows, n), k0, min(k0 + keys, m)


class _Uploads:
    """Copies on the device of what several blocks read."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[Any, DeviceArray]] = {}

    def problem(self, part: AttentionProblem, stream: Any) -> AttentionProblem:
        """The problem with its arrays on the device."""
        made: dict[str, Any] = {}
        for name in _READ:
            array = getattr(part, name)
            if array is not None:
                made[name] = self._of(name, array, stream)
        return part._replace(**made)

    def _of(self, name: str, array: np.ndarray, stream: Any) -> DeviceArray:
        place = array.__array_interface__["data"], array.shape, array.strides
        if name not in self._kept or self._kept[name][0] != place:
            self._kept.pop(name, None)  # its memory is free before more is taken
            self._kept[name] = place, device.upload(array, stream)
        return self._kept[name][1]


class _Slot:
    """One of the blocks under way."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.uploads = _Uploads()
        self.waiting: list[tuple[Any, np.ndarray]] = []
        self.calls: list[engine.Call] = []

    def deliver(self) -> None:
        """Wait for the block, and bring its results to their place."""
        for landed, target in self.waiting:
            landed(target)
        for call in self.calls:
            call.check()
        self.waiting, self.calls = [], []

    def start(
        self,
        part: AttentionProblem,
        out: np.ndarray,
        lse: np.ndarray | None,
        cut: Cut,
        execution: Execution,
    ) -> None:
        """Begin a block."""
        made = device.empty(part.out_shape, out.dtype)
        row_lse = None if lse is None else device.empty(part.lse_shape, part.acc_dtype)
        how = execution._replace(stream=self.stream)
        if cut.keys >= part.m or part.operation == "scores":
            whole = self.uploads.problem(part, self.stream)
            call = engine.Call(whole, made, how)
            call.run(row_lse)
            self.calls.append(call)
        else:
            self._in_parts(part, made, row_lse, cut.keys, how)
        self.waiting.append((device.begin_fetch(made, self.stream), out))
        if lse is not None and row_lse is not None:
            self.waiting.append((device.begin_fetch(row_lse, self.stream), lse))

    def _in_parts(
        self,
        part: AttentionProblem,
        out: DeviceArray,
        lse: DeviceArray | None,
        step: int,
        execution: Execution,
    ) -> None:
        """A block whose keys come one part after another."""
        carry = broken = None
        report, execution = execution.progress, execution.without_progress()
        rows = prod(part.lead) * part.n
        passes = ("scores",) if part.operation == "weights" else ("clean", "bring")
        for step_of in ("attention", *passes):
            for k0 in range(0, part.m, step):
                keys = part.block(0, part.n, k0, min(k0 + step, part.m))
                here, target = self.uploads.problem(keys, self.stream), out
                if part.operation == "weights":
                    target = out[..., k0 : k0 + step]
                flags = layout.RESUME if k0 else 0
                flags |= layout.PAUSE if k0 + step < part.m else 0
                # what comes after the attention reads what that wrote last
                number = (part.m - 1 if step_of in ("scores", "bring") else k0) // step
                call = engine.Call(here, target, execution, part.m, number % 2)
                if carry is None:
                    carry = device.empty(call.carried, part.acc_dtype)
                    broken = call.broken
                call.broken = broken
                last = lse if k0 + step >= part.m else None
                if step_of == "attention":
                    call.attention(last, carry, flags)
                elif step_of == "clean":
                    call.attention(last, carry, flags | layout.CLEAN)
                elif step_of == "bring":
                    call.bring(carry)
                else:
                    call.scores(carry)
                device.wait(self.stream)  # the next part takes this one's memory
                call.check()
                if report is not None and step_of == "attention":
                    report(rows * min(part.m, k0 + step), rows * part.m)


def run(
    problem: AttentionProblem,
    out: np.ndarray,
    lse: np.ndarray | None,
    execution: Execution,
) -> None:
    """Compute a problem of host arrays into host arrays."""
    cut, needed = cut_for(problem, room(problem, execution), execution)
    free = device.free_bytes()
    if free is not None and needed > free:
        raise MemoryLimitError(
            f"{problem.operation} needs {needed} bytes ({show(needed)}) on the device "
            f"at least, with {cut.rows} queries and {cut.keys} keys at a time; {free} "
            "bytes are free. Free other arrays on it, or pass fewer keys at a time"
        )
    report, done = execution.progress, 0
    total = prod(problem.lead) * problem.n * problem.m
    blocks = list(_blocks(problem, cut))
    streams_here = device.own_streams(min(_SLOTS, len(blocks)))
    slots = [_Slot(stream) for stream in streams_here]
    for number, (place, q0, q1, k0, k1) in enumerate(blocks):
        part = problem.block(q0, q1, k0, k1)
        if place:
            part = part.at(place)
        here = execution
        if report is not None:

            def onward(some: int, _: int, before: int = done) -> None:
                report(before + some, total)

            here = execution._replace(progress=onward)
        slot = slots[number % len(slots)]
        slot.deliver()
        columns = slice(k0, k1) if problem.operation == "scores" else slice(None)
        target = out[(*place, slice(q0, q1), columns)]
        row_lse = None if lse is None else lse[(*place, slice(q0, q1))]
        slot.start(part, target, row_lse, cut, here)
        done += prod(part.lead) * part.n * part.m
    for slot in slots:
        slot.deliver()


def room(problem: AttentionProblem, execution: Execution) -> int | None:
    """Bytes that may be taken on the device; None for no limit.

    A limit of the caller is for the result in host memory and the device together.
    """
    free, limit = device.free_bytes(), execution.max_memory
    known = [] if free is None else [int(free * _SHARE)]
    if limit is not None:
        known.append(limit - prod(problem.out_shape) * problem.array_dtype.itemsize)
    return min(known, default=None)


def workspace_bytes(problem: AttentionProblem, execution: Execution) -> int:
    """Bytes on the device that a call takes."""
    return cut_for(problem, room(problem, execution), execution)[1]


def to_host(array: DeviceArray) -> np.ndarray:
    """A copy of any array on the device, once it is ready."""
    number = array.stream
    device.wait(streams.numba_stream(number))
    view, first = device.flat(array)
    memory = view if device.simulated else view.copy_to_host()
    strided = np.ndarray(
        array.shape, array.dtype, memory.view(np.uint8), first * array.itemsize,
        array.strides,
    )  # fmt: skip
    return strided.copy()
