"""The contract: every check of the public kit, on every backend."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from numbattn.testing import CHECKS, RULES, Check


@pytest.mark.parametrize("check", CHECKS, ids=[f"{c.rule}-{c.name}" for c in CHECKS])
def test_rule(
    backend: str, check: Check, record_worst: Callable[[str, float], None]
) -> None:
    for quantity, used in (check.run(backend) or {}).items():
        record_worst(f"{backend} {quantity} (contract)", used)


def test_every_rule_has_a_check() -> None:
    # 1 is ONNX's own cases, in tests/conformance; 0 is the backend's object.
    assert {c.rule for c in CHECKS} == set(RULES) == {0, *range(2, 16)}
    names = [c.name for c in CHECKS]
    assert len(names) == len(set(names))


def test_the_kit_has_hundreds_of_checks() -> None:
    assert len(CHECKS) >= 600
    assert len([c for c in CHECKS if c.level == "small"]) >= 600
    assert all(c.summary.endswith(".") for c in CHECKS)
