"""The asv benchmarks: whole, pinned, described, and free of the commit they measure."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parent.parent / "asv_bench"
FILES = sorted(
    each.name for each in (FOLDER / "benchmarks").glob("*.py") if each.stem[0] != "_"
)
STABILITY = SimpleNamespace(**runpy.run_path(str(FOLDER / "stability.py")))

DISCOVERED = """
import json, sys
from asv_runner.discovery import disc_benchmarks
sys.path.insert(0, ".")
found = []
for each in disc_benchmarks("benchmarks"):
    sound = each.check("benchmarks")  # it sets the first parameters
    found.append({
        "name": each.name, "version": each.version, "type": each.type,
        "unit": each.unit, "params": [len(one) for one in each.params],
        "names": each.param_names, "sound": sound,
        "left out": each.do_setup() if each.name in NAMES else None,
    })
print(json.dumps(found))
"""
LACKING = [
    "accuracy.Accuracy.track_max_error",
    "attention.Time.time_call",
    "cuda_timings.OnDevice.track_ratio",
    "masks.Blocks.time_sparsity",
    "memory.Blocks.peakmem_iter_scores",
    "memory.Estimate.track_workspace",
    "score_functions.New.track_first_call",
    "scores.AgainstPeers.track_ratio",
    "scores.SmallCall.time_small_call",
    "slabs.Slabs.track_ratio",
]
"""Each sort of setup once: all find nothing in the commit that `found` measures."""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What asv finds where the measured commit has nothing of today's names."""
    empty = tmp_path_factory.mktemp("old")
    (empty / "numbattn").mkdir()
    (empty / "numbattn" / "__init__.py").touch()
    done = subprocess.run(
        [sys.executable, "-c", f"NAMES = {LACKING}" + DISCOVERED],
        cwd=FOLDER,
        env={**os.environ, "PYTHONPATH": str(empty)},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    listed: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return listed


def test_asv_finds_nothing_wrong() -> None:
    check = ["check", "--config", "asv.conf.json", "-E", "existing"]
    done = subprocess.run(
        [sys.executable, "-m", "asv", *check],
        cwd=FOLDER,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No problems found" in done.stdout


def test_no_name_is_there_twice(found: list[dict[str, Any]]) -> None:
    names = [each["name"] for each in found]
    assert len(names) == len(set(names)) > 40
    assert all(each["sound"] for each in found)


def test_what_a_commit_lacks_is_left_out(found: list[dict[str, Any]]) -> None:
    skipped = {each["name"]: each["left out"] for each in found}
    assert {name: skipped[name] for name in LACKING} == dict.fromkeys(LACKING, True)


def test_every_version_is_pinned(found: list[dict[str, Any]]) -> None:
    # else it is a hash of the code, and editing a benchmark loses its history
    loose = [
        each["name"] for each in found if not re.fullmatch("[1-9]", each["version"])
    ]
    assert not loose


def test_every_figure_has_a_unit_and_every_parameter_a_name(
    found: list[dict[str, Any]],
) -> None:
    for each in found:
        assert each["unit"] != "unit", each["name"]
        assert len(each["names"]) == len(each["params"]), each["name"]
        assert not re.search(r"param\d", " ".join(each["names"])), each["name"]


def test_every_subject_has_the_benchmarks_that_others_read(
    found: list[dict[str, Any]],
) -> None:
    by_name = {each["name"]: each for each in found}
    for subject, first in (
        ("scores", "case"), ("weights", "case"), ("attention", "row"), ("decode", "row")
    ):  # fmt: skip
        assert by_name[f"{subject}.AgainstPeers.track_ratio"]["names"] == [
            first,
            "peer",
        ]
        assert by_name[f"{subject}.Time.time_call"]["names"] == [first]


def test_the_readme_has_every_file_of_benchmarks() -> None:
    readme = (FOLDER / "README.md").read_text()
    told = re.findall(r"^\| `benchmarks/(\w+\.py)` \|", readme, flags=re.MULTILINE)
    assert sorted(told) == FILES


def test_ratios_that_differ_too_much_are_short() -> None:
    ratio = STABILITY.Ratio
    first = {
        "long": ratio(0.50, 0.1),
        "short": ratio(0.50, 0.001),
        "unknown": ratio(0.50, None),
        "worse": ratio(0.50, 0.1),
        "restless": ratio(0.50, 0.1, quiet=False),
        "gone": ratio(0.50, 0.1),
    }
    second = {
        "long": ratio(0.52, 0.1),
        "short": ratio(0.54, 0.001),
        "unknown": ratio(0.54, None),
        "worse": ratio(0.54, 0.1),
        "restless": ratio(0.50, 0.1),
    }
    lines = list(STABILITY.table(first, second))
    assert [line.endswith("short") for line in lines] == [
        False,
        False,
        True,
        True,
        False,
        True,
    ]
    assert ["restless" in line for line in lines].index(True) == 4
    assert "4.0% of 5%" in lines[0]
    assert "8.0% of 10%" in lines[1]


QUIET = """
import json, sys
sys.path.insert(0, ".")
from benchmarks import history, quiet
from benchmarks.common import Case, Comparison, start

asked = []

def compare(ours, theirs, *, known, **_):
    asked.append(known)
    floor = 1.0 - 0.1 * len(asked) % 0.3  # 0.9, 0.8, 1.0
    return Comparison(0.5, floor, 0.5 / floor, 7, min(len(asked) - 1, 3), floor)

quiet.compare = compare
case = Case("scores", 8, 8, 8)
with start("numpy", case) as theirs, start("numbattn", case) as ours:
    for sides in 3 * [(ours, theirs)] + [(theirs, ours)]:
        quiet.measure(*sides, patience=0.0)
known = quiet._read()
asked[:] = []
figures = history.figures_of(["decode_over_numpy"])
print(json.dumps([list(known.values()), len(asked), figures]))
"""


def test_what_a_quiet_machine_can_is_kept_of_the_others(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", QUIET],
        cwd=FOLDER,
        env={**os.environ, "HOME": str(tmp_path), "USERPROFILE": str(tmp_path)},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    known, times, figures = json.loads(done.stdout.splitlines()[-1])
    # the fewest seconds, and none of numbattn as the other side
    assert known == [pytest.approx(0.8)]
    # once more until enough of the pairs were quiet; then that one counts
    assert times == 4
    assert figures == {"decode_over_numpy": pytest.approx(0.5 / 0.9)}


def test_ratios_are_read_from_what_asv_wrote(tmp_path: Path) -> None:
    ratio, time = "scores.AgainstPeers.track_ratio", "scores.Time.time_call"
    cases, peers = ["'2048 d64'", "'512'"], ["'numpy'", "'jax'"]
    results = {
        ratio: [[0.5, None, 0.7, float("nan")], [cases, peers], "1"],
        time: [[0.004, 0.006], [cases], "1"],
        "history.track_x": [[0.9], [], "1"],
        "history.track_y": [[3.0], [], "1"],
    }
    columns = ["result", "params", "version"]
    (tmp_path / "machine").mkdir()
    file = tmp_path / "machine" / "0123-env.json"
    file.write_text(json.dumps({"result_columns": columns, "results": results}))
    units = {
        ratio: "time / the peer's time",
        time: "seconds",
        "history.track_x": "time / NumPy's time",
        "history.track_y": "seconds",
    }
    (tmp_path / "benchmarks.json").write_text(
        json.dumps({name: {"unit": unit} for name, unit in units.items()})
    )
    assert STABILITY.read(file) == {
        f"{ratio}(2048 d64, numpy)": (0.5, 0.004, True),
        f"{ratio}(512, numpy)": (0.7, 0.006, True),
        "history.track_x": (0.9, None, True),
    }
