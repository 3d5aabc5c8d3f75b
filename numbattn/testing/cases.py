"""Calls with their arrays and options, and running one against the oracle."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from numbattn.testing.bounds import assert_result, results_of
from numbattn.testing.calls import call, describe_call
from numbattn.testing.layouts import (
    guarded_empty,
)
from numbattn.testing.oracle import (
    Exact,
    exact,
)

__all__ = ["Case", "float_dtypes", "run_case"]

Array = np.ndarray[Any, Any]

OPERATIONS = ("scores", "weights", "attention")


@dataclass
class Case:
    """One call: the operation, its arrays and its options.

    Parameters
    ----------
    operation : {"scores", "weights", "attention"}
        The function that is called.
    query : numpy.ndarray
        The queries.
    key : numpy.ndarray
        The keys.
    value : numpy.ndarray or None
        The values; None unless attention.
    options : dict
        Keyword arguments that change the result.
    return_lse : bool
        Whether attention is to return the lse too.
    out_layout : str or None
        Pass an ``out`` that lies in memory like this.

    Examples
    --------
    >>> import numpy as np
    >>> from numbattn.testing import Case
    >>> print(Case("scores", np.ones((2, 3)), np.ones((4, 3)), options={"scale": 2.0}))
    scores(float64[2, 3], float64[4, 3], scale=2.0)
    """

    operation: str
    query: Array
    key: Array
    value: Array | None = None
    options: dict[str, Any] = field(default_factory=dict)
    return_lse: bool = False
    out_layout: str | None = None

    @property
    def arrays(self) -> tuple[Array, ...]:
        """The query, the key and, for attention, the value."""
        if self.value is None:
            return (self.query, self.key)
        return (self.query, self.key, self.value)

    def exact(self) -> Exact:
        """Return what the call should give.

        Returns
        -------
        Exact
            From :func:`numbattn.testing.exact`.

        Examples
        --------
        >>> import numpy as np
        >>> from numbattn.testing import Case
        >>> found = Case("scores", np.ones((1, 3)), np.ones((1, 3))).exact()
        >>> found.scores.astype(float)
        array([[3.]])
        """
        return exact(self.operation, *self.arrays, **self.options)

    def __str__(self) -> str:
        options = dict(self.options)
        if self.return_lse:
            options["return_lse"] = True
        if self.out_layout:
            options["out"] = self.out_layout
        return describe_call(self.operation, None, self.arrays, options)


def run_case(case: Case, backend: str, want: Exact | None = None) -> dict[str, float]:
    """Run a case on a backend and hold the result to its error bound.

    Parameters
    ----------
    case : Case
        The call.
    backend : str
        The name of the backend.
    want : Exact, optional
        ``case.exact()``, where it is known already.

    Returns
    -------
    dict
        The worst C under "scores", "weights", "output" and "lse".

    Examples
    --------
    >>> import numpy as np
    >>> from numbattn.testing import Case, run_case
    >>> case = Case("scores", np.ones((2, 3)), np.ones((4, 3)))
    >>> run_case(case, "reference")
    {'scores': 0.0}
    """
    want = case.exact() if want is None else want
    options = dict(case.options)
    if case.return_lse:
        options["return_lse"] = True
    guard = None
    if case.out_layout is not None:
        shape = want.scores.shape if want.output is None else want.output.shape
        guard = guarded_empty(shape, want.dtype, case.out_layout)
        options["out"] = guard.array
    try:
        got = call(case.operation, backend, *case.arrays, **options)
        if guard is not None:
            first = got[0] if isinstance(got, tuple) else got
            if first is not guard.array:
                raise AssertionError("the call did not return out itself")
            if not guard.intact():
                raise AssertionError("the call wrote outside of out")
            plain = guard.array.view(np.ndarray)
            got = (plain, *got[1:]) if isinstance(got, tuple) else plain
        with results_of(backend):
            return assert_result(got, want)
    except Exception as error:
        error.add_note(f"in {case}")
        raise


def float_dtypes() -> dict[str, np.dtype[Any]]:
    """Return the dtypes under test by name; bfloat16 where ml_dtypes is installed.

    Returns
    -------
    dict
        By name the dtype.

    Examples
    --------
    >>> from numbattn.testing import float_dtypes
    >>> float_dtypes()["float32"]
    dtype('float32')
    """
    found = {name: np.dtype(name) for name in ("float32", "float64", "float16")}
    try:
        import ml_dtypes
    except ImportError:
        return found
    found["bfloat16"] = np.dtype(ml_dtypes.bfloat16)
    return found
