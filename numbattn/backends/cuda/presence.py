"""Whether CUDA can run here, and if not, what is missing: without Numba, in 1 ms.

NVML is asked and not the driver: it is quick and, unlike cuInit, leaves forked children
able to use CUDA.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
from functools import lru_cache
from typing import Any, NamedTuple

INSTALL = "pip install 'numbattn[cuda]'"
OLDEST = 12
"""CUDA's major version that a driver has to know; numba-cuda supports none before."""

_DEVICE = f"{__package__}.device"
# codes of nvmlReturn_t
_WORDS = {
    9: "the NVIDIA driver is not loaded",
    15: "a GPU has fallen off the bus",
    18: "the NVIDIA driver's library and kernel module are of two versions: reboot",
}


class Driver(NamedTuple):
    """What NVML tells."""

    problem: str | None
    """Why there is no device; None where there is one."""
    devices: tuple[str, ...] = ()
    """Names of the GPUs."""
    version: str = ""
    """Of the driver."""
    cuda: tuple[int, int] = (0, 0)
    """The newest CUDA that the driver knows."""


def reason() -> str | None:
    """Return why CUDA cannot run in this process, None where it can."""
    missing = [] if _installed("numba_cuda") else [_not_installed("numba-cuda")]
    if simulated():
        missing += [] if _installed("greenlet") else [_not_installed("greenlet")]
        return "; ".join(missing) or None
    if _forked():
        return (
            "this process was forked from one that had used CUDA, which a child cannot "
            "go on with: start it by spawn, as in multiprocessing.get_context('spawn')"
        )
    no_device = _hidden() or driver().problem or _chosen()
    if no_device:
        missing.append(no_device)
    return "; ".join(missing) or None


def describe() -> str:
    """Return one line on the device, or the simulator; for where CUDA can run."""
    if simulated():
        return "CUDA simulator: every thread in Python, to check results only"
    found = driver()
    version = ".".join(map(str, found.cuda))
    devices = ", ".join(found.devices)
    return f"{devices}; driver {found.version} (CUDA {version})"


def details() -> dict[str, str]:
    """Return the device and the versions of what compiles for it."""
    from importlib.metadata import version  # 10 ms, for few

    return {"device": describe(), "numba-cuda": version("numba-cuda")}


def simulated() -> bool:
    """Whether Numba runs kernels in its simulator: as it was imported, or will be."""
    device = sys.modules.get(_DEVICE)
    if device is not None:
        return bool(getattr(device, "simulated", False))
    return _switch("NUMBA_ENABLE_CUDASIM")


def _forked() -> bool:
    device = sys.modules.get(_DEVICE)
    return device is not None and bool(device.forked())


def _switch(variable: str) -> bool:
    """Whether Numba takes an environment variable for true: an integer but 0."""
    try:
        return bool(int(os.environ.get(variable, "0")))
    except ValueError:
        return False


_found: set[str] = set()


def _installed(module: str) -> bool:
    """Whether a module can be imported; a positive answer is remembered."""
    if module not in _found:
        try:
            if importlib.util.find_spec(module) is None:
                return False
        except (ImportError, ValueError):
            return False
        _found.add(module)
    return True


def _not_installed(package: str) -> str:
    how = INSTALL if package == "numba-cuda" else f"pip install {package}"
    return f"{package} is not installed: {how}"


def _hidden() -> str | None:
    """Return which setting hides every GPU, None where none does."""
    if _switch("NUMBA_DISABLE_CUDA"):
        return "NUMBA_DISABLE_CUDA=1 switches CUDA off: unset it"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    # CUDA reads the list up to the first entry that is no device
    if visible is not None and visible.split(",")[0].strip() in ("", "-1"):
        return f"CUDA_VISIBLE_DEVICES={visible!r} hides every GPU: unset it"
    return None


def _chosen() -> str | None:
    """Return that CUDA_VISIBLE_DEVICES begins with a GPU that is not there."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0")
    first, count = visible.split(",")[0].strip(), len(driver().devices)
    if first.isdecimal() and int(first) >= count:
        there = "GPU 0 only" if count == 1 else f"GPUs 0 to {count - 1}"
        return f"CUDA_VISIBLE_DEVICES={visible!r} hides every GPU: there is {there}"
    return None


@lru_cache(maxsize=1)
def driver() -> Driver:
    """Return what NVML says of this machine, asked once a process."""
    try:
        nvml = ctypes.CDLL("nvml.dll" if os.name == "nt" else "libnvidia-ml.so.1")
    except OSError:
        return Driver("no NVIDIA driver is found: install it (nvidia-smi shows it)")
    try:
        code = nvml.nvmlInit_v2()
        if code:
            said = _WORDS.get(code, f"the NVIDIA driver does not answer (NVML {code})")
            return Driver(said)
        try:
            return _ask(nvml)
        finally:
            nvml.nvmlShutdown()
    except AttributeError:  # a library of before 2013, or no NVML at all
        return Driver("the NVIDIA driver is too old: update it")


def _ask(nvml: Any) -> Driver:
    count, version = ctypes.c_uint(), ctypes.c_int()
    if nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) or not count.value:
        return Driver("the NVIDIA driver shows no GPU (nvidia-smi lists them)")
    words = ctypes.create_string_buffer(96)
    names = []
    for index in range(count.value):
        handle = ctypes.c_void_p()
        words.value = b"GPU"
        if not nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)):
            nvml.nvmlDeviceGetName(handle, words, len(words))
        names.append(words.value.decode(errors="replace"))
    words.value = b""
    nvml.nvmlSystemGetDriverVersion(words, len(words))
    nvml.nvmlSystemGetCudaDriverVersion_v2(ctypes.byref(version))
    known = version.value // 1000, version.value % 1000 // 10
    problem = None
    if version.value and known[0] < OLDEST:
        problem = (
            f"the NVIDIA driver knows CUDA {known[0]}.{known[1]} at most, and "
            f"numba-cuda needs {OLDEST}: update it"
        )
    return Driver(problem, tuple(names), words.value.decode(errors="replace"), known)
