"""The gate of the performance history: what it calls worse, and what it measures."""

from __future__ import annotations

import configparser
import importlib.util
import json
import math
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from click.testing import CliRunner, Result

ROOT = Path(__file__).resolve().parent.parent
Run = Callable[[dict[str, list[float]], dict[str, list[float]]], Result]


def tool(name: str) -> ModuleType:
    """Load one of the scripts in tools/."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository of three commits that changed the package, the third the newest."""
    (tmp_path / "numbattn").mkdir()
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run([*git, "init", "-q"], check=True)
    for number in range(3):
        (tmp_path / "numbattn" / "module.py").write_text(f"number = {number}\n")
        subprocess.run([*git, "add", "-A"], check=True)
        subprocess.run([*git, "commit", "-qm", f"commit {number}"], check=True)
    return tmp_path


def history(repository: Path) -> list[str]:
    """Return its commits, oldest first."""
    command = ["git", "-C", str(repository), "log", "--reverse", "--format=%H"]
    return subprocess.check_output(command, text=True).split()


def write_results(repository: Path, commit: str, **figures: float | None) -> None:
    """Write what asv writes."""
    folder = repository / "asv_bench" / "results" / "zen-2core"
    folder.mkdir(parents=True, exist_ok=True)
    results = {f"history.track_{name}": [[x], []] for name, x in figures.items()}
    (folder / f"{commit[:8]}-env.json").write_text(json.dumps({"results": results}))


@pytest.fixture
def run(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the gate on made-up ratios, and on times over the last commit's."""
    gate = tool("gate")
    first, second, _ = history(repository)
    write_results(repository, first, a_over_numpy=9.0)
    write_results(
        repository, second, a_over_numpy=0.5, b_over_torch=0.8, fma_peak_lost=0.1
    )
    monkeypatch.setattr(gate, "ROOT", repository)

    def go(tree: dict[str, list[float]], beside: dict[str, list[float]]) -> Result:
        left = {name: iter(values) for name, values in tree.items()}
        there = {name: iter(values) for name, values in beside.items()}

        def measure(
            names: Iterable[str], package: Path | None = None
        ) -> dict[str, float]:
            if package is None:
                return {name: next(left[name]) for name in names}
            # the commit of the results, as it was
            assert (package / "numbattn/module.py").read_text() == "number = 1\n"
            return {name: next(there[name]) for name in names}

        monkeypatch.setattr(gate, "measure", measure)
        results = repository / "asv_bench" / "results"
        return CliRunner().invoke(gate.main, ["--results", str(results)])

    return go


def test_a_tree_as_fast_as_the_last_commit_passes_by_one_measurement(run: Run) -> None:
    found = run({"a_over_numpy": [0.57], "b_over_torch": [0.79]}, {})
    assert found.exit_code == 0, found.output
    assert "no ratio is worse" in found.output


def test_what_is_worse_three_times_fails_with_its_line(run: Run) -> None:
    tree = {"a_over_numpy": [0.7, 0.69, 0.71], "b_over_torch": [0.8]}
    found = run(tree, {"a_over_numpy": [1.3, 1.16, 1.4]})
    assert found.exit_code == 1
    (line,) = (x for x in found.output.splitlines() if x.startswith("WORSE"))
    assert "a_over_numpy: 0.500, now 0.700, 0.690, 0.710" in line
    assert line.endswith("here: 1.300, 1.160, 1.400")


def test_what_was_bad_luck_once_or_twice_passes(run: Run) -> None:
    tree = {"a_over_numpy": [0.7, 0.7, 0.55], "b_over_torch": [1.2, 0.8]}
    assert run(tree, {}).exit_code == 0


def test_what_is_slow_for_the_last_commit_too_is_the_machine_s_fault(run: Run) -> None:
    tree = {"a_over_numpy": [0.7, 0.7, 0.7], "b_over_torch": [0.8]}
    found = run(tree, {"a_over_numpy": [1.2, 1.02]})
    assert found.exit_code == 0
    assert "is here: a_over_numpy" in found.output


def test_a_figure_that_cannot_be_taken_any_more_fails(run: Run) -> None:
    tree = {"a_over_numpy": [math.nan] * 3, "b_over_torch": [0.8]}
    assert run(tree, {"a_over_numpy": [math.nan] * 3}).exit_code == 1


def test_without_any_results_it_says_so(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = tool("gate")
    monkeypatch.setattr(gate, "ROOT", repository)
    found = CliRunner().invoke(gate.main, ["--results", str(repository)])
    assert found.exit_code == 1
    assert "no commit of this branch has results" in found.output


def test_the_tool_knows_which_commits_lack_results(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = tool("add_history")
    monkeypatch.setattr(add, "ROOT", repository)
    monkeypatch.setattr(add, "RESULTS", repository / "asv_bench" / "results")
    first, second, third = history(repository)
    write_results(repository, first, a_over_numpy=1.0)
    write_results(repository, second)  # of other benchmarks
    assert add.missing("zen-2core") == [third, second]
    assert CliRunner().invoke(add.main, ["--check"]).exit_code == 1
    write_results(repository, second, a_over_numpy=1.0)
    found = CliRunner().invoke(add.main, ["--check"])
    assert found.exit_code == 0  # the newest follows with the next commit
    assert f"{third[:8]} has no results (the newest)" in found.output


def test_the_gate_measures_with_the_history_s_versions() -> None:
    config = re.sub(
        r"^\s*//.*$", "", (ROOT / "asv_bench/asv.conf.json").read_text(), flags=re.M
    )
    fixed: dict[str, Any] = json.loads(config)["matrix"]["req"]
    tox = configparser.ConfigParser()
    tox.read(ROOT / "tox.ini")
    deps = dict(line.split("==") for line in tox["testenv:gate"]["deps"].split())
    assert set(deps) == set(fixed) - {"hatchling", "jax"}
    assert all(fixed[name] == [version] for name, version in deps.items())
