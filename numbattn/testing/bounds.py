"""Componentwise error bounds, and the assertions that hold results to them.

Each bound has the form ``error <= C * unit + rounding``. With u the unit roundoff
of the accumulation dtype, S_i the largest magnitude over the attended keys of a row
and `tiny` the smallest normal number (all of :class:`numbattn.testing.Exact`):

=======  ==================================================================
scores   ``u * (|scale| sum|qk| + |bias| + |s|)``, and `tiny`
weights  ``u * (1 + S) * w``, and `tiny`
lse      ``u * (1 + S + |lse|)``
output   ``u * (1 + S + log2(1 + m / 64)) * sum(w |v|) + tiny * max|v|``
=======  ==================================================================

and half a unit in the last place of the result where it is rounded once more (every
output; the scores and weights of half precision). C = 16 holds always.

A backend with ``rounds_weights`` multiplies values by weights of half precision (tensor
cores do), and says for each dtype how far a weight is off: a share r of itself, and a
share a of 1. Its outputs of that dtype may be off by ``r sum(w |v|) + a m max|v|``
more. `results_of` says whose results are held to the bounds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np

from numbattn.selector import load
from numbattn.testing.oracle import Exact

__all__ = [
    "C",
    "assert_lse",
    "assert_output",
    "assert_result",
    "assert_same_bits",
    "assert_scores",
    "assert_weights",
    "results_of",
]

Array = np.ndarray[Any, Any]
C = 16.0
LONG = np.longdouble
_NONE: Mapping[str, tuple[float, float]] = {}
_rounds_weights = ContextVar("rounds_weights", default=_NONE)


@contextmanager
def results_of(backend: str) -> Iterator[None]:
    """Hold results, within this context, to what a backend promises.

    Parameters
    ----------
    backend : str
        Its name.

    Yields
    ------
    None
        Nothing.
    """
    token = _rounds_weights.set(getattr(load(backend), "rounds_weights", _NONE))
    try:
        yield
    finally:
        _rounds_weights.reset(token)


def assert_scores(got: Any, want: Exact, c: float = C) -> float:
    """Raise unless `got` are the scores within the bound; return the worst C.

    Parameters
    ----------
    got : numpy.ndarray
        The result under test, ``(..., n, m)``.
    want : Exact
        From :func:`numbattn.testing.exact`.
    c : float
        The constant that the bound may use.

    Returns
    -------
    float
        The smallest constant with which every element would have passed.

    Raises
    ------
    AssertionError
        For a wrong type, shape or dtype, a NaN against a number, an infinity
        against a number, or an error above the bound.

    Examples
    --------
    >>> import numpy as np
    >>> from numbattn.testing import assert_scores, exact
    >>> query, key = np.random.default_rng(0).standard_normal((2, 5, 8), np.float32)
    >>> assert_scores(query @ key.T, exact("scores", query, key)) < 16
    True
    """
    finite = np.where(np.isfinite(want.scores), abs(want.scores), 0)
    unit = _roundoff(want.acc_dtype) * (want.magnitude + finite)
    rounding = _tiny(want.acc_dtype) + _half_ulp(want, want.scores)
    return _compare("scores", got, want.scores, want.dtype, unit, rounding, c)


def assert_weights(got: Any, want: Exact, c: float = C) -> float:
    """Raise unless `got` are the weights within the bound; return the worst C.

    A weight that is masked is 0 exactly; in a row whose scores have a NaN or +inf it
    may be NaN too.

    Parameters
    ----------
    got : numpy.ndarray
        The result under test, ``(..., n, m)``.
    want : Exact
        From :func:`numbattn.testing.exact`.
    c : float
        The constant that the bound may use.

    Returns
    -------
    float
        The smallest constant with which every element would have passed.

    Raises
    ------
    AssertionError
        As :func:`assert_scores`.

    Examples
    --------
    >>> import numpy as np
    >>> import numbattn
    >>> from numbattn.testing import assert_weights, exact
    >>> x = np.random.default_rng(0).standard_normal((5, 8), np.float32)
    >>> got = numbattn.weights(x, x, backend="reference")
    >>> assert_weights(got, exact("weights", x, x)) < 16
    True
    """
    unit = _roundoff(want.acc_dtype) * (1 + want.row_magnitude[..., None])
    with np.errstate(invalid="ignore"):  # inf * 0, where a key is infinite
        unit = unit * want.weights
    rounding = _tiny(want.acc_dtype) + _half_ulp(want, want.weights)
    expected = want.weights
    if isinstance(got, np.ndarray) and got.shape == expected.shape:
        lost = np.isnan(want.lse)[..., None] & np.isnan(got.astype(want.acc_dtype))
        expected = np.where(lost, np.nan, expected)
    rounding = np.where(want.attended, rounding, 0)
    return _compare("weights", got, expected, want.dtype, unit, rounding, c)


def assert_lse(got: Any, want: Exact, c: float = C) -> float:
    """Raise unless `got` is the lse within the bound; return the worst C.

    Parameters
    ----------
    got : numpy.ndarray
        The result under test, ``(..., n)``.
    want : Exact
        From :func:`numbattn.testing.exact`.
    c : float
        The constant that the bound may use.

    Returns
    -------
    float
        The smallest constant with which every element would have passed.

    Raises
    ------
    AssertionError
        As :func:`assert_scores`.

    Examples
    --------
    >>> import numpy as np
    >>> import numbattn
    >>> from numbattn.testing import assert_lse, exact
    >>> x = np.random.default_rng(0).standard_normal((5, 8), np.float32)
    >>> _, lse = numbattn.attention(x, x, x, return_lse=True, backend="reference")
    >>> assert_lse(lse, exact("attention", x, x, x)) < 16
    True
    """
    finite = np.where(np.isfinite(want.lse), abs(want.lse), 0)
    unit = _roundoff(want.acc_dtype) * (1 + want.row_magnitude + finite)
    return _compare("lse", got, want.lse, want.acc_dtype, unit, np.zeros(()), c)


def assert_output(got: Any, want: Exact, c: float = C) -> float:
    """Raise unless `got` is the output within the bound; return the worst C.

    Parameters
    ----------
    got : numpy.ndarray
        The result under test, ``(..., n, d_v)``.
    want : Exact
        From :func:`numbattn.testing.exact`.
    c : float
        The constant that the bound may use.

    Returns
    -------
    float
        The smallest constant with which every element would have passed.

    Raises
    ------
    AssertionError
        As :func:`assert_scores`.

    Examples
    --------
    >>> import numpy as np
    >>> import numbattn
    >>> from numbattn.testing import assert_output, exact
    >>> x = np.random.default_rng(0).standard_normal((5, 8), np.float32)
    >>> got = numbattn.attention(x, x, x, backend="reference")
    >>> assert_output(got, exact("attention", x, x, x)) < 16
    True
    """
    if want.output is None or want.output_magnitude is None or want.value_max is None:
        raise ValueError("want has no output: make it with exact('attention', ...)")
    m = want.scores.shape[-1]
    factor = 1 + want.row_magnitude[..., None] + math.log2(1 + m / 64)
    with np.errstate(invalid="ignore"):
        unit = _roundoff(want.acc_dtype) * factor * want.output_magnitude
    unit = unit + _tiny(want.acc_dtype) * want.value_max
    rounding = _half_ulp(want, want.output, always=True)
    relative, absolute = _rounds_weights.get().get(want.dtype.name, (0.0, 0.0))
    with np.errstate(invalid="ignore"):
        rounding = rounding + LONG(relative) * want.output_magnitude
        rounding = rounding + LONG(absolute) * m * want.value_max
    empty = ~np.any(want.attended, axis=-1, keepdims=True)
    rounding = np.where(empty, 0, rounding)
    unit = np.where(empty, 0, unit)
    return _compare("output", got, want.output, want.dtype, unit, rounding, c)


def assert_result(got: Any, want: Exact, c: float = C) -> dict[str, float]:
    """Hold whatever ``want.operation`` returned to its bound.

    Parameters
    ----------
    got : numpy.ndarray or tuple of numpy.ndarray
        What the call returned; for attention also ``(out, lse)``.
    want : Exact
        From :func:`numbattn.testing.exact`.
    c : float
        The constant that the bound may use.

    Returns
    -------
    dict
        The worst C under "scores", "weights", "output" and "lse".

    Examples
    --------
    >>> import numpy as np
    >>> import numbattn
    >>> from numbattn.testing import assert_result, exact
    >>> x = np.random.default_rng(0).standard_normal((5, 8), np.float32)
    >>> got = numbattn.attention(x, x, x, return_lse=True, backend="reference")
    >>> sorted(assert_result(got, exact("attention", x, x, x)))
    ['lse', 'output']
    """
    if want.operation == "scores":
        return {"scores": assert_scores(got, want, c)}
    if want.operation == "weights":
        return {"weights": assert_weights(got, want, c)}
    if isinstance(got, tuple):
        out, lse = got
        return {
            "output": assert_output(out, want, c),
            "lse": assert_lse(lse, want, c),
        }
    return {"output": assert_output(got, want, c)}


def assert_same_bits(got: Any, want: Any, what: str = "result") -> None:
    """Raise unless both arrays have one dtype, one shape and the same bytes.

    A NaN is the same as any other NaN: its payload is not part of the promise.

    Parameters
    ----------
    got, want : numpy.ndarray
        The arrays to compare.
    what : str
        What they are, for the message.

    Examples
    --------
    >>> import numpy as np
    >>> from numbattn.testing import assert_same_bits
    >>> assert_same_bits(np.zeros(3), np.zeros(3))
    >>> assert_same_bits(np.zeros(3), -np.zeros(3))
    Traceback (most recent call last):
    AssertionError: result: 3 of 3 elements differ in their bits; ...
    """
    _require_array(what, got, want.shape, want.dtype)
    size = want.dtype.itemsize
    a, b = (np.ascontiguousarray(x).view(f"u{size}").reshape(-1) for x in (got, want))
    nan = np.isnan(np.ravel(got)) & np.isnan(np.ravel(want))
    bad = np.flatnonzero((a != b) & ~nan)
    if bad.size:
        at = tuple(int(i) for i in np.unravel_index(bad[0], want.shape))
        raise AssertionError(
            f"{what}: {bad.size} of {want.size} elements differ in their bits; "
            f"the first at {at}: got {got[at]!r}, want {want[at]!r}"
        )


def _require_array(
    what: str, got: Any, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> None:
    if type(got) is not np.ndarray:
        raise AssertionError(f"{what}: got a {type(got)!r}, want a numpy.ndarray")
    if got.shape != shape:
        raise AssertionError(f"{what}: got shape {got.shape}, want {shape}")
    if got.dtype != dtype:
        raise AssertionError(f"{what}: got dtype {got.dtype!r}, want {dtype!r}")


def _compare(
    what: str,
    got: Any,
    want: Array,
    dtype: np.dtype[Any],
    unit: Array,
    rounding: Array,
    c: float,
) -> float:
    """Raise where ``|got - want| > c * unit + rounding``; return the worst C."""
    _require_array(what, got, want.shape, dtype)
    if want.size == 0:
        return 0.0
    value = got.astype(LONG)
    used = np.zeros(want.shape, LONG)
    with np.errstate(all="ignore"):
        excess = abs(value - want) - rounding
        used = np.where(excess > 0, excess / unit, 0)
        used = np.where(np.isnan(used), np.inf, used)
        close_to_top = abs(want) + c * unit + rounding >= _overflow(dtype)
    odd = ~np.isfinite(want) | ~np.isfinite(value)
    same = (np.isnan(want) & np.isnan(value)) | (want == value)
    rounded_up = np.isinf(value) & (value * np.sign(want) > 0) & close_to_top
    used = np.where(odd, np.where(same | rounded_up, 0, np.inf), used)
    worst = float(used.max())
    if worst > c:
        at = tuple(int(i) for i in np.unravel_index(used.argmax(), used.shape))
        bad = int((used > c).sum())
        raise AssertionError(
            f"{what}: worst C {worst:.4g} above {c:g} at {at}: got {got[at]!r}, want "
            f"{want[at]!r}; {bad} of {want.size} elements are out of bound"
        )
    return worst


def _roundoff(acc: np.dtype[Any]) -> Any:
    return LONG(np.finfo(acc).eps) / 2


def _tiny(acc: np.dtype[Any]) -> Any:
    return LONG(np.finfo(acc).tiny)


def _format(dtype: np.dtype[Any]) -> tuple[int, int, float]:
    """Return stored mantissa bits, smallest normal exponent and largest number."""
    if dtype.name == "bfloat16":
        return 7, -126, (2 - 2.0**-7) * 2.0**127
    info = np.finfo(dtype)
    return info.nmant, int(info.minexp), float(info.max)


def _half_ulp(want: Exact, exact: Array, always: bool = False) -> Array:
    """Return what one rounding to the result dtype may add, elementwise."""
    if not always and want.dtype == want.acc_dtype:
        return np.zeros((), LONG)
    bits, lowest, largest = _format(want.dtype)
    size = np.where(np.isfinite(exact), abs(exact), 0)
    # Just under a power of two the accumulation error may lift it above: its ulp.
    size = size * (1 + 64 * _roundoff(want.acc_dtype))
    exponent = np.clip(np.frexp(size)[1] - 1, lowest, math.frexp(largest)[1] - 1)
    half: Array = np.ldexp(LONG(0.5), exponent - bits)
    return half


def _overflow(dtype: np.dtype[Any]) -> Any:
    """Return where rounding to nearest gives an infinity."""
    bits, _, largest = _format(dtype)
    return LONG(largest) * (1 + LONG(2) ** -(bits + 2))
