"""Fail where this tree is slower than the last commit of the performance history.

Usage, in the environment that `tox -e gate` makes: ``python tools/gate.py``. It takes
the ratios of `asv_bench/benchmarks/history.py` of the tree as it is. One that is worse
than the last committed figure by more than 15 % is measured again, three times in all;
and where its best is still worse, this tree is timed in turns with the commit of that
figure, up to three times: committed figures may have been lucky, and what disturbs one
of the two disturbs the other. Only what is slower there each time fails.
"""

from __future__ import annotations

import io
import json
import math
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "asv_bench" / "results"
LIMIT = 1.15
TIMES = 3
_MEASURE = """
import json, sys
from benchmarks.history import figures_of, over_another
package, *names = sys.argv[1:]
print(json.dumps(over_another(names, package) if package else figures_of(names)))
"""


@dataclass(frozen=True)
class Baseline:
    """The last commit of this branch that has results, and its ratios."""

    commit: str
    ratios: dict[str, float]


def git(*words: str) -> bytes:
    """Return what git prints."""
    return subprocess.run(
        ["git", "-C", str(ROOT), *words], check=True, stdout=subprocess.PIPE
    ).stdout


def figures_in(file: Path) -> dict[str, float]:
    """Return the history's figures in one of asv's result files."""
    content = json.loads(file.read_text())
    figures = {}
    for name, columns in content["results"].items():
        module, _, benchmark = name.partition(".track_")
        if module == "history" and columns and columns[0]:
            value = columns[0][0]
            figures[benchmark] = math.nan if value is None else float(value)
    return figures


def baseline(results: Path = RESULTS) -> Baseline:
    """Return the newest commit, from HEAD back, of which results are committed."""
    files = {file.name.split("-")[0]: file for file in results.glob("*/*-*.json")}
    for commit in git("log", "--format=%H").decode().split():
        found = files.get(commit[:8])
        figures = figures_in(found) if found else {}
        ratios = {name: x for name, x in figures.items() if "_over_" in name}
        if ratios:
            return Baseline(commit, ratios)
    raise click.ClickException(f"no commit of this branch has results in {results}")


def measure(names: Iterable[str], package: Path | None = None) -> dict[str, float]:
    """Return figures of this tree, or its times over those of another package's."""
    run = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(package or ""), *names],
        cwd=ROOT / "asv_bench",
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), "."))},
        check=True,
        stdout=subprocess.PIPE,
    )
    figures: dict[str, float] = json.loads(run.stdout)
    return figures


def told(values: Iterable[float]) -> str:
    """Return ratios as a line has them."""
    return ", ".join(f"{value:.3f}" for value in values)


def worse(found: float, before: float) -> bool:
    """Tell whether a ratio is over the limit, or missing where there was one."""
    return not math.isnan(before) and not found <= LIMIT * before


def measured(
    limits: dict[str, float], package: Path | None = None
) -> dict[str, list[float]]:
    """Return the measurements by name, three at most, of those that stay worse."""
    found: dict[str, list[float]] = {}
    left = list(limits)
    for _ in range(TIMES):
        for name, value in measure(left, package).items():
            found.setdefault(name, []).append(value)
        left = [name for name in left if worse(found[name][-1], limits[name])]
        if not left:
            break
    return {name: found[name] for name in left}


def beside(commit: str, names: Iterable[str]) -> dict[str, list[float]]:
    """Return the times over a commit's, by name, of those that stay worse."""
    with tempfile.TemporaryDirectory(prefix="numbattn-gate-") as folder:
        with tarfile.open(
            fileobj=io.BytesIO(git("archive", commit, "numbattn"))
        ) as tar:
            tar.extractall(folder, filter="data")
        return measured(dict.fromkeys(names, 1.0), Path(folder))


@click.command()
@click.option(
    "--results", type=click.Path(path_type=Path, exists=True), default=RESULTS
)
def main(results: Path) -> None:
    """Compare this tree with the last commit that has results."""
    last = baseline(results)
    click.echo(f"compared with {last.commit[:8]}, allowed are {LIMIT - 1:.0%} more")
    slow = measured(last.ratios)
    slower = beside(last.commit, slow) if slow else {}
    for name, values in slow.items():
        line = f"{name}: {last.ratios[name]:.3f}, now {told(values)}"
        if name in slower:
            click.echo(
                f"WORSE {line}; times of {last.commit[:8]}, here: {told(slower[name])}"
            )
        else:
            click.echo(f"not slower than {last.commit[:8]} is here: {line}")
    if slower:
        sys.exit(1)
    click.echo("no ratio is worse")


if __name__ == "__main__":
    main()
