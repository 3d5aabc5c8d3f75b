"""Fail where this tree is slower than the last commit of the performance history.

Usage, in the environment that `tox -e gate` makes: ``python tools/gate.py``. It takes
the ratios of `asv_bench/benchmarks/history.py` of the tree as it is. One that is worse
than the last committed figure by more than 15 % is measured again, three times in all;
and where its best is still worse, the commit of that figure is measured here as well:
what is slow for both is this machine, or was luck then. Only what is left fails.
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
from benchmarks.history import figures_of
print(json.dumps(figures_of(sys.argv[1:])))
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


def measure(names: Iterable[str], package: Path) -> dict[str, float]:
    """Return figures of the numbattn in a folder, in a process of its own."""
    run = subprocess.run(
        [sys.executable, "-c", _MEASURE, *names],
        cwd=ROOT / "asv_bench",
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(package), "."))},
        check=True,
        stdout=subprocess.PIPE,
    )
    figures: dict[str, float] = json.loads(run.stdout)
    return figures


def worse(found: float, before: float) -> bool:
    """Tell whether a ratio is over the limit, or missing where there was one."""
    return not math.isnan(before) and not found <= LIMIT * before


def best_of(names: Iterable[str], package: Path, limits: dict[str, float]) -> dict:
    """Return the measurements by name, up to three, of those that stay worse."""
    found: dict[str, list[float]] = {}
    left = list(names)
    for _ in range(TIMES):
        for name, value in measure(left, package).items():
            found.setdefault(name, []).append(value)
        left = [name for name in left if worse(found[name][-1], limits[name])]
        if not left:
            break
    return {name: found[name] for name in left}


def measured_here(commit: str, names: Iterable[str]) -> dict[str, float]:
    """Return figures of a commit, taken now on this machine: the best of three."""
    with tempfile.TemporaryDirectory(prefix="numbattn-gate-") as folder:
        with tarfile.open(
            fileobj=io.BytesIO(git("archive", commit, "numbattn"))
        ) as tar:
            tar.extractall(folder, filter="data")
        rounds = [measure(names, Path(folder)) for _ in range(TIMES)]
    return {name: min(each[name] for each in rounds) for name in names}


@click.command()
@click.option(
    "--results", type=click.Path(path_type=Path, exists=True), default=RESULTS
)
def main(results: Path) -> None:
    """Compare this tree with the last commit that has results."""
    last = baseline(results)
    click.echo(f"compared with {last.commit[:8]}, allowed are {LIMIT - 1:.0%} more")
    slow = best_of(last.ratios, ROOT, last.ratios)
    here = measured_here(last.commit, slow) if slow else {}
    failed = False
    for name, values in slow.items():
        told = ", ".join(f"{value:.3f}" for value in values)
        line = f"{name}: {last.ratios[name]:.3f}, now {told}; "
        line += f"{last.commit[:8]} measured here: {here[name]:.3f}"
        # nothing to compare with here: the committed figure stands
        before = last.ratios[name] if math.isnan(here[name]) else here[name]
        if worse(min(values), before):
            failed = True
            click.echo(f"WORSE {line}")
        else:
            click.echo(f"as slow on this machine before: {line}")
    if failed:
        sys.exit(1)
    click.echo("no ratio is worse")


if __name__ == "__main__":
    main()
