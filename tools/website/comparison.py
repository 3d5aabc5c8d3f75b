"""How many times faster than each peer, from the newest results."""

from __future__ import annotations

from dataclasses import dataclass

from .figures import OPERATIONS, PEERS, Operation
from .measured import Commit, Measured


@dataclass(frozen=True)
class Group:
    """The problems of one operation, measured at one commit."""

    operation: Operation
    commit: Commit
    rows: dict[str, dict[str, float]]  # problem -> peer -> times faster


def groups(measured: Measured) -> list[Group]:
    """Return what was compared: a peer that did not run a problem is not in its row."""
    found = []
    for operation in OPERATIONS:
        newest = measured.newest(operation.benchmark)
        if newest is None:
            continue
        commit, ratios = newest
        rows: dict[str, dict[str, float]] = {}
        for (problem, peer), ratio in ratios.items():
            row = rows.setdefault(problem, {})
            if ratio is not None and peer in PEERS:
                row[peer] = 1 / ratio
        rows = {problem: row for problem, row in rows.items() if row}
        found.append(Group(operation, commit, rows))
    return found


def peers_in_words(measured: Measured) -> dict[str, str]:
    """Return each peer's name with its version, where asv has installed it."""
    versions = {peer: measured.versions.get(peer) for peer in PEERS}
    return {
        peer: f"{name} {versions[peer]}" if versions[peer] else name
        for peer, name in PEERS.items()
    }


def in_words(times: float) -> str:
    """Return times faster with as many digits as such a measurement has."""
    return f"{times:.0f}" if times >= 20 else f"{times:.{1 if times >= 10 else 2}f}"
