"""Several processes at one cache."""

from __future__ import annotations

import contextlib
import fcntl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numba
import pytest

from numbattn.backends.cpu import cache, store

from .small import (
    SIGNATURE,
    kernel,
    loaded,
    no_space,
    output,
    place,
    run_python,
    times_three,
)


def test_symbols_start_anew_for_each_kernel(root: Path) -> None:
    """Numbers counted in each process would be the same in two processes."""
    first, second = numba.njit(times_three), numba.njit(times_three)
    names = set()
    for dispatcher in (first, second):
        cache.compile_kernel(dispatcher, f"k{len(names)}", "", SIGNATURE)
        (compiled,) = dispatcher.overloads.values()
        names.add(compiled.fndesc.uid)
    assert len(names) == 2
    assert min(names) > 2**32  # a chance of 2**-23 that this is not so


FAMILY = """
import math, os, sys, time, numba, numpy as np
from numba import types, njit
from numbattn.backends.cpu import cache

def member(k):
    lines = "\\n".join(f"    x = math.sin(x) + {k}.0" for _ in range(300))
    space = {"math": math, "__name__": "__main__"}
    exec(f"def inner(x):\\n{lines}\\n    return x", space)
    inner, plain = njit(space["inner"]), space["inner"]
    def outer(x):
        return inner(x) + inner(x + 1.0)
    outer.__qualname__ = outer.__name__ = f"outer_{k}"
    return njit(outer), plain(0.5) + plain(1.5)

for k in map(int, sys.argv[1:]):
    outer, expected = member(k)
    cache.compile_kernel(outer, f"outer-{k}", "", types.float64(types.float64))
    print(sum(outer.stats.cache_hits.values()), abs(outer(0.5) - expected) < 1e-9)
"""


def test_functions_inside_kernels_of_two_processes_do_not_mix(tmp_path: Path) -> None:
    """Two kernels call functions of one name and type, each compiled elsewhere.

    With Numba's numbers both had one symbol, and a process that loaded both kernels
    ran one function for the other: 3.87 instead of 5.11.
    """
    for process in [run_python(FAMILY, tmp_path, k) for k in "12"]:
        assert output(process) == ["0", "True"]
    assert output(run_python(FAMILY, tmp_path, "1", "2")) == ["1", "True"] * 2


ROWSUM = """
import os, sys, time, numba, numpy as np
from numba import types
from numbattn.backends.cpu import cache
from pathlib import Path

def rowsum(a):
    total = 0.0
    for j in range(a.shape[1]):
        total += a[0, j]
    return total

def ready(order):
    f = numba.njit(rowsum)
    signature = types.float64(types.Array(types.float64, 2, order))
    cache.compile_kernel(f, "rowsum", "", signature)
    return f

orders, meet = sys.argv[1], Path(sys.argv[2])
if len(orders) == 1:  # both publish at the same moment
    publish = os.replace
    def replace(part, path):
        (meet / orders).touch()
        while len(list(meet.iterdir())) < 2:
            time.sleep(0.001)
        publish(part, path)
    os.replace = replace
for order in orders:
    a = np.array([[1.0, 3.0, 8.0], [2.0, 0.0, 1.0]], order=order)
    print(ready(order)(a))
"""


def test_layouts_published_at_once_do_not_mix(tmp_path: Path) -> None:
    """Numba's cache can then run C-ordered code for Fortran order: 6.0, for good.

    Its index and its data are two files, and two processes choose the same number
    (seen with Numba 0.68.1).
    """
    root, meet = tmp_path / "cache", tmp_path / "meet"
    meet.mkdir()
    both = [run_python(ROWSUM, root, order, str(meet)) for order in "FC"]
    for process in both:
        assert output(process) == ["12.0"]
    assert len(list(root.rglob("*.kernel"))) == 2
    assert output(run_python(ROWSUM, root, "FC", str(meet))) == ["12.0", "12.0"]


