"""The README is the truth: its code runs and prints what it says."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import numbattn

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def restored_settings() -> Iterator[None]:
    yield
    numbattn.set_config(backend=None)


@pytest.mark.usefixtures("restored_settings")
def test_the_python_blocks_print_what_the_readme_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}  # later blocks go on where earlier ones ended
    compared = 0
    for number, (language, code) in enumerate(BLOCKS):
        if language != "python":
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, f"README block {number}", "exec"), namespace)
        following = BLOCKS[number + 1] if number + 1 < len(BLOCKS) else ("", "")
        if following[0] == "text":
            assert printed.getvalue() == following[1]
            compared += 1
    assert compared


def test_ci_runs_the_readme_s_test_command() -> None:
    commands = [code.strip() for language, code in BLOCKS if language == "sh"]
    demo, tests = commands[:2]
    assert demo.endswith("numbattn demo")
    assert "\n" not in demo
    assert "pytest" in tests
    assert "\n" not in tests
    assert tests in (ROOT / ".ci" / "run").read_text().splitlines()


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 150


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#:]+)\)", README))
def test_the_links_lead_somewhere(target: str) -> None:
    assert (ROOT / target).exists()


def test_the_files_name_no_registry_and_no_machine() -> None:
    # what holds on one machine does not belong in the repository
    unwanted = re.compile(
        "pypi" + r"\.org|files\.python" + "hosted|/opt/|/ro" + "ot/|/wo" + "rk/"
    )
    for name in (
        "README.md",
        "CONTRIBUTING.md",
        "tox.ini",
        "pyproject.toml",
        ".ci/run",
    ):
        assert not unwanted.search((ROOT / name).read_text()), name
