"""What asv has measured, commit by commit."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

Values = dict[tuple[str, ...], float | None]
"""Of one benchmark at one commit: the values by parameters; `()` where it has none."""


@dataclass(frozen=True)
class Commit:
    """A commit that was measured."""

    full_hash: str
    date: datetime

    @property
    def label(self) -> str:
        """Its short hash and its day."""
        return f"{self.full_hash[:8]}, {self.date:%Y-%m-%d}"


@dataclass(frozen=True)
class Measured:
    """The results of one machine."""

    machine: dict[str, str]
    versions: dict[str, str]  # of what asv installed beside the newest commit
    commits: tuple[Commit, ...]  # from the oldest
    values: dict[Commit, dict[str, Values]]

    def series(self, benchmark: str) -> list[float | None]:
        """Return a value or None for each commit, of a benchmark without parameters."""
        return [self.values[c].get(benchmark, {}).get(()) for c in self.commits]

    def newest(self, benchmark: str) -> tuple[Commit, Values] | None:
        """Return the last commit at which a benchmark has values, and those."""
        for commit in reversed(self.commits):
            values = self.values[commit].get(benchmark, {})
            if any(value is not None for value in values.values()):
                return commit, values
        return None

    @property
    def machine_in_words(self) -> str:
        """The machine's name and what it is."""
        about = self.machine
        parts = [about.get(key) for key in ("machine", "cpu", "ram", "os")]
        return ", ".join(part for part in parts if part)


def read(config: Path, machine: str | None = None) -> Measured:
    """Read the results that belong to an asv.conf.json.

    Parameters
    ----------
    config : Path
        The file, in a clone that has the commits of the results.
    machine : str, optional
        The machine's name; needed where there are results of several.

    Returns
    -------
    Measured
        The results of that machine, in the order of the commits.

    Raises
    ------
    ValueError
        If there are no results, if several machines have some and none is named, or if
        the clone lacks a commit.
    """
    from asv.config import Config
    from asv.plugins.git import Git
    from asv.results import iter_results
    from asv.util import load_json

    here = config.resolve().parent
    asv = Config.load(str(config))
    folder = here / asv.results_dir
    found = list(iter_results(str(folder)))
    name = _chosen({result.params["machine"] for result in found}, machine, folder)
    benchmarks = load_json(str(folder / "benchmarks.json"), 2)
    values: dict[str, dict[str, Values]] = {}
    dates: dict[str, int] = {}
    versions: dict[str, dict[str, str]] = {}
    for result in found:
        if result.params["machine"] == name:
            dates[result.commit_hash] = result.date
            versions.setdefault(result.commit_hash, {}).update(result.params)
            of_commit = values.setdefault(result.commit_hash, {})
            for key in result.get_result_keys(benchmarks):
                _merge(of_commit.setdefault(key, {}), _values(result, key))
    clone = str(here / asv.repo)
    order = Git(clone, clone).get_revisions(set(dates))
    if missing := set(dates) - set(order):
        raise ValueError(
            f"results of commits that this clone does not have: {sorted(missing)}; a "
            "shallow clone gets them by `git fetch --unshallow`"
        )
    of = {h: Commit(h, datetime.fromtimestamp(dates[h] / 1000, UTC)) for h in dates}
    hashes = sorted(dates, key=order.__getitem__)
    return Measured(
        load_json(str(folder / name / "machine.json"), 1),
        versions[hashes[-1]],
        tuple(of[h] for h in hashes),
        {of[h]: by_name for h, by_name in values.items()},
    )


def _chosen(names: set[str], machine: str | None, folder: Path) -> str:
    if machine is None and len(names) == 1:
        return names.pop()
    if machine not in names:
        raise ValueError(
            f"machine is {machine!r}, and {folder} has results of "
            f"{', '.join(sorted(names)) or 'no machine'}: name one that is there, or "
            "measure first, as asv_bench/README.md says"
        )
    return machine


def _values(result: Any, key: str) -> Values:
    # asv keeps parameters by their repr: 'numpy' is "'numpy'"
    params = [[p.strip("'\"") for p in ps] for ps in result.get_result_params(key)]
    values = result.get_result_value(key, result.get_result_params(key))
    pairs = zip(itertools.product(*params), values, strict=True)
    return {at: None if v is None or math.isnan(v) else float(v) for at, v in pairs}


def _merge(into: Values, more: Values) -> None:
    """Add values of another environment at the same commit: a value beats a gap."""
    for at, value in more.items():
        if into.get(at) is None:
            into[at] = value
