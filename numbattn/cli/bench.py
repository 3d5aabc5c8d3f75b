"""`numbattn bench`: this machine's speed against NumPy, PyTorch and ONNX Runtime."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from numbattn._peers import Case


def grid(operations: tuple[str, ...], quick: bool) -> list[Case]:
    """Return the problems to time."""
    from numbattn._peers import Case

    sizes: dict[str, list[dict[str, Any]]] = {
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
    return [
        Case(operation, **size)
        for operation in operations
        for size in sizes[operation][: 1 if quick else None]
    ]


@click.command()
@click.option(
    "--operation",
    "operations",
    type=click.Choice(["scores", "weights", "attention"]),
    multiple=True,
    help="Time this one only; may be repeated.",
)
@click.option("--backend", help="The backend to time; the default one if not given.")
@click.option("--pairs", type=click.IntRange(5), default=7, show_default=True)
@click.option("--num-threads", type=click.IntRange(1), help="For every library.")
@click.option("--quick", is_flag=True, help="One shape for each operation.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def bench(
    operations: tuple[str, ...],
    backend: str | None,
    pairs: int,
    num_threads: int | None,
    quick: bool,
    as_json: bool,
) -> None:
    """Time numbattn against NumPy, and PyTorch and ONNX Runtime where installed.

    Each library runs in a process of its own; they take turns, and the figures are
    medians over the pairs. "1.50" under a library: numbattn is 1.5 times as fast.
    """
    from numbattn._peers import installed_peers

    peers = installed_peers()
    names = [name for name, why in peers.items() if why is None]
    results = []
    for case in grid(operations or ("scores", "weights", "attention"), quick):
        if not as_json:
            click.echo(f"timing {case}", err=True)
        results.append(_measure(case, names, backend, pairs, num_threads))
    if as_json:
        click.echo(json.dumps({"left_out": _left_out(peers), "results": results}))
    else:
        _print(results, names, _left_out(peers))


def _left_out(peers: dict[str, str | None]) -> dict[str, str]:
    return {name: why for name, why in peers.items() if why is not None}


def _measure(
    case: Case,
    peers: list[str],
    backend: str | None,
    pairs: int,
    num_threads: int | None,
) -> dict[str, Any]:
    from numbattn._peers import start
    from numbattn._timing import WorkerError, compare
    from numbattn.errors import NumbattnError

    result: dict[str, Any] = {"case": str(case), "times_faster": {}, "errors": {}}
    try:
        ours = start("numbattn", case, backend=backend, num_threads=num_threads)
    except WorkerError as error:
        raise NumbattnError(f"{case}: {error}") from error
    with ours:
        for name in peers:
            try:
                with start(name, case, num_threads=num_threads) as theirs:
                    found = compare(ours, theirs, pairs=pairs)
            except WorkerError as error:
                result["errors"][name] = str(error)
                continue
            result.setdefault("numbattn_ms", round(found.first * 1e3, 4))
            result.setdefault("gflops", round(case.flops / found.first / 1e9, 1))
            result[f"{name}_ms"] = round(found.second * 1e3, 4)
            result["times_faster"][name] = round(1 / found.ratio, 3)
    if not result["times_faster"]:  # NumPy runs everywhere: the fault is ours
        raise NumbattnError(f"{case}: {result['errors']['numpy']}")
    return result


def _print(
    results: list[dict[str, Any]], names: list[str], left_out: dict[str, str]
) -> None:
    from numbattn.cli.table import print_table

    print_table(
        ("problem", "ms>", "GFLOP/s>", *(f"{name}>" for name in names)),
        [
            (
                result["case"],
                f"{result.get('numbattn_ms', float('nan')):.3g}",
                f"{result.get('gflops', float('nan')):g}",
                *(
                    f"{result['times_faster'][name]:.2f}"
                    if name in result["times_faster"]
                    else "–"
                    for name in names
                ),
            )
            for result in results
        ],
    )
    for name, why in left_out.items():
        click.echo(f"{name}: left out, {why}")
    for result in results:
        for name, message in result["errors"].items():
            click.echo(f"{result['case']}, {name}: {message}", err=True)
