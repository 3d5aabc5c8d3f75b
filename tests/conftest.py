"""The backends under test, and the worst error constants in the summary."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import numbattn

LISTED = ("reference", "cpu", "cuda")
REQUIRED = tuple(
    name.strip()
    for name in os.environ.get("NUMBATTN_REQUIRE_BACKENDS", "reference,cpu").split(",")
    if name.strip()
)
"""Backends that have to run: where one cannot, its tests fail instead of skipping."""


STATUS = numbattn.list_backends()
UNAVAILABLE = {
    name: reason
    for name in dict.fromkeys((*LISTED, *REQUIRED))
    if (reason := STATUS.get(name, "there is no such backend")) is not None
}
# What cannot run and need not is named once, in the header and by one skipped test.
BACKENDS = [
    name
    for name in dict.fromkeys((*LISTED, *REQUIRED))
    if name not in UNAVAILABLE or name in REQUIRED
]


def pytest_report_header() -> list[str]:
    """Say which backends this run tests, and why it does not test the others."""
    lines = [f"numbattn backends: {', '.join(BACKENDS)}"]
    lines += [f"  without {name}: {why}" for name, why in UNAVAILABLE.items()]
    return lines


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Every backend by name; a required one that cannot run fails its tests."""
    name: str = request.param
    if name in UNAVAILABLE:
        pytest.fail(f"backend {name!r} is required: {UNAVAILABLE[name]}")
    return name


@pytest.fixture(params=LISTED)
def listed_backend(request: pytest.FixtureRequest) -> str:
    """Every backend of the package; one that need not run skips with its reason."""
    name: str = request.param
    if name in UNAVAILABLE and name not in REQUIRED:
        pytest.skip(f"backend {name!r}: {UNAVAILABLE[name]}")
    return name


@pytest.fixture
def record_worst(request: pytest.FixtureRequest) -> Callable[[str, float], None]:
    """Record the error constant that was used, for the summary of the run."""

    def record(what: str, used: float) -> None:
        request.node.user_properties.append(("worst_c", [what, used]))

    return record


def _worst(terminalreporter: Any) -> Iterator[tuple[str, float]]:
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, value in getattr(report, "user_properties", ()):
                if name == "worst_c" and getattr(report, "when", "") == "call":
                    yield value[0], float(value[1])


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the worst and the median error constant by backend, quantity and dtype."""
    found: dict[str, list[float]] = {}
    for what, used in _worst(terminalreporter):
        found.setdefault(what, []).append(used)
    if found:
        terminalreporter.section("C of the error bound (16 is allowed): worst, median")
        for what, values in sorted(found.items()):
            line = f"{what:<32} {max(values):8.3f} {statistics.median(values):8.3f}"
            terminalreporter.line(f"{line} of {len(values)}")
