"""The README and the pages are the truth: their code runs and prints what they say."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import numbattn
from numbattn import selector, testing
from numbattn.cli import main

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
FOUND = ["README.md", *sorted(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))]
RUN = ("scores", "attention", "info")
"""Commands that are run where a page shows them; the others take long, or a GPU."""
SPECIAL = ["docs/backends.md", "docs/gpu.md"]
"""They show another package's backend, and a GPU: each has a test of its own."""


def blocks(page: str) -> list[tuple[str, str]]:
    """Return the language and the text of each fenced block."""
    text = (ROOT / page).read_text()
    return re.findall(r"^```(\w+)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


PAGES = [page for page in FOUND if "python" in dict(blocks(page))]
"""Pages of which every Python block is run, from top to bottom."""
PAGES = [page for page in PAGES if page not in SPECIAL]


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


def python_blocks(page: str) -> list[str]:
    return [code for language, code in blocks(page) if language == "python"]


@pytest.mark.usefixtures("restored_settings")
def test_the_gpu_page_runs_or_says_why_not() -> None:
    (code,) = python_blocks("docs/gpu.md")
    reason = numbattn.list_backends()["cuda"]
    namespace: dict[str, object] = {}
    if reason is None:
        exec(code, namespace)
        assert namespace["out"].shape == (8, 2048, 64)  # type: ignore[attr-defined]
    else:
        with pytest.raises(numbattn.BackendUnavailableError) as caught:
            exec(code, namespace)
        assert reason in str(caught.value)


def test_the_backend_of_the_backends_page(monkeypatch: pytest.MonkeyPatch) -> None:
    # that it passes the kit: tests/contract/test_mutants.py
    choosing, rowwise, checking = python_blocks("docs/backends.md")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(choosing, {})
    assert "attention on backend 'cpu'" in printed.getvalue()
    namespace: dict[str, object] = {"__name__": "numbattn_rowwise"}
    exec(rowwise, namespace)
    monkeypatch.setitem(selector._loaded, "rowwise", namespace["backend"])
    assert numbattn.scores([[1, 2]], [[3, 4]], backend="rowwise") == [[11]]
    monkeypatch.setattr(testing, "check_backend", lambda name: f"checked {name}")
    with contextlib.redirect_stdout(printed):
        exec(checking, {})
    assert printed.getvalue().endswith("checked rowwise\n")
    (said,) = re.findall(r"(\d+) of (\d+) checks passed", text_of("docs/backends.md"))
    small = sum(check.level == "small" for check in testing.CHECKS)
    assert said == (str(small), str(small))


def text_of(page: str) -> str:
    return (ROOT / page).read_text()


def commands(page: str) -> list[list[str]]:
    """Return the command lines of `numbattn` that a page shows, as words behind it."""
    lines = [
        part
        for language, code in blocks(page)
        if language == "sh"
        for line in code.splitlines()
        for part in line.split("&&")
    ]
    prose = re.sub(r"^```.*?^```$", "", text_of(page), flags=re.MULTILINE | re.DOTALL)
    for code in re.findall(r"(?<!`)`([^`\n]+)`(?!`)", prose):
        first, _, rest = code.partition(" ")
        if first == "numbattn" and rest:
            lines.append(code)
        elif page == "docs/command-line.md" and first in main.commands and rest:
            lines.append(f"numbattn {code}")
    found = [shlex.split(line, comments=True) for line in lines]
    settings = re.compile(r"[A-Z_]+=")
    for words in found:
        while words and settings.match(words[0]):
            del words[0]
    return [
        words[1:]
        for words in found
        if words and Path(words[0]).name == "numbattn" and "COMMAND" not in words
    ]


COMMANDS = {
    f"{page}: {shlex.join(words)}": words
    for page in [*FOUND, "CONTRIBUTING.md", "SECURITY.md", "asv_bench/README.md"]
    for words in commands(page)
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with Q, K and V, which is also the current one."""
    rng = np.random.default_rng(0)
    for name in "QKV":
        np.save(tmp_path / f"{name}.npy", rng.standard_normal((2, 300, 8), np.float32))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("line", COMMANDS)
def test_the_command_lines_are_understood(line: str, folder: Path) -> None:
    name, *words = COMMANDS[line]
    main.commands[name].make_context(name, words).close()


@pytest.mark.parametrize(
    "line", [line for line, words in COMMANDS.items() if words[0] in RUN]
)
def test_the_command_lines_run(line: str, folder: Path) -> None:
    words = COMMANDS[line]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    if "-o" in words:
        operation = "weights" if "--weights" in words else words[0]
        columns = 8 if operation == "attention" else 300
        written = np.load(folder / words[words.index("-o") + 1])
        assert written.shape == (2, 300, columns)


def test_command_lines_are_found() -> None:
    assert sum(line.startswith("docs/command-line.md") for line in COMMANDS) >= 6
    assert {"scores", "attention", "info"} <= {words[0] for words in COMMANDS.values()}


def test_the_options_that_the_command_line_page_names_exist() -> None:
    exist = {
        option
        for command in (main, *main.commands.values())
        for parameter in command.params
        for option in (*parameter.opts, *parameter.secondary_opts)
    }
    named = re.findall(r"(?<![\w-])--?[a-z][a-z-]*", text_of("docs/command-line.md"))
    assert len(set(named)) > 10
    assert set(named) <= exist | {"--help", "-m"}  # python -m


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


@pytest.mark.parametrize("page", FOUND)
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
