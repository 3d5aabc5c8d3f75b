"""Masks and how they combine: `Mask`, `Leaf`, `And`, `Or`, `Not`."""

from __future__ import annotations

import operator
from collections.abc import Callable, Hashable
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..errors import OptionError, shown
from ..options import UNBOUNDED
from .blocks import (
    Blocks,
    Edges,
    Evaluate,
    Memo,
    blocks,
    both,
    counts,
    either,
    inverse,
)
from .inputs import locked
from .views import Views


class Mask(Views):
    """Which keys each query attends; made by the functions of `numbattn.masks`.

    Combine masks with ``&``, ``|`` and ``~``. They cannot be changed, they pickle, and
    they own copies of their arrays. What they say of blocks of scores is remembered.

    Examples
    --------
    >>> from numbattn import masks
    >>> mask = masks.causal() & ~masks.prefix(1)
    >>> mask.materialize(3, 3).astype(int)
    array([[0, 0, 0],
           [0, 1, 0],
           [0, 1, 1]])
    """

    __array_ufunc__ = None  # so that array & mask asks the mask, which says what to do

    stamp: Hashable = None
    """What else could change between two calls: captured numbers of a function."""
    costly: bool = False
    """Whether it is worth remembering its blocks where it is part of a combination."""

    def __and__(self, other: object) -> Mask:
        return And(self, _mask(other, "&"))

    def __rand__(self, other: object) -> Mask:
        return And(_mask(other, "&"), self)

    def __or__(self, other: object) -> Mask:
        return Or(self, _mask(other, "|"))

    def __ror__(self, other: object) -> Mask:
        return Or(_mask(other, "|"), self)

    def __invert__(self) -> Mask:
        return Not(self)

    def __bool__(self) -> bool:
        raise OptionError(
            f"the mask {self!r} is neither true nor false; combine masks with &, | and "
            "~, not with and, or, not"
        )

    def __getstate__(self) -> dict[str, Any]:
        return {each.name: getattr(self, each.name) for each in fields(self)}  # type: ignore[arg-type]

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            self.__dict__[name] = locked(value)

    @property
    def memo(self) -> Memo:
        """What is remembered of its blocks."""
        found: Memo | None = self.__dict__.get("_memo")
        # setdefault is atomic: threads share one
        return self.__dict__.setdefault("_memo", Memo()) if found is None else found

    @cached_property
    def split(self) -> tuple[int, int, Mask | None]:
        """A window, (left, right), and the mask that is left to apply within it.

        What a mask has in common with ``window_size`` then costs as little.
        """
        return UNBOUNDED, UNBOUNDED, self

    def hulls(
        self,
        rows: Edges,
        keys: Edges,
        q_offset: int,
        b: int,
        h: int,
        evaluate: Evaluate,
    ) -> Blocks:
        """Return what each block is, reckoned anew; see `masks.blocks.blocks`.

        Parameters
        ----------
        rows : ndarray of int64
            Where blocks of rows begin, and at last their end.
        keys : ndarray of int64
            Where blocks of keys begin, and at last their end.
        q_offset : int
            Position of row 0.
        b : int
            Batch entry.
        h : int
            Query head.
        evaluate : callable
            What to ask where only evaluating the mask can tell.

        Returns
        -------
        Blocks
            Read-only arrays of shape (len(rows) - 1, len(keys) - 1).

        Examples
        --------
        Four blocks of 2 × 2: of the causal mask the upper right one is empty.

        >>> import numpy as np
        >>> from numbattn import masks
        >>> edges = np.array([0, 2, 4])
        >>> found = masks.causal().hulls(edges, edges, 0, 0, 0, None)
        >>> found.last  # one behind the last attended key of each block
        array([[2, 0],
               [2, 2]], dtype=int32)
        >>> found.full
        array([[False, False],
               [ True, False]])
        """
        raise NotImplementedError

    def counted(
        self, rows: Edges, keys: Edges, q_offset: int, b: int, h: int
    ) -> NDArray[np.int64]:
        """Return how many pairs of each block are attended, exactly.

        Parameters
        ----------
        rows : ndarray of int64
            Where blocks of rows begin, and at last their end.
        keys : ndarray of int64
            Where blocks of keys begin, and at last their end.
        q_offset : int
            Position of row 0.
        b : int
            Batch entry.
        h : int
            Query head.

        Returns
        -------
        ndarray of int64
            Shape (len(rows) - 1, len(keys) - 1).

        Examples
        --------
        >>> import numpy as np
        >>> from numbattn import masks
        >>> edges = np.array([0, 2, 4])
        >>> masks.causal().counted(edges, edges, 0, 0, 0)
        array([[3, 0],
               [4, 3]])
        """
        return counts(self, rows, keys, q_offset, b, h)


