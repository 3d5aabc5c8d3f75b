"""From a problem on a device to launches of kernels."""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt, prod
from typing import Any, NamedTuple

import numpy as np

from numbattn.backends import Execution
from numbattn.device_arrays import DeviceArray
from numbattn.problem import AttentionProblem

from . import device, functions, layout, patterns, presence, streams, workspace
from .geometry import geometry, tensor_geometry, tensor_scores_geometry
from .kernels import NO_FUNCTIONS, Shape, kernel
from .kinds import current_stream

_MIN_STRETCH = 4 if device.simulated else 16
_SLAB_FLOPS = 2e12  # of a launch: some 50 ms, after which Ctrl-C is answered
_REPORTS = 32


class Arrays(NamedTuple):
    """Flat arrays of a problem, as kernels take them."""

    query: Any
    key: Any
    value: Any
    out: Any
    bias: Any
    mask: Any
    sinks: Any


class Sizes:
    """The tuple `sizes` in the making."""

    def __init__(self, problem: AttentionProblem, out: DeviceArray) -> None:
        self.values = [0] * layout.SIZES
        put = self.values.__setitem__
        for place, size in (
            (layout.N, problem.n), (layout.M, problem.m), (layout.D_K, problem.d_k),
            (layout.D_V, problem.d_v), (layout.LEFT, problem.left),
            (layout.RIGHT, problem.right), (layout.FIRST_ROW, problem.first_row),
            (layout.FIRST_KEY, problem.first_key),
            (layout.HEADS, problem.lead[-1] if problem.lead else 1),
        ):  # fmt: skip
            put(place, int(size))
        for place, array in (
            (layout.Q_ROW, problem.query), (layout.K_ROW, problem.key),
            (layout.V_ROW, problem.value), (layout.O_ROW, out),
            (layout.B_ROW, problem.bias), (layout.M_ROW, problem.mask),
        ):  # fmt: skip
            self.values[place : place + 2] = layout.axis_steps(array)
        flags = 0
        for flag, array in (
            (layout.Q_VECTOR, problem.query), (layout.K_VECTOR, problem.key),
            (layout.V_VECTOR, problem.value),
        ):  # fmt: skip
            flags |= flag * _vectors(array)
        for flag, wanted in (
            (layout.HAS_BIAS, problem.bias is not None),
            (layout.HAS_MASK, problem.mask is not None),
            (layout.HAS_SOFTCAP, problem.softcap != 0.0),
            (layout.HAS_MOD, problem.score_mod is not None),
            (layout.HAS_PATTERN, problem.pattern is not None),
            (layout.HAS_SINKS, problem.sinks is not None),
        ):
            flags |= flag * wanted
        put(layout.FLAGS, flags)

    def given(self, **changed: int) -> tuple[int, ...]:
        """The tuple, with some entries set by name; FLAGS are added."""
        values = list(self.values)
        for name, value in changed.items():
            place = getattr(layout, name)
            values[place] = values[place] | value if name == "FLAGS" else value
        return tuple(values)


def _vectors(array: Any) -> bool:
    """Whether every run of 16 bytes along the rows is aligned to 16 bytes."""
    if array is None or array.ndim < 2:
        return False
    if array.shape[-1] > 1 and array.strides[-1] != array.itemsize:
        return False
    moves = [
        stride
        for size, stride in zip(array.shape[:-1], array.strides[:-1], strict=True)
        if size > 1
    ]
    return all(place % 16 == 0 for place in (array.address, *moves))


def _flat(array: DeviceArray | None, dtype: Any) -> tuple[Any, int]:
    if array is None:
        return workspace.nothing(np.dtype(dtype)), 0
    return device.flat(array)


def arrays(
    problem: AttentionProblem, out: DeviceArray, stream: Any
) -> tuple[Arrays, np.ndarray]:
    """Flatten and upload what kernels read; and the table of offsets."""
    flats, low = {}, {}
    for name in ("query", "key", "value", "bias", "mask"):
        dtype: Any = problem.acc_dtype if name == "bias" else problem.array_dtype
        dtype = np.uint8 if name == "mask" else dtype
        flats[name], low[name] = _flat(getattr(problem, name), dtype)
    flats["out"], low["out"] = device.flat(out)
    sinks = problem.sinks
    if sinks is None:
        sinks = np.zeros(1, problem.acc_dtype)
    table = layout.lead_table(problem, out, low)
    return Arrays(**flats, sinks=workspace.table(sinks, stream)), table


class Tiles(NamedTuple):
    """How a kernel cuts a problem, with the tables that go by it."""

    shape: Shape
    rows: int
    """Tiles of queries."""
    keys: int
    """Tiles of keys."""
    leads: Any
    blocks: Any


