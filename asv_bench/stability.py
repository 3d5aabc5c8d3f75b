"""How far two measurements of one commit differ, ratio by ratio.

    python asv_bench/stability.py --bench 'AgainstPeers.*numpy'
    python asv_bench/stability.py FIRST.json SECOND.json

The first form measures the ratios whose names match twice, one whole run after the
other; a name is that of asv, with the parameters in parentheses. The second reads two
result files of asv. A ratio may differ by 5 %, that of a call below 5 ms by 10 %; the
exit status is 1 where one differs by more. On a machine that others use, a ratio is
worth what the quiet it was measured in is: "restless" says that it was in none, for as
long as `--patience` lets each wait.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
SHORT = 5e-3  # seconds
ALLOWED, ALLOWED_SHORT = 0.05, 0.10


class Ratio(NamedTuple):
    """One ratio, and the seconds of our call where they are known."""

    value: float
    seconds: float | None
    quiet: bool = True


def measured(pattern: str, patience: float) -> dict[str, Ratio]:
    """Measure the ratios whose names match, each with some seconds of patience."""
    # asv measures by the same functions, each in a process that starts as this one
    from asv_runner.discovery import disc_benchmarks

    sys.path.insert(0, str(HERE))
    found: dict[str, Ratio] = {}
    listed = list(disc_benchmarks("benchmarks"))
    sys.modules["benchmarks.sides"].PATIENCE = patience  # type: ignore[attr-defined]
    for benchmark in listed:
        if not benchmark.unit.startswith("time / ") or benchmark.setup_cache_key:
            continue
        for index, params in enumerate(itertools.product(*benchmark._params)):
            name = _named(benchmark.name, params)
            if not re.search(pattern, name):
                continue
            if params:
                benchmark.set_param_idx(index)
            try:
                one = _run(benchmark)
            except Exception as error:  # the others are wanted all the same
                sys.stderr.write(f"{name}: failed: {error}\n")
                continue
            if one is not None:
                found[name] = one
                sys.stderr.write(f"{name}: {one.value:.3f}\n")
    return found


def _run(benchmark: Any) -> Ratio | None:
    """Run it once, as asv does; None where it is left out."""
    if benchmark.do_setup():
        return None
    try:
        value = benchmark.do_run()
    finally:
        benchmark.do_teardown()
    comparison = getattr(benchmark.func.__self__, "found", None)
    if comparison is None:
        return Ratio(value, None)
    enough = sys.modules["benchmarks.common"].ENOUGH
    return Ratio(value, comparison.first, comparison.quiet >= enough)


def read(file: Path) -> dict[str, Ratio]:
    """Read a result file of asv: what the units in its `benchmarks.json` say is one."""
    content = json.loads(file.read_text())
    units = json.loads((file.parent.parent / "benchmarks.json").read_text())
    columns = content["result_columns"]
    values: dict[str, float | None] = {}
    for benchmark, row in content["results"].items():
        cells = dict(zip(columns, row, strict=False))
        params = itertools.product(*cells["params"])
        each = [_named(benchmark, tuple(map(_plain, one))) for one in params]
        values |= dict(zip(each, cells["result"] or [], strict=False))
    found = {}
    for name, value in values.items():
        benchmark = name.split("(")[0]
        unit = units.get(benchmark, {}).get("unit", "")
        if value is not None and not math.isnan(value) and unit.startswith("time / "):
            found[name] = Ratio(value, _seconds(name, values))
    return found


def _seconds(name: str, values: Mapping[str, float | None]) -> float | None:
    """Return the time of the same row's call, by `time_call` in the same file."""
    module, first = name.split(".")[0], name.partition("(")[2].split(", ")[0]
    return values.get(f"{module}.Time.time_call({first.rstrip(')')})")


def _named(benchmark: str, params: tuple[Any, ...]) -> str:
    return f"{benchmark}({', '.join(map(str, params))})" if params else benchmark


def _plain(param: str) -> str:
    """Return a parameter without the quotes that asv writes about a string."""
    return param[1:-1] if param[:1] in "'\"" else param


def table(first: Mapping[str, Ratio], second: Mapping[str, Ratio]) -> Iterator[str]:
    """Yield a line a ratio; "short" is in those that differ by more than allowed."""
    for name in first:
        if name not in second:
            yield f"{name}: only in the first; short"
            continue
        one, two = first[name], second[name]
        seconds = one.seconds or two.seconds
        quick = seconds is not None and seconds < SHORT
        allowed = ALLOWED_SHORT if quick else ALLOWED
        difference = abs(two.value / one.value - 1.0)
        time = "" if seconds is None else f"{seconds * 1e3:9.2f} ms"
        yield (
            f"{name:66} {time:12} {one.value:7.3f} {two.value:7.3f} "
            f"{difference:6.1%} of {allowed:.0%}"
            f"{'' if one.quiet and two.quiet else '  restless'}"
            f"{'' if difference <= allowed else '  short'}"
        )


def main() -> int:
    """Compare, print, and return 1 where a ratio is short."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*", type=Path, help="two result files")
    parser.add_argument("--bench", help="measure what matches, a regular expression")
    parser.add_argument(
        "--patience", type=float, default=60.0, help="seconds a ratio (default 60)"
    )
    given = parser.parse_args()
    if given.bench is not None and not given.files:
        first = measured(given.bench, given.patience)
        second = measured(given.bench, given.patience)
    elif given.bench is None and len(given.files) == 2:
        first, second = map(read, given.files)
    else:
        parser.error("give --bench REGEX, or two result files")
    if not first:
        parser.error("no ratio matches")
    lines = list(table(first, second))
    sys.stdout.write("\n".join(lines) + "\n")
    short = sum(line.endswith("short") for line in lines)
    sys.stdout.write(f"{len(lines) - short} of {len(lines)} within what is allowed\n")
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
