"""A drawing in SVG, whose colours follow the page around it, light or dark."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

STYLE = """
.nb { --ink: var(--pst-color-text-base, #1f2328);
  --faint: var(--pst-color-text-muted, #59636e); --query: #4c8fe0; --key: #e08a3c;
  --value: #3fa86a; --score: #9b78df; }
@media (prefers-color-scheme: dark) { .nb {
  --ink: var(--pst-color-text-base, #e6edf3);
  --faint: var(--pst-color-text-muted, #9198a1); } }
.nb text { fill: var(--ink); font: 14px system-ui, sans-serif; text-anchor: middle; }
.nb .left { text-anchor: start; }
.nb .right { text-anchor: end; }
.nb .small { font-size: 12px; }
.nb .faint { fill: var(--faint); }
.nb .line { stroke: var(--faint); stroke-width: 1.5; fill: none; }
.nb .head { fill: var(--faint); }
.nb .query { fill: var(--query); } .nb .key { fill: var(--key); }
.nb .value { fill: var(--value); } .nb .score { fill: var(--score); }
.nb .none { fill: none; } .nb .edge { stroke: var(--faint); stroke-width: 1; }
.nb .strong { stroke: var(--ink); stroke-width: 2; }
"""
# the fallbacks are for the file alone, as a picture on a page that is no part of it


def written(number: float, form: str) -> str:
    """Return a number as it stands in a drawing."""
    return format(number, form).replace("-", "−")


class Drawing:
    """Shapes and words, one after the other.

    Parameters
    ----------
    width, height : float
        Size in pixels.
    words : str
        What the drawing shows, for those who do not see it.
    """

    def __init__(self, width: float, height: float, words: str) -> None:
        self.size, self.words = (width, height), words
        self.parts: list[str] = []

    def text(self, x: float, y: float, words: str, kind: str = "") -> None:
        """Write words; `y` is their middle."""
        self.parts.append(
            f'<text x="{x:g}" y="{y + 5:g}" class="{kind}">{escape(words)}</text>'
        )

    def rect(
        self, x: float, y: float, w: float, h: float, kind: str, opacity: float = 0.45
    ) -> None:
        """Draw a rectangle in a colour, more or less dense."""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" class="{kind}" '
            f'fill-opacity="{opacity:.3f}"/>'
        )

    def arrow(self, x: float, y: float, to_x: float, to_y: float) -> None:
        """Draw an arrow along one axis."""
        self.parts.append(f'<path d="M{x:g} {y:g}L{to_x:g} {to_y:g}" class="line"/>')
        a, b = (to_x > x) - (to_x < x), (to_y > y) - (to_y < y)
        back, side = 8, 4
        corners = [
            (to_x + a, to_y + b),
            (to_x - back * a + side * b, to_y - back * b + side * a),
            (to_x - back * a - side * b, to_y - back * b - side * a),
        ]
        path = " ".join(f"{u:g},{v:g}" for u, v in corners)
        self.parts.append(f'<polygon points="{path}" class="head"/>')

    def line(self, x: float, y: float, to_x: float, to_y: float) -> None:
        """Draw a dashed line."""
        self.parts.append(
            f'<path d="M{x:g} {y:g}L{to_x:g} {to_y:g}" class="line" '
            'stroke-dasharray="4 3"/>'
        )

    def grid(
        self,
        x: float,
        y: float,
        cells: Sequence[Sequence[float]],
        kind: str,
        *,
        size: tuple[float, float] = (44, 28),
        words: str | None = None,
    ) -> None:
        """Draw a matrix: cells of a density from 0 to 1.

        Parameters
        ----------
        x, y : float
            Its upper left corner.
        cells : sequence of sequence of float
            The numbers.
        kind : str
            The colour.
        size : tuple of float
            Width and height of a cell.
        words : str, optional
            How numbers are written into the cells, such as ".1f".
        """
        w, h = size
        peak = max(abs(number) for row in cells for number in row) or 1
        for i, row in enumerate(cells):
            for j, number in enumerate(row):
                density = 0.06 + 0.5 * max(number, 0) / peak
                self.rect(x + j * w, y + i * h, w, h, f"{kind} edge", density)
                if words is not None:
                    shown = written(number, words)
                    self.text(x + (j + 0.5) * w, y + (i + 0.5) * h, shown, "small")

    def save(self, file: Path) -> None:
        """Write the drawing."""
        width, height = self.size
        file.write_text(
            f'<svg xmlns="http://www.w3.org/2000/svg" class="nb" width="{width:g}" '
            f'height="{height:g}" viewBox="0 0 {width:g} {height:g}" role="img" '
            f'aria-label="{escape(self.words)}">\n<style>{STYLE}</style>\n'
            + "\n".join(self.parts)
            + "\n</svg>\n",
            encoding="utf-8",
        )
