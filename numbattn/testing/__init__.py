"""The conformance kit: whether a backend is right, and how exactly.

`check_backend` runs the checks; `exact` is the oracle that they compare with, and
the ``assert_*`` functions hold a result to its error bound. Nothing here needs
pytest, and nothing but the backend under test needs Numba.
"""

from numbattn.testing.bounds import (
    C,
    assert_lse,
    assert_output,
    assert_result,
    assert_same_bits,
    assert_scores,
    assert_weights,
)
from numbattn.testing.calls import call
from numbattn.testing.cases import Case, float_dtypes, run_case
from numbattn.testing.drawing import random_case
from numbattn.testing.layouts import (
    LAYOUTS,
    OUT_LAYOUTS,
    Guarded,
    guarded_empty,
    relayout,
)
from numbattn.testing.oracle import Exact, exact
from numbattn.testing.registry import CHECKS, RULES, Check, require
from numbattn.testing.report import CheckResult, Report, check_backend, run_check

__all__ = [
    "CHECKS",
    "LAYOUTS",
    "OUT_LAYOUTS",
    "RULES",
    "C",
    "Case",
    "Check",
    "CheckResult",
    "Exact",
    "Guarded",
    "Report",
    "assert_lse",
    "assert_output",
    "assert_result",
    "assert_same_bits",
    "assert_scores",
    "assert_weights",
    "call",
    "check_backend",
    "exact",
    "float_dtypes",
    "guarded_empty",
    "random_case",
    "relayout",
    "require",
    "run_case",
    "run_check",
]
