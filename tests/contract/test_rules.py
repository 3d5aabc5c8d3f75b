"""The contract: every check of the public kit, on every backend."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from numbattn.testing import CHECKS, Check


@pytest.mark.parametrize("check", CHECKS, ids=[f"{c.rule}-{c.name}" for c in CHECKS])
def test_rule(
    backend: str, check: Check, record_worst: Callable[[str, float], None]
) -> None:
    for quantity, used in (check.run(backend) or {}).items():
        record_worst(f"{backend} {quantity} (contract)", used)


def test_every_rule_has_a_check() -> None:
    # 1 is ONNX's own cases, in tests/conformance.
    assert {c.rule for c in CHECKS} == set(range(2, 14))
    names = [c.name for c in CHECKS]
    assert len(names) == len(set(names))
