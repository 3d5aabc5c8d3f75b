"""The demo's picture: one head large with its words, every head small."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from numbattn import pictures
from numbattn.cells import Cells


def draw(
    weights: np.ndarray, tokens: Sequence[str], titles: Sequence[Any], path: Path
) -> None:
    """Write a picture: one head large with its words, every head small.

    Parameters
    ----------
    weights : numpy.ndarray
        Softmax weights, (heads, n, n).
    tokens : sequence of str
        The n tokens.
    titles : sequence
        One for each head: its strongest pair.
    path : pathlib.Path
        The file; its ending chooses the format.

    Raises
    ------
    OSError
        Where the file cannot be written.
    """
    heads, n, m = weights.shape
    # large: the head whose strongest pair is the strongest of all
    large = max(range(heads), key=lambda head: float(titles[head].weight))
    shades = partial(pictures.by_root, 1.0)
    figure = pictures.new_figure(16, 8.5)
    parts: Any = figure.subfigures(1, 2, width_ratios=(9, 7))
    left, right = parts
    axes = left.subplots()
    image = pictures.matrix(axes, weights[large], cmap="magma", norm=shades())
    axes.set_title(f"head {large + 1}: {titles[large]}")
    pictures.name_ticks(axes, (tokens, tokens))
    left.colorbar(image, ax=axes, shrink=0.7, label="weight")
    names = [f"{head}: {title}" for head, title in enumerate(titles, 1)]
    pictures.grid(
        right, list(weights), Cells(n, m), names, columns=3, cmap="magma", norm=shades
    )
    pictures.save(figure, path)
