"""`numbattn.plot`: what is drawn is what a plain reduction of the matrix gives."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import numbattn
from numbattn import masks

pytest.importorskip("matplotlib", reason="pictures need matplotlib")

from matplotlib.figure import Figure
from PIL import Image

from numbattn import pictures, plot

ROOT = Path(__file__).resolve().parent.parent
PICTURES = ROOT / "docs" / "pictures"

RNG = np.random.default_rng(0)


def arrays(n: int, m: int, *lead: int, d: int = 8) -> tuple[Any, Any]:
    query = RNG.standard_normal((*lead, n, d), dtype=np.float32)
    return query, RNG.standard_normal((*lead, m, d), dtype=np.float32)


def by_cells(matrix: Any, pixels: int, reduction: str) -> Any:
    """Reduce a matrix cell by cell; the means are of what is not -inf."""
    n, m = matrix.shape
    rows, keys = (max(1, -(-size // pixels)) for size in (n, m))
    found = np.empty((-(-n // rows), -(-m // keys)))
    for i, j in np.ndindex(found.shape):
        cell = matrix[i * rows : (i + 1) * rows, j * keys : (j + 1) * keys]
        seen = cell[cell != -np.inf].astype(float)
        reduce = np.max if reduction == "max" else np.mean
        found[i, j] = reduce(seen) if seen.size else -np.inf
    return found


def drawn(ax: Any) -> Any:
    """Return the numbers of a heat map; what is masked is -inf."""
    found = ax.images[0].get_array()
    return np.where(np.ma.getmaskarray(found), -np.inf, found.data)


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "scale": {"scale": -0.5},
    "bias": {"bias": RNG.standard_normal((37, 53))},
    "bias by keys": {"bias": RNG.standard_normal(53)},
    "hiding bias": {"bias": np.where(np.arange(53) < 30, 0.0, -np.inf)},
    "softcap": {"softcap": 1.0},
    "causal": {"is_causal": True},
    "window": {"window_size": (3, 2), "q_offset": 9},
    "lengths": {"kv_lengths": 21},
    "mask": {"mask": RNG.random((37, 53)) < 0.3},
    "mask object": {"mask": masks.prefix(3) | masks.causal()},
    "score_mod": {"score_mod": lambda s, b, h, i, j: s + 0.1 * (i - j)},
    "nothing seen": {"kv_lengths": 0},
}


@pytest.mark.parametrize("pixels", [1, 7, 40])
@pytest.mark.parametrize("reduction", ["mean", "max"])
@pytest.mark.parametrize("name", OPTIONS)
def test_scores_are_reduced(name: str, reduction: Any, pixels: int) -> None:
    query, key = arrays(37, 53)
    options = {"backend": "reference", **OPTIONS[name]}
    ax = plot.scores(query, key, reduction=reduction, pixels=pixels, **options)
    want = by_cells(numbattn.scores(query, key, **options), pixels, reduction)
    np.testing.assert_allclose(drawn(ax), want, rtol=1e-4, atol=1e-5)
    legend = ax.get_legend()
    assert (legend is not None) == np.isneginf(want).any()
    finite = want[np.isfinite(want)]
    if np.ptp(finite) if finite.size else False:
        np.testing.assert_allclose(
            ax.images[0].get_clim(), (finite.min(), finite.max()), rtol=1e-3, atol=1e-5
        )


@pytest.mark.parametrize("reduction", ["mean", "max"])
@pytest.mark.parametrize("name", ["plain", "causal", "mask", "nothing seen"])
def test_weights_are_reduced_and_zeros_are_hidden(name: str, reduction: Any) -> None:
    query, key = arrays(37, 53)
    options = {"backend": "reference", **OPTIONS[name]}
    ax = plot.weights(query, key, reduction=reduction, pixels=10, **options)
    want = by_cells(numbattn.weights(query, key, **options), 10, reduction)
    want[want == 0] = -np.inf
    np.testing.assert_allclose(drawn(ax), want, rtol=1e-5)
    assert ax.images[0].norm.vmin == 0
    assert ax.get_title() == f"weights, {reduction} of 4 × 6"


@pytest.mark.parametrize("reduction", ["mean", "max"])
@pytest.mark.parametrize("operation", ["scores", "weights"])
def test_blocks_of_any_size_give_the_same(operation: str, reduction: Any) -> None:
    # few bytes: many blocks, cut along queries and keys, across the cells
    query, key = arrays(700, 1300, 3)
    draw = getattr(plot, operation)
    small = {"max_memory": 200_000 + 24 * 70 * 67, "backend": "reference"}
    given = {"head": 1, "reduction": reduction, "pixels": 70, "mask": masks.causal()}
    whole, cut = draw(query, key, **given), draw(query, key, **given, **small)
    np.testing.assert_allclose(drawn(whole), drawn(cut), rtol=1e-5, atol=1e-6)


def test_the_matrix_is_never_formed() -> None:
    query, key = arrays(6000, 5000, d=4)
    seen: list[tuple[int, int]] = []
    limit = "40 MB"  # the matrix has 120 MB, the picture 12 of them
    plot.scores(
        query, key, reduction="max", pixels=500, max_memory=limit,
        progress=lambda *now: seen.append(now),
    )  # fmt: skip
    assert seen[-1] == (6000 * 5000, 6000 * 5000)
    with pytest.raises(numbattn.MemoryLimitError, match="pixels"):
        plot.scores(query, key, max_memory="1 MB")


def test_the_mean_of_plain_scores_needs_no_matrix_product() -> None:
    # a hundred thousand squared, at once, and on any backend
    query, key = arrays(100_000, 100_000, d=2)
    ax = plot.scores(query, key, backend="reference", max_memory="40 MB")
    assert drawn(ax).shape == (1000, 1000)
    cell = query[:100].astype(float) @ key[-100:].T
    assert drawn(ax)[0, -1] == pytest.approx(cell.mean(), rel=1e-5)


@pytest.mark.parametrize("reduction", ["mean", "max"])
def test_values_that_are_not_finite_stay_in_their_cells(reduction: Any) -> None:
    query, key = arrays(40, 40)
    query[3, 0] = np.nan
    query[25] = 0
    key[:, 0] = 1
    query[25, 0] = np.inf
    ax = plot.scores(query, key, reduction=reduction, pixels=4)
    nan = np.ma.getmaskarray(ax.images[1].get_array())
    assert (~nan).all(axis=1).tolist() == [True, False, False, False]
    assert nan[1:].all()
    infinite = drawn(ax)[2]
    assert (infinite == ax.images[0].norm.vmax).all()
    assert np.isfinite(ax.images[0].get_clim()).all()
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["NaN"]


@pytest.mark.parametrize("reduction", ["mean", "max"])
def test_sums_that_overflow_are_means_all_the_same(reduction: Any) -> None:
    query, key = np.full((20, 1), 1e19, np.float32), np.full((20, 1), 2e19, np.float32)
    ax = plot.scores(query, key, reduction=reduction, pixels=2, softcap=3e38)
    want = numbattn.scores(query, key, softcap=3e38)[0, 0]
    np.testing.assert_allclose(drawn(ax), want, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "float64", "int32", ">f4"])
def test_other_dtypes(dtype: str) -> None:
    query, key = ((4 * array).astype(dtype) for array in arrays(30, 20))
    for given in ({}, {"softcap": 9.0}):
        ax = plot.scores(query, key, pixels=8, **given)
        want = numbattn.scores(
            query.astype(float), key.astype(float), backend="reference", **given
        )
        np.testing.assert_allclose(
            drawn(ax), by_cells(want, 8, "mean"), rtol=1e-4, atol=1e-5
        )


def test_half_precision_blocks_are_added_up_in_single() -> None:
    from numbattn.cells import Cells
    from numbattn.plot.reduction import Reduced

    reduced = Reduced((), Cells(200, 3, 100, 1), np.dtype(np.float16), "mean")
    reduced[0:200, 0:3] = np.full((200, 3), 60_000, np.float16)
    np.testing.assert_array_equal(reduced.values(), np.full((2, 3), 60_000.0 - 0))


@pytest.mark.parametrize(("n", "m"), [(0, 5), (5, 0), (0, 0), (1, 1), (1, 2000)])
@pytest.mark.parametrize("operation", ["scores", "weights"])
def test_few_and_no_queries_and_keys(operation: str, n: int, m: int) -> None:
    query, key = arrays(n, m)
    ax = getattr(plot, operation)(query, key)
    assert len(ax.images) == (n * m > 0)
    assert ax.get_xlim() == (-0.5, max(m, 1) - 0.5)
    assert ax.get_ylim() == (max(n, 1) - 0.5, -0.5)
    ax.figure.canvas.draw()
    if n:
        bars = plot.row(query, key, 0, operation=operation)
        assert len(bars.containers[0]) == -(-m // -(-m // 400) if m else 0)
        bars.figure.canvas.draw()
    figure = plot.heads(query[None], key[None], operation=operation)
    figure.canvas.draw()


def test_a_head_of_several() -> None:
    query, key = arrays(9, 7, 2, 4)
    key = key[:, :2]  # heads 2 and 3 read key head 1
    slopes = np.array([0.0, 1.0, 2.0, 3.0])

    def by_head(score, b, h, i, j, slopes):  # type: ignore[no-untyped-def]
        return score + slopes[h] * b

    options = {
        "score_mod": by_head, "score_mod_args": (slopes,), "backend": "reference",
        "q_offset": np.array([[0], [3]]), "is_causal": True,
        "mask": RNG.random((2, 1, 9, 7)) < 0.8,
    }  # fmt: skip
    whole = numbattn.scores(query, key, **options)
    for head in ((1, 2), (-1, -2), (0, 3)):
        ax = plot.scores(query, key, head=head, **options)
        np.testing.assert_allclose(drawn(ax), whole[head], rtol=1e-5, atol=1e-6)
        assert ax.get_title() == f"scores of head {head}"
    weights = numbattn.weights(query, key, **options)
    figure = plot.heads(query, key, batch=1, **options)
    for head, ax in enumerate(figure.axes[:4]):
        want = np.where(weights[1, head] == 0, -np.inf, weights[1, head])
        np.testing.assert_allclose(drawn(ax), want, rtol=1e-5, atol=1e-7)
        row = plot.row(query, key, 4, head=(1, head), **options)
        heights = [bar.get_height() for bar in row.containers[0]]
        np.testing.assert_allclose(heights, weights[1, head, 4], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("same", [True, False])
def test_heads_are_panels_of_one_scale_or_their_own(same: bool) -> None:
    query, key = arrays(30, 20, 5)
    query[3] *= 10
    names = [f"the {place}th" for place in range(5)]
    figure = plot.heads(
        query, key, operation="scores", reduction="mean", pixels=10,
        titles=names, columns=2, same_colors=same,
    )  # fmt: skip
    panels = [ax for ax in figure.axes if ax.get_title()]
    assert [ax.get_title() for ax in panels] == names
    assert len(figure.axes) == 5 + (1 if same else 5)  # with the bars of the colours
    limits = {ax.images[0].get_clim() for ax in panels}
    assert len(limits) == (1 if same else 5)
    places = [ax.get_subplotspec().colspan.start for ax in panels]
    assert places == [0, 1, 0, 1, 0]


def test_bars_and_their_labels() -> None:
    words = [f"w{place}" for place in range(53)]
    query, key = arrays(37, 53)
    given = {"mask": np.arange(53) != 7, "bias": np.arange(53.0)}
    ax = plot.row(query, key, -1, operation="scores", top=2, key_labels=words, **given)
    scores = numbattn.scores(query, key, backend="reference", **given)[-1]
    heights = np.array([bar.get_height() for bar in ax.containers[0]])
    np.testing.assert_allclose(
        np.delete(heights, 7), np.delete(scores, 7), rtol=1e-5, atol=1e-5
    )
    assert np.isnan(heights[7])
    (grey,) = ax.containers[1]
    assert grey.get_x() == 6.5
    high = np.argsort(-scores)[:2]
    wanted = [f"w{place} {scores[place]:.3g}" for place in high]
    assert [text.get_text() for text in ax.texts] == wanted
    assert [text.xy[0] for text in ax.texts] == high.tolist()
    assert [label.get_text() for label in ax.get_xticklabels()] == words
    assert ax.get_title() == "scores, query 36"


def test_many_keys_share_bars() -> None:
    query, key = arrays(3, 1001)
    ax = plot.row(query, key, 1, pixels=100, top=1)
    weights = numbattn.weights(query, key, backend="reference")[1]
    heights = [bar.get_height() for bar in ax.containers[0]]
    want = [weights[start : start + 11].max() for start in range(0, 1001, 11)]
    np.testing.assert_allclose(heights, want, rtol=1e-5)
    assert ax.texts[0].get_text().startswith(f"{weights.argmax()} ")


def png(figure: Figure) -> Any:
    file = io.BytesIO()
    figure.savefig(file, format="png")
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB"))


def colour_at(figure: Any, ax: Any, x: float, y: float) -> tuple[int, ...]:
    """Return the colour of a PNG's point at a place of the axes."""
    points = png(figure)
    column, row = ax.transData.transform((x, y)).astype(int)
    return tuple(points[len(points) - 1 - row, column].tolist())


