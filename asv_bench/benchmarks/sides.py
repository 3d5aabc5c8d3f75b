"""Benchmarks of two processes: what they compare, and what an old commit lacks.

A ratio is time over time, ours first: lower is better, so that a regression is an
upward step.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

from .common import (
    Case,
    Comparison,
    Worker,
    WorkerError,
    installed_peers,
    prepared,
    start,
)
from .quiet import measure

PEERS = ["numpy", "torch", "onnxruntime", "jax"]
LACKING = {
    *("AttributeError", "ImportError", "ModuleNotFoundError", "TypeError"),
    *("DTypeError", "OptionError", "ShapeError"),  # numbattn's words for: not taken
    "NotImplementedError",  # a peer has no operator for it
}
"""What is raised where the measured commit lacks a name or an option."""
PATIENCE = 20.0
"""Seconds that a comparison waits for a quiet machine; stability.py sets it."""

Start = Callable[[], Worker]


def kept(unit: str) -> Callable[[Callable[..., float]], Callable[..., float]]:
    """Give a figure its unit, and a version that editing it leaves alone."""

    def give(track: Callable[..., float]) -> Callable[..., float]:
        track.unit, track.version = unit, "1"  # type: ignore[attr-defined]
        return track

    return give


@contextmanager
def lacking() -> Iterator[None]:
    """Raise NotImplementedError, which asv takes as "n/a", for what is not there."""
    try:
        yield
    except Exception as error:
        kind = type(error).__name__
        if isinstance(error, WorkerError):  # it tells what its process raised
            kind = str(error).split(":")[0]
        if kind not in LACKING:
            raise
        raise NotImplementedError(str(error)) from error


class Sides(ABC):  # asv takes no abstract class for a benchmark
    """Two processes from setup to teardown; `sides` of a class says which."""

    timeout = 300

    @abstractmethod
    def sides(self, *params: str) -> tuple[Start, Start]:
        """Return what starts our process and what starts the other."""

    def setup(self, *params: str) -> None:
        """Start both, ours with a first call."""
        self.running = ExitStack()  # asv calls teardown where setup has left it out
        with ExitStack() as running, lacking():
            first, second = self.sides(*params)
            self.ours = running.enter_context(first())
            self.ours.seconds()
            self.theirs = running.enter_context(second())
            self.running = running.pop_all()

    def compared(self) -> Comparison:
        """Measure both in turns; `found` keeps it for stability.py."""
        self.found = measure(self.ours, self.theirs, patience=PATIENCE)
        return self.found

    def lost(self) -> float:
        """Return which share of the other side's speed ours does not reach."""
        return 1.0 - 1.0 / self.compared().ratio

    def teardown(self, *params: str) -> None:
        """End both."""
        self.running.close()


def against(case: Case, peer: str) -> tuple[Start, Start]:
    """Return our side of a case and a peer's, which has to be installed."""
    why = installed_peers().get(peer, f"no side of a comparison is named {peer}")
    if why is not None:
        raise NotImplementedError(why)
    return lambda: start("numbattn", case), lambda: start(peer, case)


class EachPeer(Sides):
    """Every problem against every peer; a class names them, and the parameters."""

    @property
    @abstractmethod
    def cases(self) -> Mapping[str, Case]:
        """The problems."""

    def sides(self, problem: str, peer: str) -> tuple[Start, Start]:  # noqa: D102
        return against(self.cases[problem], peer)

    @kept("time / the peer's time")
    def track_ratio(self, problem: str, peer: str) -> float:
        """Our time over the peer's, by the fastest way that it offers."""
        return self.compared().ratio


class EachTime(ABC):
    """Time of one call of every problem with `out` given, compiled before."""

    version = "1"
    rounds = 1
    timeout = 300

    @property
    @abstractmethod
    def cases(self) -> Mapping[str, Case]:
        """The problems."""

    def setup(self, problem: str) -> None:
        """Take the call; the first use makes it."""
        with lacking():
            self.run = prepared(self.cases[problem])

    def time_call(self, problem: str) -> None:
        """Call."""
        self.run()
