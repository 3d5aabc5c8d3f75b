"""Draw the pictures of docs/gallery.md from the code on that page.

``python tools/draw_gallery.py`` draws all of them into docs/pictures;
``python tools/draw_gallery.py --into FOLDER alibi tree`` two of them elsewhere.
Needs matplotlib.
"""

from __future__ import annotations

import argparse
import io
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import numbattn

DOCS = Path(__file__).resolve().parent.parent / "docs"
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_MASKED, _ATTENDED = "#c0c0c0", "#ffffff"
_PICTURE = re.compile(r"!\[[^]]+\]\(pictures/([\w-]+)\.png\)")


def start() -> str:
    """Return the code that every recipe goes on from."""
    return _BLOCK.findall(_sections()[0])[0]


def recipes() -> dict[str, str]:
    """Return the code of each recipe, by the name of its picture."""
    found = {}
    for section in _sections()[1:]:
        (name,) = _PICTURE.findall(section)
        found[name] = _BLOCK.findall(section)[0]
    return found


def titles() -> dict[str, str]:
    """Return the heading of each recipe, by the name of its picture."""
    found = {}
    for section in _sections()[1:]:
        (name,) = _PICTURE.findall(section)
        found[name] = section.splitlines()[0]
    return found


def _sections() -> list[str]:
    return re.split(r"^## ", (DOCS / "gallery.md").read_text(), flags=re.MULTILINE)


def draw(name: str) -> bytes:
    """Return one picture, as a PNG file.

    Parameters
    ----------
    name : str
        Of the recipe.

    Returns
    -------
    bytes
        The file.
    """
    from matplotlib.figure import Figure

    made: dict[str, Any] = {}
    with numbattn.use_backend("reference"):  # compiles nothing
        for code in (start(), recipes()[name]):
            exec(compile(code, "docs/gallery.md", "exec"), made)
        figure = Figure(figsize=(7.2, 3.4), dpi=100, layout="constrained")
        figure.suptitle(titles()[name], fontsize=11)
        _PANELS.get(name, _default)(figure, made)
    return few_colours(figure)


def few_colours(figure: Any) -> bytes:
    """Return a figure as a small PNG file."""
    from PIL import Image

    plain = io.BytesIO()
    figure.savefig(plain, metadata={"Software": None})
    small = io.BytesIO()
    with Image.open(plain) as image:
        few = image.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE)
        few.save(small, "PNG", optimize=True)
    return small.getvalue()


def _default(figure: Any, made: dict[str, Any], head: int = 0) -> None:
    """What the options do to scores of 0, and the weights that they lead to."""
    left, right = figure.subplots(1, 2)
    nothing = np.zeros_like(made["query"]), np.zeros_like(made["key"])
    change = numbattn.scores(*nothing, **made["options"])[head]
    _matrix(figure, left, change, "scores, where dot products are 0", head)
    _weights(figure, right, made, head)


def _weights(figure: Any, ax: Any, made: dict[str, Any], head: int = 0) -> None:
    _matrix(figure, ax, _weights_of(made)[head], "weights", head, norm=_roots())


def _weights_of(made: dict[str, Any]) -> Any:
    """Return the weights; what is masked is -inf, as in scores."""
    arrays, options = (made["query"], made["key"]), made["options"]
    masked = numbattn.scores(*arrays, **options) == -np.inf
    return np.where(masked, -np.inf, numbattn.weights(*arrays, **options))


def _roots() -> Any:
    """Colours by the square root: most weights are small."""
    from matplotlib.colors import PowerNorm

    return PowerNorm(0.5, vmin=0)


def _matrix(
    figure: Any, ax: Any, values: Any, title: str, head: int, **given: Any
) -> None:
    """Draw a matrix of queries and keys; what is masked is grey."""
    from matplotlib import colormaps

    shown = np.ma.masked_equal(values, -np.inf)
    ax.set(xlabel="key", ylabel="query")
    if np.ma.is_masked(shown) and shown.min() == shown.max():
        _mask(ax, ~shown.mask, "mask")
        ax.legend(handles=_legend(), loc="upper right", fontsize=7)
        return
    ax.set_title(f"{title} (head {head})", fontsize=9)
    colours = colormaps["viridis"].with_extremes(bad=_MASKED)
    image = ax.imshow(shown, cmap=colours, **given)
    figure.colorbar(image, ax=ax, shrink=0.85)


def _mask(ax: Any, mask: Any, title: str) -> None:
    from matplotlib.colors import ListedColormap

    ax.imshow(mask, cmap=ListedColormap([_MASKED, _ATTENDED]), vmin=0, vmax=1)
    ax.set(xlabel="key", ylabel="query")
    ax.set_title(title, fontsize=9)


def _legend() -> list[Any]:
    from matplotlib.patches import Patch

    colours = {"attended": _ATTENDED, "masked": _MASKED}
    return [Patch(fc=fill, ec="grey", label=name) for name, fill in colours.items()]


def _soft_cap(figure: Any, made: dict[str, Any]) -> None:
    """The capped scores over the plain ones, and the weights."""
    left, right = figure.subplots(1, 2)
    arrays, options = (made["query"], made["key"]), made["options"]
    plain = numbattn.scores(*arrays, scale=None).ravel()
    capped = numbattn.scores(*arrays, scale=None, **options).ravel()
    left.plot(np.sort(plain), np.sort(plain), ":", color="grey", label="no cap")
    left.plot(plain, capped, ".", ms=2, color="#31688e", label="soft cap of 1")
    left.set(xlabel="score before", ylabel="score after", ylim=(-2, 2))
    left.set_title("scores (all heads)", fontsize=9)
    left.legend(fontsize=7)
    _weights(figure, right, made)


