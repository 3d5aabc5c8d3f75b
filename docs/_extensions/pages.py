"""Pages that read as well in the repository as on the site.

* A page may include a file from elsewhere in the repository. The file's links are
  relative to its own place, and lead to the page that shows their target, if one does.
  Below a title of the page's own, the file's title is left out.
* Drawings by `tools/svg.py` become part of the page: so they follow its light
  or dark theme, and their words can be searched and copied.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

SHOWN = {
    "README.md": "readme.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "asv_bench/README.md": "benchmarks.md",
}
"""Files outside of docs/, and the pages that include them."""

INCLUDE = re.compile(r"^```\{include\} (\S+)\n```$", re.MULTILINE)
LINK = re.compile(r"(?<=\]\()([^)#:\s]+)((?:#[^)\s]*)?\))")


def read(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put included files into a page, and lead all links within the site."""
    page = Path(app.srcdir, docname)

    def included(match: re.Match[str]) -> str:
        file = (page.parent / match[1]).resolve()
        app.env.note_dependency(file)
        text = relinked(file.read_text(encoding="utf-8"), file.parent)
        return text if match.start() == 0 else text.partition("\n")[2]

    def relinked(text: str, home: Path) -> str:
        def target(match: re.Match[str]) -> str:
            file = (home / match[1]).resolve()
            root = Path(app.srcdir).parent
            shown = SHOWN.get(os.path.relpath(file, root))
            file = Path(app.srcdir, shown) if shown else file
            return os.path.relpath(file, page.parent) + match[2]

        return LINK.sub(target, text)

    if Path(app.env.doc2path(docname)).suffix == ".md":
        source[0] = INCLUDE.sub(included, relinked(source[0], page.parent))


def inline_drawings(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Replace each drawing by what its file says; other SVG images stay images."""
    if app.builder.format != "html":
        return
    for image in list(doctree.findall(nodes.image)):
        if image["uri"].endswith(".svg"):
            svg = Path(app.srcdir, image["uri"]).read_text(encoding="utf-8")
            if ' class="nb" ' in svg:
                figure = f"<figure>{svg}</figure>"
                image.replace_self(nodes.raw("", figure, format="html"))


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect both."""
    app.connect("source-read", read)
    app.connect("doctree-resolved", inline_drawings)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
