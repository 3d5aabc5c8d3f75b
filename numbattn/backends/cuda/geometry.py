"""How blocks of threads share the work: sizes that are written into kernels."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from . import device
from .tiles import vector


class Geometry(NamedTuple):
    """Sizes of a kernel on plain arithmetic units (float32, float64)."""

    real: Any
    """Type of scores: numpy.float32 or numpy.float64."""
    across: int
    """Threads along keys, and along columns of values."""
    down: int
    """Threads along queries."""
    rows: int
    """Queries of a thread."""
    columns: int
    """Keys of a thread."""
    depth: int
    """Elements of d_k that are in shared memory at a time."""
    keys: int
    """Rows of values that are in shared memory at a time."""
    groups: int
    """Vectors of value columns of a thread."""
    blocks: int = 2
    """Blocks that are to fit on a multiprocessor: how registers are shared out."""

    @property
    def bits(self) -> Any:
        """Type of the arrays' elements."""
        return self.real

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.across * self.down

    @property
    def block_q(self) -> int:
        """Queries of a block."""
        return self.down * self.rows

    @property
    def block_kv(self) -> int:
        """Keys of a block at a time."""
        return self.across * self.columns

    @property
    def width(self) -> int:
        """Elements in 16 bytes."""
        return vector(np.dtype(self.real))

    @property
    def block_d(self) -> int:
        """Columns of values of a block."""
        return self.across * self.groups * self.width


def turn(vectors: int) -> tuple[int, int]:
    """How rows of so many vectors of 16 bytes lie in shared memory: turned.

    Vector c of row r is at place c ^ ((r >> shift) & bits) of the row: so the vectors c
    of 8 rows, which ``ldmatrix`` reads at a time, lie in 32 different banks.
    """
    return {4: (1, 3), 8: (0, 7)}[min(8, vectors)]


class TensorGeometry(NamedTuple):
    """Sizes of a kernel on tensor cores: a warp has 16 rows, or a multiple, to itself.

    Within 16 x 8 scores, or outputs, thread x of the 4 of a row holds columns 2 x and
    2 x + 1, of rows g and g + 8 (PTX ISA, fragments of ``mma.m16n8k16``).
    """

    kind: str
    """What is multiplied: float16, bfloat16, or float32 as tf32."""
    row_warps: int
    """Warps along queries."""
    key_warps: int
    """Warps along keys; in attention one."""
    atoms: int
    """Times 16 queries of a warp."""
    keys: int
    """Keys of a warp, at a time."""
    depth: int
    """Elements of d_k that are in shared memory at a time."""
    block_d: int = 0
    """Columns of values of a block."""
    blocks: int = 1
    """Blocks that are to fit on a multiprocessor: what registers are shared out by."""

    @property
    def real(self) -> Any:
        """Type of scores."""
        return np.float32

    @property
    def across(self) -> int:
        """Threads of a row."""
        return 4

    @property
    def down(self) -> int:
        """From one row of a thread to the next."""
        return 8

    @property
    def columns(self) -> int:
        """Keys of a thread, of each 8."""
        return 2

    @property
    def bits(self) -> Any:
        """Type of the arrays' elements."""
        return np.float32 if self.kind == "tf32" else np.uint16

    @property
    def width(self) -> int:
        """Elements in 16 bytes."""
        return 4 if self.kind == "tf32" else 8

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return 32 * self.row_warps * self.key_warps

    @property
    def rows(self) -> int:
        """Queries of a thread."""
        return 2 * self.atoms

    @property
    def block_q(self) -> int:
        """Queries of a block."""
        return 16 * self.atoms * self.row_warps

    @property
    def block_kv(self) -> int:
        """Keys of a block at a time."""
        return self.keys * self.key_warps


SCORES_BLOCKS = 4
"""Likewise of the kernel of scores."""
FOLD = 128
"""Products that are added up before their sum goes to the total (the error bound)."""

ON_DEVICE = {
    ("float32", False, True): Geometry(np.float32, 16, 8, 8, 4, 16, 16, 1, blocks=3),
    ("float32", True, True): Geometry(np.float32, 16, 8, 8, 4, 16, 16, 2),
    ("float64", False, True): Geometry(np.float64, 16, 8, 4, 4, 16, 16, 2),
    ("float64", True, True): Geometry(np.float64, 16, 8, 4, 4, 16, 8, 4),
    # the compiler for compute capability 8 takes more registers: strips of 64 columns
    ("float32", False, False): Geometry(np.float32, 16, 8, 8, 4, 16, 16, 1),
    ("float64", False, False): Geometry(np.float64, 16, 8, 4, 4, 16, 16, 2),
}
"""By dtype, whether there are more than 64 columns of values, and whether the compute
capability is 9 or more."""
# few threads with large tiles: a thread of the simulator is slow, its arrays are not
_SIMULATED = {
    "float32": Geometry(np.float32, 4, 2, 8, 8, 64, 32, 1),
    "float64": Geometry(np.float64, 4, 2, 8, 8, 64, 32, 1),
}


def geometry(dtype: str, d_v: int, hopper: bool) -> Geometry:
    """The sizes for a dtype and a number of value columns."""
    if device.simulated:
        return _SIMULATED[dtype]
    return ON_DEVICE[dtype, hopper and d_v > 64, hopper]


def _tensor(kind: str, wide: bool, hopper: bool) -> TensorGeometry:
    """Sizes at which the compiler needs no memory for what registers lack.

    To 64 columns of halves a warp has 32 queries, so that it reads half as much shared
    memory; beyond, registers hold 16. The compiler for compute capability 8 takes some
    60 registers more: there are chunks of 64 columns of d_k, strips of 64 of d_v,
    and 32 keys (of TF32 16) at a time.
    """
    if not hopper:
        keys = 16 if kind == "tf32" else 32
        return TensorGeometry(kind, 8, 1, 1, keys, 64, 64)
    if kind == "tf32":
        return TensorGeometry(kind, 8, 1, 1, *((32, 128, 128) if wide else (64,) * 3))
    if wide:
        return TensorGeometry(kind, 8, 1, 1, 64, 128, 128)
    return TensorGeometry(kind, 4, 1, 2, 64, 64, 64, blocks=2)


KINDS = ("float16", "bfloat16", "tf32")
TENSOR = {
    (kind, wide, hopper): _tensor(kind, wide, hopper)
    for kind in KINDS
    for wide in (False, True)
    for hopper in (False, True)
}
TENSOR_SCORES = {
    (kind, hopper): TensorGeometry(
        kind, 4, 2, 2, 64 if hopper else 32, 16 if kind == "tf32" else 32, blocks=2
    )
    for kind in KINDS
    for hopper in (False, True)
}


def tensor_geometry(kind: str, d_k: int, d_v: int, hopper: bool) -> TensorGeometry:
    """The sizes of attention on tensor cores of compute capability 8, or from 9 on."""
    if device.simulated:
        return TensorGeometry(kind, 1, 1, 1, 32, 32, 64)
    return TENSOR[kind, max(d_k, d_v) > 64, hopper]


def tensor_scores_geometry(kind: str, hopper: bool) -> TensorGeometry:
    """The sizes of scores and weights on tensor cores."""
    if device.simulated:
        return TensorGeometry(kind, 1, 1, 1, 32, 32)
    return TENSOR_SCORES[kind, hopper]
