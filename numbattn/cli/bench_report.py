"""What `numbattn bench` found: a table, the circumstances, a chart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

_COLORS = {
    "numbattn": "#2171b5", "numpy": "#969696", "torch": "#ee7733",
    "onnxruntime": "#66a61e", "jax": "#aa4499",
}  # fmt: skip


def circumstances(peers: Sequence[str]) -> dict[str, Any]:
    """Return when, where and with which versions it was measured."""
    from datetime import UTC, datetime
    from importlib.metadata import version

    from numbattn.cli.info import collect_machine, collect_versions

    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": collect_machine(),
        "versions": {
            **collect_versions(),
            **{peer: version(peer) for peer in peers},
        },
    }


def print_results(
    results: Sequence[dict[str, Any]], names: Sequence[str], left_out: dict[str, str]
) -> None:
    """Print a table, and below it what is missing and why."""
    from numbattn.cli.table import print_table

    print_table(
        ("problem", "backend", "ms>", "GFLOP/s>", *(f"{name}>" for name in names)),
        [
            (
                result["case"],
                result["backend"],
                f"{result['numbattn_ms']:.3g}",
                f"{result['gflops']:g}",
                *(
                    f"{result['times_faster'][name]:.2f}"
                    if name in result["times_faster"]
                    else "–"
                    for name in names
                ),
            )
            for result in results
        ],
    )
    for name, why in left_out.items():
        click.echo(f"{name}: left out, {why}")
    for result in results:
        for name, message in result["errors"].items():
            click.echo(f"{result['case']}, {name}: {message}", err=True)


def draw(results: Sequence[dict[str, Any]], names: Sequence[str], path: Path) -> None:
    """Write a bar chart: the time of each library, numbattn's as the unit.

    Raises
    ------
    OSError
        The file cannot be written.
    """
    from numbattn.pictures import new_figure, save

    figure = new_figure(7.2, 1.2 + 0.22 * len(results) * (len(names) + 1))
    ax = figure.subplots()
    bars = [("numbattn", [1.0] * len(results))]
    for name in names:
        found = [result["times_faster"].get(name, float("nan")) for result in results]
        bars.append((name, found))
    height = 0.8 / len(bars)
    for number, (name, times) in enumerate(bars):
        places = [case + number * height for case in range(len(results))]
        drawn = ax.barh(
            places, times, height, align="edge", label=name, color=_COLORS[name]
        )
        words = ["" if time != time else f"{time:.2f}" for time in times]
        ax.bar_label(drawn, words, padding=2, fontsize="x-small")
    several = len({result["backend"] for result in results}) > 1
    labels = [
        f"{result['case']} on {result['backend']}" if several else result["case"]
        for result in results
    ]
    ax.set_yticks([place + 0.4 for place in range(len(results))], labels)
    ax.tick_params(axis="y", labelsize="x-small")
    ax.invert_yaxis()
    ax.margins(x=0.1)
    ax.axvline(1, color="grey", lw=0.5, zorder=0)
    ax.set_xlabel("time, that of numbattn is 1 (shorter is faster)")
    ax.legend(fontsize="x-small")
    save(figure, path)
