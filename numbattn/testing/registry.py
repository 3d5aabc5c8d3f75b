"""The list of checks: one function a check, under the number of the rule it holds."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numbattn.errors import OptionError
from numbattn.testing import bounds

__all__ = ["CHECKS", "LEVELS", "RULES", "Check", "check", "require"]

LEVELS = ("small", "full")
RULES = {
    0: "the object has the attributes of numbattn.backends.Backend",
    2: "a key whose score is -inf is not attended; a row without keys is output 0, "
    "weights 0, lse -inf",
    3: "masked means not read",
    4: "NaN goes to the rows and columns that attend it, and nowhere else",
    5: "in scores, a masked entry is -inf",
    6: "lse is the natural logarithm after every option, in the accumulation dtype",
    7: "dtypes: integers are float64, halves accumulate in float32 and round once",
    8: "any axis may be empty; d_k == 0 is the mean of V",
    9: "inputs are not written nor read past their end; out is written exactly, "
    "whatever its strides and whatever it overlaps",
    10: "any memory layout gives the bits of the contiguous copy",
    11: "same bits whatever the batch, the heads, the threads, the blocks and cuts "
    "along the queries above the short limit",
    12: "sizes and offsets are 64-bit",
    13: "every element is within the error bound (numbattn.testing.bounds)",
    14: "a score_mod is called with the score after softcap and before bias, b, h, "
    "q_idx and kv_idx of a place, and reads its arguments as they are now",
    15: "a mask object attends what its definition says, in every call",
}
"""What each rule says, shortly; 1 is ONNX's own cases, which need onnx."""


@dataclass(frozen=True)
class Check:
    """One check of the contract.

    Parameters
    ----------
    name : str
        The function's name and its parameters.
    rule : int
        The number of the rule, a key of `RULES`.
    level : {"small", "full"}
        The smallest level that runs it.
    run : callable
        ``run(backend)`` raises where the backend breaks the rule; what it returns
        (a dict of worst constants, or None) is reported.
    summary : str
        The first line of the function's docstring.

    Examples
    --------
    >>> from numbattn.testing import CHECKS
    >>> sorted({check.rule for check in CHECKS})[:4]
    [0, 2, 3, 4]
    """

    name: str
    rule: int
    level: str
    run: Callable[[str], dict[str, float] | None]
    summary: str


CHECKS: list[Check] = []
"""Every check, in the order of definition."""


def check(rule: int, level: str = "small", **parameters: Any) -> Callable[..., Any]:
    """Register a function of a backend's name, once for each of its parameters.

    Parameters
    ----------
    rule : int
        The rule that it holds.
    level : {"small", "full"}
        The smallest level that runs it.
    **parameters : sequence
        Values of its keyword arguments; every combination is a check.

    Returns
    -------
    callable
        A decorator that leaves the function as it is.
    """
    if level not in LEVELS:
        raise OptionError(f"level is {level!r}; it is one of {', '.join(LEVELS)}")
    if rule not in RULES:
        raise OptionError(
            f"rule is {rule!r}; it is one of {', '.join(map(str, RULES))}"
        )

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        summary = (function.__doc__ or "").strip().splitlines()[0]
        for values in itertools.product(*parameters.values()):
            arguments = dict(zip(parameters, values, strict=True))
            label = ", ".join(str(value) for value in values)
            name = f"{function.__name__}[{label}]" if label else function.__name__

            def run(backend: str, arguments: dict[str, Any] = arguments) -> Any:
                with bounds.results_of(backend):
                    return function(backend, **arguments)

            CHECKS.append(Check(name, rule, level, run, summary))
        return function

    return register


def require(condition: Any, message: str) -> None:
    """Raise AssertionError with the message unless the condition holds.

    Parameters
    ----------
    condition : bool
        What has to hold (a plain ``assert`` would vanish under ``python -O``).
    message : str
        What is wrong.

    Examples
    --------
    >>> from numbattn.testing import require
    >>> require(2 > 1, "2 is not above 1")
    """
    if not condition:
        raise AssertionError(message)