MIXED = """
import sys, numpy as np, numbattn
from numbattn.backends.cpu import store

published, write = [], store.write
def counted(path, content):
    published.append(path)
    write(path, content)
store.write = counted
rng = np.random.default_rng(int(sys.argv[1]))
q, k = rng.standard_normal((2, 200, 24))  # enough for two threads
layouts = [
    lambda a: a, np.asfortranarray, lambda a: np.repeat(a, 2, 0)[::2],
    lambda a: a[::-1].copy()[::-1], lambda a: a.astype(a.dtype.newbyteorder()),
]
for number in rng.permutation(10):
    layout, dtype = layouts[number % 5], (np.float32, np.float64)[number // 5]
    a, b = layout(q.astype(dtype)), layout(k.astype(dtype))
    got = numbattn.scores(a, b, backend="cpu", num_threads=int(sys.argv[2]))
    want = numbattn.scores(a, b, backend="reference")
    assert got.dtype == want.dtype
    assert np.allclose(got, want, rtol=1e-4, atol=1e-4), (layout, dtype)
print(len(published))
"""


def race(root: Path, processes: int, seed: int, threads: int) -> tuple[int, int]:
    """Let processes meet at an empty cache; how many kernels, how often compiled."""
    running = [
        run_python(MIXED, root, str(seed + number), str(threads))
        for number in range(processes)
    ]
    compiled = sum(int(*output(process)) for process in running)
    assert not list(root.rglob(f"*{store.PART}"))
    return len(list(root.rglob(f"*{store.SUFFIX}"))), compiled


def test_processes_that_meet_at_an_empty_cache_are_right(tmp_path: Path) -> None:
    kernels, compiled = race(tmp_path, processes=4, seed=0, threads=1)
    assert kernels == compiled == 2  # while one compiles, the others wait


@pytest.mark.heavy
@pytest.mark.timeout(3600)
def test_many_processes_that_meet_at_an_empty_cache_are_right(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(10):
        found = race(tmp_path / str(number), processes=32, seed=100 * number, threads=2)
        with capsys.disabled():
            print(f"round {number}: kernels, compiled: {found}")  # noqa: T201
        assert found[0] == 4


HOLDER = """
import sys, time, fcntl
file = open(sys.argv[1], "a")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(600)
"""


@contextlib.contextmanager
def held(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process compiles this kernel, and never ends."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path.with_suffix(store.LOCK))],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    try:
        yield holder
    finally:
        holder.kill()
        holder.communicate()


def test_process_waits_for_another_s_compiler_but_not_for_long(
    root: Path, fresh: pytest.MonkeyPatch
) -> None:
    fresh.setattr(cache, "PATIENCE", 0.3)
    path = place()
    store.prepare(path.parent)
    with held(path):
        start = time.monotonic()
        assert not loaded()
        assert time.monotonic() - start >= 0.3
        assert not cache._patient  # and that was all of it
        path.unlink()
        fresh.setattr(cache, "PATIENCE", 3600.0)
        assert not loaded()
    assert loaded()


def test_killed_compiler_holds_nobody_up(root: Path, fresh: pytest.MonkeyPatch) -> None:
    fresh.setattr(cache, "PATIENCE", 3600.0)
    path = place()
    store.prepare(path.parent)
    with held(path) as holder:
        holder.kill()
        holder.wait()
        assert not loaded()
    assert cache._patient
    assert loaded()


FORKED = """
import os, signal, sys, time
from pathlib import Path
from numbattn.backends.cpu import store
path = Path(sys.argv[1]) / "folder" / "x.kernel"
with store.lock(path, 0.0) as free:
    child = os.fork() if free else 0
    if child == 0:
        time.sleep(600)
with store.lock(path, 0.0) as free:
    print(free)
os.kill(child, signal.SIGKILL)
os.waitpid(child, 0)
"""


def test_lock_is_free_although_a_forked_child_lives(tmp_path: Path) -> None:
    """A child inherits open files; its copy must not keep the lock."""
    assert output(run_python(FORKED, tmp_path, str(tmp_path))) == ["True"]


def test_who_waited_loads_what_the_other_compiled(
    root: Path, fresh: pytest.MonkeyPatch
) -> None:
    path = kernel(root)
    whole = path.read_bytes()
    path.unlink()
    lock = store.lock

    @contextlib.contextmanager
    def published_meanwhile(path: Path, patience: float) -> Iterator[bool]:
        with lock(path, patience) as free:
            path.write_bytes(whole)
            path.chmod(0o600)
            yield free

    fresh.setattr(store, "lock", published_meanwhile)
    assert loaded()


def test_place_without_locks_is_no_obstacle(
    root: Path, fresh: pytest.MonkeyPatch
) -> None:
    fresh.setattr(fcntl, "flock", no_space)
    assert not loaded()
    assert loaded()
