"""The mask that a user's function is."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from types import FunctionType
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..functions import MASK, check_function, key_of, unused
from ..functions.evaluation import apply_mask
from .blocks import Blocks, Edges, Evaluate
from .nodes import Leaf

NAME = "f of masks.from_function"


@dataclass(frozen=True, eq=False, repr=False)
class FromFunction(Leaf):
    """Keys for which a function ``f(b, h, q_idx, kv_idx, *args)`` is true."""

    function: FunctionType
    given: tuple[Any, ...]
    by_row: ClassVar[bool] = False
    costly = True

    def __repr__(self) -> str:
        return f"from_function({self.function.__name__})"

    @property
    def args(self) -> tuple[Any, ...]:
        """What follows the function's first four."""
        return self.given

    @property
    def varies(self) -> tuple[bool, bool]:  # type: ignore[override]
        """Whether the function looks at b, and at h."""
        return not unused(self.function, 0), not unused(self.function, 1)

    @property
    def stamp(self) -> Hashable:  # type: ignore[override]
        """What it captures: cells and globals may have got other values."""
        return key_of(self.function)

    def check(self, n: int, m: int, batch: int, heads: int) -> None:
        """Raise `OptionError` where what it captures has become something else."""
        check_function(self.function, NAME, MASK, len(self.given))

    def attended(
        self, b: int, h: int, i: Edges, j: Edges, q_offset: int
    ) -> NDArray[np.bool_]:
        """Return which of some rows attend which of some keys; see `Mask`."""
        return apply_mask(self.function, b, h, i + q_offset, j, self.given)

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
