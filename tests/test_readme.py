"""The README and the pages are the truth: their code runs and prints what they say."""

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
PAGES = [
    "README.md",
    "docs/from-scores-to-attention.md",
    "docs/how-it-works.md",
    "docs/index.md",
    "docs/gallery.md",
    "docs/kv-cache.md",
    "docs/masks.md",
    "docs/memory.md",
    "docs/porting-from-pytorch.md",
    "docs/score-functions.md",
]
"""Pages of which every Python block is run, from top to bottom."""


def blocks(page: str) -> list[tuple[str, str]]:
    """Return the language and the text of each fenced block."""
    text = (ROOT / page).read_text()
    return re.findall(r"^```(\w+)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def restored_settings() -> Iterator[None]:
    yield
    numbattn.set_config(backend=None)


@pytest.mark.usefixtures("restored_settings")
@pytest.mark.parametrize("page", PAGES)
def test_the_python_blocks_print_what_the_page_says(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}  # later blocks go on where earlier ones ended
    found = [*blocks(page), ("", "")]
    compared = 0
    for number, (language, code) in enumerate(found):
        if language != "python":
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, f"{page}, block {number}", "exec"), namespace)
        following, text = found[number + 1]
        if following == "text":
            assert printed.getvalue() == text
            compared += 1
    assert compared == sum(language == "text" for language, _ in found)
    assert namespace


def test_ci_runs_the_readme_s_test_command() -> None:
    commands = [
        code.strip() for language, code in blocks("README.md") if language == "sh"
    ]
    demo, tests = commands[:2]
    assert demo.endswith("numbattn demo")
    assert "\n" not in demo
    assert "pytest" in tests
    assert "\n" not in tests
    assert tests in (ROOT / ".ci" / "run").read_text().splitlines()


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES)
def test_the_links_lead_somewhere(page: str) -> None:
    file = ROOT / page
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", file.read_text()):
        assert (file.parent / target).exists(), target


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
