"""Without CUDA the backend says at once what is missing, and what to do about it."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from numbattn.backends.cuda import presence

ALLOWED = 0.005
ROOM = 4


class Nvml:
    """What NVML's library is to `presence`: two GPUs, unless told otherwise."""

    def __init__(self, init: int = 0, devices: int = 2, cuda: int = 13000) -> None:
        self.init, self.devices, self.cuda, self.open = init, devices, cuda, 0

    def nvmlInit_v2(self) -> int:  # noqa: N802
        self.open += not self.init
        return self.init

    def nvmlShutdown(self) -> int:  # noqa: N802
        self.open -= 1
        return 0

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:  # noqa: N802
        count._obj.value = self.devices
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: int, handle: Any) -> int:  # noqa: N802
        handle._obj.value = index + 1
        return 0

    def nvmlDeviceGetName(self, handle: Any, words: Any, size: int) -> int:  # noqa: N802
        words.value = f"GPU number {handle.value - 1}".encode()[:size]
        return 0

    def nvmlSystemGetDriverVersion(self, words: Any, size: int) -> int:  # noqa: N802
        words.value = b"580.95.05"[:size]
        return 0

    def nvmlSystemGetCudaDriverVersion_v2(self, version: Any) -> int:  # noqa: N802
        version._obj.value = self.cuda
        return 0


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Set up a machine: what is installed, NVML's library or None, the environment."""

    def set_up(
        nvml: Any, installed: tuple[str, ...] = ("numba_cuda",), **environ: str
    ) -> None:
        def library(name: str) -> Any:
            if nvml is None:
                raise OSError(name)
            return nvml

        monkeypatch.setattr(ctypes, "CDLL", library)
        monkeypatch.setattr(presence, "_installed", installed.__contains__)
        monkeypatch.delitem(sys.modules, presence._DEVICE, raising=False)
        for name in ("CUDA_VISIBLE_DEVICES", "NUMBA_DISABLE_CUDA"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("NUMBA_ENABLE_CUDASIM", "0")
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        presence.driver.cache_clear()

    yield set_up
    presence.driver.cache_clear()


def test_a_gpu_is_enough(machine: Any) -> None:
    nvml = Nvml()
    machine(nvml)
    assert presence.reason() is None
    assert nvml.open == 0
    assert presence.describe() == (
        "GPU number 0, GPU number 1; driver 580.95.05 (CUDA 13.0)"
    )
    nvml.init = 9  # asked once a process
    assert presence.reason() is None


@pytest.mark.parametrize(
    ("nvml", "says"),
    [
        (None, "no NVIDIA driver is found"),
        (Nvml(init=9), "is not loaded"),
        (Nvml(init=18), "of two versions: reboot"),
        (Nvml(init=999), "does not answer (NVML 999)"),
        (Nvml(devices=0), "shows no GPU"),
        (Nvml(cuda=11080), "knows CUDA 11.8 at most, and numba-cuda needs 12: update"),
        (SimpleNamespace(), "too old"),
    ],
    ids=["no library", "not loaded", "mixed", "unknown", "no GPU", "CUDA 11", "old"],
)
def test_what_the_driver_lacks(machine: Any, nvml: Any, says: str) -> None:
    machine(nvml)
    assert says in str(presence.reason())
    assert "\n" not in str(presence.reason())
    assert "not installed" not in str(presence.reason())
    assert getattr(nvml, "open", 0) == 0


def test_everything_that_is_missing_is_named_with_its_cure(machine: Any) -> None:
    machine(None, installed=())
    assert presence.reason() == (
        "numba-cuda is not installed: pip install 'numbattn[cuda]'; no NVIDIA driver "
        "is found: install it (nvidia-smi shows it)"
    )


@pytest.mark.parametrize(
    ("visible", "hides"),
    [
        ("", True), ("-1", True), ("-1,0", True), ("2", True), ("7,0", True),
        ("0", False), ("1,0", False), ("1,7", False), ("GPU-5a2f", False),
    ],
)  # fmt: skip
def test_settings_that_hide_every_gpu(machine: Any, visible: str, hides: bool) -> None:
    machine(Nvml(), CUDA_VISIBLE_DEVICES=visible)
    said = str(presence.reason())
    assert (f"CUDA_VISIBLE_DEVICES={visible!r} hides every GPU" in said) == hides
    assert (presence.reason() is None) != hides


def test_numba_s_switch_is_named(machine: Any) -> None:
    machine(Nvml(), NUMBA_DISABLE_CUDA="1")
    assert "NUMBA_DISABLE_CUDA=1" in str(presence.reason())
    machine(Nvml(), NUMBA_DISABLE_CUDA="0")
    assert presence.reason() is None


def test_the_simulator_needs_no_driver(machine: Any) -> None:
    machine(None, ("numba_cuda", "greenlet"), NUMBA_ENABLE_CUDASIM="1")
    assert presence.reason() is None
    assert "simulator" in presence.describe()
    machine(None, ("numba_cuda",), NUMBA_ENABLE_CUDASIM="1")
    assert presence.reason() == "greenlet is not installed: pip install greenlet"
    machine(None, ("greenlet",), NUMBA_ENABLE_CUDASIM="1")
    assert presence.reason() == (
        "numba-cuda is not installed: pip install 'numbattn[cuda]'"
    )


def test_the_simulator_is_what_was_imported(machine: Any, monkeypatch: Any) -> None:
    """Set after the import of numba.cuda, the variable changes nothing."""
    machine(None, ("numba_cuda", "greenlet"), NUMBA_ENABLE_CUDASIM="1")
    real = SimpleNamespace(simulated=False, forked=lambda: False)
    monkeypatch.setitem(sys.modules, presence._DEVICE, real)
    assert "driver" in str(presence.reason())


def test_a_fork_of_a_process_that_used_cuda_is_told_of_spawn(
    machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(Nvml())
    forked = SimpleNamespace(simulated=False, forked=lambda: True)
    monkeypatch.setitem(sys.modules, presence._DEVICE, forked)
    assert "get_context('spawn')" in str(presence.reason())


WITHOUT_GPU = {
    **os.environ,
    "CUDA_VISIBLE_DEVICES": "",
    "NUMBA_ENABLE_CUDASIM": "0",
}

TIMED = """
import json, os, sys, time
import numpy as np, numbattn

x = np.ones((4, 4), np.float32)
numbattn.scores(x, x, backend="reference")

def refusal():
    start = time.perf_counter()
    try:
        numbattn.scores(x, x, backend="cuda")
    except numbattn.BackendUnavailableError as error:
        return time.perf_counter() - start, str(error)

def told():
    first, again = refusal(), refusal()
    loaded = [name for name in ("numba", "numba_cuda", "cuda") if name in sys.modules]
    print(json.dumps([first, again, loaded]), flush=True)

if sys.argv[1] == "child":
    if len(sys.argv) > 2:
        refusal()
    pid = os.fork()
    if pid == 0:
        told()
        os._exit(0)
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
told()
"""

FORKS = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


@pytest.mark.parametrize(
    "where",
    [
        "parent",
        pytest.param("child", marks=FORKS),
        pytest.param("child of one that asked", marks=FORKS),
    ],
)
def test_the_error_takes_no_time_and_no_numba(where: str) -> None:
    seconds, loaded = [], set()
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", TIMED, *where.split(maxsplit=1)],
            env=WITHOUT_GPU, capture_output=True, text=True, check=True,
        )  # fmt: skip
        first, again, names = json.loads(done.stdout)
        assert "cannot run" in first[1]
        assert first[1] == again[1]
        seconds.append((first[0], again[0]))
        loaded |= set(names)
    assert loaded == set()
    assert min(first for first, _ in seconds) < ROOM * ALLOWED
    assert min(again for _, again in seconds) < ROOM * ALLOWED


@pytest.mark.parametrize("command", ["info", "check"])
def test_the_commands_explain_the_absence_in_one_line(command: str) -> None:
    arguments = [command] if command == "info" else [command, "--backend", "cuda"]
    done = subprocess.run(
        [sys.executable, "-m", "numbattn", *arguments],
        env={**WITHOUT_GPU, "COLUMNS": "60"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    (line,) = (each for each in done.stdout.splitlines() if "cannot run: " in each)
    assert line.split()[0] == "cuda"
    assert line.endswith("CUDA_VISIBLE_DEVICES='' hides every GPU: unset it")
