"""tools/gpu_check.py, as far as it can be tested without a GPU."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from numbattn import _devices
from numbattn._peers import Case

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "gpu_check.py"


@pytest.fixture(scope="module")
def program() -> Any:
    spec = importlib.util.spec_from_file_location("gpu_check", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def call(
    into: Path, *words: str, **environ: str
) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, str(TOOL), "--into", str(into), *words],
        env={**os.environ, **environ},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done, json.loads((into / "gpu-check.json").read_text())


HIDDEN = {"CUDA_VISIBLE_DEVICES": "", "NUMBA_ENABLE_CUDASIM": "0"}


def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    done, found = call(tmp_path, **HIDDEN)
    assert done.returncode == 2, done.stderr
    assert found["ok"] is False
    assert "CUDA_VISIBLE_DEVICES='' hides every GPU" in found["why"]
    assert found["parts"] == {}
    assert "Nothing was run: " in (tmp_path / "gpu-check.md").read_text()
    done, found = call(tmp_path, "--allow-missing", **HIDDEN)
    assert done.returncode == 0, done.stderr
    assert found["ok"] == "no GPU"
    assert found["machine"]["versions"]["numpy"]
    assert found["machine"]["device"] is None


@pytest.mark.parametrize("words", [["--only", "contract,speed"], ["--only", ""]])
def test_unknown_parts_are_refused(
    program: Any, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        program.arguments(words)
    assert "contract, onnx, random, sanitizer, timings" in capsys.readouterr().err


def test_a_part_that_raises_does_not_stop_the_others(
    program: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(given: Any) -> dict[str, Any]:
        raise RuntimeError("the | device is gone")

    monkeypatch.setitem(program.PARTS, "onnx", broken)
    monkeypatch.setitem(program.PARTS, "random", lambda given: {"ok": None, "why": "x"})
    good = {"ok": True, "passed": 4, "of": 4}
    monkeypatch.setitem(program.PARTS, "contract", lambda given: good)
    monkeypatch.setattr(program.presence, "reason", lambda: None)
    monkeypatch.setattr(program.presence, "describe", lambda: "a GPU")
    code = program.main(["--into", str(tmp_path), "--only", "onnx,random,contract"])
    found = json.loads((tmp_path / "gpu-check.json").read_text())
    assert code == 1
    assert found["ok"] is False
    assert {name: part["ok"] for name, part in found["parts"].items()} == {
        "onnx": False, "random": None, "contract": True,
    }  # fmt: skip
    page = (tmp_path / "gpu-check.md").read_text()
    assert "device: a GPU" in page
    assert "| contract | ok | 0.0 | 4 of 4 passed |" in page
    assert "the / device is gone" in page
    program.main(["--into", str(tmp_path), "--only", "random,contract"])
    assert json.loads((tmp_path / "gpu-check.json").read_text())["ok"] is True


def test_times_are_a_table(program: Any) -> None:
    row = {
        "case": "scores", "than": "matmul", "milliseconds": 0.5, "theirs": 0.45,
        "ratio": 0.9, "goal": 0.8, "met": True, "tflops": 34.4, "of_h200_roofline": 0.5,
    }  # fmt: skip
    bad = {"case": "attention", "than": "sdpa", "met": False, "why": "no | memory"}
    lines = program._timing_lines([row, bad])
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2] == (
        "| scores | 0.5 | 34.4 | 50% | matmul | 0.45 | 0.90 | 0.8 | yes |"
    )
    assert "no / memory" in lines[3]


REPORT = """<testsuites><testsuite>
<testcase name="a"/><testcase name="b"><failure message="wrong"/></testcase>
<testcase name="c"><skipped message="no onnx"/></testcase>
</testsuite></testsuites>"""


def test_a_report_of_pytest_is_counted(program: Any, tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    report.write_text(REPORT)
    assert program.counted(report) == {
        "passed": 1, "of": 3, "ok": False, "failed": ["b"], "skipped": ["no onnx"],
    }  # fmt: skip
    report.write_text(REPORT.replace("failure", "skipped").replace('"a"/', '"a"/'))
    assert program.counted(report)["ok"]
    report.write_text("<testsuites><testsuite/></testsuites>")
    assert program.counted(report) == {
        "passed": 0, "of": 0, "ok": False, "why": "no test ran",
    }  # fmt: skip


def test_a_required_backend_that_cannot_run_fails_its_tests(
    program: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in HIDDEN.items():
        monkeypatch.setenv(name, value)
    found = program.contract(program.arguments(["--filter", "test_rule and 8-"]))
    assert not found["ok"]
    assert found["passed"] == 0 < found["of"]
    assert found["failed"]


def simulator() -> str | None:
    """Return why no kernel runs in the simulator here."""
    for needed in ("numba_cuda", "greenlet"):
        if importlib.util.find_spec(needed) is None:
            return f"{needed} is not installed"
    if importlib.util.find_spec("numbattn.backends.cuda.engine") is None:
        return "numbattn.backends.cuda.engine is not there yet"
    return None


@pytest.mark.skipif(simulator() is not None, reason=str(simulator()))
def test_in_the_simulator_the_parts_run(tmp_path: Path) -> None:
    done, found = call(
        tmp_path,
        *("--only", "contract,sanitizer,timings"),
        *("--filter", "8-empty"),
        NUMBA_ENABLE_CUDASIM="1",
    )
    assert "simulator" in found["machine"]["device"]
    assert done.returncode == 0, done.stdout
    assert found["parts"]["contract"]["passed"] > 0
    assert found["parts"]["timings"]["ok"] is None
    assert found["parts"]["sanitizer"]["ok"] is None


@pytest.mark.parametrize(
    ("case", "megabytes", "milliseconds", "bound"),
    [
        # by hand: 2 8192² 128 / 67e12; (2 16384 128 + 16384²) 2 / 4.8e12
        (Case("scores", 8192, 8192, 128), 276.8, 0.2564, "arithmetic"),
        (
            Case("scores", 16384, 16384, 128, dtype="bfloat16"),
            545.3, 0.1136, "memory",
        ),
        (
            Case("attention", 1, 8192, 128, lead=(4, 32), kv_heads=8),
            268.6, 0.05595, "memory",
        ),
    ],
)  # fmt: skip
def test_a_roofline(
    case: Case, megabytes: float, milliseconds: float, bound: str
) -> None:
    assert _devices.traffic(case) / 1e6 == pytest.approx(megabytes, rel=1e-3)
    found = _devices.roofline(case)
    assert found.seconds * 1e3 == pytest.approx(milliseconds, rel=1e-3)
    assert found.bound == bound
