"""The CUDA backend: for now only the name, and the reason why it cannot run."""

from __future__ import annotations

import ctypes
import importlib.util
import os
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ...errors import BackendUnavailableError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ...problem import AttentionProblem
    from .. import Execution


@lru_cache(maxsize=1)
def driver() -> str:
    """Return what NVML says about GPUs: it is quick and, unlike cuInit, fork-safe."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return "CUDA_VISIBLE_DEVICES hides every GPU"
    library = "nvml.dll" if os.name == "nt" else "libnvidia-ml.so.1"
    try:
        nvml = ctypes.CDLL(library)
        if nvml.nvmlInit_v2():
            return "the NVIDIA driver does not answer"
        count = ctypes.c_uint()
        failed = nvml.nvmlDeviceGetCount_v2(ctypes.byref(count))
        nvml.nvmlShutdown()
    except (OSError, AttributeError):
        return "no NVIDIA driver is found"
    return "no GPU answers" if failed else f"the driver shows {count.value} GPU(s)"


class CudaBackend:
    """A placeholder that explains itself; see `numbattn.backends.Backend`."""

    name = "cuda"

    def unavailable_reason(self) -> str | None:
        """Return that there are no kernels yet, and what else is or is not here."""
        installed = importlib.util.find_spec("numba_cuda") is not None
        return (
            "the CUDA kernels are not part of this version of numbattn (on this "
            f"machine numba-cuda is {'' if installed else 'not '}installed and "
            f"{driver()})"
        )

    def _refuse(self) -> BackendUnavailableError:
        return BackendUnavailableError(
            f"backend 'cuda' cannot run: {self.unavailable_reason()}"
        )

    def run(
        self,
        problem: AttentionProblem,
        out: NDArray[Any],
        lse: NDArray[Any] | None,
        execution: Execution,
    ) -> None:
        """Refuse."""
        raise self._refuse()

    def workspace_bytes(self, problem: AttentionProblem, execution: Execution) -> int:
        """Refuse."""
        raise self._refuse()

    def plan(
        self, problem: AttentionProblem, execution: Execution
    ) -> Mapping[str, object]:
        """Refuse."""
        raise self._refuse()

    def describe(self) -> str:
        """One line on why nothing runs here."""
        return f"not available: {self.unavailable_reason()}"


backend = CudaBackend()
