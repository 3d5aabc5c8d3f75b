"""Processes of their own for tests that must not disturb, nor be disturbed."""

from __future__ import annotations

import os
import subprocess
import sys

THREADS = """
import os, threading, time
import numpy as np
import numbattn

TICK = 1 / os.sysconf("SC_CLK_TCK")

def cpu_seconds():
    \"\"\"CPU time of each thread of this process.\"\"\"
    found = {}
    for task in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{task}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        found[task] = (int(fields[11]) + int(fields[12])) * TICK
    return found

def at_once(work, seconds):
    \"\"\"Threads' worth of CPU time that `work`, called again and again, takes.\"\"\"
    work()
    before, start = cpu_seconds(), time.perf_counter()
    while time.perf_counter() - start < seconds:
        work()
    wall = time.perf_counter() - start
    spent = {task: s - before.get(task, 0) for task, s in cpu_seconds().items()}
    return sum(spent.values()) / wall, sum(s > wall / 4 for s in spent.values())
"""


def python(code: str, timeout: float = 300, **environment: str) -> str:
    """Run code in a new process, warnings as errors; return what it printed."""
    found = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert found.returncode == 0, f"exit status {found.returncode}\n{found.stderr}"
    return found.stdout
