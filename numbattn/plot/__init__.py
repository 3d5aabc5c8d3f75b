"""Pictures of scores and weights, straight from query and key; needs matplotlib.

``pip install "numbattn[plot]"``. However large a matrix is, it is reduced to the cells
of the picture while it is computed, and never formed. The options are those of
`numbattn.scores` and `numbattn.weights`. Figures are made without pyplot; in a notebook
the last value of a cell is shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import ceil, sqrt
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..cells import Cells
from ..errors import ShapeError
from ..options import positive
from .bars import row
from .computed import all_heads, one_head, reduced, start

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, Normalize
    from matplotlib.figure import Figure

__all__ = ["heads", "row", "scores", "weights"]

_PIXELS = 1000
_PANEL_PIXELS = 250
_COLORS = {"scores": "viridis", "weights": "magma"}
_HIDDEN = {"scores": "masked", "weights": "masked, or 0"}


def scores(
    query: ArrayLike,
    key: ArrayLike,
    *,
    head: int | tuple[int, ...] | None = None,
    reduction: Literal["mean", "max"] = "mean",
    pixels: int = _PIXELS,
    query_labels: Sequence[object] | None = None,
    key_labels: Sequence[object] | None = None,
    cmap: str | Colormap | None = None,
    norm: Normalize | None = None,
    ax: Axes | None = None,
    **options: Any,
) -> Axes:
    """Draw the score matrix of one head as a heat map.

    A matrix of more than `pixels` queries or keys is reduced to cells as it is
    computed. Masked scores count for no cell; cells that are masked throughout are
    grey, cells with a NaN red. The mean of plain scores (with a scale and a bias) takes
    no n × m work, whatever the backend: it is the score of mean queries and mean keys,
    by NumPy in float64.

    Parameters
    ----------
    query : array_like
        Shape (..., n, d_k); read as in `numbattn.scores`.
    key : array_like
        Shape (..., m, d_k).
    head : int or tuple of int, optional
        Which matrix: an index into the leading axes, a tuple where there are several;
        has to be given where there is more than one matrix.
    reduction : {"mean", "max"}
        What a cell shows of its scores: what they are on the whole, or the highest.
    pixels : int
        Cells along an axis, at most.
    query_labels, key_labels : sequence, optional
        A label for each query and each key, such as tokens.
    cmap : str or matplotlib.colors.Colormap, optional
        The colours; "viridis" unless given.
    norm : matplotlib.colors.Normalize, optional
        How numbers become colours; from the least to the largest unless given.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure unless given.
    **options
        Those of `numbattn.scores`: scale, softcap, score_mod, score_mod_args, bias,
        mask, is_causal, window_size, q_offset, kv_lengths; and backend, num_threads,
        max_memory, precision, progress.

    Returns
    -------
    matplotlib.axes.Axes
        The axes with the picture, ``axes.images[0]``.

    Raises
    ------
    NumbattnError
        As `numbattn.scores` does; `OptionError` for a head or a reduction that is none,
        `ShapeError` for labels of another number.
    ImportError
        Matplotlib is not installed.

    See Also
    --------
    heads : All heads side by side.
    numbattn.iter_scores : The numbers, block by block.

    Examples
    --------
    >>> import numpy as np
    >>> from numbattn import plot
    >>> rng = np.random.default_rng(0)
    >>> query, key = rng.standard_normal((2, 3000, 64), dtype=np.float32)
    >>> ax = plot.scores(query, key)
    >>> ax.images[0].get_array().shape, ax.get_title()
    ((1000, 1000), 'scores, mean of 3 × 3')
    """
    return _heat_map(
        "scores", query, key, head, reduction, pixels, query_labels, key_labels,
        cmap, norm, ax, options,
    )  # fmt: skip


def weights(
    query: ArrayLike,
    key: ArrayLike,
    *,
    head: int | tuple[int, ...] | None = None,
    reduction: Literal["mean", "max"] = "max",
    pixels: int = _PIXELS,
    query_labels: Sequence[object] | None = None,
    key_labels: Sequence[object] | None = None,
    cmap: str | Colormap | None = None,
    norm: Normalize | None = None,
    ax: Axes | None = None,
    **options: Any,
) -> Axes:
    """Draw the softmax weights of one head as a heat map.

    Cells that are 0 throughout (masked, or too small for the dtype) are grey. Every
    weight is computed, in blocks of whole rows.

    Parameters
    ----------
    query : array_like
        Shape (..., n, d_k); read as in `numbattn.weights`.
    key : array_like
        Shape (..., m, d_k).
    head : int or tuple of int, optional
        As for `scores`.
    reduction : {"mean", "max"}
        What a cell shows: its largest weight, so that one strong pair among thousands
        is seen, or the mean.
    pixels : int
        Cells along an axis, at most.
    query_labels, key_labels : sequence, optional
        A label for each query and each key, such as tokens.
    cmap : str or matplotlib.colors.Colormap, optional
        The colours; "magma" unless given.
    norm : matplotlib.colors.Normalize, optional
        How numbers become colours; by the square root, from 0, unless given, as most
        weights are small.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure unless given.
    **options
        As for `scores`, and sinks. A scale of None, the default, is ``1 / sqrt(d_k)``.

    Returns
    -------
    matplotlib.axes.Axes
        The axes with the picture, ``axes.images[0]``.

    Raises
    ------
    NumbattnError
        As for `scores`.
    ImportError
        Matplotlib is not installed.

    See Also
    --------
    row : The weights of one query as bars.

    Examples
    --------
    >>> import numpy as np
    >>> from numbattn import plot
    >>> ax = plot.weights(np.eye(3), np.eye(3), key_labels=["the", "cat", "sat"])
    >>> [label.get_text() for label in ax.get_xticklabels()]
    ['the', 'cat', 'sat']
    >>> ax.images[0].get_array()[0].round(2).tolist()
    [0.47, 0.26, 0.26]
    """
    return _heat_map(
        "weights", query, key, head, reduction, pixels, query_labels, key_labels,
        cmap, norm, ax, options,
    )  # fmt: skip


def _heat_map(
    operation: str,
    query: object,
    key: object,
    head: object,
    reduction: object,
    pixels: object,
    query_labels: Sequence[object] | None,
    key_labels: Sequence[object] | None,
    cmap: str | Colormap | None,
    norm: Normalize | None,
    ax: Axes | None,
    options: dict[str, Any],
) -> Axes:
    from .. import pictures

    call = start(operation, query, key, options)
    problem = one_head(call.problem, head)
    labels = query_labels, key_labels
    pictures.check_labels(labels, (problem.n, problem.m))
    values, cells = reduced(call, problem, pixels, reduction)
    values = _shown(operation, values.reshape(cells.shape))
    if ax is None:
        ax = pictures.new_axes(cells)
    image = pictures.matrix(
        ax,
        values,
        cells,
        cmap=cmap or _COLORS[operation],
        norm=norm or _norm(operation),
    )
    said = operation if head is None else f"{operation} of head {head}"
    ax.set_title(said + _cell_size(cells, reduction))
    pictures.name_ticks(ax, labels)
    if image is not None:
        ax.figure.colorbar(image, ax=ax, label=operation.removesuffix("s"))
        pictures.legend(ax, values, _HIDDEN[operation])
    return ax


def _shown(operation: str, values: NDArray[Any]) -> NDArray[Any]:
    """Return what is drawn: a weight of 0 like a score of -inf."""
    return np.where(values == 0, -np.inf, values) if operation == "weights" else values


def _norm(operation: str) -> Normalize:
    from .. import pictures

    return pictures.by_root() if operation == "weights" else pictures.linear()


def _cell_size(cells: Cells, reduction: object) -> str:
    if cells.rows == cells.keys == 1:
        return ""
    return f", {reduction} of {cells.rows} × {cells.keys}"


def heads(
    query: ArrayLike,
    key: ArrayLike,
    *,
    operation: Literal["scores", "weights"] = "weights",
    batch: int | tuple[int, ...] | None = None,
    reduction: Literal["mean", "max"] = "max",
    pixels: int = _PANEL_PIXELS,
    titles: Sequence[object] | None = None,
    columns: int | None = None,
    same_colors: bool = True,
    cmap: str | Colormap | None = None,
    **options: Any,
) -> Figure:
    """Draw the heat maps of all heads side by side.

    Parameters
    ----------
    query : array_like
        Shape (..., heads, n, d_k); read as in `numbattn.weights`.
    key : array_like
        Shape (..., heads, m, d_k); there may be fewer heads of keys.
    operation : {"weights", "scores"}
        What to draw.
    batch : int or tuple of int, optional
        Which batch entry: an index into the axes before the heads; has to be given
        where there is more than one.
    reduction : {"mean", "max"}
        As for `scores` and `weights`.
    pixels : int
        Cells along an axis of each heat map, at most.
    titles : sequence, optional
        One for each head; its number unless given.
    columns : int, optional
        How many heat maps lie side by side.
    same_colors : bool
        Whether all heads have one scale of colours; each has its own else.
    cmap : str or matplotlib.colors.Colormap, optional
        The colours.
    **options
        As for `scores` and `weights`.

    Returns
    -------
    matplotlib.figure.Figure
        The figure: ``figure.axes`` has the heat maps first, head by head.

    Raises
    ------
    NumbattnError
        As for `scores`; `ShapeError` for titles of another number.
    ImportError
        Matplotlib is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> from numbattn import plot
    >>> x = np.random.default_rng(0).standard_normal((4, 20, 8))
    >>> figure = plot.heads(x, x, is_causal=True)
    >>> [ax.get_title() for ax in figure.axes[:4]]
    ['head 0', 'head 1', 'head 2', 'head 3']
    """
    from .. import pictures

    call = start(operation, query, key, options)
    problem = all_heads(call.problem, batch)
    count = problem.lead[-1]
    if titles is None:
        titles = [f"head {head}" for head in range(count)]
    if len(titles) != count:
        raise ShapeError(f"titles has {len(titles)} titles; there are {count} heads")
    if columns is None:
        columns = max(1, ceil(sqrt(1.5 * count)))
    columns = positive(columns, "columns", "heat maps side by side")
    values, cells = reduced(call, problem, pixels, reduction)
    matrices = _shown(operation, values.reshape(count, *cells.shape))
    columns = min(columns, max(1, count))
    figure = pictures.new_figure(1.9 * columns + 1, 1.9 * ceil(count / columns) + 0.5)
    pictures.grid(
        figure,
        list(matrices),
        cells,
        titles,
        columns=columns,
        cmap=cmap or _COLORS[operation],
        norm=partial(_norm, operation),
        same_colors=same_colors,
        label=operation.removesuffix("s"),
    )
    figure.suptitle(operation + _cell_size(cells, reduction), fontsize="medium")
    return figure
