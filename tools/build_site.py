"""Build the site from what is committed, without a network.

``python tools/build_site.py`` builds all of it into build/site: the documentation, the
pages of ``asv publish`` in ``history/``, and in ``benchmarks-summary/`` a summary that
needs no JavaScript. ``python tools/build_site.py summary`` builds a part; ``python
tools/build_site.py picture`` draws the README's picture of speed anew. Needs
``numbattn[bench,docs,plot]``.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click

from website import history, measured, picture, summary

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "asv_bench" / "asv.conf.json"
PARTS = ("docs", "history", "summary")  # the summary links to what was built before


def build_docs(into: Path) -> None:
    """Run Sphinx, with warnings as errors."""
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html"]
    kept = ["-d", str(ROOT / "build" / "doctrees")]  # not for readers of the site
    subprocess.run([*command, *kept, str(ROOT / "docs"), str(into)], check=True)


@click.command()
@click.argument("parts", nargs=-1, type=click.Choice([*PARTS, "picture"]))
@click.option("--config", type=click.Path(path_type=Path), default=CONFIG)
@click.option("--into", type=click.Path(path_type=Path), default=ROOT / "build/site")
@click.option("--machine", help="Whose results, where several have some.")
def main(parts: tuple[str, ...], config: Path, into: Path, machine: str | None) -> None:
    """Build what is asked for (docs, history and summary), and say where it is."""
    into.mkdir(parents=True, exist_ok=True)
    try:
        for part in parts or PARTS:
            _build(part, config, into, machine)
    except (ValueError, RuntimeError, subprocess.CalledProcessError) as error:
        raise click.ClickException(str(error)) from error


def _build(part: str, config: Path, into: Path, machine: str | None) -> None:
    if part == "docs":
        build_docs(into)
        page = into / "index.html"
    elif part == "history":
        history.publish(config, into / "history")
        page = into / "history" / "index.html"
    elif part == "summary":
        summary.write(measured.read(config, machine), into / "benchmarks-summary")
        page = into / "benchmarks-summary" / "index.html"
    else:
        page = ROOT / "docs" / "pictures" / "speed.png"
        picture.draw(measured.read(config, machine), page)
    click.echo(page)


if __name__ == "__main__":
    main()
