"""The masks that are no combination: a function of scalars each, and what blocks are.

The functions are the masks' only definition: kernels compile them, and NumPy calls them
on whole arrays. A factor of 0 keeps an index at 0 where an array is the same for all
batch entries, heads, rows or keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ShapeError
from ..options import UNBOUNDED
from .blocks import Blocks, Edges, Evaluate, made
from .documents import documents
from .nodes import Leaf, Mask

Ints = NDArray[np.int64]


def causal(b: Any, h: Any, q_idx: Any, kv_idx: Any, i: Any, offset: Any) -> Any:
    """Keys up to the query's position, and `offset` more."""
    return kv_idx <= q_idx + offset


def window(
    b: Any, h: Any, q_idx: Any, kv_idx: Any, i: Any, left: Any, right: Any
) -> Any:
    """Keys around the query's position."""
    return (q_idx - left <= kv_idx) & (kv_idx <= q_idx + right)


def shorter(b: Any, h: Any, q_idx: Any, kv_idx: Any, i: Any, length: Any) -> Any:
    """Keys in front of one length."""
    return kv_idx < length


def shorter_by(
    b: Any, h: Any, q_idx: Any, kv_idx: Any, i: Any, lengths: Any, by_b: Any, by_h: Any
) -> Any:
    """Keys in front of a length of this batch entry and head."""
    return kv_idx < lengths[b * by_b, h * by_h]


def same(
    b: Any, h: Any, q_idx: Any, kv_idx: Any, i: Any,
    q_ids: Any, kv_ids: Any, q_by_b: Any, q_by_h: Any, kv_by_b: Any, kv_by_h: Any,
) -> Any:  # fmt: skip
    """Keys of the row's document."""
    return q_ids[b * q_by_b, h * q_by_h, i] == kv_ids[b * kv_by_b, h * kv_by_h, kv_idx]


def stepped(b: Any, h: Any, q_idx: Any, kv_idx: Any, i: Any, step: Any) -> Any:
    """Keys at a multiple of `step` from the query."""
    return (q_idx - kv_idx) % step == 0


def listed(
    b: Any, h: Any, q_idx: Any, kv_idx: Any, i: Any,
    array: Any, by_b: Any, by_h: Any, by_i: Any, by_j: Any,
) -> Any:  # fmt: skip
    """Keys that the array says."""
    return array[b * by_b, h * by_h, i * by_i, kv_idx * by_j]


