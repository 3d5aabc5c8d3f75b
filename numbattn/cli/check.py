"""`numbattn check`: does each backend compute what it should on this machine."""

from __future__ import annotations

import json
import sys
from time import perf_counter
from typing import Any

import click

_SIZES = {"reference": 256}  # unblocked, in float64 or wider: no need to wait for it


@click.command()
@click.option(
    "--backend",
    "names",
    multiple=True,
    help="Check this one only; may be repeated. One that cannot run then fails.",
)
@click.option(
    "--level",
    type=click.Choice(["small", "full"]),
    default="small",
    show_default=True,
    help="How much to check: seconds, or minutes.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.pass_context
def check(
    ctx: click.Context, names: tuple[str, ...], level: str, as_json: bool
) -> None:
    """Check the answers of every backend on this machine.

    The exit code is 1 where a backend that can run gives a wrong answer.
    """
    from numbattn.selector import BUILTIN, list_backends
    from numbattn.testing import Report, check_backend

    results = []
    # what cannot run is not tried, nor is another package's backend loaded unnamed
    listed = list_backends()
    if names:
        listed = {name: listed[name] if name in BUILTIN else None for name in names}
    for name, why in listed.items():
        report = (
            Report(name, level, available=False, reason=why)
            if why
            else check_backend(name, level=level, progress=sys.stderr.isatty())
        )
        results.append(
            {
                "backend": name,
                "available": report.available,
                "reason": report.reason,
                "ok": report.ok,
                "passed": report.passed,
                "checks": len(report.checks),
                "failures": {c.name: c.message for c in report.checks if not c.ok},
                "gflops": _gflops(name) if report.ok else None,
                "seconds": round(report.seconds, 3),
            }
        )
    if as_json:
        click.echo(json.dumps(results, indent=2))
    else:
        _print(results)
    failed = [r for r in results if not r["ok"] and (r["available"] or names)]
    ctx.exit(1 if failed else 0)


def _gflops(name: str) -> float:
    """Return the speed of float32 scores, n = m = 2048 or smaller, d = 64."""
    import numpy as np

    import numbattn

    n = _SIZES.get(name, 2048)
    rng = np.random.default_rng(0)
    query, key = rng.standard_normal((2, n, 64), dtype=np.float32)
    out = np.zeros((n, n), np.float32)
    best = float("inf")
    for _ in range(5):
        start = perf_counter()
        numbattn.scores(query, key, out=out, backend=name)
        best = min(best, perf_counter() - start)
    return round(2 * n * n * 64 / best / 1e9, 1)


def _print(results: list[dict[str, Any]]) -> None:
    from numbattn.cli.table import print_table

    print_table(
        ("backend", "available", "checks", "GFLOP/s>"),
        [
            (
                result["backend"],
                "yes" if result["available"] else "no",
                f"{result['passed']} of {result['checks']} ok"
                if result["available"]
                else "",
                f"{result['gflops']:g}" if result["gflops"] else "",
            )
            for result in results
        ],
    )
    for result in results:
        if not result["available"]:  # a line of its own: a table would fold it
            click.echo(f"{result['backend']} cannot run: {result['reason']}")
        for name, message in result["failures"].items():
            click.echo(f"FAILED {result['backend']}: {name}: {message}", err=True)