def _mask(value: object, sign: str) -> Mask:
    if isinstance(value, Mask):
        return value
    hint = "a mask of numbattn.masks has to stand there"
    if callable(value):
        hint = "pass masks.from_function(f)"
    elif isinstance(value, (np.ndarray, list, bool, np.bool_)):
        hint = "pass masks.from_array(array)"
    raise OptionError(f"a mask {sign} {shown(value)} is no mask; {hint}")


class Leaf(Mask):
    """A mask that is no combination: a plain function of numbers, and its arguments.

    Examples
    --------
    >>> from numbattn import masks
    >>> isinstance(masks.causal(), masks.Leaf), isinstance(~masks.causal(), masks.Leaf)
    (True, False)
    """

    function: Callable[..., Any]
    """``f(b, h, q_idx, kv_idx, i, *args) -> bool``; without i where not `by_row`."""
    by_row: ClassVar[bool] = True
    """Whether `function` takes the row i."""

    @property
    def args(self) -> tuple[Any, ...]:
        """Numbers and arrays that `function` takes at last."""
        raise NotImplementedError

    def attended(
        self, b: int, h: int, i: Edges, j: Edges, q_offset: int
    ) -> NDArray[np.bool_]:
        """Return which of some rows attend which of some keys; see `Mask`."""
        row = i[:, None]
        found = self.function(b, h, row + q_offset, j, row, *self.args)
        return np.broadcast_to(found, (len(i), len(j)))


class _Node(Mask):
    """A combination."""

    @property
    def parts(self) -> tuple[Mask, ...]:
        """What is combined."""
        return tuple(getattr(self, each.name) for each in fields(self))  # type: ignore[arg-type]

    @property
    def varies(self) -> tuple[bool, bool]:  # type: ignore[override]
        """Whether it depends on b, and on h."""
        found = [part.varies for part in self.parts]
        return any(by_b for by_b, _ in found), any(by_h for _, by_h in found)

    @property
    def stamp(self) -> Hashable:  # type: ignore[override]
        """What else could change between two calls."""
        return tuple(part.stamp for part in self.parts)

    @property
    def sizes(self) -> tuple[int, int]:  # type: ignore[override]
        """How many batch entries and heads the arrays have."""
        found = [part.sizes for part in self.parts]
        return max(size for size, _ in found), max(size for _, size in found)

    @property
    def costly(self) -> bool:  # type: ignore[override]
        """Whether it is worth remembering its blocks."""
        return any(part.costly for part in self.parts)

    def check(self, n: int, m: int, batch: int, heads: int) -> None:
        """Raise `ShapeError` where an array does not fit the scores."""
        for part in self.parts:
            part.check(n, m, batch, heads)

    def _hulls(self, *call: Any) -> list[Blocks]:
        """Return the blocks of each part."""
        return [
            blocks(part, *call) if part.costly else part.hulls(*call)
            for part in self.parts
        ]


