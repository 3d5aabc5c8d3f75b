"""`numbattn scores` and `numbattn attention`: from .npy files to a .npy file."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, TypeVar

import click

_Command = TypeVar("_Command", bound=Callable[..., Any])

_ARRAY = click.Path(path_type=Path)


def _options(command: _Command) -> _Command:
    """Add the options that every operation has."""
    for option in reversed(
        (
            click.option(
                "-o",
                "--output",
                type=_ARRAY,
                required=True,
                help="The .npy file to write; it appears only when it is complete.",
            ),
            click.option("--scale", type=float, help="Multiplies the dot products."),
            click.option(
                "--softcap", type=float, help="Above 0: softcap * tanh(s / softcap)."
            ),
            click.option(
                "--causal", is_flag=True, help="A query sees keys up to its own index."
            ),
            click.option(
                "--window",
                nargs=2,
                type=int,
                metavar="LEFT RIGHT",
                help="Keys seen on each side of the query's index; -1 for all.",
            ),
            click.option(
                "--q-offset", type=int, help="Index of the first query among the keys."
            ),
            click.option("--backend", help="auto, cpu, cuda, reference, ..."),
            click.option("--num-threads", type=int, help="CPU threads."),
            click.option("--max-memory", help='Bytes, or a size such as "2 GB".'),
            click.option(
                "--progress/--no-progress",
                default=None,
                help="A bar on standard error; where that is a terminal unless given.",
            ),
            click.option(
                "--json", "as_json", is_flag=True, help="Print what was done as JSON."
            ),
        )
    ):
        command = option(command)
    return command


@click.command()
@click.argument("query", type=_ARRAY)
@click.argument("key", type=_ARRAY)
@click.option(
    "--weights", is_flag=True, help="Apply the softmax over keys (scale 1/sqrt(d))."
)
@_options
def scores(query: Path, key: Path, weights: bool, **options: Any) -> None:
    """Write the score matrix of two .npy files.

    QUERY has shape (..., n, d), KEY (..., m, d); the result is (..., n, m). Without
    options it is the plain product of QUERY and KEY transposed. The axis before the
    last two, where there is one, is the heads.
    """
    _run("weights" if weights else "scores", {"query": query, "key": key}, **options)


@click.command()
@click.argument("query", type=_ARRAY)
@click.argument("key", type=_ARRAY)
@click.argument("value", type=_ARRAY)
@_options
def attention(query: Path, key: Path, value: Path, **options: Any) -> None:
    """Write the attention output of three .npy files.

    QUERY has shape (..., n, d), KEY (..., m, d), VALUE (..., m, d_v); the result is
    (..., n, d_v). The scale is 1/sqrt(d) unless given.
    """
    _run("attention", {"query": query, "key": key, "value": value}, **options)


def _run(
    operation: Literal["scores", "weights", "attention"],
    paths: dict[str, Path],
    *,
    output: Path,
    scale: float | None,
    softcap: float | None,
    causal: bool,
    window: tuple[int, int] | None,
    q_offset: int | None,
    backend: str | None,
    num_threads: int | None,
    max_memory: str | None,
    progress: bool | None,
    as_json: bool,
) -> None:
    import numbattn
    from numbattn.checks import check
    from numbattn.cli.npy import load, write
    from numbattn.selector import choose

    arrays = [load(path, name) for name, path in paths.items()]
    given = {
        "scale": scale,
        "softcap": softcap,
        "is_causal": causal or None,
        "window_size": window,
        "q_offset": q_offset,
    }
    options: dict[str, Any] = {
        name: value for name, value in given.items() if value is not None
    }
    # every complaint about the input comes before the output file is made
    problem = check(operation, *arrays, **options)
    chosen = choose(backend, problem).name
    shape, dtype = problem.out_shape, problem.dtype
    operate = getattr(numbattn, operation)
    start = perf_counter()
    write(
        output,
        shape,
        dtype,
        lambda out: operate(
            *arrays,
            out=out,
            backend=backend,
            num_threads=num_threads,
            max_memory=max_memory,
            progress=sys.stderr.isatty() if progress is None else progress,
            **options,
        ),
    )
    report = {
        "operation": operation,
        "output": str(output),
        "shape": list(shape),
        "dtype": str(dtype),
        "backend": chosen,
        "options": options,
        "seconds": round(perf_counter() - start, 6),
    }
    if as_json:
        click.echo(json.dumps(report))
    else:
        click.echo(
            f"{output}: {operation} {shape} {dtype}, backend {chosen}, "
            f"{report['seconds']:.3g} s"
        )
