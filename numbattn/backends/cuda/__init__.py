"""The CUDA backend: kernels on NVIDIA GPUs, and the reason where it cannot run.

presence (what is missing) -> device, streams, kinds (the door to numba.cuda) -> ptx,
tiles, elements, softmax (what kernels are made of) -> attention, scores, careful
(kernels) -> kernels (compiled) -> engine (a problem to launches) -> transfers (host
arrays). In the simulator `twins` stands for ptx, and `simulator` runs the threads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from . import presence

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ...device_arrays import DeviceArray
    from ...problem import AttentionProblem
    from .. import Execution


class CudaBackend:
    """Kernels on a GPU, or in the CUDA simulator; see `numbattn.backends.Backend`."""

    name = "cuda"
    halves = True
    # float16 in two parts: 22 bits, from 2^-25 on where the largest is 2^14 (fragments)
    rounds_weights: Mapping[str, tuple[float, float]] = {
        "float16": (2.0**-22, 2.0**-39),
        "bfloat16": (2.0**-8, 0.0),
    }

    def unavailable_reason(self) -> str | None:
        """Return what is missing for CUDA, None where it can run."""
        return presence.reason()

    def run(
        self,
        problem: AttentionProblem,
        out: NDArray[Any],
        lse: NDArray[Any] | None,
        execution: Execution,
    ) -> None:
        """Compute the problem of host arrays into `out` (and `lse`)."""
        from . import transfers

        transfers.run(problem, out, lse, execution)

    def check_functions(self, problem: AttentionProblem) -> None:
        """Compile users' functions, or say why they cannot be."""
        from . import functions

        functions.check(problem)

    def run_device(
        self,
        problem: AttentionProblem,
        out: DeviceArray,
        lse: DeviceArray | None,
        execution: Execution,
    ) -> None:
        """Compute the problem of arrays on the device."""
        from . import engine

        engine.run(problem, out, lse, execution)

    def empty_like(
        self,
        query: object,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        stream: int | None,
    ) -> tuple[object, DeviceArray]:
        """Return a new array of the query's library, and where it lies."""
        from . import kinds

        return kinds.empty_like(query, shape, dtype, stream)

    def to_host(self, array: DeviceArray) -> NDArray[Any]:
        """Return a copy in host memory."""
        from . import transfers

        return transfers.to_host(array)

    def workspace_bytes(self, problem: AttentionProblem, execution: Execution) -> int:
        """Bytes on the device: what is copied there, results and workspace."""
        from . import transfers

        return transfers.workspace_bytes(problem, execution)

    def plan(
        self, problem: AttentionProblem, execution: Execution
    ) -> Mapping[str, object]:
        """Blocks and threads, for `explain`."""
        from . import engine

        return engine.plan(problem, execution)

    def describe(self) -> str:
        """One line on the device and its driver, or on the simulator."""
        return presence.describe()

    def details(self) -> Mapping[str, str]:
        """The device, and the versions of what compiles for it."""
        return presence.details()

    def warmup(self, dtypes: tuple[str, ...]) -> list[str]:
        """Compile every kernel of these dtypes; return their names."""
        from . import kernels

        return kernels.warmup(dtypes)


backend = CudaBackend()
