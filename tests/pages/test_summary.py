"""The summary and the README's picture show what was measured, and gaps as gaps."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from website import charts, comparison, measured, picture, summary
from website.figures import FIGURES
from website.measured import Commit, Measured

from . import made_up
from .conftest import COMMITS, build

SVG = "{http://www.w3.org/2000/svg}"
DECODE, ERROR, COLD = (
    f"history.track_{name}"
    for name in ("decode_over_numpy", "max_error", "first_call_cold")
)


@pytest.fixture(scope="module")
def results(config: Path) -> Measured:
    return measured.read(config)


@pytest.fixture(scope="module")
def page(site: Path) -> str:
    return (site / "benchmarks-summary" / "index.html").read_text()


class Cells(HTMLParser):
    """The text of each row's cells, of all tables."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, _: object) -> None:
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.inside = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.rows[-1][-1] += data


def chart(site: Path, name: str) -> ElementTree.Element:
    folder = site / "benchmarks-summary"
    return ElementTree.parse(folder / f"{name}.svg").getroot()


def strokes_of(drawn: ElementTree.Element, variable: str) -> list[str]:
    """Return the paths of lines in a colour: each M of a path starts a stroke."""
    return [
        path.get("d", "")
        for path in drawn.iter(f"{SVG}path")
        if f"stroke: var({variable})" in path.get("style", "")
        and "fill: none" in path.get("style", "")
    ]


def test_commits_are_in_the_order_of_the_history(results: Measured) -> None:
    dates = [commit.date.timestamp() for commit in results.commits]
    assert dates == [made_up.START + 3600 * i for i in range(COMMITS)]


def test_what_was_not_measured_is_none(results: Measured) -> None:
    assert results.series(DECODE)[0] is None  # not there yet
    assert results.series(ERROR)[1] is None  # failed
    assert results.series(COLD)[0] is None  # another version measured another thing
    for benchmark, gap in ((DECODE, 0), (ERROR, 1), (COLD, 0)):
        assert results.series(benchmark).count(None) == 1, (benchmark, gap)
    assert results.series("history.track_unheard_of") == [None] * COMMITS


def test_environments_of_one_commit_are_put_together(results: Measured) -> None:
    newest = results.values[results.commits[-1]]
    assert newest[DECODE][()] is not None
    assert (
        newest["scores.AgainstPeers.track_ratio"][made_up.ROWS["scores"][0], "numpy"]
        == 0.2
    )


def test_a_machine_that_was_not_measured_is_named(config: Path) -> None:
    with pytest.raises(ValueError, match=r"machine is 'mine'.*zen-2core.*name one"):
        measured.read(config, "mine")


def test_a_clone_without_the_commits_is_told_how_to_get_them(tmp_path: Path) -> None:
    config = made_up.clone(tmp_path / "old", 2)
    made_up.clone(tmp_path / "new", 1)
    shutil.copytree(
        config.parent / "results",
        tmp_path / "new" / "asv_bench" / "results",
        dirs_exist_ok=True,
    )
    with pytest.raises(ValueError, match="fetch --unshallow"):
        measured.read(tmp_path / "new" / "asv_bench" / "asv.conf.json")


def test_the_table_says_how_many_times_faster(page: str) -> None:
    rows = {row[0]: row[1:] for row in Cells(page).rows}
    peers = ["NumPy 2.4.6", "PyTorch 2.13.0", "ONNX Runtime", "JAX"]
    assert rows["times faster than"] == peers
    assert rows["8 heads 2048"] == ["5.00", "1.25", "0.80", "–"]
    assert rows["causal"] == ["5.00", "1.25", "–", "–"]
    assert rows["8x1024x1024 d64"] == ["5.00", "1.25", "0.80", "10.0"]
    assert page.count('<td class="slower">0.80</td>') == 5


def test_the_page_says_when_where_and_of_which_commit(
    page: str, results: Measured
) -> None:
    newest = results.commits[-1]
    assert "zen-2core, Zen 4, 24GB, Linux" in page
    assert f"Attention <small>at {newest.full_hash[:8]}, 2023-11-15: 8 heads" in page


def test_every_figure_of_every_commit_is_in_the_table_of_values(page: str) -> None:
    rows = {row[0]: row[1:] for row in Cells(page).rows}
    assert len(rows["commit"]) == len(FIGURES)
    labels = [
        label for label in rows if re.fullmatch(r"[0-9a-f]{8}, 2023-11-1\d", label)
    ]
    assert len(labels) == COMMITS
    assert rows[labels[-1]][0] == "0.400"
    first, second = rows[labels[-1]], rows[labels[-2]]
    assert [cell == "–" for cell in first] == [
        f.benchmark in (DECODE, COLD) for f in FIGURES
    ]
    assert [cell == "–" for cell in second] == [f.benchmark == ERROR for f in FIGURES]


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.name)
def test_every_figure_has_a_chart(site: Path, page: str, figure: charts.Figure) -> None:
    drawn = chart(site, figure.name)
    assert f'src="{figure.name}.svg"' in page
    assert drawn.findtext(f"{SVG}title") == figure.title
    assert figure.unit in drawn.findtext(f"{SVG}desc", "")
    assert len(strokes_of(drawn, "--peer")) == (figure.peer is not None)
    (line,) = strokes_of(drawn, "--ours")
    gap_inside = figure.benchmark == ERROR
    assert line.count("M") == 1 + gap_inside
    points = re.findall(r"[ML] \S+ \S+", line)
    lacks = figure.benchmark in (DECODE, ERROR, COLD)
    assert len(points) == COMMITS - lacks


