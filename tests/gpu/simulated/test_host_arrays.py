"""NumPy arrays on the CUDA backend: blocks change no bit, and bring all back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import numbattn
from numbattn.backends.cuda import transfers

ROWS, KEYS = 40, 300  # more keys than two stretches of the simulated kernels


def arrays(dtype: Any, n: int = ROWS, m: int = KEYS) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    shapes = (2, 2, n, 20), (2, 1, m, 20), (1, 1, m, 70)
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def with_room(
    monkeypatch: pytest.MonkeyPatch, share: float, call: Callable[[], Any]
) -> tuple[Any, Any]:
    """Return a call's result and its blocks with so much room on the device."""
    found: list[Any] = []
    original = transfers.cut_for

    def noting(problem: Any, room: int | None, execution: Any) -> Any:
        room = int(share * transfers.bytes_of(problem, problem.m))
        result = original(problem, room, execution)
        found.append(result[0])
        return result

    with monkeypatch.context() as patch:
        patch.setattr(transfers, "cut_for", noting)
        return call(), found[-1]


@pytest.mark.parametrize("operation", ["scores", "weights", "attention"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_blocks_change_no_bit(
    monkeypatch: pytest.MonkeyPatch, operation: str, dtype: str
) -> None:
    query, key, value = arrays(dtype)
    given = (query, key, value) if operation == "attention" else (query, key)
    options: dict[str, Any] = {"window_size": (150, 120), "softcap": 3.0}
    options["bias"] = np.random.default_rng(2).standard_normal((ROWS, KEYS))
    if operation == "attention":
        options["return_lse"] = True

    def call() -> Any:
        return getattr(numbattn, operation)(*given, backend="cuda", **options)

    want, cut = with_room(monkeypatch, 1.0, call)
    assert cut == (2, ROWS, KEYS)
    for share, expected in (
        (0.9, lambda cut: cut.leads == 1 or cut.leads == 0),
        (0.1, lambda cut: cut.leads == 0 and cut.rows < ROWS),
        (0.0, lambda cut: cut.keys < KEYS),
    ):
        got, cut = with_room(monkeypatch, share, call)
        assert expected(cut), cut
        np.testing.assert_equal(got, want)


def test_what_is_not_finite_keeps_to_its_rows_with_keys_in_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    query, key, value = arrays(np.float32)
    mask = np.ones((ROWS, KEYS), bool)
    mask[:30, 200] = False
    mask[:, 3] = False
    clean = value.copy()
    clean[..., 200, 2] = clean[..., 3, :] = 0.0
    value[..., 200, 2], value[..., 3, :] = np.inf, np.nan
    want = numbattn.attention(query, key, clean, mask=mask, backend="cuda")
    want[..., 30:, 2] = np.inf
    for share in (1.0, 0.0):
        got, cut = with_room(
            monkeypatch, share,
            lambda: numbattn.attention(query, key, value, mask=mask, backend="cuda"),
        )  # fmt: skip
        np.testing.assert_array_equal(got, want)
    assert cut.keys < KEYS


def test_too_small_a_limit_is_refused_before_any_work() -> None:
    query, key, value = arrays(np.float32)
    out = np.full((2, 2, ROWS, 70), 7.0, np.float32)
    with pytest.raises(numbattn.MemoryLimitError, match="max_memory allows 20000"):
        numbattn.attention(
            query, key, value, out=out, backend="cuda", max_memory=20_000
        )
    assert (out == 7.0).all()


def test_arrays_that_repeat_are_not_written_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(3)
    query = rng.standard_normal((30, 8), dtype=np.float32)
    key = np.broadcast_to(rng.standard_normal((1, 8), dtype=np.float32), (50_000, 8))
    from numbattn.backends.cuda import device

    sizes: list[int] = []
    original = device.empty

    def noting(shape: tuple[int, ...], dtype: Any) -> Any:
        made = original(shape, dtype)
        sizes.append(made.nbytes)
        return made

    monkeypatch.setattr(device, "empty", noting)
    got = numbattn.attention(query, key, key, is_causal=True, backend="cuda")
    np.testing.assert_allclose(got, np.broadcast_to(key[0], got.shape), rtol=1e-5)
    assert max(sizes) < 50_000 * 8


@pytest.mark.parametrize("share", [1.0, 0.3])
@pytest.mark.parametrize("operation", ["scores", "attention"])
def test_progress_ends_at_the_whole(
    monkeypatch: pytest.MonkeyPatch, operation: str, share: float
) -> None:
    query, key, value = arrays(np.float32, 50, 300)
    given = (query, key, value) if operation == "attention" else (query, key)
    seen: list[tuple[int, int]] = []

    def call() -> Any:
        return getattr(numbattn, operation)(
            *given, backend="cuda", progress=lambda *said: seen.append(said)
        )

    with_room(monkeypatch, share, call)
    assert seen[-1] == (4 * 50 * 300,) * 2
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
