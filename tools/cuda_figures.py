"""Write the tables of docs/cuda-kernels.md: figures of kernels, and rooflines.

``python tools/cuda_figures.py`` compiles every CUDA kernel for two targets and reads
what comes of it; no GPU is needed. ``--only-rooflines`` compiles nothing.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from numbattn._devices import GOALS, H200, roofline, traffic
from numbattn.backends.cuda import codegen
from numbattn.backends.cuda.codegen import CHIPS, Figures

PAGE = Path(__file__).resolve().parent.parent / "docs" / "cuda-kernels.md"
OPCODES = ("HMMA", "LDSM", "LDGSTS.128", "LDG.128", "LDS.128", "FFMA", "DFMA")
HEADINGS = (
    "kernel", "target", "threads", "registers", "shared, bytes", "spilled, bytes",
    "blocks an SM", "occupancy", "by", *OPCODES,
)  # fmt: skip
ROOFLINE = (
    "problem", "GFLOP", "MB", "FLOP a byte", "ms of arithmetic", "ms of memory",
    "expected, ms",
)  # fmt: skip


def figures_row(found: Figures) -> list[str]:
    """Return a kernel's line of the table."""
    fits = found.occupancy
    return [
        found.name,
        f"{found.target} ({CHIPS[found.target].name})",
        str(found.threads),
        str(found.registers),
        str(found.shared),
        str(found.spill_stores + found.spill_loads),
        str(fits.blocks),
        f"{fits.share:.1%}",
        fits.limit,
        *(str(found.opcodes[opcode]) for opcode in OPCODES),
    ]


def rooflines() -> Iterator[list[str]]:
    """Yield a line for each problem of the GPU's goals."""
    for goal in GOALS:
        case = goal.case
        arithmetic = case.flops / H200.flops[case.dtype]
        memory = traffic(case) / H200.bytes_per_second
        least = roofline(case)
        yield [
            str(case),
            f"{case.flops / 1e9:.4g}",
            f"{traffic(case) / 1e6:.4g}",
            f"{case.flops / traffic(case):.3g}",
            f"{arithmetic * 1e3:.3g}",
            f"{memory * 1e3:.3g}",
            f"{least.seconds * 1e3:.3g} ({least.bound})",
        ]


def table(headings: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table in Markdown."""
    headings = list(headings)
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def put(page: str, name: str, made: str) -> str:
    """Return the page with the table between the markers of a name replaced."""
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    pattern = f"{re.escape(begin)}.*?{re.escape(end)}"
    new, count = re.subn(pattern, lambda _: f"{begin}\n{made}\n{end}", page, flags=re.S)
    if count != 1:
        raise ValueError(f"the page has {count} times the markers of {name!r}")
    return new


def rows_of(page: str, name: str) -> list[list[str]]:
    """Return the lines of the table between the markers of a name."""
    (inside,) = re.findall(f"<!-- {name} -->\n(.*?)<!-- end of {name} -->", page, re.S)
    lines = inside.strip().splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only-rooflines", action="store_true")
    parser.add_argument("--into", type=Path, default=PAGE)
    given = parser.parse_args()
    page = put(given.into.read_text(), "rooflines", table(ROOFLINE, rooflines()))
    if not given.only_rooflines:
        why = codegen.missing()
        if why is not None:
            parser.exit(2, f"nothing can be compiled: {why}\n")
        found = [each for name in codegen.names() for each in codegen.figures_of(name)]
        page = put(page, "figures", table(HEADINGS, map(figures_row, found)))
    given.into.write_text(page)


if __name__ == "__main__":
    main()
