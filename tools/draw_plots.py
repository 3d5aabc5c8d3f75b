"""Draw the pictures of docs/plots.md from the code on that page.

``python tools/draw_plots.py`` draws all of them into docs/pictures;
``python tools/draw_plots.py --into FOLDER`` elsewhere. Needs matplotlib.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from draw_gallery import few_colours

import numbattn

DOCS = Path(__file__).resolve().parent.parent / "docs"
_PART = re.compile(r"^```python\n(.*?)^```$|\]\(pictures/([\w-]+)\.png\)", re.M | re.S)


def pictures() -> Iterator[tuple[str, bytes]]:
    """Yield each picture's name and its file: what the block before it drew."""
    made: dict[str, Any] = {}
    with numbattn.use_backend("reference"):  # compiles nothing
        for code, name in _PART.findall((DOCS / "plots.md").read_text()):
            if name:
                yield name, few_colours(made.pop("figure", None) or made["ax"].figure)
            elif "savefig" not in code:
                with contextlib.redirect_stdout(io.StringIO()):
                    exec(compile(code, "docs/plots.md", "exec"), made)


def main(arguments: list[str] | None = None) -> int:
    """Draw them all."""
    parser = argparse.ArgumentParser(description="Draw the pictures of docs/plots.md")
    parser.add_argument("--into", type=Path, default=DOCS / "pictures")
    folder = parser.parse_args(arguments).into
    for name, file in pictures():
        (folder / f"{name}.png").write_bytes(file)
        print(f"{len(file):7,} bytes  {name}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
