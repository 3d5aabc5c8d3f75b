"""The list of checks: one function a check, under the number of the rule it holds."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numbattn.errors import OptionError

__all__ = ["CHECKS", "LEVELS", "Check", "check", "require"]

LEVELS = ("small", "full")


@dataclass(frozen=True)
class Check:
    """One check of the contract.

    Attributes
    ----------
    name : str
        The function's name and its parameters.
    rule : int
        The number of the rule in the documentation of the semantics.
    level : {"small", "full"}
        The smallest level that runs it.
    run : callable
        ``run(backend)`` raises where the backend breaks the rule; what it returns
        (a dict of worst constants, or None) is reported.
    summary : str
        The first line of the function's docstring.
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

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        summary = (function.__doc__ or "").strip().splitlines()[0]
        for values in itertools.product(*parameters.values()):
            arguments = dict(zip(parameters, values, strict=True))
            label = ", ".join(str(value) for value in values)
            name = f"{function.__name__}[{label}]" if label else function.__name__

            def run(backend: str, arguments: dict[str, Any] = arguments) -> Any:
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
    """
    if not condition:
        raise AssertionError(message)
