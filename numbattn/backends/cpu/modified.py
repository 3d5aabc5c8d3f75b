"""What a score_mod and a mask object add to a kernel's arguments."""

from __future__ import annotations

from functools import partial
from math import prod
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from numbattn.backends import Execution
from numbattn.functions import describe
from numbattn.functions.complaints import raise_status
from numbattn.masks import blocks as mask_blocks
from numbattn.masks.leaves import FromArray
from numbattn.problem import AttentionProblem

from . import hulls, launch
from .changes import FIRST_KEY, FIRST_ROW, FULL, HIDE, MODIFY, SLOTS, STATUS
from .layout import BATCH, BLOCKS, HEAD, POSITION, SHORT_ROWS
from .levels import chosen

_NO_SLOTS = np.zeros(SLOTS, np.int64)
_NO_BLOCKS = np.zeros((0, 2), np.int32)
EVALUATION_FLOPS = 8.0  # of a score that a mask's function is asked about
BLOCK_BYTES = 48  # of a block of a mask, with what is made of it on the way
KEPT, KEPT_BYTES = 8, 1 << 20  # of a mask object
_memory: WeakKeyDictionary[Any, dict[Any, Any]] = WeakKeyDictionary()


class Modified(NamedTuple):
    """Arguments of a kernel, and what has to live as long as it runs."""

    lead: np.ndarray
    """The table of `layout`, with b, h and the first block of each leading index."""
    extra: np.ndarray
    blocks: np.ndarray
    """(all blocks, 2) int32: hulls of attended keys, the end with `FULL` on it."""
    kept: tuple[Any, ...] = ()


def modified(
    problem: AttentionProblem,
    lead: np.ndarray,
    row_step: int,
    group: int,
    key_step: int,
) -> Modified:
    """Wire up a problem's score_mod and mask object, compiling what is new.

    Parameters
    ----------
    problem : AttentionProblem
        The call.
    lead : ndarray
        Its table of offsets.
    row_step, group : int
        Rows of a task, cut into groups of so many: the blocks of a mask object.
    key_step : int
        Keys of these blocks.

    Returns
    -------
    Modified
        Without either, the table as it is and empty arrays.
    """
    if problem.score_mod is None and problem.pattern is None:
        return Modified(lead, _NO_SLOTS, _NO_BLOCKS)
    from .modifiers import packed, tile

    assert problem.indices is not None
    memory, pattern = None, problem.pattern
    if problem.score_mod is None is not pattern and isinstance(problem.q_offset, int):
        memory = _remembered(pattern)
        key = (
            problem.acc_dtype.name, problem.operation, problem.n_total <= SHORT_ROWS,
            problem.lead, lead.tobytes(), problem.indices.tobytes(), problem.n,
            problem.m, pattern.stamp, row_step, group, key_step,
            problem.first_row, problem.first_key,
        )  # fmt: skip
        known = memory.get(key)  # at once: another thread may clear it
        if known is not None:
            return known
    lead = lead.copy()
    lead[:, BATCH : HEAD + 1] = problem.indices
    extra = np.zeros(SLOTS, np.int64)
    extra[FIRST_ROW], extra[FIRST_KEY] = problem.first_row, problem.first_key
    kept: list[Any] = []
    blocks, dtype = _NO_BLOCKS, problem.acc_dtype.name
    for slot, modifier in _modifiers(problem):
        slots, alive = packed(modifier.parts)
        extra[slot] = tile(modifier, _orientation(problem), dtype)
        extra[slot + 1] = slots.__array_interface__["data"][0]
        kept += [slots, alive]
    if problem.pattern is not None:
        starts = np.arange(0, max(1, problem.n), row_step)
        rows = np.add.outer(starts, np.arange(0, row_step, group)).ravel()
        rows = np.append(np.minimum(rows, problem.n), problem.n)
        keys = np.append(np.arange(0, problem.m, key_step), problem.m)
        blocks = _blocks(problem, lead, rows, keys)
    found = Modified(lead, extra, blocks, tuple(kept))
    if memory is not None and blocks.nbytes + lead.nbytes <= KEPT_BYTES:
        if len(memory) >= KEPT:
            memory.clear()
        memory[key] = found
    return found


def _remembered(pattern: Any) -> dict[Any, Modified]:
    """What a mask object alone has made of calls like this one (it takes 0.2 ms)."""
    try:
        return _memory[pattern]
    except KeyError:
        return _memory.setdefault(pattern, {})


def _modifiers(problem: AttentionProblem) -> list[tuple[int, Any]]:
    """The modifiers of a problem, and where `extra` has them."""
    from . import modifiers  # few calls need it

    found = []
    if problem.score_mod is not None:
        found.append((MODIFY, modifiers.of_score_mod(problem.score_mod)))
    if problem.pattern is not None:
        found.append((HIDE, modifiers.of_mask(problem.pattern)))
    return found


