"""Compare two pieces of code fairly: each in its own process, alternating.

Two thread pools in one process spin and rob each other, and a shared machine may double
its times from one second to the next. So each side is a `Worker`, a process of its own,
the sides take turns, and what counts is the median of the ratios of neighbouring
measurements, of those that nothing disturbed: what disturbs both does not disturb them
alike (a matrix product that fits a core's cache loses 3 % where one that does not loses
20 %). A side that is not timed is suspended: the threads of a pool (OpenBLAS's,
OpenMP's) spin on after their last work, on a core that the other side is timed on. This
file is also the worker's program (see `_serve`).
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from types import TracebackType
from typing import Any, Self

ROUNDS = 3
LONG_ROUND = 0.03  # seconds

QUIET = 1.05
"""How much over a side's floor a time may be, for the machine to have been quiet."""

ENOUGH = 3
"""Pairs of a quiet machine from which a median is taken."""

FLOOR_RANK, FLOOR_SHARE = 2, 20
"""The floor is the third fastest time, of many that after the fastest twentieth: a
clock now and then takes off some percent of one."""

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBATTN_NUM_THREADS",
)


class WorkerError(Exception):
    """A worker's code raised, or its process ended."""


class Worker:
    """A process that has run `source` and times the function `run` defined there.

    Parameters
    ----------
    source : str
        Python code that defines ``run()``, a function without arguments.
    variables : mapping, optional
        Names that the code finds set; what JSON can carry.
    num_threads : int, optional
        Sets the environment variables that the usual thread pools read.
    timeout : float, default: 300.0
        Seconds that one answer may take before the process is ended.
    """

    def __init__(
        self,
        source: str,
        variables: Mapping[str, Any] | None = None,
        *,
        num_threads: int | None = None,
        timeout: float = 300.0,
    ) -> None:
        env = dict(os.environ)
        if num_threads is not None:
            env.update(dict.fromkeys(THREAD_VARIABLES, str(num_threads)))
        self.program = (source, dict(variables or {}))
        """What it runs."""
        self._timeout = timeout
        self._stderr = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        # -P: this file's folder holds modules that must not shadow others
        self._process = subprocess.Popen(
            [sys.executable, "-P", os.path.abspath(__file__)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            env=env,
        )
        try:
            self._ask({"source": source, "variables": self.program[1]})
        except BaseException:
            self.close()
            raise

    def seconds(self, number: int = 1) -> float:
        """Return the time in seconds of a call of ``run()``.

        That of the fastest of three rounds, the mean of a round of `number` calls: what
        else the machine does makes a round slower, never faster. A round of
        `LONG_ROUND` seconds stands alone: three would miss a machine's short rests.
        """
        return self._ask({"number": number})

    def first_call(self) -> float:
        """Return the time in seconds of one call of ``run()``, nothing called before.

        Only the first answer of a worker is that of a first call.
        """
        return self._ask({"number": 1, "warm": False})

    def calibrate(self, at_least: float) -> int:
        """Return how many calls a round has, for three to take about `at_least`."""
        self.seconds()
        return max(1, round(at_least / ROUNDS / max(self.seconds(), 1e-7)))

    @contextlib.contextmanager
    def suspended(self) -> Iterator[None]:
        """Let the process rest, the threads that spin for work too."""
        import psutil

        process = psutil.Process(self._process.pid)
        process.suspend()
        try:
            yield
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()

    def close(self) -> None:
        """End the process."""
        process = self._process
        if process.poll() is None:
            process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                # what was left to flush has no reader any more
                with contextlib.suppress(OSError):
                    pipe.close()
        process.wait()
        self._stderr.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _ask(self, request: Mapping[str, Any]) -> float:
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        timer = threading.Timer(self._timeout, process.kill)
        timer.start()
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except OSError:
            line = ""
        finally:
            timer.cancel()
        if not line:
            status = process.wait()
            self._stderr.seek(0)
            raise WorkerError(
                f"a timing process ended with status {status}; its last words: "
                f"{self._stderr.read()[-2000:].strip() or 'none'}"
            )
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return float(answer["seconds"])


@dataclass(frozen=True)
class Comparison:
    """Median seconds a call of two workers, and the median of the pairwise ratios.

    They are of the pairs in which the machine was quiet; where that were fewer than
    `ENOUGH`, they are the floors.
    """

    first: float
    second: float
    ratio: float
    """Time of the first over time of the second: below 1 where the first is faster."""
    pairs: int
    """How many were measured."""
    quiet: int
    """In how many of them nothing disturbed."""
    floor: float
    """Seconds of a call of the second where nothing disturbs it, as seen here."""


def compare(
    first: Worker,
    second: Worker,
    *,
    pairs: int = 7,
    at_least: float = 0.03,
    budget: float = 2.0,
    patience: float = 0.0,
    known: float | None = None,
) -> Comparison:
    """Measure two workers in turns.

    Parameters
    ----------
    first, second : Worker
        The two sides, both warmed by the calibration.
    pairs : int, default: 7
        How many measurements of each side at least; more while the time lasts.
    at_least : float, default: 0.03
        Seconds that one measurement takes at least, by repeating short calls. Long
        ones and few are worse than short ones and many: neighbours in time agree.
    budget : float, default: 2.0
        Seconds after which no further pair is begun.
    patience : float, default: 0.0
        Seconds up to which to go on after that where the machine has not been quiet
        for `pairs` of them.
    known : float, optional
        Seconds of a call of the second on this machine when it is quiet, from an
        earlier comparison's `floor`; without it, quiet is what is seen here.

    Returns
    -------
    Comparison
        Medians over the pairs that nothing disturbed.
    """
    others = {first: second, second: first}
    numbers: dict[Worker, int] = {}
    for side, other in others.items():
        with other.suspended():
            numbers[side] = side.calibrate(at_least)
    firsts: list[float] = []
    seconds: list[float] = []
    times = {first: firsts, second: seconds}
    begin = perf_counter()

    def go_on() -> bool:
        spent = perf_counter() - begin
        if len(firsts) < pairs or spent < budget:
            return True
        return spent < patience and len(_quiet(firsts, seconds, known)) < pairs

    while go_on():
        # the order swaps, so that a machine growing slower favours nobody
        turn = (first, second) if len(firsts) % 2 == 0 else (second, first)
        for side in turn:
            with others[side].suspended():
                times[side].append(side.seconds(numbers[side]))
    quiet = _quiet(firsts, seconds, known)
    floors = _floor(firsts), _floor(seconds)
    counting = quiet if len(quiet) >= ENOUGH else [floors]
    return Comparison(
        first=statistics.median(one for one, _ in counting),
        second=statistics.median(two for _, two in counting),
        ratio=statistics.median(one / two for one, two in counting),
        pairs=len(firsts),
        quiet=len(quiet),
        floor=floors[1],
    )


def _floor(times: Sequence[float]) -> float:
    """Return the time that nothing disturbs."""
    rank = max(FLOOR_RANK, len(times) // FLOOR_SHARE)
    return sorted(times)[min(rank, len(times) - 1)]


def _quiet(
    firsts: Sequence[float], seconds: Sequence[float], known: float | None
) -> list[tuple[float, float]]:
    """Return the pairs in which neither side was disturbed."""
    first, second = QUIET * _floor(firsts), QUIET * _floor(seconds)
    if known is not None:
        second = min(second, QUIET * known)
    both = zip(firsts, seconds, strict=True)
    return [pair for pair in both if pair[0] <= first and pair[1] <= second]


def _serve() -> None:
    """Answer requests, one JSON object a line, until the input ends."""
    # what the timed code prints must not mix with the answers
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    namespace: dict[str, Any] = {}
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if "source" in request:
                namespace.update(request["variables"])
                exec(compile(request["source"], "<timed code>", "exec"), namespace)
                seconds = 0.0
            else:
                seconds = _time(namespace["run"], **request)
            answer: dict[str, Any] = {"seconds": seconds}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _time(run: Any, number: int, warm: bool = True) -> float:
    if warm:
        run()  # untimed: wakes this process's threads and fills its caches
    rounds = []
    for _ in range(ROUNDS if warm else 1):
        start = perf_counter()
        for _ in range(number):
            run()
        spent = perf_counter() - start
        rounds.append(spent / number)
        if spent >= LONG_ROUND:
            break
    return min(rounds)


if __name__ == "__main__":
    _serve()
