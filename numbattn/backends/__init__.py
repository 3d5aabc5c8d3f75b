"""The contract between numbattn and a backend.

A backend is one module, or one folder, that exposes an object ``backend`` with the
attributes of `Backend`. It gets an `AttentionProblem`, in which every shape, dtype
and option has been checked, and an output to fill; it never sees a user's keyword.
Backends import neither each other nor the front door (``api``, ``selector``), only
its leaves (``problem``, ``errors``, ``config``).

Built-in backends have a line in ``numbattn.selector.BUILTIN``. A package of someone
else offers one through the entry-point group ``numbattn.backends``: the entry's name
is the backend's, its object a `Backend` or a callable without arguments that returns
one. It is imported only when a user names it. ``numbattn.testing.check_backend(name)``
says whether it keeps the contract.

Beyond `Backend` it may have two methods. ``warmup(dtypes)`` compiles or loads what
calls in these dtypes ("float32", "float64") need, and returns the kernels' names.
``details()`` returns a mapping of words that a report of a fault should have; an
`OptionError` that it raises is shown in their place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..problem import AttentionProblem


class Execution(NamedTuple):
    """How to run, as opposed to what to compute."""

    num_threads: int | None = None
    """Threads to use at most; None leaves it to the backend."""
    progress: Callable[[int, int], None] | None = None
    """Called now and then from the calling thread: score elements done, in all."""
    max_memory: int | None = None
    """Bytes that the call may allocate; None for no limit."""

    def without_progress(self) -> Execution:
        """Return the same, silent."""
        return self._replace(progress=None)


class Backend(Protocol):
    """What a backend has to offer."""

    name: str
    """The name by which users choose it."""

    def unavailable_reason(self) -> str | None:
        """Return why it cannot run now, None where it can.

        Asked at every call: it has to be cheap, and must not raise.
        """

    def run(
        self,
        problem: AttentionProblem,
        out: NDArray[Any],
        lse: NDArray[Any] | None,
        execution: Execution,
    ) -> None:
        """Compute `problem` into `out`, and its log-sum-exp into `lse`.

        `out` is writeable and has shape ``problem.out_shape`` and dtype
        ``problem.acc_dtype``, native and aligned; its last axis is contiguous, the
        others have any strides that are multiples of the item size; it overlaps no
        input. `lse`, C-contiguous, of shape
        ``problem.lse_shape`` and the same dtype, is given for "attention" only,
        where it is wanted. Empty outputs never arrive here, empty ``m`` and
        ``d_k`` do.
        """

    def workspace_bytes(self, problem: AttentionProblem, execution: Execution) -> int:
        """Return what `run` allocates beyond its inputs and outputs, in bytes.

        Asked before `problem.copies` are made, maybe for arrays without data: it goes
        by shapes and ``problem.acc_dtype``. Outputs without elements are not asked
        for.
        """

    def check_functions(self, problem: AttentionProblem) -> None:
        """Raise `OptionError` for a ``problem.score_mod`` or ``problem.pattern``.

        Called before `run` where the problem has either. A backend without this method
        is not given such problems.
        """

    def plan(
        self, problem: AttentionProblem, execution: Execution
    ) -> Mapping[str, object]:
        """Return how it would run, for people: tiles, threads, and the like."""

    def describe(self) -> str:
        """Return one line on what runs here."""
