"""A clone with made-up results in asv's format, for the pages that show them."""

from __future__ import annotations

import itertools
import json
import math
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
Found = dict[str, list[float | None] | None]

MACHINE = "zen-2core"
VERSION = "3.11"
START = 1_700_000_000
"""Seconds since 1970 of the first commit; the others follow hour by hour."""

RATIOS = [
    "track_scores_2048_over_numpy",
    "track_scores_ragged_over_numpy",
    "track_weights_over_numpy",
    "track_attention_2048_over_torch",
    "track_attention_causal_over_torch",
    "track_attention_512_over_onnxruntime",
    "track_decode_over_numpy",
    "track_import_over_numpy",
]
OTHERS = {
    "track_fma_peak_lost": "1 - share of the FMA peak",
    "track_first_call_cold": "seconds",
    "track_first_call_cached": "seconds",
    "track_max_error": "C of the error bound",
}
PEERS = ["numpy", "torch", "onnxruntime", "jax"]
ROWS = {
    "scores": ["512x512 d64", "2048x2048 d64"],
    "weights": ["8x1024x1024 d64"],
    "attention": ["8 heads 2048", "causal"],
    "decode": ["decode 32 of 8"],
}
_VERSIONS = {"numpy": "2.4.6", "torch": "2.13.0", "onnxruntime": ""}
WITHOUT_RESULTS = "cuda.Time.time_call"
SLOWER_FROM = 6
"""The commit, counted from 0, that makes scores 1.5 times slower, for good."""


def clone(folder: Path, commits: int) -> Path:
    """Make a repository with `commits` commits and results; return its asv.conf.json.

    The first commit lacks decode, and has the cold first call by an older version of
    the benchmark; the second failed to measure the largest error; the third is beyond
    the peak, as noise has it. Only the last has the comparison with peers, from another
    environment; one peer is not installed but for weights (null) and one has no
    operator for causal attention (NaN).
    """
    bench = folder / "asv_bench"
    bench.mkdir(parents=True)
    config = shutil.copy(ROOT / "asv_bench" / "asv.conf.json", bench)
    _git(folder, START, "init", "-q", "-b", "main")
    described = _benchmarks()
    machine = {"cpu": "Zen 4", "machine": MACHINE, "os": "Linux", "ram": "24GB"}
    results = bench / "results" / MACHINE
    results.mkdir(parents=True)
    _write(bench / "results" / "benchmarks.json", {**described, "version": 2})
    _write(results / "machine.json", {**machine, "version": 1})
    for number in range(commits):
        date = START + 3600 * number
        _git(folder, date, "commit", "-q", "--allow-empty", "-m", f"Commit {number}")
        commit = _git(folder, date, "rev-parse", "HEAD")
        values = {f"virtualenv-{VERSION}": _headlines(number)}
        if number == commits - 1:
            values["existing"] = _comparisons()
        for environment, of_environment in values.items():
            rows = {
                name: [found, described[name]["params"], _version(number, name)]
                for name, found in of_environment.items()
            }
            content = {
                "commit_hash": commit,
                "date": 1000 * date,
                "env_name": environment,
                "env_vars": {},
                "params": {**machine, **_VERSIONS, "python": environment},
                "python": VERSION,
                "requirements": {},
                "result_columns": ["result", "params", "version"],
                "results": rows,
                "durations": {},
                "version": 2,
            }
            _write(results / f"{commit[:8]}-{environment}.json", content)
    return Path(config)


def _headlines(number: int) -> Found:
    slower = 1.5 if number >= SLOWER_FROM else 1.0
    found: Found = {
        f"history.{name}": [(0.4 + 0.05 * i) * slower + 0.01 * (number % 3)]
        for i, name in enumerate(RATIOS)
    }
    found["history.track_import_over_numpy"] = [1.6]
    for i, name in enumerate(OTHERS):
        found[f"history.{name}"] = [(i + 1) * 0.2]
    if number == 0:
        del found["history.track_decode_over_numpy"]
    if number == 1:
        found["history.track_max_error"] = None
    if number == 2:
        found["history.track_fma_peak_lost"] = [-0.05]
    return found


def _version(number: int, name: str) -> str:
    return "0" if number == 0 and name.endswith("cold") else "1"


def _comparisons() -> Found:
    return {
        _comparison(subject): [_against(*at) for at in itertools.product(rows, PEERS)]
        for subject, rows in ROWS.items()
    }


def _against(row: str, peer: str) -> float | None:
    if peer == "jax" and row not in ROWS["weights"]:
        return None
    if peer == "onnxruntime" and row == "causal":
        return math.nan
    return {"numpy": 0.2, "torch": 0.8, "onnxruntime": 1.25, "jax": 0.1}[peer]


def _comparison(subject: str) -> str:
    return f"{subject}.AgainstPeers.track_ratio"


def _benchmarks() -> dict[str, dict[str, Any]]:
    units = {f"history.{name}": "our time / theirs" for name in RATIOS}
    units |= {f"history.{name}": unit for name, unit in OTHERS.items()}
    units[WITHOUT_RESULTS] = "seconds"
    found = {name: _benchmark(name, unit, [], []) for name, unit in units.items()}
    for subject, rows in ROWS.items():
        name = _comparison(subject)
        params = [[repr(row) for row in rows], [repr(peer) for peer in PEERS]]
        unit = "time / the peer's time"
        found[name] = _benchmark(name, unit, ["row", "peer"], params)
    return found


def _benchmark(
    name: str, unit: str, names: list[str], params: list[list[str]]
) -> dict[str, Any]:
    return {
        "code": f"def {name.split('.')[-1]}():\n    ...",
        "name": name,
        "param_names": names,
        "params": params,
        "timeout": 60,
        "type": "track",
        "unit": unit,
        "version": "1",
    }


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content))


def _git(folder: Path, date: int, *arguments: str) -> str:
    stamp = f"{date} +0000"
    who = {"NAME": "nobody", "EMAIL": "nobody@localhost", "DATE": stamp}
    identity = {
        f"GIT_{role}_{key}": value
        for role in ("AUTHOR", "COMMITTER")
        for key, value in who.items()
    }
    ran = subprocess.run(
        ["git", "-c", "commit.gpgsign=false", *arguments],
        cwd=folder,
        env={**os.environ, **identity},
        capture_output=True,
        text=True,
        check=True,
    )
    return ran.stdout.strip()
