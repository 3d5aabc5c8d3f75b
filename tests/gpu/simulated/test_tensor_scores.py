"""Scores and weights on tensor cores against float64, in the simulator."""

from __future__ import annotations

import pytest

from numbattn.backends.cuda import fragments, tensor_scores

from .tensor_cases import (
    KINDS,
    OPTIONS,
    SIZES,
    U32,
    UNIT,
    C,
    Case,
    beside,
    difference,
    narrow,
    ratio,
)  # fmt: skip


def check_scores(case: Case) -> None:
    expected = case.expected()
    s, size = expected["scores"], expected["size"]
    bound = C * UNIT[case.kind] * (size + abs(s)) + 2.0**-24
    assert ratio(difference(case.scores(), s), bound) < 1


@pytest.mark.parametrize("kind", KINDS)
def test_scores_of_every_size(kind: str) -> None:
    for n, m, d_k, _ in SIZES:
        check_scores(Case(kind, beside(kind), n, m, d_k, 1))


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("kind", ["bfloat16", "tf32"])  # float16 is as bfloat16
def test_scores_with_options(kind: str, name: str) -> None:
    check_scores(Case(kind, beside(kind), 70, 97, 40, 1, **OPTIONS[name]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["causal", "no keys", "mask", "grouped heads", "bias"])
def test_weights_from_rows_numbers(kind: str, name: str) -> None:
    case = Case(kind, narrow(kind), 21, 96, 40, 0, **OPTIONS[name])
    carry = case.attention()["carry"]
    expected, found = case.expected(), case.scores(carry)
    u = UNIT[kind]
    of_scores = u if kind == "tf32" else 8 * U32
    bound = (u + C * of_scores * expected["condition"][..., None]) * expected["weights"]
    assert ratio(difference(found, expected["weights"]), bound + 2.0**-25) < 1


def test_conflicts_of_banks_show(monkeypatch: pytest.MonkeyPatch) -> None:
    for each in (tensor_scores, fragments):
        monkeypatch.setattr(each, "turn", lambda vectors: (0, 0))
    with pytest.raises(RuntimeError, match="conflicts of banks"):
        Case("bfloat16", beside("bfloat16"), 16, 32, 32, 1).scores()
