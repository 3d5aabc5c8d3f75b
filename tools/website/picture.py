"""The README's picture: how many times faster than each peer."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from .comparison import groups, in_words, peers_in_words
from .figures import OPERATIONS, PEERS
from .measured import Measured

_COLOURS = {
    "numpy": "#4477aa",
    "torch": "#cc5533",
    "onnxruntime": "#7a5195",
    "jax": "#2a9d6f",
}
_BAR = 0.2  # of the height that a problem has


def draw(measured: Measured, into: Path) -> None:
    """Write the picture, a PNG file on white, for pages in light and dark.

    Parameters
    ----------
    measured : Measured
        The results.
    into : Path
        The file.

    Raises
    ------
    ValueError
        If one of the pictured problems was not compared yet.
    """
    found = groups(measured)
    rows = {
        f"{group.operation.title}\n{group.operation.pictured[problem]}": against
        for group in found
        for problem, against in group.rows.items()
        if problem in group.operation.pictured
    }
    if len(rows) < sum(len(operation.pictured) for operation in OPERATIONS):
        raise ValueError(
            f"the results compare only {list(rows)} of what the picture shows: run the "
            "benchmarks named AgainstPeers first, as asv_bench/README.md says, or "
            "name other problems in tools/website/figures.py"
        )
    canvas = Canvas(figsize=(8, 1.1 + 0.95 * len(rows)), facecolor="white")
    axes = canvas.add_subplot()
    for place, against in enumerate(rows.values()):
        _bars(axes, place, against)
    axes.set_yticks(range(len(rows)), list(rows), fontsize=9)
    _finish(axes)
    when = ", ".join(dict.fromkeys(group.commit.label for group in found))
    canvas.text(
        0.99,
        0.01,
        f"{', '.join(peers_in_words(measured).values())}\n"
        f"{measured.machine_in_words}; commit {when}",
        ha="right",
        va="bottom",
        fontsize=7,
        color="#57606a",
    )
    canvas.tight_layout(rect=(0, 0.05, 1, 1))
    canvas.savefig(into, dpi=130)


def _bars(axes: Axes, place: int, against: dict[str, float]) -> None:
    shown = [peer for peer in PEERS if peer in against]
    for number, peer in enumerate(shown):
        times = against[peer]
        y = place + (number - (len(shown) - 1) / 2) * _BAR
        axes.barh(y, times - 1, left=1, height=0.85 * _BAR, color=_COLOURS[peer])
        axes.annotate(
            f"{in_words(times)}× {PEERS[peer]}",
            (max(times, 1), y),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )


def _finish(axes: Axes) -> None:
    axes.set_xscale("log", base=2)
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, 0.9), high * 1.6)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}×")
    axes.axvline(1, color="#24292f", linewidth=1)
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.set_title(
        "numbattn: times faster than the other library", loc="left", fontsize=11
    )
    axes.grid(axis="x", color="#d8dee4", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
