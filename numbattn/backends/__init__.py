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

Beyond `Backend` it may have more. ``warmup(dtypes)`` compiles or loads what calls in
these dtypes ("float32", "float64") need, and returns the kernels' names.
``details()`` returns a mapping of words that a report of a fault should have; an
`OptionError` that it raises is shown in their place. ``halves``, where it is True, says
that `run` takes float16 and bfloat16 as they come (``problem.halves``): query, key and
value are then of ``problem.dtype``, and so is `out`, which it rounds to itself; `lse`
and a bias are of ``problem.acc_dtype`` always. ``rounds_weights`` maps the name of a
dtype in which it rounds each weight before it meets the values to what that may change:
a share of the weight, and a share of 1, both of which the kit's bound allows for. A
backend of a device has what `DeviceBackend` lists, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..device_arrays import DeviceArray
    from ..problem import AttentionProblem


class Execution(NamedTuple):
    """How to run, as opposed to what to compute."""

    num_threads: int | None = None
    """Threads to use at most; None leaves it to the backend."""
    progress: Callable[[int, int], None] | None = None
    """Called now and then from the calling thread: score elements done, in all."""
    max_memory: int | None = None
    """Bytes that the call may allocate; None for no limit."""
    precision: str = "float32"
    """"tf32" allows to round float32 inputs of products to TF32; "float32" does not."""
    stream: int | None = None
    """Of a device: 1 is the legacy default stream, 2 the per-thread one, others are
    addresses; None leaves it to the backend."""

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
        ``problem.array_dtype``, native and aligned; its last axis is contiguous, the
        others have any strides that are multiples of the item size; it overlaps no
        input. `lse`, C-contiguous, of shape ``problem.lse_shape`` and dtype
        ``problem.acc_dtype``, is given for "attention" only, where it is wanted.
        Empty outputs never arrive here, empty ``m`` and ``d_k`` do.
        """

    def workspace_bytes(self, problem: AttentionProblem, execution: Execution) -> int:
        """Return what `run` allocates beyond its inputs and outputs, in bytes.

        Asked before `problem.copies` are made, maybe for arrays without data: it goes
        by shapes and the problem's dtypes. Outputs without elements are not asked
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


class DeviceBackend(Backend, Protocol):
    """What a backend offers beyond `Backend` where it takes arrays on a device.

    No element of them is ever read by numbattn itself. ``execution.stream`` is for such
    backends only.
    """

    def run_device(
        self,
        problem: AttentionProblem,
        out: DeviceArray,
        lse: DeviceArray | None,
        execution: Execution,
    ) -> None:
        """Compute `problem`, whose query, key and value lie on the device.

        They are of ``problem.dtype``, as `out` is; bias and mask lie there, too, or
        are ndarrays; all else is on the host. `out` has any strides that are
        multiples of the item size, also along its last axis, and no element in common
        with an input; `lse` is C-contiguous and of ``problem.acc_dtype``. Empty
        outputs never arrive.

        Work is queued on ``execution.stream``; where that is None, on the stream on
        which the library that made ``problem.query`` works. The backend waits for the
        stream of each array, and may return before the work is done.
        """

    def empty_like(
        self,
        query: object,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        stream: int | None,
    ) -> tuple[object, DeviceArray]:
        """Return a new array of the library that `query` is from, and where it lies.

        It is C-contiguous, uninitialised, and on the query's device.
        """

    def to_host(self, array: DeviceArray) -> NDArray[Any]:
        """Return a copy in host memory, once the array is ready."""
