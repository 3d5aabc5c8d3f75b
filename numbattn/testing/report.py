"""``check_backend``: run the checks on a backend and say what came of it."""

from __future__ import annotations

import difflib
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

from numbattn.errors import BackendUnavailableError, OptionError
from numbattn.progress import reporting
from numbattn.testing import (  # they register their checks
    rules_arguments,
    rules_backend,
    rules_bits,
    rules_extremes,
    rules_function_bits,
    rules_functions,
    rules_half,
    rules_heads,
    rules_large,
    rules_layouts,
    rules_masks,
    rules_memory,
    rules_options,
    rules_poison,
    rules_sinks,
    rules_sizes,
    rules_values,
)
from numbattn.testing.calls import describe_call, recording
from numbattn.testing.registry import CHECKS, LEVELS, RULES, Check

__all__ = ["CheckResult", "Report", "check_backend", "run_check"]

MODULES = (
    rules_backend,
    rules_values,
    rules_poison,
    rules_options,
    rules_sinks,
    rules_heads,
    rules_sizes,
    rules_half,
    rules_extremes,
    rules_memory,
    rules_layouts,
    rules_bits,
    rules_large,
    rules_functions,
    rules_arguments,
    rules_masks,
    rules_function_bits,
)
"""Where the checks are."""


@dataclass(frozen=True)
class CheckResult:
    """What came of one check.

    Parameters
    ----------
    name : str
        The check's name.
    rule : int
        Number of the rule of the semantics.
    ok : bool
        Whether the backend passed it.
    message : str
        What went wrong; empty where `ok`.
    worst : dict
        The largest constant of the error bound used, by quantity.
    seconds : float
        How long it took.
    summary : str
        What the check holds.
    calls : tuple of str
        The last calls that it made, in words; empty where `ok`.

    Examples
    --------
    >>> from numbattn.testing import CheckResult
    >>> CheckResult("no_keys_at_all", rule=2, ok=True, worst={"lse": 0.5}).ok
    True
    """

    name: str
    rule: int
    ok: bool
    message: str = ""
    worst: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    summary: str = ""
    calls: tuple[str, ...] = ()

    def explain(self, backend: str) -> str:
        """Return which rule it breaks, how, with which inputs, and how to see it.

        Parameters
        ----------
        backend : str
            The backend that was checked.

        Returns
        -------
        str
            Some lines.

        Examples
        --------
        >>> from numbattn.testing import CheckResult
        >>> failed = CheckResult("name", 8, False, "what is wrong", summary="no keys")
        >>> print(failed.explain("cpu"))
        rule 8, name: no keys
          rule 8 says: any axis may be empty; d_k == 0 is the mean of V
          what is wrong
          again, with a traceback: numbattn.testing.run_check('name', 'cpu')
        """
        lines = [
            f"rule {self.rule}, {self.name}: {self.summary}",
            f"  rule {self.rule} says: {RULES[self.rule]}",
            f"  {self.message}",
        ]
        lines += [f"  called: {call}" for call in self.calls]
        lines.append(
            "  again, with a traceback: "
            f"numbattn.testing.run_check({self.name!r}, {backend!r})"
        )
        return "\n".join(lines)


