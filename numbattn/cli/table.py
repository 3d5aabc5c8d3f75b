"""Print a table with rich."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows under their headings; a heading that ends in ">" aligns right."""
    table = Table(box=SIMPLE, pad_edge=False)
    for column in columns:
        right = column.endswith(">")
        table.add_column(
            column.removesuffix(">"),
            justify="right" if right else "left",
            overflow="fold",
        )
    for row in rows:
        # Text: what a message has in brackets is not rich's markup
        table.add_row(*map(Text, row))
    console = Console()
    if not console.is_terminal:
        console = Console(width=100)
    console.print(table)
