"""Check a built site without a network: every link within it leads somewhere.

``python tools/check_links.py build/site`` fails where a page, a file or an anchor is
missing, or where a page would load a script, style, font or picture from elsewhere.
Links to other sites are listed, not fetched; ``sphinx-build -b linkcheck`` does that.
"""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

BUILT_BESIDE = ("history/", "benchmarks-summary/")
"""Folders that other tools put into the site; where they are not, links may dangle."""

LOADED = {
    ("audio", "src"), ("embed", "src"), ("iframe", "src"), ("image", "href"),
    ("img", "src"), ("link", "href"), ("object", "data"), ("script", "src"),
    ("source", "src"), ("use", "href"), ("video", "src"),
}  # fmt: skip
"""Attributes whose address a browser loads with the page."""
NOT_LOADED = {"canonical", "next", "prev", "index", "search", "author", "copyright"}
"""Relations of <link> that load nothing."""
CSS_URL = re.compile(r"""url\(\s*['"]?([^'")]+)|@import\s+['"]([^'"]+)""")


def in_style(text: str) -> list[str]:
    """Return the addresses that a style loads."""
    return [match[1] or match[2] for match in CSS_URL.finditer(text)]


class Page(HTMLParser):
    """What a page links to, what it loads, and its anchors."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what an element links to."""
        found = {name: value or "" for name, value in attrs}
        self.anchors |= {found[name] for name in ("id", "name") if name in found}
        self.loaded += in_style(found.get("style", ""))
        relation = found.get("rel", "")
        for name, address in found.items():
            if tag == "link" and relation in NOT_LOADED:
                self.links.append(found["href"])
            elif (tag, name) in LOADED:
                self.loaded.append(address)
            elif (tag, name) == ("a", "href"):
                self.links.append(address)


class Site:
    """The pages of a folder.

    Parameters
    ----------
    folder : Path
        Where they are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.pages = {
            file.relative_to(self.folder).as_posix(): Page(file.read_text("utf-8"))
            for file in sorted(self.folder.rglob("*.html"))
            if not file.relative_to(self.folder).as_posix().startswith(BUILT_BESIDE)
            and "_static" not in file.parts
        }
        self.elsewhere: set[str] = set()

    def complaints(self) -> list[str]:
        """Return what is wrong, and note the links to elsewhere."""
        found = []
        for name, page in self.pages.items():
            for address in page.loaded:
                found += self._loaded(name, address)
            for address in page.links:
                if urlsplit(address).scheme:
                    self.elsewhere.add(address)
                else:
                    found += self._within(name, address)
        for file in sorted(self.folder.rglob("*.css")):
            name = file.relative_to(self.folder).as_posix()
            for address in in_style(file.read_text("utf-8")):
                found += self._loaded(name, address)
        return found

    def _loaded(self, name: str, address: str) -> list[str]:
        parts = urlsplit(address)
        if parts.scheme == "data":
            return []
        if parts.scheme or parts.netloc:
            return [f"{name}: loads {address}"]
        return self._within(name, address)

    def _within(self, name: str, address: str) -> list[str]:
        parts = urlsplit(urljoin(name, address))
        path = unquote(parts.path)
        target = self.folder / path
        if target.is_dir():
            path = f"{path.rstrip('/')}/index.html".lstrip("/")
        beside = path.startswith(BUILT_BESIDE)
        if beside and not (self.folder / path.split("/")[0]).exists():
            return []
        if not (self.folder / path).is_file():
            return [f"{name}: {address} leads to no file"]
        anchor = unquote(parts.fragment)
        if anchor and path in self.pages and anchor not in self.pages[path].anchors:
            return [f"{name}: {address} leads to no anchor"]
        return []


def main(folder: str) -> int:
    """Print what is wrong and what leads elsewhere; return 1 where something is."""
    site = Site(Path(folder))
    complaints = site.complaints()
    print(*sorted(site.elsewhere), sep="\n")
    print(*complaints, sep="\n", file=sys.stderr)
    print(
        f"{len(site.pages)} pages, {len(site.elsewhere)} links to other sites, "
        f"{len(complaints)} complaints"
    )
    return 1 if complaints or not site.pages else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