def _heads(figure: Any, made: dict[str, Any]) -> None:
    """The mask of each head."""
    mask = made["options"]["mask"].materialize(48, 48, heads=made["heads"])[0]
    figure.set_figheight(2.4)
    for head, ax in enumerate(figure.subplots(1, made["heads"])):
        _mask(ax, mask[head], f"head {head}: {made['windows'][head]} keys")
    figure.legend(handles=_legend(), loc="upper right", fontsize=7, ncols=2)


def _image(figure: Any, made: dict[str, Any]) -> None:
    """The mask, and one of its rows as an image."""
    left, right = figure.subplots(1, 2)
    mask = made["options"]["mask"].materialize(48, 48)
    _matrix(figure, left, np.where(mask, 0.0, -np.inf), "mask", 0)
    patch, columns = 19, made["columns"]
    weights = _weights_of(made)[0, patch].reshape(-1, columns)
    _matrix(figure, right, weights, "", 0)
    right.plot(patch % columns, patch // columns, "o", mfc="none", mec="red", ms=14)
    right.set(xlabel="column of the image", ylabel="row of the image")
    right.set_title(f"weights of patch {patch}, circled (head 0)", fontsize=9)


def _regression(figure: Any, made: dict[str, Any]) -> None:
    """What was measured and the estimate, and the weights."""
    left, right = figure.subplots(1, 2)
    left.plot(made["x"], made["y"], ".", color="grey", label="measured")
    left.plot(made["grid"], made["smooth"], color="#31688e", label="estimate")
    left.set(xlabel="x", ylabel="y")
    left.set_title("values and output", fontsize=9)
    left.legend(fontsize=7)
    _weights(figure, right, made)
    right.set(xlabel="key (measured point)", ylabel="query (point of the grid)")


def _graph(figure: Any, made: dict[str, Any]) -> None:
    """The scores, and the weights that one node gives, on the graph."""
    left, right = figure.subplots(1, 2)
    nothing = np.zeros_like(made["query"]), np.zeros_like(made["key"])
    change = numbattn.scores(*nothing, **made["options"])[0]
    _matrix(figure, left, change, "scores, where dot products are 0", 0)
    node, places = 7, made["places"]
    for one, other in np.argwhere(np.triu(made["edges"], 1)):
        right.plot(*places[[one, other]].T, color="lightgrey", lw=0.8, zorder=0)
    _nodes(figure, right, places, made, node, f"weights of node {node}")
    right.set(xlabel="x", ylabel="y")


def _tree(figure: Any, made: dict[str, Any]) -> None:
    """The mask, and the weights that one token gives, on the tree."""
    left, right = figure.subplots(1, 2)
    mask = made["options"]["mask"].materialize(48, 48)
    _matrix(figure, left, np.where(mask, 0.0, -np.inf), "mask", 0)
    token, depth = 40, mask.sum(axis=1)
    places = np.stack([made["entry"], depth], axis=1)
    for one, other in enumerate(made["parent"]):
        if other >= 0:
            right.plot(*places[[one, other]].T, color="lightgrey", lw=0.8, zorder=0)
    _nodes(figure, right, places, made, token, f"weights of token {token}")
    right.set(xlabel="number in a depth-first walk", ylabel="depth in the tree")
    right.invert_yaxis()


def _nodes(
    figure: Any, ax: Any, places: Any, made: dict[str, Any], node: int, title: str
) -> None:
    """Draw what one node gives to each; small and grey to those it does not attend."""
    weights = _weights_of(made)[0, node]
    seen = weights > -np.inf
    ax.scatter(*places[~seen].T, c=_MASKED, s=9)
    points = ax.scatter(*places[seen].T, c=weights[seen], cmap="viridis_r", s=28)
    ax.plot(*places[node], "o", mfc="none", mec="red", ms=11)
    ax.set_title(f"{title}, circled (head 0)", fontsize=9)
    figure.colorbar(points, ax=ax, shrink=0.85)


_PANELS: dict[str, Callable[[Any, dict[str, Any]], None]] = {
    "graph": _graph,
    "image": _image,
    "kernel-regression": _regression,
    "soft-cap": _soft_cap,
    "tree": _tree,
    "window-by-head": _heads,
}


def _files(names: list[str], folder: Path) -> Iterator[Path]:
    for name in names or recipes():
        file = folder / f"{name}.png"
        file.write_bytes(draw(name))
        yield file


def main(arguments: list[str] | None = None) -> int:
    """Draw what the command line asks for."""
    parser = argparse.ArgumentParser(description="Draw the pictures of docs/gallery.md")
    parser.add_argument("recipe", nargs="*", help="which; all unless given")
    parser.add_argument("--into", type=Path, default=DOCS / "pictures")
    given = parser.parse_args(arguments)
    unknown = set(given.recipe) - set(recipes())
    if unknown:
        parser.error(f"no recipe {', '.join(sorted(unknown))}; {', '.join(recipes())}")
    for file in _files(given.recipe, given.into):
        print(f"{file.stat().st_size:7,} bytes  {file.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
