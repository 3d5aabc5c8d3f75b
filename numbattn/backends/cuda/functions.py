"""Users' functions and mask objects on CUDA: put into a kernel as device functions.

A kernel calls ``modify(s, b, h, q_idx, kv_idx, arguments, status)`` and ``attends(b, h,
q_idx, kv_idx, row, arguments, status)``. Here they are made of a call's score_mod and
mask object, and kept by code, constants and types of arguments (`functions.key_of`),
not by function object: a lambda made anew for each call is compiled once. What they
read comes by one argument of the kernel, so that contents and lengths compile nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from math import prod
from typing import Any, NamedTuple

import numpy as np

from numbattn import functions
from numbattn.device_arrays import DeviceArray
from numbattn.functions import complaints
from numbattn.masks import And, Leaf, Mask, Not, Or
from numbattn.problem import AttentionProblem

from . import device, elements, names
from .arguments import Kind, kind_of, packed, types_of
from .device import device_function, types

if device.simulated:
    from numbattn.functions.places import number

    from . import interpreted
else:
    from . import compiled
    from .compiling import jitted

_known: dict[Hashable, Any] = {}
_lock = threading.RLock()
_unchanged = device_function(elements.unchanged)
_everywhere = device_function(elements.everywhere)


class Wired(NamedTuple):
    """What a kernel needs of a problem's functions."""

    modify: Any
    """The score_mod: a device function; in the simulator a plain one."""
    attends: Any
    """The mask object."""
    arguments: tuple[Any, ...]
    """What both read: numbers, and flat arrays where the kernel can read them."""
    signature_types: tuple[Any, ...]
    """The Numba types of these; the kernel's argument is ``types.Tuple`` of them."""
    key: Hashable
    """Equal where the functions and the types are."""
    arrays: tuple[Any, ...]
    """What has to live as long as the kernel runs."""


class Part(NamedTuple):
    """A user's function, or one of a mask of ours, and what it is called with."""

    function: Any
    args: tuple[Any, ...]
    kinds: tuple[Kind, ...]
    real: str
    """Its floats: the scores'; float64 in masks, as `materialize` has them."""
    is_mask: bool
    by_row: bool
    """Whether it gets the row after the key: masks of ours."""
    checked: bool

    @property
    def key(self) -> Hashable:
        """Equal for parts that compile alike."""
        return functions.key_of(self.function), *self[2:]

    @property
    def words(self) -> str:
        """Its name in messages."""
        return complaints.name_of(self.function, self.is_mask)


def _of_score_mod(problem: AttentionProblem) -> list[Part]:
    if problem.score_mod is None:
        return []
    real = problem.acc_dtype.name
    return [
        Part(
            part.function, part.args, tuple(map(kind_of, part.args)), real,
            False, False, not part.unchecked,
        )
        for part in problem.score_mod.parts
    ]  # fmt: skip


def _leaves(mask: Mask | None) -> list[Part]:
    """The parts of a mask object, from left to right."""
    if isinstance(mask, Not):
        return _leaves(mask.operand)
    if isinstance(mask, (And, Or)):
        return _leaves(mask.left) + _leaves(mask.right)
    if not isinstance(mask, Leaf):
        return []
    kinds = tuple(map(kind_of, mask.args))
    # the arrays of our own masks have been checked against the call
    how = True, mask.by_row, not mask.by_row
    return [Part(mask.function, mask.args, kinds, "float64", *how)]


def _shape(mask: Mask | None) -> Hashable:
    """How the parts of a mask object are combined."""
    if isinstance(mask, Not):
        return "~", _shape(mask.operand)
    if isinstance(mask, (And, Or)):
        return mask.sign, _shape(mask.left), _shape(mask.right)
    return mask is not None


def wire(problem: AttentionProblem, upload: Callable[[Any], Any]) -> Wired:
    """Make a problem's functions ready for a kernel, compiling what is new.

    Parameters
    ----------
    problem : AttentionProblem
        The call.
    upload : callable
        Takes an array, 1-D and contiguous, to where a kernel can read it.

    Returns
    -------
    Wired
        The functions do nothing where the problem has none.

    Raises
    ------
    OptionError
        A function that cannot be compiled.
    """
    changes, hides = _of_score_mod(problem), _leaves(problem.pattern)
    key, modify, attends, signature = _compiled(problem.pattern, changes, hides)
    given = packed([x for part in (*changes, *hides) for x in part.args], upload)
    arrays = tuple(x for x in given if not isinstance(x, (bool, int, float)))
    return Wired(modify, attends, tuple(given or [0]), signature, key, arrays)


def _compiled(
    pattern: Mask | None, changes: list[Part], hides: list[Part]
) -> tuple[Hashable, Any, Any, tuple[Any, ...]]:
    """Key, modify, attends and the types of what they read; made where they are new."""
    key = (*(part.key for part in changes), _shape(pattern), *(x.key for x in hides))
    with _lock:
        found = _known.get(key)
        if found is None:
            modify, at = _unchanged, 0
            for part in changes:
                modify, at = _after(modify, _called(part, at)), at + _slots(part)
            attends, rest = _everywhere, list(hides)
            if pattern is not None:
                attends, _ = _hides(pattern, rest, at)
            kinds = [kind for part in (*changes, *hides) for kind in part.kinds]
            signature = tuple(types_of(kinds)) or (types.int64,)
            found = _known[key] = modify, attends, signature
    return key, *found