def factors(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return what indices are multiplied by: 0 for axes of length 1, else 1."""
    return tuple(int(size != 1) for size in shape)


def check_lead(
    shape: tuple[int, ...], lead: tuple[int, int], name: str, given: tuple[int, ...]
) -> None:
    """Raise where arrays by batch entry and head do not fit the call."""
    for own, size, what in zip(shape, lead, ("batch entries", "heads"), strict=False):
        if own not in (1, size):
            raise ShapeError(
                f"{name} has shape {given}, for {own} {what}; the scores have {size}: "
                "that axis has to be 1 or equal"
            )


def band(rows: Edges, keys: Edges, q_offset: int, left: int, right: int) -> Blocks:
    """Return the blocks of the keys from q_idx - left to q_idx + right."""
    first_q, last_q = rows[:-1, None] + q_offset, rows[1:, None] - 1 + q_offset
    begin, end = keys[:-1], keys[1:]
    # rows move by one key each: all they attend together is one stretch, too
    first = np.maximum(first_q - left, begin)
    last = np.minimum(last_q + right + 1, end)
    full = (last_q - left <= first) & (last <= first_q + right + 1)
    first += (last_q < first_q) * (end - begin)  # no rows
    return made(first - begin, last - begin, full)


@dataclass(frozen=True, eq=False, repr=False)
class Causal(Leaf):
    """Keys up to q_idx + offset."""

    offset: int
    function = staticmethod(causal)

    def __repr__(self) -> str:
        return f"causal({self.offset or ''})"

    @property
    def args(self) -> tuple[Any, ...]:
        """The offset."""
        return (self.offset,)

    @cached_property
    def split(self) -> tuple[int, int, Mask | None]:
        """All of it is a window; see `Mask`."""
        return UNBOUNDED, self.offset, None

    def hulls(
        self,
        rows: Edges,
        keys: Edges,
        q_offset: int,
        b: int,
        h: int,
        evaluate: Evaluate,
    ) -> Blocks:
        """Return what each block is; see `Mask`."""
        return band(rows, keys, q_offset, UNBOUNDED, self.offset)


@dataclass(frozen=True, eq=False, repr=False)
class Window(Leaf):
    """Keys from q_idx - left to q_idx + right."""

    left: int
    right: int
    function = staticmethod(window)

    def __repr__(self) -> str:
        sides = (None if side == UNBOUNDED else side for side in self.args)
        return "sliding_window({}, {})".format(*sides)

    @property
    def args(self) -> tuple[Any, ...]:
        """Both sides."""
        return self.left, self.right

    @cached_property
    def split(self) -> tuple[int, int, Mask | None]:
        """All of it is a window; see `Mask`."""
        return self.left, self.right, None

    def hulls(
        self,
        rows: Edges,
        keys: Edges,
        q_offset: int,
        b: int,
        h: int,
        evaluate: Evaluate,
    ) -> Blocks:
        """Return what each block is; see `Mask`."""
        return band(rows, keys, q_offset, self.left, self.right)


@dataclass(frozen=True, eq=False, repr=False)
class Prefix(Leaf):
    """Keys below a length: a number, or an array (B or 1, H or 1)."""

    lengths: int | Ints
    given: tuple[int, ...]

    def __repr__(self) -> str:
        alone = isinstance(self.lengths, int)
        return f"prefix({self.lengths if alone else f'<{self.given} lengths>'})"

    @property
    def function(self) -> Any:  # type: ignore[override]
        """One of two, by what `lengths` is."""
        return shorter if isinstance(self.lengths, int) else shorter_by

    @property
    def sizes(self) -> tuple[int, int]:  # type: ignore[override]
        """How many batch entries and heads the lengths are for."""
        return (1, 1) if isinstance(self.lengths, int) else self.lengths.shape

    @property
    def args(self) -> tuple[Any, ...]:
        """The length; or the lengths, and the factors of b and h."""
        if isinstance(self.lengths, int):
            return (self.lengths,)
        return self.lengths, *factors(self.lengths.shape)

    @property
    def varies(self) -> tuple[bool, bool]:  # type: ignore[override]
        """By the axes of the lengths."""
        return self.sizes[0] != 1, self.sizes[1] != 1

    def check(self, n: int, m: int, batch: int, heads: int) -> None:
        """Raise `ShapeError` where the lengths do not fit the scores."""
        check_lead(self.sizes, (batch, heads), "lengths of masks.prefix", self.given)

    def hulls(
        self,
        rows: Edges,
        keys: Edges,
        q_offset: int,
        b: int,
        h: int,
        evaluate: Evaluate,
    ) -> Blocks:
        """Return what each block is; see `Mask`."""
        length = self.lengths
        if not isinstance(length, int):
            _, by_b, by_h = self.args
            length = int(length[b * by_b, h * by_h])
        begin, some = keys[:-1], np.diff(rows)[:, None] > 0
        last = np.where(some, np.minimum(keys[1:], length) - begin, 0)
        return made(np.zeros_like(last), last, some)


@dataclass(frozen=True, eq=False, repr=False)
class Dilated(Leaf):
    """Keys at a multiple of `step` from the query."""

    step: int
    function = staticmethod(stepped)

    def __repr__(self) -> str:
        return f"dilated({self.step})"

    @property
    def args(self) -> tuple[Any, ...]:
        """The step."""
        return (self.step,)

    def hulls(
        self,
        rows: Edges,
        keys: Edges,
        q_offset: int,
        b: int,
        h: int,
        evaluate: Evaluate,
    ) -> Blocks:
        """Return what each block is; see `Mask`."""
        count = np.diff(rows)[:, None]
        top, end = rows[:-1, None] + q_offset, keys[1:] - 1
        # how far behind the first row's residue a key's is: below count, it is attended
        ahead, behind = (keys[:-1] - top) % self.step, (end - top) % self.step
        first = np.where(ahead < count, 0, self.step - ahead)
        back = np.where(behind < count, 0, behind - count + 1)
        last = np.where(count > 0, np.diff(keys) - back, 0)
        # two rows, or two keys, next to each other have different residues
        single = (count == 1) & (last - first == 1)
        return made(first, last, single | (self.step == 1))


@dataclass(frozen=True, eq=False, repr=False)
class Document(Leaf):
    """Keys whose number of a document is the row's: arrays (B or 1, H or 1, n or m)."""

    q_ids: Ints
    kv_ids: Ints
    q_given: tuple[int, ...]
    kv_given: tuple[int, ...]
    function = staticmethod(same)
    costly = True

    def __repr__(self) -> str:
        return f"document(<{self.q_given} ids>, <{self.kv_given} ids>)"

    @property
    def args(self) -> tuple[Any, ...]:
        """Both arrays, and their factors of b and h."""
        q, kv = self.q_ids, self.kv_ids
        return q, kv, *factors(q.shape[:2]), *factors(kv.shape[:2])

    @property
    def sizes(self) -> tuple[int, int]:  # type: ignore[override]
        """How many batch entries and heads the ids are for."""
        (q_b, q_h, _), (kv_b, kv_h, _) = self.q_ids.shape, self.kv_ids.shape
        return q_b if q_b != 1 else kv_b, q_h if q_h != 1 else kv_h

    @property
    def varies(self) -> tuple[bool, bool]:  # type: ignore[override]
        """By the axes of the ids."""
        return self.sizes[0] != 1, self.sizes[1] != 1

    def check(self, n: int, m: int, batch: int, heads: int) -> None:
        """Raise `ShapeError` where the ids do not fit the scores."""
        for name, ids, given, size, what in (
            ("q_ids", self.q_ids, self.q_given, n, "n, the number of queries"),
            ("kv_ids", self.kv_ids, self.kv_given, m, "m, the number of keys"),
        ):
            name = f"{name} of masks.document"
            if ids.shape[2] != size:
                raise ShapeError(
                    f"{name} has shape {given}; its last axis has to be {size}, which "
                    f"is {what}"
                )
            check_lead(ids.shape, (batch, heads), name, given)

    def hulls(
        self,
        rows: Edges,
        keys: Edges,
        q_offset: int,
        b: int,
        h: int,
        evaluate: Evaluate,
    ) -> Blocks:
        """Return what each block is; see `Mask`."""
        q, kv, q_by_b, q_by_h, kv_by_b, kv_by_h = self.args
        q, kv = q[b * q_by_b, h * q_by_h], kv[b * kv_by_b, h * kv_by_h]
        return documents(q, kv, rows, keys)


@dataclass(frozen=True, eq=False, repr=False)
class FromArray(Leaf):
    """Keys that an array says: (B or 1, H or 1, n or 1, m or 1)."""

    array: NDArray[np.bool_]
    given: tuple[int, ...]
    function = staticmethod(listed)
    costly = True

    def __repr__(self) -> str:
        return f"from_array(<{self.given} bools>)"

    @property
    def args(self) -> tuple[Any, ...]:
        """The array, and the factors of its indices."""
        return self.array, *factors(self.array.shape)

    @property
    def sizes(self) -> tuple[int, int]:  # type: ignore[override]
        """How many batch entries and heads the array is for."""
        return self.array.shape[0], self.array.shape[1]

    @property
    def varies(self) -> tuple[bool, bool]:  # type: ignore[override]
        """By the axes of the array."""
        return self.sizes[0] != 1, self.sizes[1] != 1

    def check(self, n: int, m: int, batch: int, heads: int) -> None:
        """Raise `ShapeError` where the array does not fit the scores."""
        scores = batch, heads, n, m
        shape = (1,) * (4 - len(self.given)) + self.given
        for own, size in zip(shape, scores, strict=True):
            if own not in (1, size):
                raise ShapeError(
                    f"the array of masks.from_array has shape {self.given}; it has to "
                    f"broadcast to (batch, heads, n, m) = {scores}: aligned at the "
                    "right, each axis 1 or equal"
                )

    def attended(
        self, b: int, h: int, i: Edges, j: Edges, q_offset: int
    ) -> NDArray[np.bool_]:
        """Return which of some rows attend which of some keys; see `Mask`."""
        array, by_b, by_h, by_i, by_j = self.args
        found = array[b * by_b, h * by_h]
        # stretches are sliced: 20 times faster than by every index
        found = found[_places(i * by_i)][:, _places(j * by_j)]
        return np.broadcast_to(found, (len(i), len(j)))

    def hulls(
        self,
        rows: Edges,
        keys: Edges,
        q_offset: int,
        b: int,
        h: int,
        evaluate: Evaluate,
    ) -> Blocks:
        """Return what each block is; see `Mask`."""
        return evaluate(self, rows, keys, q_offset, b, h)


def _places(index: Ints) -> Ints | slice:
    """Return a slice for numbers that follow one another."""
    if len(index) and (index[1:] - index[:-1] == 1).all():
        return slice(int(index[0]), int(index[-1]) + 1)
    return index
