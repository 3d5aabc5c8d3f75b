"""Checks of the object itself: what `numbattn.backends.Backend` asks of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from numbattn.backends import Execution
from numbattn.checks import check as check_call
from numbattn.selector import choose
from numbattn.testing.calls import call
from numbattn.testing.problems import OPERATIONS, count_of, inputs
from numbattn.testing.registry import check, require

if TYPE_CHECKING:
    from numbattn.backends import Backend
    from numbattn.problem import AttentionProblem


def chosen(name: str, operation: Any, **sizes: int) -> tuple[Backend, AttentionProblem]:
    """Return the backend, and a problem for it."""
    problem = check_call(operation, *inputs(**sizes)[: count_of(operation)])
    return choose(name, problem), problem


@check(0)
def says_that_it_can_run(backend: str) -> None:
    """unavailable_reason() is None where it runs, at every call."""
    found, _ = chosen(backend, "scores")
    for _ in range(3):
        require(found.unavailable_reason() is None, "it gives a reason, and runs")


@check(0)
def describes_itself(backend: str) -> None:
    """describe() is one line of text."""
    text = chosen(backend, "scores")[0].describe()
    require(isinstance(text, str) and text.strip(), f"describe() is {text!r}")
    require("\n" not in text.strip(), "describe() has more than one line")


@check(0, operation=OPERATIONS)
def plans(backend: str, operation: str) -> None:
    """plan() is a mapping of names to what can be printed."""
    found, problem = chosen(backend, operation)
    plan = found.plan(problem, Execution())
    require(isinstance(plan, Mapping), f"plan() is a {type(plan).__name__}")
    require(all(isinstance(name, str) for name in plan), "a name is no text")
    require(all(str(value) for value in plan.values()), "a value prints as nothing")


@check(0, operation=OPERATIONS)
def estimates_its_workspace(backend: str, operation: str) -> None:
    """workspace_bytes() is a plain int of 0 or more, that of empty problems too."""
    for sizes in ({}, {"n": 1}, {"m": 0}, {"d": 0}, {"n": 3000, "m": 3000}):
        found, problem = chosen(backend, operation, **sizes)
        for execution in (Execution(), Execution(num_threads=1)):
            size = found.workspace_bytes(problem, execution)
            require(isinstance(size, int) and size >= 0, f"it is {size!r} for {sizes}")


@check(0, operation=OPERATIONS)
def reports_progress(backend: str, operation: str) -> None:
    """Progress is told from the calling thread, never falls, and ends at the total."""
    arrays = inputs(n=300, m=400)[: count_of(operation)]
    told: list[tuple[int, int]] = []
    call(operation, backend, *arrays, progress=lambda *pair: told.append(pair))
    require(bool(told), "nothing was told")
    done = [pair[0] for pair in told]
    require(done == sorted(done), f"what is done falls: {done}")
    require({pair[1] for pair in told} == {300 * 400}, f"totals {told}")
    require(done[-1] == 300 * 400, f"it ends at {done[-1]} of {300 * 400}")


class _StopError(Exception):
    pass


@check(0, operation=OPERATIONS)
def progress_may_raise(backend: str, operation: str) -> None:
    """An error of the progress function comes out, and the next call is right."""

    def stop(done: int, total: int) -> None:
        raise _StopError

    arrays = inputs(n=300, m=400)[: count_of(operation)]
    want = call(operation, backend, *arrays)
    try:
        call(operation, backend, *arrays, progress=stop)
    except _StopError:
        pass
    else:
        raise AssertionError("the error of the progress function was lost")
    again = call(operation, backend, *arrays)
    require(np.array_equal(again, want), "the next call is wrong")


@check(0, operation=OPERATIONS)
def writes_every_element(backend: str, operation: str) -> None:
    """Out is written everywhere, whatever was in it."""
    for n in (3, 40):
        arrays = inputs(n=n)[: count_of(operation)]
        want = call(operation, backend, *arrays, is_causal=True)
        for before in (0.0, 7.0, np.nan):
            out = np.full_like(want, before)
            call(operation, backend, *arrays, is_causal=True, out=out)
            require(np.array_equal(out, want), f"with {before} in out before, n = {n}")


@check(0, operation=OPERATIONS)
def leaves_the_environment_alone(backend: str, operation: str) -> None:
    """Subnormal numbers and the error state of NumPy are as before a call."""
    arrays = inputs()[: count_of(operation)]
    state = np.geterr()
    call(operation, backend, *arrays)
    require(np.geterr() == state, "numpy.geterr() changed")
    least = np.full(8, np.finfo(np.float32).smallest_subnormal)
    require(np.all(least * np.float32(3) > 0), "subnormal numbers are flushed to 0")