def tiles(
    problem: AttentionProblem, shape: Shape, table: np.ndarray, stream: Any
) -> Tiles:
    """Cut a problem by a kernel's geometry."""
    blocks = np.zeros(1, np.int8)
    if problem.pattern is not None:
        table = table.copy()
        found = patterns.blocks(problem, table, shape.block_q, shape.block_kv)
        blocks, table[:, layout.BLOCKS] = found
    return Tiles(
        shape,
        -(-problem.n // shape.block_q),
        -(-problem.m // shape.block_kv),
        workspace.table(table.ravel(), stream),
        workspace.table(blocks, stream),
    )


class Call:
    """One problem on a device, on its way to launches."""

    def __init__(
        self,
        problem: AttentionProblem,
        out: DeviceArray,
        execution: Execution,
        all_keys: int | None = None,
        turn: int = 0,
    ) -> None:
        """Prepare it.

        Where it is a part of the keys, `all_keys` are those of the whole, and `turn` is
        0 and 1 by turns.
        """
        self.problem, self.execution = problem, execution
        self.stream: Any = execution.stream or 0
        self.functions = NO_FUNCTIONS
        if problem.indices is not None:
            self.functions = functions.wire(
                problem, lambda array: workspace.table(array, self.stream)
            )
        self.sizes = Sizes(problem, out)
        self.arrays, table = arrays(problem, out, self.stream)
        self.tiles = tiles(problem, shape_of(problem, execution), table, self.stream)
        self.score_tiles = self.tiles
        shape = scores_shape_of(problem, execution)
        if problem.operation != "attention" and shape != self.tiles.shape:
            self.score_tiles = tiles(problem, shape, table, self.stream)
        self.lead = prod(problem.lead)
        self.in_parts, self.turn = all_keys is not None, turn
        keys = problem.m if all_keys is None else all_keys
        self.stretch = stretch(self.tiles.shape, keys)
        real = shape.real
        self.reals = real(problem.scale), real(problem.softcap)
        self.status: DeviceArray | None = None  # functions alone write it
        if problem.indices is not None:
            self.status = workspace.scratch((1,), np.int64, self.stream)
            device.clear(self.status, self.stream)
        size = (max(1, self.lead * self.tiles.rows),)
        broken = workspace.scratch(size, np.int32, self.stream)
        device.clear(broken, self.stream)
        self.broken = device.flat(broken)[0]
        self.done = 0

    @property
    def elements(self) -> int:
        """Of the score matrices."""
        return self.lead * self.problem.n * self.problem.m

    @property
    def carried(self) -> tuple[int]:
        """Elements of `carry`: outputs where there are stretches, and rows' numbers.

        Of a part of the keys there are two sets of these: one is read, one written.
        """
        return (self.outputs + 2 * self.lead * self.problem.n * (1 + self.in_parts),)

    @property
    def outputs(self) -> int:
        """Elements of `carry` in front of the rows' numbers."""
        if not self.in_parts and self.tiles.keys <= self.stretch:
            return 0
        return self.lead * self.problem.n * self.problem.d_v

    def launch(
        self, name: str, tiles: Tiles, grid: int, before: tuple[Any, ...],
        flops: float, elements: int, flags: int = 0,
    ) -> None:  # fmt: skip
        """Launch a kernel's blocks, in slabs where they take long or are reported."""
        chosen = kernel(name, tiles.shape, self.functions)
        report = self.execution.progress
        slabs = max(1, int(flops // _SLAB_FLOPS), _REPORTS if report else 1)
        step = max(1, -(-grid // slabs))
        common = {
            "ROW_TILES": tiles.rows,
            "KEY_TILES": tiles.keys,
            "STRETCH": self.stretch,
            "STATE": self.outputs + self.turn * 2 * self.lead * self.problem.n,
            "BEFORE": self.outputs + (1 - self.turn) * 2 * self.lead * self.problem.n,
        }
        status = _flat(self.status, np.int64)[0]
        for first in range(0, grid, step):
            some = min(step, grid - first)
            numbers = self.sizes.given(**common, FLAGS=flags, FIRST_BLOCK=first)
            tail = (numbers, self.reals, self.functions.arguments, status)
            chosen.launch(some, self.stream, (*before, *tail))
            if step < grid:
                device.wait(self.stream)
            if report is not None:
                now = self.done + elements * (first + some) // grid
                report(now, self.elements)
        self.done += elements

    def scores(self, carry: DeviceArray | None) -> None:
        """Scores, or weights by the rows' maxima and sums in `carry`."""
        problem, a, cut = self.problem, self.arrays, self.score_tiles
        before = (
            a.query, a.key, a.out, a.bias, a.mask,
            _flat(carry, problem.acc_dtype)[0], cut.leads, cut.blocks,
        )  # fmt: skip
        grid = self.lead * cut.rows * cut.keys
        flops = 2.0 * self.elements * max(8, problem.d_k)
        reported = self.elements
        if carry is not None:
            reported -= self.elements // 2
        flags = 0 if carry is None else layout.WEIGHTS
        self.launch("scores", cut, grid, before, flops, reported, flags)

    def attention(
        self, lse: DeviceArray | None, carry: DeviceArray, flags: int = 0
    ) -> None:
        """Outputs and their log-sum-exp; of weights the maxima and sums of rows alone.

        Where the keys come in parts, `carry` has what they gave so far, and `flags`
        RESUME but for the first part, and PAUSE but for the last one. With CLEAN only
        tiles with an output that is not finite, from values that are.
        """
        problem, a, cut = self.problem, self.arrays, self.tiles
        if lse is not None:
            flags |= layout.HAS_LSE
        before = (
            a.query, a.key, a.value, a.out, _flat(lse, problem.acc_dtype)[0], a.bias,
            a.mask, a.sinks, cut.leads, cut.blocks, device.flat(carry)[0], self.broken,
        )  # fmt: skip
        strips = max(1, -(-problem.d_v // cut.shape.block_d))
        grid = self.lead * cut.rows * strips
        flops = 2.0 * self.elements * (max(8, problem.d_k) * strips + problem.d_v)
        reported = self.elements
        if problem.operation == "weights":
            reported //= 2
        if flags & layout.CLEAN:
            flops, reported = 0.0, 0
        self.launch("attention", cut, grid, before, flops, reported, flags)

    def bring(self, carry: DeviceArray) -> None:
        """Add values that are not finite to the outputs that attend them."""
        a, cut = self.arrays, self.tiles
        before = (
            a.query, a.key, a.value, a.out, a.bias, a.mask, cut.leads,
            device.flat(carry)[0], self.broken,
        )  # fmt: skip
        self.launch("careful", cut, self.lead * cut.rows, before, 0.0, 0)

    def check(self) -> None:
        """Raise what went wrong in users' functions; waits where there are any."""
        if self.status is None:
            return
        status = np.zeros(1, np.int64)
        device.begin_fetch(self.status, self.stream)(status)
        functions.raise_status(self.problem, status)

    def run(self, lse: DeviceArray | None) -> None:
        """All launches of the problem."""
        problem = self.problem
        if problem.operation == "scores":
            self.scores(None)
            return
        carry = workspace.scratch(self.carried, problem.acc_dtype, self.stream)
        self.attention(lse, carry)
        if problem.operation == "weights":
            self.scores(carry)
        else:
            self.attention(lse, carry, layout.CLEAN)
            self.bring(carry)


def stretch(shape: Shape, keys: int) -> int:
    """Tiles of keys of a stretch, by the keys of the whole call."""
    return max(_MIN_STRETCH, isqrt(max(0, -(-keys // shape.block_kv) - 1)) + 1)


def _kind(problem: AttentionProblem, execution: Execution) -> str | None:
    """What tensor cores multiply; None where they are not to be used."""
    if problem.halves and problem.dtype is not problem.acc_dtype:
        return problem.dtype.name
    single = problem.acc_dtype.itemsize == 4
    return "tf32" if single and execution.precision == "tf32" else None


def shape_of(problem: AttentionProblem, execution: Execution) -> Shape:
    """The geometry of attention, and of the rows' maxima and sums."""
    kind, hopper = _kind(problem, execution), device.hopper()
    if kind is not None:
        return tensor_geometry(kind, problem.d_k, problem.d_v, hopper)
    return geometry(problem.acc_dtype.name, problem.d_v, hopper)


def scores_shape_of(problem: AttentionProblem, execution: Execution) -> Shape:
    """The geometry of scores and weights."""
    kind, hopper = _kind(problem, execution), device.hopper()
    if kind is not None:
        return tensor_scores_geometry(kind, hopper)
    return geometry(problem.acc_dtype.name, 0, hopper)


def run(
    problem: AttentionProblem,
    out: DeviceArray,
    lse: DeviceArray | None,
    execution: Execution,
) -> None:
    """Compute a problem whose query, key and value are on the device.

    Nothing waits for the device, but where the work is reported, takes long, or has
    users' functions, which may fail.
    """
    query: Any = problem.query
    number = execution.stream
    if number is None:
        number = current_stream(query.owner)
    stream = streams.numba_stream(number)
    given = [problem.query, problem.key, problem.value, problem.bias, problem.mask]
    there = [x for x in (*given, out, lse) if isinstance(x, DeviceArray)]
    streams.wait_for(there, number)
    host: dict[str, Any] = {
        name: device.upload(array, stream)
        for name, array in (("bias", problem.bias), ("mask", problem.mask))
        if isinstance(array, np.ndarray)
    }
    problem = problem._replace(**host)
    call = Call(problem, out, execution._replace(stream=stream))
    call.run(lse)
    call.check()


def plan(problem: AttentionProblem, execution: Execution) -> Mapping[str, object]:
    """Numbers for `explain`."""
    of = shape_of if problem.operation == "attention" else scores_shape_of
    shape, kind = of(problem, execution), _kind(problem, execution)
    units = f"tensor cores, {kind}" if kind else f"{problem.acc_dtype.name} units"
    return {
        "device": presence.describe(),
        "arithmetic": units,
        "threads of a block": shape.threads,
        "block": f"{shape.block_q} queries, {shape.block_kv} keys at a time",
    }
