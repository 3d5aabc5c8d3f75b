"""What a user sees of a mask: the whole of it, how much it leaves out, a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..cells import Cells
from ..errors import OptionError
from .blocks import Edges, pieces
from .inputs import count_of, whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PIXELS = 512
"""The most that `plot` draws along each axis."""
_ROWS, _KEYS = 128, 512  # blocks of `sparsity`


class Views:
    """The methods of `numbattn.masks.Mask` that are for looking at it."""

    varies: tuple[bool, bool] = (False, False)
    """Whether it depends on the batch entry b, and on the head h."""
    sizes: tuple[int, int] = (1, 1)
    """How many batch entries and heads its arrays have; 1 where they are for all."""

    def check(self, n: int, m: int, batch: int, heads: int) -> None:
        """Raise `ShapeError` where its arrays do not fit the scores.

        Parameters
        ----------
        n : int
            Number of queries.
        m : int
            Number of keys.
        batch : int
            Number of batch entries: the product of the axes before the heads.
        heads : int
            Number of query heads.

        Examples
        --------
        >>> from numbattn import masks
        >>> masks.prefix([1, 2]).check(4, 4, 2, 1)  # two batch entries: they fit
        """

    def counted(
        self, rows: Edges, keys: Edges, q_offset: int, b: int, h: int
    ) -> NDArray[np.int64]:
        """Return how many pairs of each block are attended; see `Mask`."""
        raise NotImplementedError

    def attended(
        self, b: int, h: int, i: Edges, j: Edges, q_offset: int
    ) -> NDArray[np.bool_]:
        """Return which of some rows attend which of some keys.

        Parameters
        ----------
        b : int
            Batch entry.
        h : int
            Query head.
        i : ndarray of int64
            Numbers of rows.
        j : ndarray of int64
            Numbers of keys.
        q_offset : int
            Position of row 0.

        Returns
        -------
        ndarray of bool
            Shape (len(i), len(j)).

        Examples
        --------
        >>> import numpy as np
        >>> from numbattn import masks
        >>> masks.causal().attended(0, 0, np.array([1]), np.arange(4), 0)
        array([[ True,  True, False, False]])
        """
        raise NotImplementedError

    def materialize(
        self, n: int, m: int, *, batch: int = 1, heads: int = 1, q_offset: int = 0
    ) -> NDArray[np.bool_]:
        """Return the mask as an array; the only thing here that has its size.

        Parameters
        ----------
        n : int
            Number of queries.
        m : int
            Number of keys.
        batch : int, default 1
            Number of batch entries.
        heads : int, default 1
            Number of query heads.
        q_offset : int, default 0
            Position of query row 0.

        Returns
        -------
        ndarray of bool
            True where the query attends the key: shape (n, m) for one batch entry and
            one head, else (batch, heads, n, m).

        Raises
        ------
        OptionError, ShapeError
            Sizes that are none, or that the mask's arrays do not fit.

        Examples
        --------
        >>> from numbattn import masks
        >>> masks.causal().materialize(2, 3).astype(int)
        array([[1, 0, 0],
               [1, 1, 0]])
        """
        n, m, batch, heads, q_offset = self._sizes(n, m, batch, heads, q_offset)
        out = np.empty((batch, heads, n, m), np.bool_)
        j = np.arange(m)
        for b, h in np.ndindex(batch, heads):
            like = (b if self.varies[0] else 0, h if self.varies[1] else 0)
            if like != (b, h):
                out[b, h] = out[like]
                continue
            for i, part in pieces(0, n, m):
                seen = self.attended(b, h, i, j[part], q_offset)
                out[b, h, i[0] : i[-1] + 1, part] = seen
        return out[0, 0] if batch == heads == 1 else out

    def sparsity(
        self, n: int, m: int, *, batch: int = 1, heads: int = 1, q_offset: int = 0
    ) -> float:
        """Return the share of pairs that are masked, without making the mask.

        Only blocks that are neither empty nor full are evaluated, in pieces.

        Parameters
        ----------
        n : int
            Number of queries.
        m : int
            Number of keys.
        batch : int, default 1
            Number of batch entries.
        heads : int, default 1
            Number of query heads.
        q_offset : int, default 0
            Position of query row 0.

        Returns
        -------
        float
            From 0, every key is attended (or there is none), to 1, no key is.

        Raises
        ------
        OptionError, ShapeError
            Sizes that are none, or that the mask's arrays do not fit.

        Examples
        --------
        >>> from numbattn import masks
        >>> round(masks.sliding_window(256, 0).sparsity(8192, 8192), 4)
        0.9691
        """
        n, m, batch, heads, q_offset = self._sizes(n, m, batch, heads, q_offset)
        batch, heads = (
            size if varies else min(size, 1)
            for size, varies in zip((batch, heads), self.varies, strict=True)
        )
        total = batch * heads * n * m
        if not total:
            return 0.0
        keys = np.append(np.arange(0, m, _KEYS), m)
        step = _ROWS * max(1, 2**18 // len(keys))  # so many blocks at a time
        count = 0
        for top in range(0, n, step):
            end = min(top + step, n)
            rows = np.append(np.arange(top, end, _ROWS), end)
            for b, h in np.ndindex(batch, heads):
                count += int(self.counted(rows, keys, q_offset, b, h).sum())
        return (total - count) / total

    def plot(
        self,
        n: int,
        m: int,
        *,
        b: int = 0,
        h: int = 0,
        q_offset: int = 0,
        ax: Axes | None = None,
    ) -> Axes:
        """Draw the mask of one head: dark is attended; needs matplotlib.

        Parameters
        ----------
        n : int
            Number of queries.
        m : int
            Number of keys.
        b : int, default 0
            Which batch entry.
        h : int, default 0
            Which query head.
        q_offset : int, default 0
            Position of query row 0.
        ax : matplotlib.axes.Axes, optional
            Where to draw; a new figure unless given.

        Returns
        -------
        matplotlib.axes.Axes
            The axes with the picture, of at most 512 × 512 points: each is as dark as
            the share of its pairs that are attended.

        Raises
        ------
        OptionError, ShapeError
            Sizes that are none, or that the mask's arrays do not fit.
        ImportError
            Matplotlib is not installed.

        Examples
        --------
        >>> from numbattn import masks
        >>> ax = masks.causal().plot(64, 64)  # doctest: +SKIP
        """
        b, h = count_of(b, "b"), count_of(h, "h")
        batch, heads = (
            own if own > 1 else place + 1
            for own, place in zip(self.sizes, (b, h), strict=True)
        )
        if b >= batch or h >= heads:
            raise OptionError(
                f"b, h are {b}, {h}; this mask has {batch} batch entries and {heads} "
                "heads, counted from 0"
            )
        n, m, *_, q_offset = self._sizes(n, m, batch, heads, q_offset)
        from .. import pictures

        cells = Cells.fitting(n, m, PIXELS)
        counts = self.counted(cells.row_edges, cells.key_edges, q_offset, b, h)
        if ax is None:
            ax = pictures.new_axes()
        # attended is dark grey: what is drawn over it can be seen
        shades = pictures.linear(0, 1.2)
        shares = counts / cells.areas
        pictures.matrix(ax, shares, cells, cmap="Greys", norm=shades)
        ax.set_title(repr(self), fontsize="small", wrap=True)
        return ax

    def _sizes(
        self, n: object, m: object, batch: object, heads: object, q_offset: object
    ) -> tuple[int, int, int, int, int]:
        """Return what was asked for, checked."""
        n, m = count_of(n, "n"), count_of(m, "m")
        batch, heads = count_of(batch, "batch"), count_of(heads, "heads")
        self.check(n, m, batch, heads)
        return n, m, batch, heads, whole(q_offset, "q_offset")
