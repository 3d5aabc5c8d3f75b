"""The site in headless Chromium without a network: every chart drawn, no error."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from . import made_up

pytest.importorskip("selenium", reason="only `tox -e browser` has it")

from .browser import Browser, served

pytestmark = [pytest.mark.browser, pytest.mark.timeout(1800)]

BUILT = made_up.ROOT / "build" / "site"
SCREENSHOTS = made_up.ROOT / "build" / "screenshots"
PAGES = {"list": "summarylist", "regressions": "regressions"}
NOT_SPHINX = ("history", "benchmarks-summary", "_static")  # in _static: a template
FAULTY = """
<link rel="icon" href="data:,"><div id="empty"></div>
<img src="missing.png"><script src="https://elsewhere.example/a.js"></script>
<script>console.error("a complaint");
const canvas = document.createElement("canvas"); canvas.className = "flot-base";
document.getElementById("empty").append(canvas);</script>
"""


@pytest.fixture(scope="module", params=["made-up", "built"])
def shown(request: pytest.FixtureRequest) -> Path:
    """The site of made-up results, and the one in build/site."""
    if request.param == "made-up":
        made: Path = request.getfixturevalue("site")
        return made
    if not (BUILT / "history").is_dir():
        pytest.skip("there is no build/site/history: `tox -e site` builds it")
    return BUILT


@pytest.fixture(scope="module")
def address(shown: Path) -> Iterator[str]:
    with served(shown) as at:
        yield at


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    window = Browser(tmp_path_factory.mktemp("profile"))
    yield window
    window.close()


@pytest.fixture
def picture(shown: Path) -> Callable[[str], Path]:
    """Where the screenshot of a page goes."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    which = "built" if shown == BUILT else "made-up"
    return lambda name: SCREENSHOTS / f"{which}-{name}.png"


def benchmarks(shown: Path) -> list[str]:
    index = json.loads((shown / "history" / "index.json").read_text())
    return sorted(index["benchmarks"])


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_summary_shows_every_chart(
    browser: Browser, address: str, picture: Callable[[str], Path], dark: bool
) -> None:
    browser.prefer("dark" if dark else "light")
    assert browser.show(f"{address}/benchmarks-summary/index.html") == []
    sizes = browser.images()
    assert len(sizes) == len(made_up.RATIOS) + len(made_up.OTHERS)
    assert all(width > 100 and height > 100 for width, height in sizes)
    browser.save(picture(f"summary-{'dark' if dark else 'light'}"), whole=True)
    browser.prefer("light")


def test_the_grid_draws_a_chart_for_each_benchmark(
    browser: Browser, shown: Path, address: str, picture: Callable[[str], Path]
) -> None:
    assert browser.show(f"{address}/history/index.html") == []
    browser.scroll_through()  # asv draws what comes into view
    assert browser.complaints(address) == []
    drawn, blank = browser.canvases()
    assert drawn == len(benchmarks(shown))
    assert blank == []
    browser.save(picture("grid"), whole=True)


@pytest.mark.parametrize("page", PAGES)
def test_the_other_pages_have_their_tables(
    browser: Browser,
    shown: Path,
    address: str,
    picture: Callable[[str], Path],
    page: str,
) -> None:
    assert browser.show(f"{address}/history/index.html#/{PAGES[page]}") == []
    browser.save(picture(page))
    text = browser.text()
    assert "Benchmark" in text
    if page == "list":
        assert any(name in text for name in benchmarks(shown))  # of one environment


def test_a_commit_s_link_leads_to_its_figures(
    browser: Browser, site: Path, picture: Callable[[str], Path]
) -> None:
    with served(site) as at:
        assert browser.show(f"{at}/history/index.html#/regressions") == []
        link, *_ = browser.links("#regressions-body td a[href*='summary']")
        assert browser.show(link) == []
        assert browser.target().startswith(link.split("#")[1])
        browser.save(picture("commit"))


def test_every_benchmark_has_a_page_with_its_graphs(
    browser: Browser, shown: Path, address: str, picture: Callable[[str], Path]
) -> None:
    wrong = {}
    for name in benchmarks(shown):
        complaints = browser.show(f"{address}/history/index.html#{name}")
        drawn, blank = browser.canvases()
        browser.save(picture(name))
        if complaints or blank or drawn != 2:  # the graph, and the overview below it
            wrong[name] = complaints, drawn, blank
    assert wrong == {}


def test_every_page_of_the_documentation_is_whole(
    browser: Browser, shown: Path, address: str, picture: Callable[[str], Path]
) -> None:
    pages = [
        page.relative_to(shown).as_posix()
        for page in shown.rglob("*.html")
        if page.relative_to(shown).parts[0] not in NOT_SPHINX
    ]
    if not pages:
        pytest.skip("the documentation is not in this site")
    wrong = {}
    for page in sorted(pages):
        if complaints := browser.show(f"{address}/{page}"):
            wrong[page] = complaints
        if "/" not in page:
            browser.save(picture(f"docs-{page.removesuffix('.html')}"))
    assert wrong == {}


def test_a_faulty_page_is_caught(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text(FAULTY)
    with served(tmp_path) as at:
        found = "\n".join(browser.show(f"{at}/index.html"))
        assert "request to another host: https://elsewhere.example/a.js" in found
        assert "failed request: net::ERR_NAME_NOT_RESOLVED" in found
        assert f"status 404: {at}/missing.png" in found
        assert "a complaint" in found
        assert browser.canvases() == (1, ["empty"])
        assert (0, 0) in browser.images()


def test_a_site_without_its_copies_is_caught(
    browser: Browser, site: Path, tmp_path: Path
) -> None:
    shutil.copytree(site, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "history" / "vendor")
    with served(tmp_path) as at:
        assert browser.show(f"{at}/history/index.html") != []
