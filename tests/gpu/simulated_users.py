"""Users' functions in the CUDA simulator, against their evaluation by NumPy.

``NUMBA_ENABLE_CUDASIM=1 python simulated_users.py`` prints what differs, as JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import edges  # type: ignore[import-not-found]
import users  # type: ignore[import-not-found]

from numbattn.backends.cuda import simulator


def run(wired: Any, arguments: tuple[Any, ...]) -> None:
    """Run the kernel of a sample."""
    simulator.launch(users.kernel_of(wired), 1, 8, arguments)


def main() -> None:
    """Print what is wrong, by name and dtype, and how many samples there were."""
    found, count = edges.wrong(run), 0
    for batch, make in users.BATCHES.items():
        for sample in make():
            for dtype in ("float32", "float64"):
                count += 1
                try:
                    complaint = users.wrong(sample, dtype, run)
                except Exception as error:  # all of them are told
                    complaint = f"{type(error).__name__}: {error}"
                if complaint:
                    found[f"{batch}, {sample[0]}, {dtype}"] = complaint
    sys.stdout.write(json.dumps({"wrong": found, "count": count}) + "\n")


if __name__ == "__main__":
    main()
