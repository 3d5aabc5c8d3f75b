"""Attention on tensor cores against float64, in the simulator."""

from __future__ import annotations

import numpy as np
import pytest

from numbattn.backends.cuda import (
    fragments,
    ptx,
    simulator,
    tensor_attention,
    warp_softmax,
)

from .tensor_cases import (
    KINDS,
    OPTIONS,
    SIZES,
    U32,
    UNIT,
    C,
    Case,
    difference,
    narrow,
    ratio,
    wide,
)  # fmt: skip


def check_attention(case: Case) -> dict[str, np.ndarray]:
    expected, found = case.expected(), case.attention()
    u = UNIT[case.kind]
    tiny = 2.0**-24 * (1 + abs(np.nan_to_num(expected["out"])).max(initial=0))
    bound = C * u * expected["bound"] + tiny
    assert ratio(difference(found["out"], expected["out"]), bound) < 1
    of_scores = u if case.kind == "tf32" else 8 * U32
    bound = C * of_scores * (expected["condition"] + abs(expected["lse"]))
    assert ratio(difference(found["lse"], expected["lse"]), bound) < 1
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", SIZES)
def test_attention_of_every_size(kind: str, sizes: tuple[int, ...]) -> None:
    check_attention(Case(kind, narrow(kind), *sizes))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", [(65, 70, 64, 64), (129, 129, 100, 70)])
def test_attention_of_several_warps(kind: str, sizes: tuple[int, ...]) -> None:
    check_attention(Case(kind, wide(kind), *sizes))


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("kind", ["bfloat16", "tf32"])  # float16 is as bfloat16
def test_attention_with_options(kind: str, name: str) -> None:
    check_attention(Case(kind, narrow(kind), 21, 97, 40, 24, **OPTIONS[name]))


@pytest.mark.parametrize("kind", KINDS)
def test_attention_of_nothing(kind: str) -> None:
    check_attention(Case(kind, narrow(kind), 5, 0, 8, 8))
    check_attention(Case(kind, narrow(kind), 5, 9, 0, 8))


@pytest.mark.parametrize("kind", KINDS)
def test_values_of_keys_beyond_the_length_are_not_read(kind: str) -> None:
    case = Case(kind, narrow(kind), 9, 50, 16, 8, length=40, nan_at=(43, 3))
    found = case.attention()
    assert np.isfinite(found["out"]).all()
    assert not found["broken"].any()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_finite_is_noted_by_tile(kind: str) -> None:
    case = Case(kind, narrow(kind), 40, 50, 16, 8, right=0, nan_at=(33, 3))
    found = case.attention()
    # rows 33 on attend it; of the tile from row 32 on, row 32 meets 0 times NaN
    assert found["broken"].tolist() == [[0, 0, 1]]
    assert np.isfinite(found["out"][:, :32]).all()
    assert np.isnan(found["out"][:, 33:, 3]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_broken_tiles_are_computed_again_from_what_is_finite(kind: str) -> None:
    case = Case(kind, narrow(kind), 40, 50, 16, 8, right=0, nan_at=(33, 3))
    found = case.attention(again=True)
    case.value[:, 33, 3] = 0
    expected = case.expected()["out"]
    assert abs(found["out"][:, 32:] - expected[:, 32:]).max() < 32 * UNIT[kind]
    assert not found["out"][:, :32].any()  # the other tiles are left alone


def wrong(case: Case) -> bool:
    """Whether the simulator notices: by an error, or by numbers."""
    try:
        check_attention(case)
    except (AssertionError, IndexError, RuntimeError):
        return True
    return False


def test_a_copy_that_is_not_waited_for_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ptx, "copy_wait", lambda: None)
    assert wrong(Case("bfloat16", wide("bfloat16"), 65, 129, 64, 64))


def test_a_missing_barrier_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulator.Module, "syncthreads", lambda self: None)
    assert wrong(Case("bfloat16", wide("bfloat16"), 65, 129, 64, 64))


def test_conflicts_of_banks_show(monkeypatch: pytest.MonkeyPatch) -> None:
    for each in (tensor_attention, fragments):
        monkeypatch.setattr(each, "turn", lambda vectors: (0, 0))
    with pytest.raises(RuntimeError, match="conflicts of banks"):
        Case("bfloat16", narrow("bfloat16"), 16, 32, 32, 64).attention()


def test_lanes_that_do_different_things_are_refused() -> None:
    begin = warp_softmax.beginning(narrow("bfloat16"))
    share = warp_softmax.beginning(narrow("float16"))

    def kernel() -> None:
        tile = np.zeros(2, np.float32)
        (begin if ptx.thread() < 16 else share)(tile, tile.copy())

    with pytest.raises(RuntimeError, match="different things"):
        simulator.launch(kernel, 1, 32, ())
