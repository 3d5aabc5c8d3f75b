"""Charts of a figure over the commits: SVG that follows a light or dark page."""

from __future__ import annotations

import html
import io
import math
from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from .figures import Figure, in_digits
from .measured import Commit

# matplotlib writes these; the style sheet decides what they look like
INK, FAINT, OURS, PEER = "#010101", "#020202", "#030303", "#040404"
_STYLE = """
svg { --ink: #24292f; --faint: #d8dee4; --ours: #0b62c4; --peer: #8a5a00; }
@media (prefers-color-scheme: dark) {
  svg { --ink: #dfe4ea; --faint: #3a4149; --ours: #6cb2ff; --peer: #e0b050; }
}
"""
_VARIABLES = {INK: "--ink", FAINT: "--faint", OURS: "--ours", PEER: "--peer"}
_TICKS = 4
"""More labels of a hash and a day do not fit under a chart of this width."""


def chart(figure: Figure, commits: Sequence[Commit], values: list[float | None]) -> str:
    """Return the chart of one figure, an SVG document.

    Parameters
    ----------
    figure : Figure
        What is shown.
    commits : sequence of Commit
        From the oldest; each has the same place on the axis.
    values : list of float or None
        One a commit; None is a gap in the line.
    """
    with matplotlib.rc_context(
        {"svg.fonttype": "none", "svg.hashsalt": figure.name, "font.size": 9}
    ):
        canvas = Canvas(figsize=(4.2, 2.4))
        axes = canvas.add_subplot()
        _draw(axes, figure, [math.nan if v is None else v for v in values])
        _name_commits(axes, commits)
        canvas.subplots_adjust(left=0.12, right=0.87, top=0.9, bottom=0.22)
        written = io.StringIO()
        canvas.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    return _finished(written.getvalue(), figure.title, described(figure, values))


def described(figure: Figure, values: list[float | None]) -> str:
    """Return what the chart shows, for a reader who does not see it."""
    known = [value for value in values if value is not None]
    if not known:
        return f"{figure.unit}: not measured yet."
    at_one = "" if figure.peer is None else f", 1 is as fast as {figure.peer}"
    return (
        f"{figure.unit}{at_one}, lower is better, over {len(known)} commits: "
        f"{in_digits(known[0])} at first, {in_digits(known[-1])} at last, "
        f"between {in_digits(min(known))} and {in_digits(max(known))}."
    )


def _draw(axes: Axes, figure: Figure, values: list[float]) -> None:
    axes.plot(values, color=OURS, linewidth=1.5, marker="o", markersize=2.5)
    if figure.peer is not None:
        axes.axhline(1, color=PEER, linewidth=1, linestyle=(0, (4, 3)))
    known = [(i, value) for i, value in enumerate(values) if not math.isnan(value)]
    if known:
        last, value = known[-1]
        axes.annotate(
            in_digits(value),
            (last + 0.5, value),  # of the newest commit: at the axis's end
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            color=OURS,
            fontweight="bold",
            annotation_clip=False,
        )
    ends = [value for _, value in known] + [0.0, 0.0 if figure.peer is None else 1.0]
    axes.set_ylim(1.15 * min(ends), 1.15 * max(ends) or 1)
    axes.set_xlim(-0.5, max(len(values) - 0.5, 0.5))
    broken = "" if figure.peer is None else " (broken line: as fast)"
    axes.set_title(figure.unit + broken, loc="left", fontsize=9, color=INK)
    axes.grid(axis="y", color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, length=2)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(INK)


def _name_commits(axes: Axes, commits: Sequence[Commit]) -> None:
    last = len(commits) - 1
    parts = min(_TICKS - 1, last)
    places = sorted(
        {round(last * i / parts) for i in range(parts + 1)} if parts else {0}
    )
    labels = [commits[i].label.replace(", ", "\n") for i in places]
    axes.set_xticks(places, labels, fontsize=7.5)


def _finished(svg: str, title: str, description: str) -> str:
    """Name the colours by variables, and say in words what there is to see."""
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    start = svg.index("<svg")
    head, body = svg[start:].split(">", 1)
    return (
        f'{head} role="img" aria-labelledby="title desc">\n'
        f'<title id="title">{html.escape(title)}</title>\n'
        f'<desc id="desc">{html.escape(description)}</desc>\n'
        f"<style>{_STYLE}</style>{body}"
    )
