"""Processes of their own for tests that must not disturb, nor be disturbed.

Threads are counted by their state, not by the time they take: on a machine of two
cores, or a busy one, five threads take no more time than two.
"""

from __future__ import annotations

import os
import subprocess
import sys

THREADS = """
import os, statistics, threading, time
import numpy as np
import numbattn

def running():
    \"\"\"Threads of this process that run, or would if a core were free.\"\"\"
    lookers = {t.native_id for t in threading.enumerate() if t.name == "looker"}
    count = 0
    for task in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{task}/stat") as file:
                state = file.read().rpartition(")")[2].split()[0]
        except OSError:  # it has ended
            continue
        count += state == "R" and int(task) not in lookers
    return count

def threads_of(work, seconds=0.7):
    \"\"\"How many threads run, in the median, while `work` is called repeatedly.\"\"\"
    work()
    over, found = threading.Event(), []
    def look():
        while not over.wait(0.004):
            found.append(running())
    looker = threading.Thread(target=look, name="looker")
    looker.start()
    start = time.perf_counter()
    while time.perf_counter() - start < seconds or len(found) < 30:
        work()
    over.set()
    looker.join()
    return statistics.median_high(found)
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
