"""What the CPU backend does with a problem: dispatch, sizes, words about itself."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import numba
import numpy as np
from numba.core.registry import cpu_target

from numbattn.backends import Execution
from numbattn.problem import AttentionProblem

from . import (
    attention,
    cores,
    decode,
    few_rows,
    fused,
    hulls,
    matrix,
    modified,
    panels,
    scores,
    softmax,
    store,
    weights,
)
from .layout import LEAD_BYTES, LINE, SHORT_ROWS
from .levels import chosen

MODULES = (
    scores, panels, few_rows, weights, softmax, attention, decode, hulls,
)  # of kernels  # fmt: skip


def run(
    problem: AttentionProblem,
    out: np.ndarray,
    lse: np.ndarray | None,
    execution: Execution,
) -> None:
    """Compute any operation into `out` (and `lse`)."""
    if problem.operation == "attention":
        fused.run(problem, out, lse, execution)
    else:
        matrix.run(problem, out, execution)


def _cut(problem: AttentionProblem) -> matrix.Tiling | fused.Blocks:
    if not problem.n or not problem.m:  # a limit or `explain` asks about them, too
        n, m = max(1, problem.n), max(1, problem.m)
        problem = problem._replace(n=n, m=m, n_total=max(n, problem.n_total))
    if problem.operation == "attention":
        return fused.blocks(problem)
    return matrix.tiling(problem)


def workspace_bytes(problem: AttentionProblem, execution: Execution) -> int:
    """Scratch of all workers, and the table of offsets."""
    cut = _cut(problem)
    workers = min(cores.allowed(execution), cut.tasks)
    elements = workers * (cut.workspace + LINE)
    if isinstance(cut, matrix.Tiling):
        elements += matrix.packed_elements(problem, cut)
    else:
        elements += cut.partial
    scratch = elements * problem.acc_dtype.itemsize
    scratch += prod(problem.lead) * LEAD_BYTES
    if problem.indices is not None:
        scratch += modified.bytes_beside(problem, *_mask_steps(problem, cut))
    return scratch


def _mask_steps(
    problem: AttentionProblem, cut: matrix.Tiling | fused.Blocks
) -> tuple[int, int]:
    """Rows and keys of the blocks that a mask object is asked about."""
    if cut.short:
        keys = cut.key_block
        if isinstance(cut, matrix.Tiling):
            keys = cut.key_step
        return max(1, problem.n), keys
    if isinstance(cut, matrix.Tiling):
        return matrix.mask_rows(problem.acc_dtype), cut.key_block
    return cut.row_step, cut.key_block


def plan(problem: AttentionProblem, execution: Execution) -> Mapping[str, object]:
    """Numbers for `explain`."""
    cut = _cut(problem)
    rows, columns = matrix.shape_of_tile(problem.acc_dtype)
    if cut.short:
        path = f"few rows (n <= {SHORT_ROWS}): keys read once, lanes along d"
    elif isinstance(cut, fused.Blocks):
        path = "transposed scores: queries in the vector lanes"
    else:
        path = f"register tiles of {rows} queries x {columns} keys"
    return {
        "path": path,
        "vectors": chosen().name,
        "threads": min(cores.allowed(execution), cut.tasks),
        "tasks": cut.tasks,
        "block": f"{cut.row_step} queries, {cut.key_block} keys at a time",
    }


def describe() -> str:
    """One line: compiler, vectors, threads."""
    threads = numba.config.NUMBA_NUM_THREADS
    return f"Numba {numba.__version__}, {chosen().name} vectors, {threads} threads"


def details() -> Mapping[str, str]:
    """Words on what a fault may depend on."""
    pool, config = numba.config.NUMBA_NUM_THREADS, numba.config.THREADING_LAYER
    try:
        layer = str(numba.threading_layer())
    except ValueError:
        layer = f"{config}, chosen by the first parallel call"
    return {
        "vectors": chosen().name,
        "processor": cpu_target.target_context.codegen().magic_tuple()[1],
        "threads": f"{numba.get_num_threads()} of the pool's {pool}",
        "threading layer": layer,
        "kernel cache": store.summary(),
    }


def warmup(dtypes: tuple[str, ...]) -> list[str]:
    """Compile or load every kernel for these dtypes; return their names."""
    names = []
    for dtype in dtypes:
        for module in MODULES:
            kernel = module.kernel(dtype, chosen())
            for kind in ("serial", "parallel"):
                getattr(kernel, kind)
                names.append(f"{kernel.name}-{kind}")
    return names
