"""The pages of `asv publish` load nothing from elsewhere, and miss no graph."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import asv
import pytest

from website import history

from . import made_up

ASVS_PAGE = (Path(asv.__file__).parent / "www" / "index.html").read_text()
LOADING = ("script", "link", "img", "iframe", "source", "object", "embed")
OF_CSS = re.compile(r"url\(\s*['\"]?(?:https?:)?//|@import")


class Loaded(HTMLParser):
    """What a page loads as it is shown: each tag's attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[dict[str, str | None]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in LOADING:
            self.tags.append(dict(attrs))

    @property
    def addresses(self) -> list[str]:
        found = [tag.get("src") or tag.get("href") for tag in self.tags]
        return [address for address in found if address is not None]


def is_elsewhere(address: str) -> bool:
    return re.match(r"(https?:)?//", address) is not None


def test_the_published_pages_load_only_files_that_are_there(site: Path) -> None:
    for page in (site / "history").rglob("*.html"):
        loaded = Loaded(page.read_text())
        assert loaded.addresses
        for address in loaded.addresses:
            assert (page.parent / address).is_file(), f"{page} loads {address}"
        for tag in loaded.tags:
            assert not {"integrity", "crossorigin"} & set(tag)
    for style in (site / "history").rglob("*.css"):
        assert not OF_CSS.search(style.read_text()), style


def test_the_copies_are_the_files_that_asv_names() -> None:
    compared = set()
    for tag in Loaded(ASVS_PAGE).tags:
        address = tag.get("src") or tag.get("href")
        if address is None or not is_elsewhere(address):
            continue
        copy = history.COPIES[address]
        if not copy.startswith("flot-0.8.3/"):  # its package has no minified files
            kind, expected = str(tag["integrity"]).split("-", 1)
            digest = hashlib.new(kind, (history.VENDOR / copy).read_bytes()).digest()
            assert base64.b64encode(digest).decode() == expected, copy
        compared.add(address)
    assert compared == set(history.COPIES)


def test_the_list_of_copies_has_every_file_and_its_checksum() -> None:
    listed = re.findall(
        r"^([0-9a-f]{64})  (\S+)$",
        (history.VENDOR / "README.md").read_text(),
        flags=re.MULTILINE,
    )
    files = [path for path in history.VENDOR.glob("*/*") if path.is_file()]
    assert {name for _, name in listed} == {
        path.relative_to(history.VENDOR).as_posix() for path in files
    }
    for checksum, name in listed:
        found = hashlib.sha256((history.VENDOR / name).read_bytes()).hexdigest()
        assert found == checksum, name


def test_every_copy_has_a_licence_beside_it() -> None:
    for copy in history.COPIES.values():
        (licence,) = (history.VENDOR / copy).parent.glob("LICENSE*")
        assert "Permission is hereby granted, free of charge" in licence.read_text()


@pytest.mark.parametrize("address", ["https://x.org/a.js", "//x.org/a.js"])
def test_a_page_that_loads_what_has_no_copy_is_refused(address: str) -> None:
    with pytest.raises(RuntimeError, match=r"x\.org/a\.js.*no copy.*README"):
        history.with_copies(f'<head><script src="{address}"></script></head>')


def test_benchmarks_without_results_are_left_out(site: Path) -> None:
    shown = json.loads((site / "history" / "index.json").read_text())["benchmarks"]
    described = json.loads(
        (site / "history" / "regressions.json").read_text()
    )  # written from the same results
    assert made_up.WITHOUT_RESULTS not in shown
    assert f"history.{made_up.RATIOS[0]}" in shown
    assert {name for name, *_ in described["regressions"]} <= set(shown)


def test_every_graph_that_a_page_asks_for_is_there(site: Path) -> None:
    from asv.graph import Graph

    index = json.loads((site / "history" / "index.json").read_text())
    assert len(index["graph_param_list"]) == 2  # two environments, neither has all
    empty = 0
    for where in index["graph_param_list"]:
        for name in index["benchmarks"]:
            graph = site / "history" / f"{Graph.get_file_path(where, name)}.json"
            empty += json.loads(graph.read_text()) == []
    assert empty == len(index["benchmarks"])  # each is measured in one of the two


def test_the_slower_commit_is_among_the_regressions(site: Path) -> None:
    found = json.loads((site / "history" / "regressions.json").read_text())
    at = {name: steps[0][1] for name, *_, steps in found["regressions"]}
    assert at[f"history.{made_up.RATIOS[0]}"] == made_up.SLOWER_FROM
    assert "history.track_import_over_numpy" not in at


def test_asv_s_complaint_is_passed_on(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="asv publish"):
        history.publish(tmp_path / "asv.conf.json", tmp_path / "history")
