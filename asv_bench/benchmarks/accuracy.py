"""The largest error of each operation and dtype, against long double.

The oracle and the bounds are this checkout's, in a process of its own: the measured
numbattn has others or none.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from .common import ARRAYS, Case, variables
from .sides import kept, lacking

RESULTS = {
    "scores": Case("scores", 200, 1025, 96, lead=(2,)),
    "weights": Case("weights", 200, 1025, 96, lead=(2,)),
    "lse": Case("attention", 200, 1025, 96, lead=(2,)),
    "output": Case("attention", 200, 1025, 96, lead=(2,)),
    "causal output": Case("attention", 500, 500, 64, lead=(2,), causal=True),
    "decode output": Case("attention", 1, 8192, 128, lead=(4,)),
}
DTYPES = ["float32", "float64", "float16", "bfloat16"]

# float32 holds every number of half precision, and NumPy's format every float32
_DTYPE = """
import numpy as np
dtype = getattr(__import__("ml_dtypes"), name) if name == "bfloat16" else np.dtype(name)
wide = "float64" if name == "float64" else "float32"
"""
_CALL = """
import numbattn

given = {"is_causal": True} if causal else {}
found = getattr(numbattn, operation)(*arrays, **given, **more)
found = found[-1] if more else found
"""
_JUDGE = """
import math
from numbattn import testing

want = testing.exact(operation, *arrays, is_causal=causal)
found = np.load(file)
if result == "lse":
    used = testing.assert_lse(found.astype(want.acc_dtype), want, math.inf)
else:
    check = getattr(testing, f"assert_{result}")
    used = check(found.astype(want.dtype), want, math.inf)
print(float(used))
"""
ROOT = Path(__file__).resolve().parents[2]


class Accuracy:
    """Normal numbers; 16 is allowed."""

    params = (list(RESULTS), DTYPES)
    param_names = ("result", "dtype")
    timeout = 300

    def setup(self, result: str, dtype: str) -> None:
        """Compute."""
        case = RESULTS[result]
        self.given = {
            **variables(case),
            "name": dtype,
            "result": result.split()[-1],
            "more": {"return_lse": True} if result == "lse" else {},
        }
        del self.given["dtype"]
        made = dict(self.given)
        with lacking():
            exec(_DTYPE + ARRAYS + _CALL, made)
        self.found = np.asarray(made["found"]).astype(made["wide"])

    @kept("C of the error bound")
    def track_max_error(self, result: str, dtype: str) -> float:
        """Return the C that docs/numerics.md's bound needed for the worst element."""
        with tempfile.TemporaryDirectory(prefix="numbattn-asv-") as folder:
            file = f"{folder}/found.npy"
            np.save(file, self.found)
            names = {**self.given, "file": file}
            code = "".join(f"{name} = {each!r}\n" for name, each in names.items())
            done = subprocess.run(
                [sys.executable, "-c", code + _DTYPE + ARRAYS + _JUDGE],
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=subprocess.PIPE,
                check=True,
                text=True,
            )
        return float(done.stdout)
