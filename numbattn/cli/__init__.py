"""The command line `numbattn`: one module for each group of commands.

Only click is imported here; NumPy, Numba and rich are imported by the command that
uses them. Exit codes: 0 done, 1 the run or a check failed, 2 the command line is wrong.
"""

from __future__ import annotations

from typing import Any

import click

from numbattn.cli import bench, check, demo, files, info
from numbattn.errors import NumbattnError

__all__ = ["main"]


class Failure(click.ClickException):
    """A run that failed, told in one line."""

    def show(self, file: Any = None) -> None:
        """Print the line on standard error."""
        click.echo(f"error: {' '.join(self.message.split())}", err=True, file=file)


class _Group(click.Group):
    """Turn the errors that a user can cause into one line without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (NumbattnError, MemoryError) as error:
            raise Failure(str(error) or "out of memory") from error
        except BrokenPipeError:
            raise  # click ends quietly: `numbattn info | head -1`
        except OSError as error:
            raise Failure(str(error)) from error


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="numbattn", prog_name="numbattn")
def main() -> None:
    """Dot-product attention for NumPy arrays.

    `numbattn demo` shows it on real input; `numbattn COMMAND --help` tells the rest.
    """


for _command in (
    demo.demo,
    files.scores,
    files.attention,
    check.check,
    info.info,
    info.warmup,
    bench.bench,
):
    main.add_command(_command)
