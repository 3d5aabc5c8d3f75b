"""The documentation builds without a warning, and its links lead somewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import accuracy_table
import check_links
import draw_diagrams
import public_names
import pytest

ROOT = Path(__file__).resolve().parent.parent


def test_the_site(tmp_path: Path) -> None:
    options = ["-W", "--keep-going", "-q", "-b", "html", "-d", tmp_path / "doctrees"]
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", *options, ROOT / "docs", tmp_path / "site"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (built.returncode, built.stderr) == (0, "")

    site = check_links.Site(tmp_path / "site")
    assert site.complaints() == []
    assert {"index.html", "how-it-works.html", "reference/calls.html"} <= set(
        site.pages
    )
    # a public name has one entry, on a page of the reference
    places: dict[str, list[str]] = {name: [] for name in public_names.names()}
    for file, page in site.pages.items():
        for anchor in page.anchors & places.keys():
            places[anchor].append(file)
    assert all(len(files) == 1 for files in places.values()), places
    # pages with formulas have them as MathML
    explained = (tmp_path / "site" / "how-it-works.html").read_text()
    assert "<math" in explained
    # and drawings within the page, not as images
    assert explained.count('class="nb" width=') == len(draw_diagrams.DRAWINGS)
    written = {file.stem for file in (ROOT / "docs").glob("*.md")}
    assert written <= {Path(name).stem for name in site.pages}


def test_the_diagrams_are_those_of_their_tool(tmp_path: Path) -> None:
    draw_diagrams.main(tmp_path)
    drawn = {file.name: file.read_text() for file in tmp_path.iterdir()}
    kept = {file.name: file.read_text() for file in draw_diagrams.HERE.iterdir()}
    assert drawn == kept
    page = (ROOT / "docs" / "how-it-works.md").read_text()
    assert all(f"(pictures/how-it-works/{name})" in page for name in kept)


def test_the_accuracy_table_is_whole_and_within_the_bound() -> None:
    page = accuracy_table.PAGE.read_text()
    _, _, rest = page.partition(accuracy_table.BEGIN)
    head, _, *lines = rest.partition(accuracy_table.END)[0].strip().splitlines()
    titles = head.strip("| ").split(" | ")
    rows = [line.strip("| ").split(" | ") for line in lines]
    assert [row[0] for row in rows[::3]] == list(accuracy_table.PROBLEMS)
    assert [row[1] for row in rows] == ["scores", "weights", "output"] * (
        len(rows) // 3
    )
    for row in rows:
        figures = dict(zip(titles, row, strict=True))
        for title in ("numbattn", "numbattn, float64"):
            assert float(figures[title]) <= 16
        assert float(figures["NumPy"]) > 0
        assert float(figures["PyTorch"]) > 0


def test_the_accuracy_tool_measures() -> None:
    sides = list(accuracy_table.sides())
    used = accuracy_table.worst("normal, m 512, d 64", "weights")
    assert {"numbattn", "NumPy", "numbattn, float64"} <= set(sides)
    assert all(0 < c < 16 for c in used)


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ('<a href="b.html">', ""),
        ('<a href="b.html#here">', ""),
        ('<a href="#top"><p id="top">', ""),
        ('<a href="b.html#nowhere">', "leads to no anchor"),
        ('<a href="c.html">', "leads to no file"),
        ('<a href="https://example.org/x">', ""),
        ('<img src="https://example.org/x.png">', "loads https://example.org"),
        ('<script src="//example.org/x.js"></script>', "loads //example.org"),
        ('<link rel="stylesheet" href="https://example.org/x.css">', "loads https"),
        ('<p style="background: url(http://example.org/x.png)">', "loads http:"),
        ('<img src="data:image/png;base64,AA">', ""),
        ('<img src="missing.png">', "leads to no file"),
        ('<a href="history/index.html">', ""),
    ],
)
def test_the_link_checker(body: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(body)
    (tmp_path / "b.html").write_text('<p id="here">')
    found = check_links.Site(tmp_path).complaints()
    assert len(found) == bool(complaint)
    assert complaint in "".join(found)


def test_the_link_checker_reads_style_sheets(tmp_path: Path) -> None:
    (tmp_path / "a.css").write_text('@import "https://example.org/b.css"; a {}')
    (found,) = check_links.Site(tmp_path).complaints()
    assert found == "a.css: loads https://example.org/b.css"


def test_what_is_built_beside_is_followed_where_it_is_there(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text('<a href="history/index.html">')
    (tmp_path / "history").mkdir()
    (found,) = check_links.Site(tmp_path).complaints()
    assert "leads to no file" in found