@dataclass(frozen=True, eq=False, repr=False)
class _Pair(_Node):
    """Two masks, combined by an operator of Python's."""

    left: Mask
    right: Mask
    sign: ClassVar[str]
    _join: ClassVar[Any]
    """What the operator does to bools."""
    _of_blocks: ClassVar[Any]
    """What it does to blocks."""

    def __repr__(self) -> str:
        return f"({self.left!r} {self.sign} {self.right!r})"

    def attended(
        self, b: int, h: int, i: Edges, j: Edges, q_offset: int
    ) -> NDArray[np.bool_]:
        """Return which of some rows attend which of some keys; see `Mask`."""
        masks = (self.left, self.right)
        found: NDArray[np.bool_] = self._join(
            *(mask.attended(b, h, i, j, q_offset) for mask in masks)
        )
        return found

    def hulls(self, *call: Any) -> Blocks:
        """Return what each block is; see `Mask`."""
        found: Blocks = self._of_blocks(*self._hulls(*call))
        return found


@dataclass(frozen=True, eq=False, repr=False)
class And(_Pair):
    """What both masks attend.

    Parameters
    ----------
    left : Mask
        One mask.
    right : Mask
        The other one.

    Examples
    --------
    >>> from numbattn import masks
    >>> mask = masks.causal() & masks.causal(-1)
    >>> mask
    (causal() & causal(-1))
    >>> mask.materialize(3, 3).astype(int)
    array([[0, 0, 0],
           [1, 0, 0],
           [1, 1, 0]])
    """

    sign = "&"
    _join = staticmethod(operator.and_)
    _of_blocks = staticmethod(both)

    @cached_property
    def split(self) -> tuple[int, int, Mask | None]:
        """The windows of both; see `Mask`."""
        left, right, mask = self.left.split
        left_2, right_2, other = self.right.split
        rest = other if mask is None else mask
        if mask is not None and other is not None:
            whole = mask is self.left and other is self.right
            rest = self if whole else And(mask, other)
        return min(left, left_2), min(right, right_2), rest


@dataclass(frozen=True, eq=False, repr=False)
class Or(_Pair):
    """What one of the masks, or both, attend.

    Parameters
    ----------
    left : Mask
        One mask.
    right : Mask
        The other one.

    Examples
    --------
    >>> from numbattn import masks
    >>> mask = masks.causal() | masks.prefix(2)
    >>> mask.materialize(3, 3).astype(int)
    array([[1, 1, 0],
           [1, 1, 0],
           [1, 1, 1]])
    """

    sign = "|"
    _join = staticmethod(operator.or_)
    _of_blocks = staticmethod(either)


@dataclass(frozen=True, eq=False, repr=False)
class Not(_Node):
    """What the mask does not attend.

    Parameters
    ----------
    operand : Mask
        The mask.

    Examples
    --------
    >>> from numbattn import masks
    >>> ~masks.prefix(2)
    ~prefix(2)
    >>> (~masks.prefix(2)).materialize(1, 4).astype(int)
    array([[0, 0, 1, 1]])
    """

    operand: Mask

    def __repr__(self) -> str:
        return f"~{self.operand!r}"

    def attended(
        self, b: int, h: int, i: Edges, j: Edges, q_offset: int
    ) -> NDArray[np.bool_]:
        """Return which of some rows attend which of some keys; see `Mask`."""
        return ~self.operand.attended(b, h, i, j, q_offset)

    def hulls(self, *call: Any) -> Blocks:
        """Return what each block is; see `Mask`."""
        rows, keys, *_ = call
        return inverse(self._hulls(*call)[0], rows, keys)

    def counted(
        self, rows: Edges, keys: Edges, q_offset: int, b: int, h: int
    ) -> NDArray[np.int64]:
        """Return how many pairs of each block are attended, exactly; see `Mask`."""
        # of its own blocks less is known: more of them would be evaluated
        area = np.diff(rows)[:, None] * np.diff(keys)
        return area - self.operand.counted(rows, keys, q_offset, b, h)
