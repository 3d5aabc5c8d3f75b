"""Launches of tensor kernels in the simulator, and what they have to give."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from numbattn.backends.cuda import (
    device,
    layout,
    simulator,
    tensor_attention,
    tensor_scores,
)  # fmt: skip
from numbattn.backends.cuda.geometry import TensorGeometry

UNBOUNDED = 2**62
UNIT = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "tf32": 2.0**-11}


def narrowed(x: np.ndarray, kind: str) -> np.ndarray:
    """An array as the kernels take it: bits of halves, or float32."""
    x = x.astype(np.float32)
    if kind == "tf32":
        return x
    if kind == "float16":
        return x.astype(np.float16).view(np.uint16)
    bits = x.view(np.uint32).astype(np.uint64)
    bits = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    return np.where(np.isnan(x), 0x7FC0, bits).astype(np.uint16)


def widened(x: np.ndarray, kind: str) -> np.ndarray:
    """The numbers, float64."""
    if kind == "float16":
        return x.view(np.float16).astype(np.float64)
    if kind == "bfloat16":
        return (x.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return x.astype(np.float64)


@dataclass
class Case:
    """One call: (lead, n, d_k) queries, (lead // share, m, ...) keys and values."""

    kind: str
    shape: TensorGeometry
    n: int
    m: int
    d_k: int
    d_v: int
    lead: int = 1
    share: int = 1
    left: int = UNBOUNDED
    right: int = UNBOUNDED
    offset: int = 0
    length: int | None = None
    stretch: int = 1000
    softcap: float = 0.0
    masked: float = 0.0
    biased: bool = False
    sinks: bool = False
    modified: bool = False
    pattern: bool = False
    gap: int = 0
    vectors: bool = True
    pieces: int = 1
    nan_at: tuple[int, int] | None = None
    seed: int = 0
    scale: float = field(init=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        self.scale = 1 / np.sqrt(max(1, self.d_k))
        heads = self.lead // self.share
        self.query = narrowed(rng.normal(size=(self.lead, self.n, self.d_k)), self.kind)
        self.key = narrowed(rng.normal(size=(heads, self.m, self.d_k)), self.kind)
        value = rng.normal(size=(heads, self.m, self.d_v))
        if self.nan_at is not None:
            value[:, *self.nan_at] = np.nan
        self.value = narrowed(value, self.kind)
        self.bias = rng.normal(size=(self.n, self.m)).astype(np.float32)
        self.mask = (rng.random((self.lead, self.n, self.m)) >= self.masked).astype(
            np.uint8
        )
        self.sink = rng.normal(size=self.lead).astype(np.float32)

    def modify(self, s, b, h, q_idx, kv_idx, arguments, status):
        """A score_mod."""
        return s - np.float32(0.1) * np.float32(h + 1) * abs(np.float32(q_idx - kv_idx))

    def attends(self, b, h, q_idx, kv_idx, row, arguments, status):
        """A mask object: every third diagonal, and none of keys 32 to 63."""
        return (q_idx + kv_idx) % 3 != 0 and not 32 <= kv_idx < 64

    def blocks(self) -> np.ndarray:
        rows, keys = self.tiles
        table = np.full((rows, keys), layout.PARTIAL, np.int8)
        size = self.shape.block_kv
        for tile in range(keys):
            if tile * size >= 32 and (tile + 1) * size <= 64:
                table[:, tile] = layout.EMPTY
        return table

    @property
    def tiles(self) -> tuple[int, int]:
        return -(-self.n // self.shape.block_q), -(-self.m // self.shape.block_kv)

    def flat(self, array: np.ndarray) -> tuple[np.ndarray, int, int, int]:
        """The array with gaps between rows and columns, and its element strides."""
        lead, rows, columns = array.shape
        row = columns * (1 + self.gap)
        if self.vectors and not self.gap:
            row = -(-max(1, columns) // 8) * 8
        # as on a device: aligned to 16 bytes
        raw = np.zeros(lead * rows * row * array.itemsize + 64, np.uint8)
        skip = -raw.__array_interface__["data"][0] % 16
        size = lead * rows * row
        flat = raw[skip : skip + size * array.itemsize].view(array.dtype)
        step = 1 + self.gap
        there = flat.reshape(lead, rows, row)[:, :, : columns * step : step]
        there[:] = array
        return flat, rows * row, row, step

    def expected(self) -> dict[str, np.ndarray]:
        q, k, v = (widened(x, self.kind) for x in (self.query, self.key, self.value))
        k, v = k.repeat(self.share, 0), v.repeat(self.share, 0)
        s = q @ k.swapaxes(1, 2) * self.scale
        size = abs(q) @ abs(k).swapaxes(1, 2) * self.scale
        i = np.arange(self.n)[:, None] + self.offset
        j = np.arange(self.m)
        if self.softcap:
            s = self.softcap * np.tanh(s / self.softcap)
        if self.modified:
            h = np.arange(self.lead)[:, None, None]
            s, before = s - 0.1 * (h + 1) * abs(i - j), s
            size = size + abs(s - before)
        if self.biased:
            s, size = s + self.bias, size + abs(self.bias)
        hidden = (j < i - self.left) | (j > i + self.right)
        hidden = hidden | (j >= (self.m if self.length is None else self.length))
        if self.masked:
            hidden = hidden | (self.mask == 0)
        if self.pattern:
            hidden = hidden | ((i + j) % 3 == 0) | ((j >= 32) & (j < 64))
        hidden = np.broadcast_to(hidden, s.shape)
        s = np.where(hidden, -np.inf, s)
        size = np.where(hidden, 0, size)
        top = s.max(-1, keepdims=True, initial=-np.inf)
        if self.sinks:
            top = np.maximum(top, self.sink[:, None, None])
        base = np.where(np.isneginf(top), 0, top)
        p = np.exp(s - base)
        total = p.sum(-1, keepdims=True)
        if self.sinks:
            total = total + np.exp(self.sink[:, None, None] - base)
        with np.errstate(divide="ignore"):
            lse = (base + np.log(total))[..., 0]
        p = p / np.where(total == 0, 1, total)
        condition = 1 + size.max(-1, initial=0)
        with np.errstate(invalid="ignore"):
            out = p @ v
            bound = condition[..., None] * (p @ abs(v))
        return {
            "scores": s, "size": size, "weights": p, "lse": lse, "out": out,
            "bound": bound, "condition": condition,
        }  # fmt: skip

    def table(self, out_step: int) -> np.ndarray:
        lead = np.arange(self.lead)
        table = np.zeros((self.lead, layout.COLUMNS), np.int64)
        table[:, layout.QUERY] = lead * self.flats["query"][1]
        for name in ("key", "value"):
            column = getattr(layout, name.upper())
            table[:, column] = lead // self.share * self.flats[name][1]
        table[:, layout.OUT] = lead * out_step
        table[:, layout.MASK] = lead * self.n * self.m
        table[:, layout.POSITION] = self.offset
        table[:, layout.LENGTH] = self.m if self.length is None else self.length
        table[:, layout.HEAD] = lead
        return table

    def numbers(self, out: Any, **more: int) -> tuple[int, ...]:
        sizes = [0] * layout.SIZES
        q, k, v = (self.flats[name] for name in ("query", "key", "value"))
        flags = 0
        if self.vectors and not self.gap:
            flags |= layout.Q_VECTOR | layout.K_VECTOR | layout.V_VECTOR
        flags |= layout.HAS_BIAS * self.biased | layout.HAS_MASK * bool(self.masked)
        flags |= layout.HAS_SOFTCAP * bool(self.softcap) | layout.HAS_SINKS * self.sinks
        flags |= layout.HAS_MOD * self.modified | layout.HAS_PATTERN * self.pattern
        rows, keys = self.tiles
        values = {
            "N": self.n, "M": self.m, "D_K": self.d_k, "D_V": self.d_v,
            "Q_ROW": q[2], "Q_COL": q[3], "K_ROW": k[2], "K_COL": k[3],
            "V_ROW": v[2], "V_COL": v[3], "O_ROW": out[2], "O_COL": out[3],
            "B_ROW": self.m, "B_COL": 1, "M_ROW": self.m, "M_COL": 1,
            "LEFT": self.left, "RIGHT": self.right, "FLAGS": flags,
            "ROW_TILES": rows, "KEY_TILES": keys, "STRETCH": self.stretch,
            "HEADS": self.lead, "STATE": self.lead * self.n * self.d_v,
        }  # fmt: skip
        for name, value in more.items():
            values[name] = values[name] | value if name == "FLAGS" else value
        for name, value in values.items():
            sizes[getattr(layout, name)] = value
        return tuple(sizes)

    def prepare(self, columns: int) -> Any:
        self.flats = {
            name: self.flat(getattr(self, name)) for name in ("query", "key", "value")
        }
        return self.flat(np.zeros((self.lead, self.n, columns), self.query.dtype))

    def read(self, out: Any, columns: int) -> np.ndarray:
        flat, _, row, step = out
        there = flat.reshape(self.lead, self.n, row)[:, :, : columns * step : step]
        return widened(np.ascontiguousarray(there), self.kind)

    @property
    def reals(self) -> tuple[np.float32, np.float32]:
        return np.float32(self.scale), np.float32(self.softcap)

    def attention(self, again: bool = False) -> dict[str, np.ndarray]:
        """Run the attention kernel; `again`: of the last tile, by finite values."""
        columns = self.d_v
        out = self.prepare(self.d_v)
        shape = self.shape
        kernel = tensor_attention.build(
            shape,
            device.device_function(self.modify),
            device.device_function(self.attends),
        )
        strips = max(1, -(-columns // shape.block_d))
        grid = self.lead * self.tiles[0] * strips
        lse = np.full(self.lead * self.n, np.nan, np.float32)
        rows = self.lead * self.n
        carry = np.full(rows * (self.d_v + 4), np.nan, np.float32)
        broken = np.zeros(self.lead * self.tiles[0], np.int32)
        if again:
            broken.reshape(self.lead, -1)[:, -1] = 1
        table = self.table(out[1])
        whole = self.m if self.length is None else self.length
        cuts = np.linspace(0, whole, self.pieces + 1).astype(int)
        status = np.zeros(1, np.int64)
        for piece in range(self.pieces):
            flags = layout.HAS_LSE | layout.CLEAN * again
            flags |= layout.RESUME * (piece > 0)
            flags |= layout.PAUSE * (piece < self.pieces - 1)
            now = table.copy()
            begin = int(cuts[piece])
            now[:, layout.KEY] += begin * self.flats["key"][2]
            now[:, layout.VALUE] += begin * self.flats["value"][2]
            now[:, layout.POSITION] -= begin
            now[:, layout.LENGTH] = cuts[piece + 1] - begin
            # by turns: one set of maxima and sums is read, one written
            places = [rows * self.d_v, rows * (self.d_v + 2)]
            turn = (self.pieces - 1 - piece) % 2
            sizes = self.numbers(
                out, FLAGS=flags, D_V=columns, FIRST_KEY=begin,
                STATE=places[turn], BEFORE=places[1 - turn],
                M=self.m if self.pieces == 1 else int(cuts[piece + 1]) - begin,
            )  # fmt: skip
            simulator.launch(
                kernel, grid, shape.threads,
                (
                    *(self.flats[name][0] for name in ("query", "key", "value")),
                    out[0], lse, self.bias.ravel(), self.mask.ravel(), self.sink,
                    now.ravel(), self.blocks().ravel(), carry, broken, sizes,
                    self.reals, (0,), status,
                ),
            )  # fmt: skip
        return {
            "out": self.read(out, self.d_v), "lse": lse.reshape(self.lead, self.n),
            "stats": carry[rows * self.d_v :][: 2 * rows].reshape(self.lead, self.n, 2),
            "carry": carry, "broken": broken.reshape(self.lead, -1),
        }  # fmt: skip

    def scores(self, carry: np.ndarray | None = None) -> np.ndarray:
        """Run the kernel of scores, or of weights."""
        out = self.prepare(self.m)
        kernel = tensor_scores.build(
            self.shape,
            device.device_function(self.modify),
            device.device_function(self.attends),
        )
        rows, keys = self.tiles
        flags = layout.WEIGHTS if carry is not None else 0
        given = np.zeros(1, np.float32) if carry is None else carry
        simulator.launch(
            kernel, self.lead * rows * keys, self.shape.threads,
            (
                self.flats["query"][0], self.flats["key"][0], out[0],
                self.bias.ravel(), self.mask.ravel(), given, self.table(out[1]).ravel(),
                self.blocks().ravel(), self.numbers(out, FLAGS=flags), self.reals, (0,),
                np.zeros(1, np.int64),
            ),
        )  # fmt: skip
        return self.read(out, self.m)


KINDS = ("bfloat16", "float16", "tf32")
U32 = 2.0**-24
C = 2  # of the 16 that are promised


def narrow(kind: str) -> TensorGeometry:
    """One warp of 16 queries."""
    return TensorGeometry(kind, 1, 1, 1, 32, 32, 64)


def wide(kind: str) -> TensorGeometry:
    """Two warps of 32 queries."""
    return TensorGeometry(kind, 2, 1, 2, 64, 64, 64)


def beside(kind: str) -> TensorGeometry:
    """Four warps, two along the keys, as on a device; for scores."""
    return TensorGeometry(kind, 2, 2, 2, 32, 32 if kind != "tf32" else 16)


def ratio(error: Any, bound: Any) -> float:
    """The largest part of the bound that errors take; NaN is infinite."""
    with np.errstate(invalid="ignore"):
        found = np.where(error == 0, 0, error / bound)
    return float(np.nan_to_num(found, nan=np.inf).max(initial=0))


def difference(got: Any, expected: Any) -> Any:
    """How far they are apart: 0 where they are the same infinity."""
    with np.errstate(invalid="ignore"):
        return np.where(got == expected, 0, abs(got - expected))


SIZES = [
    # n, m, d_k, d_v
    (1, 7, 8, 1), (7, 16, 1, 8), (16, 33, 63, 64), (33, 65, 64, 63), (65, 1, 65, 65),
    (113, 129, 32, 128), (129, 113, 130, 64), (1, 129, 128, 130), (5, 40, 96, 100),
]  # fmt: skip

OPTIONS: dict[str, dict[str, Any]] = {
    "causal": {"right": 0},
    "causal, later queries": {"right": 0, "offset": 37},
    "window": {"left": 20, "right": 11},
    "lengths": {"length": 41},
    "no keys": {"length": 0},
    "mask": {"masked": 0.4},
    "all masked": {"masked": 1.0},
    "bias": {"biased": True},
    "softcap": {"softcap": 1.5},
    "sinks": {"sinks": True},
    "score_mod": {"modified": True},
    "mask object": {"pattern": True},
    "grouped heads": {"lead": 4, "share": 2},
    "strides": {"gap": 1},
    "not aligned": {"vectors": False},
    "two stretches": {"stretch": 1},
    "stretches, sinks": {"stretch": 2, "sinks": True, "right": 0, "offset": 20},
    "keys in parts": {"pieces": 3, "sinks": True},
    "keys in parts, causal": {"pieces": 2, "right": 0, "offset": 60, "biased": False},
    "all at once": {
        "lead": 2, "softcap": 2.0, "biased": True, "masked": 0.2, "right": 5,
        "length": 60, "modified": True, "pattern": True, "sinks": True, "stretch": 1,
    },
}  # fmt: skip
