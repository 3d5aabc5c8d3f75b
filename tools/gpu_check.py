"""Check and time the CUDA backend on this machine's GPU; write one JSON, one table.

``python tools/gpu_check.py --into results`` runs every part; ``--only contract,onnx``
some. A part that fails does not stop the others. The exit code is 0 where nothing
failed, 1 where something did, 2 where there is no GPU (0 with --allow-missing).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any
from xml.etree import ElementTree

from numbattn import _devices
from numbattn.backends.cuda import presence

ROOT = Path(__file__).resolve().parent.parent
SANITIZERS = ("memcheck", "racecheck", "initcheck", "synccheck")
FOUND = 9  # exit code of compute-sanitizer for an error that it has found
NAMED = 20  # failures that a report names

CALLS = """
import numpy as np, numbattn
from itertools import product

rng = np.random.default_rng(0)
kinds = [np.float32, np.float64, np.float16]
try:
    import ml_dtypes
    kinds.append(ml_dtypes.bfloat16)
except ImportError:
    pass
for dtype, n, d in product(kinds, (1, 70), (16, 65)):
    q, k, v = (rng.standard_normal((2, m, d)).astype(dtype) for m in (n, 131, 131))
    mask, bias = rng.random((n, 131)) < 0.7, rng.standard_normal((n, 131))
    with numbattn.use_backend("cuda"):
        numbattn.scores(q, k)
        numbattn.weights(q, k, is_causal=True, q_offset=131 - n)
        numbattn.attention(q, k, v, return_lse=True)
        numbattn.attention(q, k, v, mask=mask, bias=bias, softcap=20.0)
        numbattn.attention(q[..., ::2, :], k[:1], v[:1], window_size=(40, 0))
"""


def pytest_part(
    given: argparse.Namespace, tests: str, **environ: str
) -> dict[str, Any]:
    """Run the tests that are named after the backend, and count what came of them."""
    wanted = "cuda" if given.filter is None else f"cuda and ({given.filter})"
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", tests, "-q", "-k", wanted]
        command += ["-p", "no:cacheprovider", "--junit-xml", str(report)]
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, "NUMBATTN_REQUIRE_BACKENDS": "cuda", **environ},
            capture_output=True,
            text=True,
            timeout=given.timeout,
            check=False,
        )
        if not report.is_file():
            return {"ok": False, "why": _end(done.stdout + done.stderr)}
        return counted(report)


def counted(report: Path) -> dict[str, Any]:
    """Return what a report of pytest's in JUnit's form counts; no test is a failure."""
    cases = ElementTree.parse(report).getroot().findall(".//testcase")
    bad = [
        case for case in cases if {"failure", "error"} & {child.tag for child in case}
    ]
    skipped = [case for case in cases if case.find("skipped") is not None]
    passed = len(cases) - len(bad) - len(skipped)
    found: dict[str, Any] = {"passed": passed, "of": len(cases), "ok": passed > 0}
    if skipped:
        found["skipped"] = sorted(
            {str(case.find("skipped").get("message")) for case in skipped}  # type: ignore[union-attr]
        )
    if bad:
        found["ok"] = False
        found["failed"] = [case.get("name") for case in bad[:NAMED]]
    if not passed:
        found["why"] = "; ".join(found.get("skipped", [])) or "no test ran"
    return found


def contract(given: argparse.Namespace) -> dict[str, Any]:
    """Every check of the contract."""
    return pytest_part(given, "tests/contract")


def onnx(given: argparse.Namespace) -> dict[str, Any]:
    """The 93 cases of ONNX's Attention."""
    return pytest_part(given, "tests/conformance")


def random(given: argparse.Namespace) -> dict[str, Any]:
    """Random problems within the error bound."""
    cases = str(given.random_cases)
    return pytest_part(given, "tests/test_random.py", NUMBATTN_RANDOM_CASES=cases)


def sanitizer(given: argparse.Namespace) -> dict[str, Any]:
    """A few calls under each tool of compute-sanitizer."""
    program = shutil.which("compute-sanitizer")
    if program is None:
        return {"ok": None, "why": "compute-sanitizer is not found"}
    if presence.simulated():
        return {"ok": None, "why": "the simulator has no machine code"}
    tools = {tool: _sanitized(program, tool, given.timeout) for tool in SANITIZERS}
    return {"ok": all(each["ok"] for each in tools.values()), "tools": tools}


def _sanitized(program: str, tool: str, timeout: float) -> dict[str, Any]:
    command = [program, "--tool", tool, "--error-exitcode", str(FOUND)]
    done = subprocess.run(
        [*command, sys.executable, "-c", CALLS],
        cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip
    if done.returncode == 0:
        return {"ok": True}
    return {
        "ok": False,
        "found errors": done.returncode == FOUND,
        "why": _end(done.stdout + done.stderr),
    }


def timings(given: argparse.Namespace) -> dict[str, Any]:
    """The times that are promised, against PyTorch or a copy."""
    if presence.simulated():
        return {"ok": None, "why": "times in the simulator mean nothing"}
    if importlib.util.find_spec("torch") is None:
        return {"ok": None, "why": "torch is not installed"}
    rows: list[dict[str, Any]] = []
    for goal in _devices.GOALS:
        try:
            rows.append(_devices.measured(goal))
        except Exception as error:  # the other problems are timed all the same
            why = f"{type(error).__name__}: {error}"
            rows.append(
                {"case": str(goal.case), "than": goal.than, "met": False, "why": why}
            )
    bandwidth = _devices.copy_bandwidth()
    return {
        "ok": all(row["met"] for row in rows),
        "copy, TB/s": bandwidth / 1e12,
        "rows": rows,
    }


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "contract": contract,
    "onnx": onnx,
    "random": random,
    "sanitizer": sanitizer,
    "timings": timings,
}


