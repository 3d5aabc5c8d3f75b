"""The progress option: a callable of the user's, or a bar on the terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from .errors import OptionError, shown

Report = Callable[[int, int], None]


@contextlib.contextmanager
def reporting(progress: object, operation: str) -> Iterator[Report | None]:
    """Yield what backends call with the score elements done, and in all.

    Parameters
    ----------
    progress : bool, callable or None
        True draws a bar on stderr while the context is open.
    operation : str
        What the bar says.

    Raises
    ------
    OptionError
        Anything else.
    """
    check_progress(progress)
    if progress is True:
        with _bar(operation) as report:
            yield report
    else:
        yield progress if callable(progress) else None


def check_progress(progress: object) -> None:
    """Raise `OptionError` for what is no bool, callable or None."""
    if not (progress is None or isinstance(progress, bool) or callable(progress)):
        raise OptionError(
            f"progress is {shown(progress)}; it has to be True for a bar, a callable "
            "f(done, total), or None"
        )


@contextlib.contextmanager
def _bar(operation: str) -> Iterator[Report]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(operation, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
