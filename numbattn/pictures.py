"""Pictures of matrices of queries and keys; only this module imports matplotlib.

Figures are made without pyplot: nothing is registered anywhere, and no window opens.
A notebook shows them, and their axes, as the last value of a cell.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .cells import Cells
from .errors import ShapeError

try:
    from matplotlib import colormaps
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, ListedColormap, Normalize, PowerNorm
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage
    from matplotlib.patches import Patch
except ImportError as error:
    raise ImportError(
        'pictures need matplotlib, which is not installed: pip install "numbattn[plot]"'
    ) from error

HIDDEN = "#c0c0c0"
"""The colour of what is masked."""
NAN = "#e41a1c"
"""The colour of cells that hold a NaN."""
_TICKS = 64  # labels beyond that many could not be read
_NEAREST = 512  # cells along an axis; where there are more, points of a screen share


class Picture(Figure):
    """A figure that a notebook shows."""

    def _repr_png_(self) -> bytes:
        return _png(self)


class Panel(Axes):
    """Axes that a notebook shows as the figure that they are in."""

    def _repr_png_(self) -> bytes:
        return _png(self.figure.canvas.figure)


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def new_figure(width: float, height: float) -> Picture:
    """Return an empty figure of a size in inches."""
    return Picture(figsize=(width, height), layout="constrained")


def save(figure: Figure, path: Path) -> None:
    """Write a figure; the file's ending says in which format.

    Raises
    ------
    OSError
        The file cannot be written, or its ending is not known.
    """
    try:
        figure.savefig(path, dpi=100)
    except ValueError as error:  # matplotlib's word for a file ending it cannot write
        raise OSError(f"{path}: {error}") from error


def new_axes(cells: Cells | None = None) -> Axes:
    """Return the axes of a new figure: a larger one where there are many cells."""
    large = cells is not None and max(cells.shape) > _NEAREST
    figure = new_figure(*((9.6, 8.4) if large else (6.4, 4.8)))
    axes: Axes = figure.subplots(subplot_kw={"axes_class": Panel})
    return axes


def matrix(
    ax: Axes,
    values: NDArray[Any],
    cells: Cells | None = None,
    *,
    cmap: str | Colormap = "viridis",
    norm: Normalize | None = None,
) -> AxesImage | None:
    """Draw a matrix; -inf is grey, NaN red.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
        Where.
    values : ndarray
        One number for each cell.
    cells : Cells, optional
        What they are cells of; elements of a matrix unless given.
    cmap : str or matplotlib.colors.Colormap
        The colours.
    norm : matplotlib.colors.Normalize, optional
        How numbers become colours; limits that it lacks are those of the values.

    Returns
    -------
    matplotlib.image.AxesImage or None
        The picture; None where there are no cells.
    """
    if cells is None:
        cells = Cells(*values.shape)
    n, m = cells.n, cells.m
    view: dict[str, Any] = {
        "aspect": "equal" if n <= 8 * m <= 64 * n else "auto",  # few queries are seen
        # queries and keys lie at their numbers; the last cells may stick out
        "extent": (
            -0.5,
            cells.shape[1] * cells.keys - 0.5,
            cells.shape[0] * cells.rows - 0.5,
            -0.5,
        ),
        "interpolation": "nearest" if max(cells.shape) <= _NEAREST else "auto",
    }
    image = _image(ax, values, cmap, norm, view) if values.size else None
    if image is None:
        ax.text(0.5, 0.5, "nothing to draw", ha="center", transform=ax.transAxes)
    ax.set(xlabel="key", ylabel="query")
    ax.set(xlim=(-0.5, max(m, 1) - 0.5), ylim=(max(n, 1) - 0.5, -0.5))
    return image


def _image(
    ax: Axes,
    values: NDArray[Any],
    cmap: str | Colormap,
    norm: Normalize | None,
    view: dict[str, Any],
) -> AxesImage:
    norm = Normalize() if norm is None else norm
    limit(norm, [values])
    hidden, nan = np.isneginf(values), np.isnan(values)
    # +inf would leave matplotlib no finite range: it gets the colour of the largest
    seen = np.where(np.isposinf(values), np.float64(norm.vmax or 0), values)
    image = ax.imshow(
        np.ma.masked_where(hidden | nan, seen),
        cmap=colormaps.get_cmap(cmap).with_extremes(bad=HIDDEN),
        norm=norm,
        **view,
    )
    if nan.any():
        red = np.ma.masked_where(~nan, np.ones(values.shape))
        ax.imshow(red, cmap=ListedColormap([NAN]), vmin=0, vmax=1, **view)
    return image


def linear(vmin: float | None = None, vmax: float | None = None) -> Normalize:
    """Return colours in proportion to the values."""
    return Normalize(vmin, vmax)


def by_root(vmax: float | None = None) -> Normalize:
    """Return colours by the square root, from 0: most weights are small."""
    return PowerNorm(0.5, 0.0, vmax)


def limit(norm: Normalize, matrices: Sequence[NDArray[Any]]) -> None:
    """Give a norm the limits that it lacks: those of the finite values."""
    finite = [each[np.isfinite(each)] for each in matrices]
    some = np.concatenate([each.ravel() for each in finite] or [np.empty(0)])
    norm.autoscale_None(some if some.size else np.array([0.0, 1.0]))


def legend(ax: Axes, values: NDArray[Any], hidden: str) -> None:
    """Say what the grey and the red cells are, where there are any."""
    kinds = (
        (HIDDEN, hidden, np.isneginf(values).any()),
        (NAN, "NaN", np.isnan(values).any()),
    )
    handles = [Patch(fc=fc, ec="grey", label=name) for fc, name, any_ in kinds if any_]
    if handles:
        ax.legend(handles=handles, loc="upper right", fontsize="x-small")


def check_labels(
    labels: Sequence[Sequence[object] | None], sizes: Sequence[int]
) -> None:
    """Raise `ShapeError` for labels of queries, or of keys, that are not one each."""
    for whole, given, size in zip(("query", "key"), labels, sizes, strict=True):
        if given is not None and len(given) != size:
            raise ShapeError(
                f"{whole}_labels has {len(given)} labels; {size} are needed, one for "
                f"each {whole}"
            )


def name_ticks(ax: Axes, labels: Sequence[Sequence[object] | None]) -> None:
    """Put labels, tokens say, to the queries and the keys; of many, to some."""
    for axis, given in zip("yx", labels, strict=True):
        if given is not None:
            places = range(0, len(given), max(1, -(-len(given) // _TICKS)))
            names = [str(given[place]) for place in places]
            turned = {"rotation": 90} if axis == "x" else {}
            set_ticks = getattr(ax, f"set_{axis}ticks")
            set_ticks(places, names, fontsize="x-small", **turned)


def grid(
    figure: Any,
    matrices: Sequence[NDArray[Any]],
    cells: Cells,
    titles: Sequence[object],
    *,
    columns: int,
    cmap: str | Colormap,
    norm: Callable[[], Normalize],
    same_colors: bool = True,
    label: str | None = None,
) -> None:
    """Draw matrices of one kind side by side.

    Parameters
    ----------
    figure : matplotlib.figure.Figure or SubFigure
        Where.
    matrices : sequence of ndarray
        Their cells.
    cells : Cells
        What they are cells of.
    titles : sequence
        One for each.
    columns : int
        How many lie side by side.
    cmap : str or matplotlib.colors.Colormap
        The colours.
    norm : callable
        Makes a scale of colours; limits that it lacks are those of the values.
    same_colors : bool
        Whether all have one scale; each its own else.
    label : str, optional
        What is drawn, for a bar of the colours; none unless given.
    """
    rows = max(1, -(-len(matrices) // columns))
    panels = figure.subplots(
        rows, columns, squeeze=False, subplot_kw={"axes_class": Panel}
    ).ravel()
    for unused in panels[len(matrices) :]:
        unused.remove()
    panels = list(panels[: len(matrices)])
    common = norm()
    limit(common, matrices)
    images = []
    for panel, values, title in zip(panels, matrices, titles, strict=True):
        own = common if same_colors else norm()
        images.append(matrix(panel, values, cells, cmap=cmap, norm=own))
        panel.set(xlabel="", ylabel="", xticks=[], yticks=[])
        panel.set_title(str(title), fontsize="small")
    if label is None or None in images or not images:
        return
    if same_colors:
        figure.colorbar(images[0], ax=panels, label=label)
        return
    for panel, image in zip(panels, images, strict=True):
        figure.colorbar(image, ax=panel, shrink=0.8)
