"""Where kernels call what `modifiers` has compiled, and skip what a mask hides."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .layout import BATCH, BLOCKS, HEAD
from .pointers import I64, address
from .simd import inner

# slots of the int64 array `extra`: for each modifier its address, 0 for none, and that
# of its arguments; number of the problem's row 0 and key 0 within the call; what went
# wrong: 1 for an index outside an argument array, 2 for an error in compiled code
MODIFY, HIDE, FIRST_ROW, FIRST_KEY, STATUS, SLOTS = 0, 2, 4, 5, 6, 7
OUTSIDE, FAILED = 1, 2
FULL = 1 << 30  # on the end of a block's hull: all rows attend all of its keys


@intrinsic
def call_tile(  # type: ignore[no-untyped-def]
    typingctx, where, scores, outer, inner, pitch, b, h, q_idx, kv_idx, row, factor,
    arguments, status,
):  # fmt: skip
    """Call a tile function by its address; `status` tells what went wrong."""
    slots = types.CPointer(types.int64)
    passed = (scores, *(types.int64,) * 8, scores.dtype, slots, slots)

    def generate(context, builder, signature, values):  # type: ignore[no-untyped-def]
        convention = context.call_conv
        kind = convention.get_function_type(types.void, passed)
        callee = builder.inttoptr(values[0], kind.as_pointer())
        given = [*values[1:11], builder.inttoptr(values[11], I64.as_pointer())]
        found, _ = convention.call_function(
            builder, callee, types.void, passed, [*given, values[12]]
        )
        with builder.if_then(found.is_error, likely=False):
            builder.store(ir.Constant(I64, FAILED), values[12])
        return context.get_dummy_value()

    numbers = (types.int64,) * 8
    signature = types.void(
        types.int64, scores, *numbers, scores.dtype, types.int64, slots
    )
    return signature, generate


@inner
def change(  # type: ignore[no-untyped-def]
    extra, which, scores, outer, inner, pitch, lead, at, q_idx, kv_idx, row, factor
):
    """Call a modifier on a block of scores of leading index `at`.

    `q_idx`, `kv_idx` and `row` are those of the block's first score, within the
    problem; a score_mod's results are multiplied by `factor`.
    """
    call_tile(
        extra[which], scores, outer, inner, pitch, lead[at, BATCH], lead[at, HEAD],
        q_idx + extra[FIRST_KEY], kv_idx + extra[FIRST_KEY], row + extra[FIRST_ROW],
        factor, extra[which + 1], address(extra, STATUS),
    )  # fmt: skip


@inner
def hull(blocks, lead, at, number, first, last, begin):  # type: ignore[no-untyped-def]
    """Keys first..last of a block that begins at `begin`, as far as they are attended.

    And whether some of these are hidden from some rows. `number` is the block's among
    those of its leading index.
    """
    place = lead[at, BLOCKS] + number
    low, high = blocks[place, 0], blocks[place, 1]
    hidden = high < FULL
    if not hidden:
        high -= FULL
    return max(first, begin + low), min(last, begin + high), hidden
