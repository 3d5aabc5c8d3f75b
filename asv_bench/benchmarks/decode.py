"""Attention of one query and few: the keys and values are read once."""

from __future__ import annotations

from .common import Case, start
from .machine import plain_read
from .sides import PEERS, EachPeer, EachTime, Sides, Start, kept

ROWS = {
    "decode 32 of 32": Case("attention", 1, 8192, 128, lead=(1, 32)),
    "decode 32 of 8": Case("attention", 1, 8192, 128, lead=(1, 32), kv_heads=8),
    "4 x decode 32 of 8": Case("attention", 1, 2048, 128, lead=(4, 32), kv_heads=8),
    "8 queries 32 of 8": Case("attention", 8, 8192, 128, lead=(1, 32), kv_heads=8),
}
ONE_QUERY = [row for row, case in ROWS.items() if case.n == 1]


class AgainstPeers(EachPeer):
    """Peers without grouped heads get the keys and values repeated, or as rows."""

    cases = ROWS
    params = (list(ROWS), PEERS)
    param_names = ("row", "peer")


class AgainstTheRead(Sides):
    """One plain read of the same keys and values, by all threads."""

    params = (ONE_QUERY,)
    param_names = ("row",)

    def sides(self, row: str) -> tuple[Start, Start]:  # noqa: D102
        return lambda: start("numbattn", ROWS[row]), lambda: plain_read(ROWS[row])

    @kept("1 - share of the read bandwidth")
    def track_read_bandwidth_lost(self, row: str) -> float:
        """What could have been read in our time, and was not; below 0: read faster."""
        return self.lost()


class Time(EachTime):
    """One call with `out` given."""

    cases = ROWS
    params = (list(ROWS),)
    param_names = ("row",)
