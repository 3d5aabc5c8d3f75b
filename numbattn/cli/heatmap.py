"""Draw attention weights; the only module that needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure


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
    heads = len(weights)
    # large: the head whose strongest pair is the strongest of all
    large = max(range(heads), key=lambda head: float(titles[head].weight))
    columns = 3
    rows = -(-heads // columns)
    shades = PowerNorm(0.5, vmin=0.0, vmax=1.0)  # most weights are small
    figure = Figure(figsize=(16, 8.5), layout="constrained")
    parts: Any = figure.subfigures(1, 2, width_ratios=(9, 7))
    left, right = parts
    axes = left.subplots()
    image = axes.imshow(weights[large], cmap="magma", norm=shades)
    axes.set_title(f"head {large + 1}: {titles[large]}")
    axes.set_xticks(range(len(tokens)), tokens, rotation=90, fontsize=8)
    axes.set_yticks(range(len(tokens)), tokens, fontsize=8)
    axes.set_xlabel("key")
    axes.set_ylabel("query")
    left.colorbar(image, ax=axes, shrink=0.7, label="weight")
    small = np.atleast_1d(right.subplots(rows, columns)).ravel()
    for head, panel in enumerate(small):
        panel.set_axis_off()
        if head < heads:
            panel.imshow(weights[head], cmap="magma", norm=shades)
            panel.set_title(f"{head + 1}: {titles[head]}", fontsize=9)
    try:
        figure.savefig(path, dpi=100)
    except ValueError as error:  # matplotlib's word for a file ending it cannot write
        raise OSError(f"{path}: {error}") from error