def test_a_value_below_zero_is_within_its_chart(site: Path) -> None:
    drawn = chart(site, "track_fma_peak_lost")
    (line,) = strokes_of(drawn, "--ours")
    height = float(str(drawn.get("viewBox")).split()[-1])
    places = [float(y) for y in re.findall(r"[ML] \S+ (\S+)", line)]
    assert places.index(max(places)) == 2
    assert max(places) < 0.8 * height  # above the axis, below which the commits stand


def test_a_chart_has_no_colour_of_its_own(site: Path) -> None:
    for path in (site / "benchmarks-summary").glob("*.svg"):
        shown = re.sub(r"<style>.*?</style>", "", path.read_text(), flags=re.DOTALL)
        colours = set(re.findall(r"(?:fill|stroke): ?(#\w+)", shown))
        assert not colours - {"#000000"}, path  # of matplotlib's own style sheet


def test_a_chart_of_hundreds_of_commits_names_a_few(results: Measured) -> None:
    many = results.commits * 25
    drawn = ElementTree.fromstring(charts.chart(FIGURES[0], many, [0.5] * len(many)))
    texts = [element.text or "" for element in drawn.iter(f"{SVG}text")]
    hashes = [text for text in texts if re.fullmatch(r"[0-9a-f]{8}", text)]
    assert 2 <= len(hashes) <= 4
    assert hashes[-1] == many[-1].full_hash[:8]
    assert "0.500" in texts


@pytest.mark.parametrize("figure", [FIGURES[0], FIGURES[-1]], ids=["ratio", "other"])
def test_a_figure_that_was_never_measured_is_an_empty_chart(
    results: Measured, figure: charts.Figure
) -> None:
    nothing = [None] * COMMITS
    drawn = ElementTree.fromstring(charts.chart(figure, results.commits, nothing))
    assert "not measured yet" in drawn.findtext(f"{SVG}desc", "")
    assert not any(re.search(r"L ", line) for line in strokes_of(drawn, "--ours"))


def test_the_first_commit_alone_can_be_shown(config: Path, tmp_path: Path) -> None:
    one = measured.read(made_up.clone(tmp_path / "clone", 1))
    summary.write(one, tmp_path / "summary")
    assert len(list((tmp_path / "summary").glob("*.svg"))) == len(FIGURES)


def test_asv_s_links_to_commits_lead_to_lines_of_the_values(
    site: Path, results: Measured
) -> None:
    index = json.loads((site / "history" / "index.json").read_text())
    assert index["hash_length"] == 8
    path, fragment = index["show_commit_url"].split("#")
    assert fragment == ""
    page = (site / "history" / path).read_text()
    for commit in results.commits:
        assert page.count(f'<tr id="{commit.full_hash[:8]}">') == 1


def test_the_page_links_only_to_what_is_there(site: Path, page: str) -> None:
    links = re.findall(r'href="([^"]+)"', page)
    assert [link for link in links if not link.startswith("data:")] == [
        "../history/index.html"
    ]
    assert "<script" not in page


@pytest.mark.parametrize(
    ("times", "words"),
    [(0.804, "0.80"), (1.249, "1.25"), (10.04, "10.0"), (23.4, "23")],
)
def test_times_faster_have_the_digits_of_a_measurement(
    times: float, words: str
) -> None:
    assert comparison.in_words(times) == words


def test_the_newest_commit_that_compared_is_shown(results: Measured) -> None:
    later = Commit("f" * 40, results.commits[-1].date)
    on = dataclasses.replace(
        results,
        commits=(*results.commits, later),
        values={**results.values, later: {}},
    )
    assert {g.commit for g in comparison.groups(on)} == {results.commits[-1]}


def test_the_picture_has_a_bar_for_each_peer(results: Measured, tmp_path: Path) -> None:
    picture.draw(results, tmp_path / "speed.svg")
    text = (tmp_path / "speed.svg").read_text()
    for words, count in {
        "0.80× ONNX Runtime": 4,
        "5.00× NumPy": 5,
        "10.0× JAX": 1,
    }.items():
        assert text.count(f"<!-- {words} -->") == count, words
    assert results.commits[-1].label in text
    assert "zen-2core" in text


def test_without_a_comparison_there_is_no_picture(
    results: Measured, tmp_path: Path
) -> None:
    before = dataclasses.replace(results, commits=results.commits[:-1])
    with pytest.raises(ValueError, match="AgainstPeers"):
        picture.draw(before, tmp_path / "speed.png")


def test_what_is_wrong_is_said_in_a_line(tmp_path: Path) -> None:
    config = made_up.clone(tmp_path, 1)
    for path in (config.parent / "results" / made_up.MACHINE).glob("*-*.json"):
        path.unlink()
    built = build("summary", "--config", config, "--into", tmp_path / "site")
    assert built.returncode == 1
    assert "no machine" in built.stderr
    assert "Traceback" not in built.stderr


def test_the_names_of_the_figures_are_the_benchmarks_names() -> None:
    assert sorted(figure.name for figure in FIGURES) == sorted(
        [*made_up.RATIOS, *made_up.OTHERS]
    )
    source = made_up.ROOT / "asv_bench" / "results" / "benchmarks.json"
    if source.is_file():
        described = json.loads(source.read_text())
        assert {figure.benchmark for figure in FIGURES} <= set(described)