def _orientation(problem: AttentionProblem) -> str:
    """How the problem's kernel has scores in memory."""
    from .modifiers import COLUMNS, ROWS

    many = problem.operation == "attention" and problem.n_total > SHORT_ROWS
    return COLUMNS if many else ROWS


def compile_functions(problem: AttentionProblem) -> None:
    """Compile what users wrote; `OptionError` says why something cannot be."""
    from .modifiers import tile

    for _, modifier in _modifiers(problem):
        tile(modifier, _orientation(problem), problem.acc_dtype.name)


def _blocks(
    problem: AttentionProblem, lead: np.ndarray, rows: np.ndarray, keys: np.ndarray
) -> np.ndarray:
    """What the blocks of the mask object are; writes where those of an index start."""
    pattern = problem.pattern
    assert pattern is not None
    # the mask counts rows and keys of the whole call
    offset = lead[:, POSITION] + problem.first_key - problem.first_row
    distinct = np.stack([lead[:, BATCH], lead[:, HEAD], offset], axis=1)
    distinct[:, :2] *= pattern.varies
    kinds, which = np.unique(distinct, axis=0, return_inverse=True)
    count = (len(rows) - 1) * (len(keys) - 1)
    table = np.empty((len(kinds), count, 2), np.int32)
    for target, (b, h, q_offset) in zip(table, kinds, strict=True):
        found = mask_blocks.blocks(
            pattern, rows + problem.first_row, keys + problem.first_key,
            int(q_offset), int(b), int(h), partial(_evaluated, problem.acc_dtype),
        )  # fmt: skip
        target[:, 0] = found.first.ravel()
        target[:, 1] = found.last.ravel()
        # an empty block hides nothing either
        target[found.full.ravel(), 1] += FULL
    lead[:, BLOCKS] = which.reshape(-1) * count
    return table.reshape(-1, 2)


def _evaluated(
    dtype: np.dtype[Any],
    leaf: Any,
    rows: np.ndarray,
    keys: np.ndarray,
    q_offset: int,
    b: int,
    h: int,
) -> mask_blocks.Blocks:
    """What the blocks of a user's mask function are, by compiled code."""
    if isinstance(leaf, FromArray):
        return mask_blocks.by_pieces(leaf, rows, keys, q_offset, b, h)
    from . import modifiers

    modifier = modifiers.of_mask(leaf)
    slots, kept = modifiers.packed(modifier.parts)
    tile = modifiers.tile(modifier, modifiers.ROWS, dtype.name)
    tasks, columns = len(rows) - 1, len(keys) - 1
    height, width = (int(np.diff(x).max(initial=0)) for x in (rows, keys))
    flops = EVALUATION_FLOPS * float(rows[-1] - rows[0]) * float(keys[-1] - keys[0])
    how = Execution(num_threads=1)
    workers = launch.workers(how, tasks, flops)
    first, last = (np.empty((tasks, columns), np.int32) for _ in range(2))
    full, status = np.empty((tasks, columns), np.bool_), np.zeros(1, np.int64)
    scratch = np.empty((workers, (height + 2) * width), dtype)
    arguments = (
        rows, keys, tile, slots.__array_interface__["data"][0], b, h, q_offset, scratch,
        first, last, full, status,
    )  # fmt: skip
    kernel = hulls.kernel(dtype.name, chosen())
    launch.run(kernel, arguments, workers, tasks, flops, 1, how)
    del kept  # alive until here
    raise_status(int(status[0]), f"f of masks.from_function {describe(leaf.function)}")
    return mask_blocks.Blocks(first, last, full)


def bytes_beside(problem: AttentionProblem, rows: int, keys: int) -> int:
    """Bytes of copied arguments, indices, and of what is known of a mask's blocks."""
    size = prod(problem.lead) * 16
    if problem.score_mod is not None:
        arrays = [x for part in problem.score_mod.parts for x in part.args]
        arrays = [x for x in arrays if isinstance(x, np.ndarray)]
        size += sum(x.nbytes for x in arrays if not x.flags.c_contiguous)
    if problem.pattern is None:
        return size
    by_b, by_h = problem.pattern.varies
    heads = problem.lead[-1] if problem.lead else 1
    kinds = (prod(problem.lead[:-1]) if by_b else 1) * (heads if by_h else 1)
    if not isinstance(problem.q_offset, int):
        kinds = max(kinds, problem.q_offset.size)
    count = -(-problem.n // rows) * -(-problem.m // keys)
    return size + BLOCK_BYTES * count * (kinds + 1)


def check(problem: AttentionProblem, extra: np.ndarray) -> None:
    """Raise what went wrong in a user's function."""
    if not extra[STATUS]:
        return
    named = []
    if problem.score_mod is not None:
        functions: list[Any] = [part.function for part in problem.score_mod.parts]
        named = [f"score_mod {describe(function)}" for function in functions]
    if problem.pattern is not None:
        named.append(repr(problem.pattern))
    raise_status(int(extra[STATUS]), " or ".join(named))