def _slots(part: Part) -> int:
    return sum(kind.slots for kind in part.kinds)


def _after(before: Any, call: Any) -> Any:
    """The function that calls one part more of a score_mod."""

    @device_function
    def modify(s, b, h, q_idx, kv_idx, arguments, status):  # type: ignore[no-untyped-def]
        s = before(s, b, h, q_idx, kv_idx, arguments, status)
        return call((s, b, h, q_idx, kv_idx), arguments, status)

    return modify


def _hides(mask: Mask, parts: list[Part], at: int) -> tuple[Any, int]:
    """The function of a mask, and the slot behind its arguments; takes its parts."""
    if isinstance(mask, Not):
        operand, at = _hides(mask.operand, parts, at)
        return _inverse(operand), at
    if isinstance(mask, (And, Or)):
        left, at = _hides(mask.left, parts, at)
        right, at = _hides(mask.right, parts, at)
        return (_both if isinstance(mask, And) else _either)(left, right), at
    part = parts.pop(0)
    return _leaf(_called(part, at), part.by_row), at + _slots(part)


def _leaf(call: Any, by_row: bool) -> Any:
    if by_row:

        @device_function
        def attends(b, h, q_idx, kv_idx, row, arguments, status):  # type: ignore[no-untyped-def]
            return call((b, h, q_idx, kv_idx, row), arguments, status)

    else:

        @device_function
        def attends(b, h, q_idx, kv_idx, row, arguments, status):  # type: ignore[no-untyped-def]
            return call((b, h, q_idx, kv_idx), arguments, status)

    return attends


def _inverse(operand: Any) -> Any:
    @device_function
    def attends(b, h, q_idx, kv_idx, row, arguments, status):  # type: ignore[no-untyped-def]
        return not operand(b, h, q_idx, kv_idx, row, arguments, status)

    return attends


def _both(left: Any, right: Any) -> Any:
    @device_function
    def attends(b, h, q_idx, kv_idx, row, arguments, status):  # type: ignore[no-untyped-def]
        if not left(b, h, q_idx, kv_idx, row, arguments, status):
            return False
        return right(b, h, q_idx, kv_idx, row, arguments, status)

    return attends


def _either(left: Any, right: Any) -> Any:
    @device_function
    def attends(b, h, q_idx, kv_idx, row, arguments, status):  # type: ignore[no-untyped-def]
        if left(b, h, q_idx, kv_idx, row, arguments, status):
            return True
        return right(b, h, q_idx, kv_idx, row, arguments, status)

    return attends


def _called(part: Part, at: int) -> Any:
    """What calls a part in a kernel: ``call(place, arguments, status)``."""
    if device.simulated and part.by_row:
        return interpreted.leaf(part.function, part.kinds, at)
    if device.simulated:
        bound = functions.rebound(
            part.function, names.modules(), names.functions(), lambda f: f, number
        )
        real = getattr(np, part.real)
        return interpreted.part(
            bound, part.words, part.kinds, part.checked, real, part.is_mask, at
        )
    real = getattr(types, part.real)
    leading = [types.int64] * (4 + part.by_row)
    if not part.is_mask:
        leading.insert(0, real)
    own = compiled.argument_types(part.kinds, real, part.checked)
    known = ("part", part.key)
    if known not in _known:
        bound = functions.rebound(
            part.function, names.modules(), names.functions(), device_function
        )
        _known[known] = jitted(bound, part.words, (*leading, *own), part.is_mask)
    result = types.boolean if part.is_mask else real
    return compiled.part(_known[known], leading, part.kinds, own, result, at)


def check(problem: AttentionProblem) -> None:
    """Raise `OptionError` for a score_mod or a mask object that cannot be compiled.

    In the simulator, where nothing is compiled, they are called for one score.
    """
    changes, hides = _of_score_mod(problem), _leaves(problem.pattern)
    _compiled(problem.pattern, changes, hides)
    size = problem.n * problem.m * prod(problem.lead)
    given = [x for part in (*changes, *hides) for x in part.args]
    if (
        not device.simulated
        or not size
        or any(isinstance(x, DeviceArray) for x in given)
    ):
        return
    assert problem.indices is not None
    b, h = problem.indices[0].tolist()
    offset = np.broadcast_to(problem.q_offset, problem.lead or 1).flat[0]
    place = b, h, int(offset) + problem.first_key, problem.first_key
    with np.errstate(all="ignore"):
        for part in (*changes, *hides):
            row = (problem.first_row,) if part.by_row else ()
            score = () if part.is_mask else (0.0,)
            arguments = packed(part.args, lambda array: array)
            _called(part, 0)((*score, *place, *row), arguments, np.zeros(1, np.int64))


def raise_status(problem: AttentionProblem, status: Any) -> None:
    """Raise what went wrong in a user's function while a kernel ran.

    Parameters
    ----------
    problem : AttentionProblem
        The call.
    status : ndarray
        As its kernels left it: ``status[0]`` is 0 where nothing went wrong.
    """
    named = []
    if problem.score_mod is not None:
        named = [part.words for part in _of_score_mod(problem)]
    if problem.pattern is not None:
        named.append(repr(problem.pattern))
    complaints.raise_status(int(status[0]), " or ".join(named))
