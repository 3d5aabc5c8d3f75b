"""`numbattn bench`: this machine's speed against that of other libraries."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from numbattn._peers import Case

OPERATIONS = ("scores", "weights", "attention")
PEERS = ("numpy", "torch", "onnxruntime", "jax")
_SIZES: dict[str, list[dict[str, Any]]] = {
    "scores": [
        {"n": 512, "m": 512, "d": 64},
        {"n": 2048, "m": 2048, "d": 64},
        {"n": 2048, "m": 2048, "d": 128},
        {"n": 1024, "m": 1024, "d": 64, "lead": (16,)},
        {"n": 2048, "m": 2048, "d": 64, "dtype": "float64"},
    ],
    "weights": [{"n": 2048, "m": 2048, "d": 64, "lead": (8,)}],
    "attention": [
        {"n": 512, "m": 512, "d": 64, "lead": (8,)},
        {"n": 2048, "m": 2048, "d": 64, "lead": (8,)},
        {"n": 2048, "m": 2048, "d": 64, "lead": (8,), "causal": True},
    ],
}


class _Sizes(click.ParamType):  # type: ignore[type-arg]  # not in all versions
    """Numbers of 1 or more with commas between them."""

    name = "sizes"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        found = tuple(
            int(part) if part.strip().isdecimal() else 0 for part in value.split(",")
        )
        if min(found) < 1:
            self.fail(f"{value!r} is not numbers such as 512,2048", param, ctx)
        return found


def grid(operations: Sequence[str], quick: bool, **given: Any) -> list[Case]:
    """Return the problems to time.

    Parameters
    ----------
    operations : sequence of str
        What to time.
    quick : bool
        Only the first problem of each operation.
    **given
        n, m, d, heads and dtype, each several or None, and causal: every combination
        is a problem. Without any of them a few problems of usual sizes are.

    Returns
    -------
    list of Case
        The problems.
    """
    from numbattn._peers import Case

    sizes = _SIZES
    if any(given.values()):
        chosen = [
            {
                "n": n,
                "m": n if m is None else m,
                "d": d,
                "lead": () if heads == 1 else (heads,),
                "dtype": dtype,
                "causal": bool(given.get("causal")),
            }
            for heads, dtype, n, m, d in itertools.product(
                given.get("heads") or (1,),
                given.get("dtype") or ("float32",),
                given.get("n") or (2048,),
                given.get("m") or (None,),
                given.get("d") or (64,),
            )
        ]
        sizes = dict.fromkeys(OPERATIONS, chosen)
    return [
        Case(operation, **size)
        for operation in operations
        for size in sizes[operation][: 1 if quick else None]
    ]


@click.command()
@click.option(
    "--operation",
    "operations",
    type=click.Choice(OPERATIONS),
    multiple=True,
    help="Time this one only; may be repeated.",
)
@click.option("--n", type=_Sizes(), help="Numbers of queries, such as 512,2048.")
@click.option("--m", type=_Sizes(), help="Numbers of keys; those of queries if absent.")
@click.option("--d", type=_Sizes(), help="Depths of the heads.")
@click.option("--heads", type=_Sizes(), help="Numbers of heads.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float64", "float16"]),
    multiple=True,
    help="May be repeated.",
)
@click.option("--causal", is_flag=True, help="Queries see keys up to their own index.")
@click.option(
    "--backend",
    "backends",
    multiple=True,
    help="The backend to time; the default one if not given. May be repeated.",
)
@click.option(
    "--peer",
    "peers",
    type=click.Choice(PEERS),
    multiple=True,
    help="Compare with this library only; all that are installed if not given.",
)
@click.option("--pairs", type=click.IntRange(5), default=7, show_default=True)
@click.option("--num-threads", type=click.IntRange(1), help="For every library.")
@click.option("--quick", is_flag=True, help="One shape for each operation.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option(
    "--plot",
    type=click.Path(path_type=Path),
    help="Write a bar chart, such as speed.png (needs matplotlib).",
)
def bench(
    operations: tuple[str, ...],
    backends: tuple[str, ...],
    peers: tuple[str, ...],
    pairs: int,
    num_threads: int | None,
    quick: bool,
    as_json: bool,
    plot: Path | None,
    **shapes: Any,
) -> None:
    """Time numbattn against NumPy, PyTorch, ONNX Runtime and JAX where installed.

    Each library runs in a process of its own; they take turns, and the figures are
    medians over the pairs. "1.50" under a library: numbattn is 1.5 times as fast.

    With any of --n, --m, --d, --heads, --dtype and --causal every combination of them
    is timed; without, a few usual shapes.
    """
    from numbattn._peers import installed_peers
    from numbattn.cli.bench_report import circumstances, draw, print_results
    from numbattn.cli.waiting import steps

    if plot is not None:
        from numbattn import pictures  # noqa: F401  # what is missing is said at once
    here = installed_peers()
    wanted = peers or PEERS
    left_out = {name: why for name, why in here.items() if why and name in wanted}
    names = [name for name in wanted if name in here and name not in left_out]
    results = []
    cases = grid(operations or OPERATIONS, quick, **shapes)
    runs = list(itertools.product(cases, backends or (None,)))
    with steps(len(runs)) as begin:
        for case, backend in runs:
            begin(f"timing {case}" + (f" on {backend}" if backend else ""))
            results.append(_measure(case, names, backend, pairs, num_threads))
    if as_json:
        report = {**circumstances(names), "left_out": left_out, "results": results}
        click.echo(json.dumps(report))
    else:
        print_results(results, names, left_out)
    if plot is not None:
        draw(results, names, plot)


def _measure(
    case: Case,
    peers: Sequence[str],
    backend: str | None,
    pairs: int,
    num_threads: int | None,
) -> dict[str, Any]:
    from dataclasses import asdict

    from numbattn._peers import start
    from numbattn._timing import WorkerError, compare
    from numbattn.errors import NumbattnError

    result: dict[str, Any] = {
        "case": str(case),
        "backend": backend or "auto",
        "shape": asdict(case),
        "times_faster": {},
        "errors": {},
    }
    try:
        with start("numbattn", case, backend=backend, num_threads=num_threads) as ours:
            for name in peers:
                try:
                    with start(name, case, num_threads=num_threads) as theirs:
                        found = compare(ours, theirs, pairs=pairs)
                except WorkerError as error:
                    result["errors"][name] = str(error)
                    continue
                result.setdefault("numbattn_ms", found.first * 1e3)
                result[f"{name}_ms"] = round(found.second * 1e3, 4)
                result["times_faster"][name] = round(1 / found.ratio, 3)
            if not result["times_faster"]:  # nobody to compare with, or a fault of ours
                calls = ours.calibrate(0.05)
                result["numbattn_ms"] = ours.seconds(calls) * 1e3
    except WorkerError as error:
        raise NumbattnError(f"{case}: {error}") from error
    result["gflops"] = round(case.flops / result["numbattn_ms"] / 1e6, 1)
    result["numbattn_ms"] = round(result["numbattn_ms"], 4)
    return result