def _end(text: str, lines: int = 15) -> str:
    return "\n".join(text.strip().splitlines()[-lines:])


def machine() -> dict[str, Any]:
    """Return what was measured, with what, and when."""
    from numbattn.cli.info import collect

    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = collect()
    return {
        "device": presence.describe() if presence.reason() is None else None,
        "versions": found["versions"] | _more_versions(),
        "processor": found["machine"]["processor"],
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip() or "unknown",
    }


def _more_versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("torch", "cupy-cuda13x", "nvidia-nvvm", "nvidia-nvjitlink", "onnx"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def checked(name: str, given: argparse.Namespace) -> dict[str, Any]:
    """Run one part; whatever it raises is its result."""
    start = perf_counter()
    try:
        found = PARTS[name](given)
    except Exception:  # the other parts run all the same
        found = {"ok": False, "why": _end(traceback.format_exc())}
    return {**found, "seconds": round(perf_counter() - start, 1)}


_WORDS = {True: "ok", False: "**FAILED**", None: "skipped"}


def markdown(result: dict[str, Any]) -> str:
    """Return a result as a page."""
    about = result["machine"]
    versions = ", ".join(
        f"{name} {number}" for name, number in about["versions"].items()
    )
    lines = [
        "# The CUDA backend on a GPU",
        "",
        f"* device: {about['device'] or 'none'}",
        f"* date: {about['date']}; commit {about['commit']}",
        f"* processor: {about['processor']}",
        f"* versions: {versions}",
        "",
    ]
    if result.get("why"):
        lines += [f"Nothing was run: {result['why']}", ""]
    if result["parts"]:
        lines += ["| part | result | seconds | what |", "| --- | --- | --- | --- |"]
    for name, found in result["parts"].items():
        said = []
        if "of" in found:
            said.append(f"{found['passed']} of {found['of']} passed")
        for tool, each in found.get("tools", {}).items():
            said.append(f"{tool} {_WORDS[each['ok']]}")
        said += [f"failed: {each}" for each in found.get("failed", [])[:3]]
        if found.get("why"):
            said.append(" ".join(found["why"].split()))
        cells = (name, _WORDS[found["ok"]], str(found["seconds"]), "; ".join(said))
        lines.append(f"| {' | '.join(each.replace('|', '/') for each in cells)} |")
    rows = result["parts"].get("timings", {}).get("rows", [])
    if rows:
        lines += ["", *_timing_lines(rows)]
    return "\n".join([*lines, ""])


def _timing_lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    lines = [
        "| problem | ms | TFLOP/s | of the H200's roofline | against | their ms "
        "| theirs / ours | goal | met |",
        "| --- " * 9 + "|",
    ]
    for row in rows:
        if "why" in row:
            why = " ".join(row["why"].split()).replace("|", "/")
            lines.append(f"| {row['case']} | {why} | | | {row['than']} | | | | no |")
            continue
        lines.append(
            f"| {row['case']} | {row['milliseconds']:.4g} | {row['tflops']:.4g} "
            f"| {row['of_h200_roofline']:.0%} | {row['than']} | {row['theirs']:.4g} "
            f"| {row['ratio']:.2f} | {row['goal']} | {'yes' if row['met'] else 'no'} |"
        )
    return lines


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--only", default=",".join(PARTS), help=f"parts, of {', '.join(PARTS)}"
    )
    parser.add_argument("--into", type=Path, default=Path("gpu-check"))
    parser.add_argument(
        "--allow-missing", action="store_true", help="no GPU is no failure"
    )
    parser.add_argument("--random-cases", type=int, default=2000)
    parser.add_argument("--filter", help="tests by name, as for pytest's -k")
    parser.add_argument("--timeout", type=float, default=1800.0, help="of a part, in s")
    given = parser.parse_args(words)
    given.only = [name.strip() for name in given.only.split(",") if name.strip()]
    unknown = [name for name in given.only if name not in PARTS]
    if unknown or not given.only:
        parser.error(f"--only takes {', '.join(PARTS)}; got {', '.join(unknown)}")
    return given


def main(words: Sequence[str] | None = None) -> int:
    """Run the parts, write what came of them, and return the exit code."""
    given = arguments(words)
    result: dict[str, Any] = {"machine": machine(), "parts": {}}
    why = presence.reason()
    if why is None:
        for name in given.only:
            print(f"{name} ...", flush=True)
            result["parts"][name] = checked(name, given)
        bad = [name for name, found in result["parts"].items() if found["ok"] is False]
        result["ok"], code = not bad, int(bool(bad))
    else:
        result["why"] = why
        result["ok"] = "no GPU" if given.allow_missing else False
        code = 0 if given.allow_missing else 2
    given.into.mkdir(parents=True, exist_ok=True)
    (given.into / "gpu-check.json").write_text(json.dumps(result, indent=2) + "\n")
    page = markdown(result)
    (given.into / "gpu-check.md").write_text(page)
    print(page)
    return code


if __name__ == "__main__":
    sys.exit(main())