def hexed(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(colour[1:]))


@pytest.mark.parametrize("size", [4, 40])
def test_the_picture_has_the_colours_of_its_cells(size: int) -> None:
    from matplotlib import colormaps

    query, key = np.eye(size), np.eye(size)  # cell (0, 0) has the highest mean
    query[-1] = np.nan
    cell = size // 4
    ax = plot.scores(
        query, key, pixels=4, mask=np.arange(size) < size - cell, scale=float(cell)
    )
    assert drawn(ax)[0, 0] == 1.0
    first, last = (cell - 1) / 2, size - 1 - (cell - 1) / 2
    figure = ax.figure
    high, low = (
        tuple(int(255 * part + 0.5) for part in colormaps["viridis"](value)[:3])
        for value in (1.0, 0.0)
    )
    np.testing.assert_allclose(colour_at(figure, ax, first, first), high, atol=2)
    np.testing.assert_allclose(colour_at(figure, ax, first, first + cell), low, atol=2)
    ax.get_legend().remove()  # it lies on the corner
    assert colour_at(figure, ax, last, first + cell) == hexed(pictures.HIDDEN)
    assert colour_at(figure, ax, first, last) == hexed(pictures.NAN)


def test_a_large_picture_is_drawn() -> None:
    query, key = arrays(1500, 1200)
    points = png(plot.scores(query, key).figure)
    assert len(np.unique(points.reshape(-1, 3), axis=0)) > 100