@dataclass(frozen=True)
class Report:
    """What came of every check on one backend; printing it gives a summary.

    Parameters
    ----------
    backend : str
        Its name.
    level : {"small", "full"}
        Which checks were run.
    available : bool
        False where the backend cannot run; then nothing was checked.
    reason : str
        Why it cannot run.
    checks : tuple of CheckResult
        What came of each.

    Examples
    --------
    >>> from numbattn.testing import CheckResult, Report
    >>> passed = CheckResult("name", rule=2, ok=True, worst={"lse": 0.5})
    >>> print(Report("mine", "small", available=True, checks=(passed,)))
    mine: ok, 1 of 1 checks passed in 0.0 s
      error bound, worst C (16 is allowed): lse 0.5
    """

    backend: str
    level: str
    available: bool
    reason: str = ""
    checks: tuple[CheckResult, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the backend ran and passed every check."""
        return self.available and bool(self.checks) and self.failed == 0

    @property
    def passed(self) -> int:
        """How many checks passed."""
        return sum(check.ok for check in self.checks)

    @property
    def failed(self) -> int:
        """How many checks failed."""
        return len(self.checks) - self.passed

    @property
    def seconds(self) -> float:
        """How long the checks took."""
        return sum(check.seconds for check in self.checks)

    @property
    def worst(self) -> dict[str, float]:
        """The largest constant of the error bound used, by quantity."""
        found: dict[str, float] = {}
        for check in self.checks:
            for name, used in check.worst.items():
                found[name] = max(found.get(name, 0.0), used)
        return found

    def __str__(self) -> str:
        if not self.available:
            return f"{self.backend}: not available: {self.reason}"
        lines = [
            f"{self.backend}: {'ok' if self.ok else 'FAILED'}, {self.passed} of "
            f"{len(self.checks)} checks passed in {self.seconds:.1f} s"
        ]
        for check in self.checks:
            if not check.ok:
                text = check.explain(self.backend)
                lines += [f"  {line}" for line in text.splitlines()]
        if self.worst:
            used = ", ".join(f"{k} {v:.2g}" for k, v in sorted(self.worst.items()))
            lines.append(f"  error bound, worst C (16 is allowed): {used}")
        return "\n".join(lines)


def check_backend(
    name: str,
    level: str = "small",
    *,
    progress: bool | Callable[[int, int], None] | None = None,
) -> Report:
    """Run the conformance checks on a backend.

    Parameters
    ----------
    name : str
        The name of a backend, also of one that another package provides.
    level : {"small", "full"}
        "small" takes seconds, "full" adds what is slow or needs much memory.
    progress : bool or callable, optional
        True for a bar on stderr, or f(done, total), called in checks.

    Returns
    -------
    Report
        ``report.ok`` says whether every check passed, ``str(report)`` what did not.
        A backend that is unknown or cannot run is reported, not raised.

    Raises
    ------
    OptionError
        For an unknown level.

    Examples
    --------
    A backend that can run takes seconds; one that is unknown is reported at once.

    >>> from numbattn.testing import check_backend
    >>> report = check_backend("none")
    >>> report.ok, report.available
    (False, False)
    """
    if level not in LEVELS:
        raise OptionError(f"level is {level!r}; it is one of {', '.join(LEVELS)}")
    reason = _why_not(name)
    if reason:
        return Report(name, level, available=False, reason=reason)
    chosen = [c for c in CHECKS if LEVELS.index(c.level) <= LEVELS.index(level)]
    chosen.sort(key=lambda c: c.rule)
    results: list[CheckResult] = []
    with reporting(progress, f"checking {name}") as report:
        for check in chosen:
            results.append(_result(check, name))
            if report is not None:
                report(len(results), len(chosen))
    return Report(name, level, available=True, checks=tuple(results))


def run_check(check: str, backend: str) -> dict[str, float]:
    """Run one check and let its error out, with the traceback and the inputs.

    Parameters
    ----------
    check : str
        Its name, as a report gives it.
    backend : str
        The name of the backend.

    Returns
    -------
    dict
        The worst constant of the error bound, by quantity.

    Raises
    ------
    OptionError
        For an unknown check.
    AssertionError
        Where the backend breaks the rule.

    Examples
    --------
    >>> from numbattn.testing import run_check
    >>> run_check("no_keys_at_all", "reference")
    {}
    """
    found = [each for each in CHECKS if each.name == check]
    if not found:
        near = difflib.get_close_matches(check, [each.name for each in CHECKS], n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise OptionError(f"there is no check {check!r}{hint}")
    # A warning in a backend is a defect, not the start of another one.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return found[0].run(backend) or {}


def _result(check: Check, backend: str) -> CheckResult:
    start = time.perf_counter()
    ok, message, worst = True, "", {}
    calls: tuple[str, ...] = ()
    with recording() as kept:
        try:
            worst = run_check(check.name, backend)
        except Exception as error:
            ok, message = False, _message(error)
            calls = tuple(describe_call(*each) for each in kept)
    seconds = time.perf_counter() - start
    return CheckResult(
        check.name, check.rule, ok, message, worst, seconds, check.summary, calls
    )


def _why_not(name: str) -> str:
    """Return why the backend cannot be chosen; empty where it can."""
    import numbattn

    try:
        numbattn.scores([[1.0]], [[1.0]], backend=name)
    except (BackendUnavailableError, OptionError) as error:
        return _message(error)
    except Exception:
        # It was chosen and went wrong: that is for the checks to find.
        return ""
    return ""


def _message(error: Exception) -> str:
    lines = traceback.format_exception_only(error)
    return " ".join("".join(lines).split())
