"""One query's scores or weights as bars over the keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..cells import Cells
from ..errors import OptionError, shown
from ..options import integer, positive
from .computed import one_row, start

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_NAMED = 64  # keys whose labels have room


def row(
    query: ArrayLike,
    key: ArrayLike,
    index: int,
    *,
    head: int | tuple[int, ...] | None = None,
    operation: Literal["scores", "weights"] = "weights",
    top: int = 5,
    pixels: int = 400,
    key_labels: Sequence[object] | None = None,
    ax: Axes | None = None,
    **options: Any,
) -> Axes:
    """Draw the weights, or the scores, of one query as bars over the keys.

    Only that row is computed. Where there are more than `pixels` keys a bar is the
    highest of its neighbours. Keys with a masked score are grey.

    Parameters
    ----------
    query : array_like
        Shape (..., n, d_k); read as in `numbattn.weights`.
    key : array_like
        Shape (..., m, d_k).
    index : int
        Which query.
    head : int or tuple of int, optional
        Which matrix: an index into the leading axes, a tuple where there are several;
        has to be given where there is more than one matrix.
    operation : {"weights", "scores"}
        What to draw.
    top : int
        How many of the highest get a label: the key (its number, or what `key_labels`
        has) and the value.
    pixels : int
        Bars at most.
    key_labels : sequence, optional
        A label for each key, such as a token.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure unless given.
    **options
        Those of `numbattn.weights` or `numbattn.scores`.

    Returns
    -------
    matplotlib.axes.Axes
        The axes with the bars, ``axes.containers[0]``.

    Raises
    ------
    NumbattnError
        As for `scores`; `OptionError` for an index that is none.
    ImportError
        Matplotlib is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> from numbattn import plot
    >>> words = ["the", "cat", "sat"]
    >>> ax = plot.row(np.eye(3), np.eye(3), 1, key_labels=words, top=1)
    >>> [bar.get_height().round(2).item() for bar in ax.containers[0]]
    [0.26, 0.47, 0.26]
    >>> ax.texts[0].get_text()
    'cat 0.471'
    """
    from .. import pictures

    call = start(operation, query, key, options)
    most = positive(pixels, "pixels", "bars")
    count = integer(top)
    if count is None or count < 0:
        raise OptionError(f"top is {shown(top)}; it has to be an int of 0 or more")
    pictures.check_labels((None, key_labels), (call.problem.n, call.problem.m))
    values, place = one_row(call, head, index)
    values = values.astype(np.float64)
    if ax is None:
        ax = pictures.new_axes()
    _bars(ax, values, Cells.fitting(1, len(values), most), pictures.HIDDEN)
    _name_highest(ax, values, count, key_labels)
    said = operation if head is None else f"{operation} of head {head}"
    ax.set_title(f"{said}, query {place}")
    ax.set(xlabel="key", ylabel=operation.removesuffix("s"))
    if key_labels is not None and len(values) <= _NAMED:
        pictures.name_ticks(ax, (None, key_labels))
    return ax


def _bars(ax: Axes, values: NDArray[Any], cells: Cells, hidden: str) -> None:
    edges = cells.key_edges
    with np.errstate(invalid="ignore"):  # NaN
        heights = np.maximum.reduceat(values, edges[:-1]) if len(values) else values
    masked = np.isneginf(heights)
    left, widths = edges[:-1] - 0.5, np.diff(edges)
    ax.bar(left, np.where(masked, np.nan, heights), 0.9 * widths, align="edge")
    if masked.any():
        ax.bar(
            left[masked],
            1.0,
            widths[masked],
            align="edge",
            color=hidden,
            zorder=0,
            transform=ax.get_xaxis_transform(),  # from the bottom to the top
            label="masked",
        )
        ax.legend(loc="upper right", fontsize="x-small")
    ax.set_xlim(-0.5, max(1, len(values)) - 0.5)
    ax.margins(y=0.2)


def _name_highest(
    ax: Axes, values: NDArray[Any], top: int, labels: Sequence[object] | None
) -> None:
    order = np.argsort(-values, kind="stable")  # NaN last
    for place in order[:top]:
        value = float(values[place])
        if np.isfinite(value):
            name = place if labels is None else labels[place]
            ax.annotate(
                f"{name} {value:.3g}",
                (float(place), value),
                xytext=(0, 3),
                textcoords="offset points",
                rotation=45,
                fontsize="x-small",
            )