def test_labels_stand_at_their_cells() -> None:
    query, key = arrays(3, 130)
    ax = plot.weights(
        query, key, query_labels=["a", "b", "c"], key_labels=list(range(130)), pixels=40
    )
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b", "c"]
    places = ax.get_xticks().tolist()
    assert places == list(range(0, 130, 3))  # not more than can be read
    assert [int(label.get_text()) for label in ax.get_xticklabels()] == places


def test_where_it_is_drawn_is_the_caller_s_choice() -> None:
    query, key = arrays(5, 6)
    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert plot.scores(query, key, ax=left, cmap="Greys") is left
    assert left.images[0].get_cmap().name == "Greys"
    assert plot.row(query, key, 1, ax=right) is right
    assert plot.scores(query, key).figure is not figure


def test_a_notebook_shows_them() -> None:
    query, key = arrays(5, 6, 2)
    for shown in (
        plot.scores(query, key, head=0),
        plot.row(query, key, 0, head=0),
        plot.heads(query, key),
        plot.heads(query, key).axes[0],
    ):
        assert shown._repr_png_().startswith(b"\x89PNG\r\n")


X = np.zeros((4, 6, 8), np.float32)
REFUSED: dict[str, tuple[Any, type[Exception], str]] = {
    "no head": (lambda: plot.scores(X, X), numbattn.OptionError, "plot.heads draws"),
    "too high a head": (
        lambda: plot.scores(X, X, head=4), numbattn.OptionError, "head is 4",
    ),
    "a head of a matrix": (
        lambda: plot.weights(X[0], X[0], head=0), numbattn.OptionError, "have none",
    ),
    "a head by name": (
        lambda: plot.row(X, X, 0, head="a"), numbattn.OptionError, "head is 'a'",
    ),
    "heads of a matrix": (
        lambda: plot.heads(X[0], X[0]), numbattn.OptionError, "without heads",
    ),
    "no batch": (
        lambda: plot.heads(X[None].repeat(2, 0), X), numbattn.OptionError, "batch is",
    ),
    "a query too far": (
        lambda: plot.row(X, X, 6, head=0), numbattn.OptionError, "index is 6",
    ),
    "a reduction": (
        lambda: plot.scores(X[0], X[0], reduction="sum"),  # type: ignore[arg-type]
        numbattn.OptionError, "'mean' or 'max'",
    ),
    "no pixels": (
        lambda: plot.scores(X[0], X[0], pixels=0), numbattn.OptionError, "pixels is 0",
    ),
    "an operation": (
        lambda: plot.heads(X, X, operation="attention"),  # type: ignore[arg-type]
        numbattn.OptionError, "'scores' or 'weights'",
    ),
    "labels": (
        lambda: plot.scores(X[0], X[0], key_labels="ab"),
        numbattn.ShapeError, "key_labels has 2 labels; 6 are needed",
    ),
    "titles": (
        lambda: plot.heads(X, X, titles=["a"]), numbattn.ShapeError, "titles has 1",
    ),
    "columns": (
        lambda: plot.heads(X, X, columns=0), numbattn.OptionError, "columns is 0",
    ),
    "a top": (
        lambda: plot.row(X, X, 0, head=0, top=-1), numbattn.OptionError, "top is -1",
    ),
    "an option": (
        lambda: plot.scores(X[0], X[0], masks=None), TypeError, "no option masks; the",
    ),
    "sinks of scores": (
        lambda: plot.scores(X[0], X[0], sinks=[1.0]), numbattn.OptionError, "sinks",
    ),
    "an option's value": (
        lambda: plot.scores(X[0], X[0], softcap=-1), numbattn.OptionError, "softcap",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str) -> None:
    make, error, words = REFUSED[name]
    with pytest.raises(error, match=words):
        make()


WITHOUT = """
import sys
sys.modules["matplotlib"] = None
import numpy as np, numbattn
from numbattn import masks, plot
x = np.ones((2, 3, 4), np.float32)
for draw in (
    lambda: plot.scores(x[0], x[0], backend="reference"),
    lambda: plot.heads(x, x, backend="reference"),
    lambda: plot.row(x[0], x[0], 0, backend="reference"),
    lambda: masks.causal().plot(3, 3),
):
    try:
        draw()
    except ImportError as error:
        print(error)
"""


def test_a_missing_matplotlib_is_said() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", WITHOUT],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert len(lines) == 4
    assert all('pip install "numbattn[plot]"' in line for line in lines)


def test_matplotlib_is_loaded_when_something_is_drawn() -> None:
    code = (
        "import sys, numpy as np, numbattn; numbattn.plot\n"
        "print('matplotlib' in sys.modules, 'numba' in sys.modules)\n"
        "numbattn.plot.row(np.eye(3), np.eye(3), 0, backend='reference')\n"
        "print('matplotlib' in sys.modules, 'matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["False", "False", "True", "False"]


def test_the_page_s_pictures_are_drawn_by_its_code(tmp_path: Path) -> None:
    tool = ROOT / "tools" / "draw_plots.py"
    done = subprocess.run(
        [sys.executable, str(tool), "--into", str(tmp_path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    page = (ROOT / "docs" / "plots.md").read_text()
    names = re.findall(r"pictures/([\w-]+\.png)", page)
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(names)
    for name in names:
        with Image.open(tmp_path / name) as drawn, Image.open(PICTURES / name) as kept:
            assert drawn.size == kept.size
            points = [np.asarray(each.convert("RGB"), int) for each in (drawn, kept)]
        # fonts and matplotlib's versions move some edges
        assert np.abs(points[0] - points[1]).mean() < 5
        assert (PICTURES / name).stat().st_size < 80_000
