"""Measure the commits that the performance history lacks: `tox -e history`.

Those are the commits up to HEAD that changed `numbattn/` and have no results. asv
builds each in its fixed environment and writes `asv_bench/results/`, to be committed
with the next change: a result cannot contain its own commit's hash.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "asv_bench" / "asv.conf.json"
RESULTS = ROOT / "asv_bench" / "results"
MACHINE = "zen-2core"


def commits() -> list[str]:
    """Return the commits that changed the package, newest first."""
    command = ["git", "-C", str(ROOT), "log", "--format=%H", "--", "numbattn"]
    run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return run.stdout.split()


def measured(file: Path) -> bool:
    """Tell whether one of asv's result files has figures of the history."""
    return any(
        name.startswith("history.") for name in json.loads(file.read_text())["results"]
    )


def missing(machine: str) -> list[str]:
    """Return those that have no figures of the history on a machine."""
    files = (RESULTS / machine).glob("*-*.json")
    known = {file.name.split("-")[0] for file in files if measured(file)}
    return [commit for commit in commits() if commit[:8] not in known]


def describe(machine: str) -> None:
    """Tell asv what the machine is, in the words of its first results."""
    command = ["asv", "machine", "--config", str(CONFIG), "--yes", "--machine", machine]
    file = RESULTS / machine / "machine.json"
    if file.exists():
        said = json.loads(file.read_text())
        for name in ("os", "arch", "cpu", "num_cpu", "ram"):
            if name in said:
                command += [f"--{name}", said[name]]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


@click.command()
@click.option("--machine", default=MACHINE, show_default=True, help="Its fixed name.")
@click.option("--check", is_flag=True, help="Only list them; fail where one is older.")
def main(machine: str, check: bool) -> None:
    """Measure every commit that is missing; the newest may follow later."""
    found = missing(machine)
    newest = commits()[0]
    for commit in found:
        click.echo(
            f"{commit[:8]} has no results" + " (the newest)" * (commit == newest)
        )
    if check:
        sys.exit(bool(set(found) - {newest}))
    if not found:
        click.echo("every commit has results")
        return
    describe(machine)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(found) + "\n")
        file.flush()
        command = ["asv", "run", "--config", str(CONFIG), "--machine", machine]
        command += ["--bench", r"^history\.", "--launch-method", "forkserver"]
        subprocess.run([*command, f"HASHFILE:{file.name}"], check=True)


if __name__ == "__main__":
    main()
