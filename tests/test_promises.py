"""docs/promises.md names tests that exist, and are heavy where it says so."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "promises.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.splitlines()
    if line.startswith("| ") and not line.startswith("| ---")
]
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`( \(heavy\))?", PAGE)


def marks(node: ast.FunctionDef) -> str:
    return " ".join(ast.unparse(each) for each in node.decorator_list)


@pytest.mark.parametrize(("file", "test", "heavy"), NAMED)
def test_a_named_test_exists(file: str, test: str, heavy: str) -> None:
    tree = ast.parse((ROOT / file).read_text())
    found = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name == test
    ]
    assert found, f"{file} has no {test}"
    whole_file = re.search(r"^pytestmark = .*heavy", ast.unparse(tree), re.M)
    is_heavy = bool(whole_file) or "mark.heavy" in marks(found[0])
    assert is_heavy == bool(heavy)


def test_every_promise_has_a_test() -> None:
    header, *rows = ROWS
    assert header == ["rule", "promise", "test", "figure"]
    promises = [row for row in rows if not row[1].startswith("**")]
    assert len(promises) >= 25
    for row in promises:
        assert len(row) == 4, row
        assert re.search(r"`tests/[\w/]+\.py::test_\w+`", row[2]), row[1]


def test_every_rule_has_a_promise() -> None:
    """Rules 1 to 13 are those that `numbattn check` reports."""
    told = set()
    for row in ROWS[1:]:
        first, _, last = row[0].partition(" to ")
        if first:
            told |= set(range(int(first), int(last or first) + 1))
    assert told == set(range(1, 14))


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^):]+)\)", PAGE):
        assert (ROOT / "docs" / target).exists(), target
