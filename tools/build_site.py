"""Build the site from what is committed, without a network.

``python tools/build_site.py`` builds all of it into build/site: the documentation, the
pages of ``asv publish`` in ``history/``, and in ``benchmarks-summary/`` a summary that
needs no JavaScript. ``python tools/build_site.py summary`` builds a part; ``python
tools/build_site.py picture`` draws the README's picture of speed anew. Needs
``numbattn[bench,docs,plot]``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from website import history, measured, picture, summary

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("docs", "history", "summary")  # the summary links to what was built before


def build_docs(into: Path) -> None:
    """Run Sphinx, with warnings as errors."""
    if not (ROOT / "docs" / "conf.py").is_file():
        print("docs: left out, there is no docs/conf.py")
        return
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html"]
    kept = ["-d", str(ROOT / "build" / "doctrees")]  # not for readers of the site
    subprocess.run([*command, *kept, str(ROOT / "docs"), str(into)], check=True)


def main() -> int:
    """Build what is asked for, and say where it is."""
    parser = argparse.ArgumentParser(description="Build the site.")
    parser.add_argument(
        "parts",
        nargs="*",
        choices=[*PARTS, "picture"],
        default=PARTS,
        help="docs, history and summary unless named",
    )
    parser.add_argument(
        "--config", type=Path, default=ROOT / "asv_bench" / "asv.conf.json"
    )
    parser.add_argument("--into", type=Path, default=ROOT / "build" / "site")
    parser.add_argument("--machine", help="whose results, where several have some")
    asked = parser.parse_args()
    asked.into.mkdir(parents=True, exist_ok=True)
    try:
        for part in asked.parts:
            _build(part, asked)
    except (ValueError, RuntimeError, subprocess.CalledProcessError) as error:
        print(f"build_site.py: {error}", file=sys.stderr)
        return 1
    return 0


def _build(part: str, asked: argparse.Namespace) -> None:
    if part == "docs":
        build_docs(asked.into)
        return
    if part == "history":
        history.publish(asked.config, asked.into / "history")
        print(asked.into / "history" / "index.html")
        return
    results = measured.read(asked.config, asked.machine)
    if part == "summary":
        summary.write(results, asked.into / "benchmarks-summary")
        print(asked.into / "benchmarks-summary" / "index.html")
    else:
        into = ROOT / "docs" / "pictures" / "speed.png"
        picture.draw(results, into)
        print(into)


if __name__ == "__main__":
    sys.exit(main())
