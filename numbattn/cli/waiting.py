"""A progress bar for commands of several steps, where somebody can see it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def steps(total: int | None) -> Iterator[Callable[[str], None]]:
    """Draw a bar on standard error while the context is open, if that is a terminal.

    Parameters
    ----------
    total : int or None
        How many steps there are; None where that is not known.

    Yields
    ------
    callable
        Called with what each step is, as it begins.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
    )

    console = Console(stderr=True)
    count = () if total is None else (MofNCompleteColumn(),)
    columns = (TextColumn("{task.description}"), BarColumn(), *count)
    begun = 0

    def begin(what: str) -> None:
        nonlocal begun
        bar.update(task, description=what, completed=begun)
        begun += 1

    with Progress(
        *columns,
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    ) as bar:
        task = bar.add_task("", total=total)
        yield begin
