"""What lies in `simulated` runs where the simulator is on: see test_simulated.py."""

from __future__ import annotations

import os

collect_ignore = (
    ["simulated"] if os.environ.get("NUMBA_ENABLE_CUDASIM", "0") in ("", "0") else []
)
