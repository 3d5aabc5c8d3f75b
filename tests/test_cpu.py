"""What is the CPU backend's own: its paths, its launches; see reliability/cache."""

from __future__ import annotations

import importlib
import itertools
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest

import numbattn
from numbattn import testing
from numbattn.backends.cpu.levels import LEVELS, target_features
from numbattn.backends.cpu.pointers import address
from numbattn.backends.cpu.simd import vector_operations

BOTH = """
import numpy as np, numbattn
q, k = np.random.default_rng(0).standard_normal((2, 600, 16)).astype(np.float32)
for operation in {operations}:
    call = getattr(numbattn, operation)
    want = call(q, k, backend="reference")
    for threads in (1, 2):
        got = call(q, k, backend="cpu", num_threads=threads)
        assert np.allclose(got, want, rtol=1e-3, atol=1e-3), (operation, threads)
"""


NO_COMPILER = """
import numba.core.compiler
def refuse(*arguments, **options): raise AssertionError("something is compiled")
numba.core.compiler.compile_extra = refuse
"""


def run_with_cache(place: Path, operations: tuple[str, ...], before: str = "") -> None:
    """Run operations in a process of their own, on two threads where it can."""
    environment = dict(os.environ, NUMBATTN_CACHE_DIR=str(place), NUMBA_NUM_THREADS="2")
    code = before + BOTH.format(operations=operations)
    subprocess.run(
        [sys.executable, "-W", "error", "-c", code], env=environment, check=True
    )


def test_kernels_cached_by_several_processes_do_not_mix(tmp_path: Path) -> None:
    """Each process numbers its functions anew; equal symbols must not meet."""
    run_with_cache(tmp_path, ("weights",))
    run_with_cache(tmp_path, ("scores",))
    run_with_cache(tmp_path, ("scores", "weights"))
    run_with_cache(tmp_path, ("weights", "scores"))


def test_numba_told_not_to_compile_is_a_backend_that_cannot_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("numba.config.DISABLE_JIT", 1)
    with pytest.raises(numbattn.BackendUnavailableError, match="NUMBA_DISABLE_JIT"):
        numbattn.scores(np.ones((2, 3)), np.ones((2, 3)), backend="cpu")


def test_numba_told_so_by_the_environment_is_not_imported() -> None:
    code = "import numbattn; print(numbattn.list_backends()['cpu'])"
    shown = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=dict(os.environ, NUMBA_DISABLE_JIT="1"),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "NUMBA_DISABLE_JIT" in shown.stdout


@pytest.mark.parametrize("operation", ["scores", "weights", "attention"])
def test_pieces_above_the_short_limit_keep_their_bits(operation: str) -> None:
    rng = np.random.default_rng(1)
    query, key, value = rng.standard_normal((3, 70, 24)).astype(np.float32)
    others = (key, value) if operation == "attention" else (key,)
    call = getattr(numbattn, operation)
    whole = call(query, *others, backend="cpu")
    for first, last in ((0, 17), (17, 53), (53, 70)):
        piece = call(query[first:last], *others, backend="cpu")
        testing.assert_same_bits(piece, whole[first:last])


PIECES = {1: ((0, 1),), 4: ((0, 4), (2, 3)), 40: ((0, 40), (0, 17), (23, 40))}


@pytest.mark.parametrize("n", PIECES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_other_rows_and_heads_see_changes_no_bit(dtype: type, n: int) -> None:
    """Keys begin where the first row, or head, sees some: sums must not."""
    rng = np.random.default_rng(3)
    for _ in range(12):
        m = int(rng.integers(100, 3000))
        query = rng.standard_normal((4, n, 8)).astype(dtype)
        key, value = rng.standard_normal((2, 1, m, 8)).astype(dtype)
        offset = rng.integers(m, size=4)
        window = {"window_size": (int(rng.integers(900)), int(rng.integers(60)))}
        whole = numbattn.attention(
            query, key, value, q_offset=offset, return_lse=True, **window
        )
        for head, (first, last) in itertools.product(range(4), PIECES[n]):
            alone = numbattn.attention(
                query[head, first:last], key[0], value[0], return_lse=True,
                q_offset=int(offset[head]) + first, **window,
            )  # fmt: skip
            for got, want in zip(alone, whole, strict=True):
                testing.assert_same_bits(got, want[head, first:last])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_few_rows_have_the_same_bits_at_every_alignment(dtype: type) -> None:
    """Keys are read on vector boundaries; where they lie must not show."""
    rng = np.random.default_rng(2)
    query = rng.standard_normal((3, 40)).astype(dtype)
    key = rng.standard_normal((50, 40)).astype(dtype)
    want = numbattn.scores(query, key, backend="cpu")
    for shift in range(17):
        for pitch in (40, 48, 64):
            buffer = np.full(shift + 50 * pitch, np.nan, dtype)
            moved = buffer[shift:].reshape(50, pitch)[:, :40]
            moved[...] = key
            testing.assert_same_bits(numbattn.scores(query, moved, backend="cpu"), want)


@pytest.mark.parametrize("level", [x for x in LEVELS if x != "neon"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_exp2_is_at_most_2_unit_roundoffs_off(level: str, dtype: str) -> None:
    """Over all that a softmax asks for, and to within the smallest normal number."""
    if not LEVELS[level].features <= target_features():
        pytest.skip(f"this processor or Numba's target lacks {level}")
    v = vector_operations(dtype, LEVELS[level])
    lanes = v.lanes

    @numba.njit
    def exp2(x: np.ndarray) -> None:
        for i in range(0, x.shape[0], lanes):
            v.store(v.exp2(v.load(address(x, 0), i)), address(x, 0), i)

    info, rng = np.finfo(dtype), np.random.default_rng(0)
    count = 1 << 18
    least = 150 if dtype == "float32" else 1075  # 2**-least is 0
    spread = np.log10(info.smallest_subnormal), np.log10(2 * least)
    x = np.concatenate(
        [
            np.linspace(-least - 20, 4, count),
            rng.uniform(-least, 4, count),
            -(10.0 ** rng.uniform(*spread, count)),
            np.repeat([0.0, -0.0, -np.inf, np.nan, info.min], 16),
        ]
    ).astype(dtype)
    got = x.copy()
    exp2(got)
    want = np.exp2(x.astype(np.longdouble))
    with np.errstate(invalid="ignore"):
        error = abs(got.astype(np.longdouble) - want)
    normal, below = want >= info.tiny, want < info.tiny
    assert np.all(error[normal] <= want[normal] * info.eps)  # eps is two roundoffs
    assert np.all(error[below] < info.tiny)
    assert np.all(got[x == 0] == 1)
    assert np.all(got[x < -1.5 * least] == 0)
    assert np.array_equal(np.isnan(got), np.isnan(x))


def test_nothing_of_an_earlier_call_is_left_in_the_scratch() -> None:
    """Scratch memory is kept; a call of NaN must not reach the next one."""
    poison = np.full((16, 64), np.nan, np.float32)
    for n in (3, 40):
        query, value = np.zeros((n, 0), np.float32), np.ones((40, 5), np.float32)
        for shift in range(4):
            key = np.zeros(40 * 8 + shift, np.float32)[shift:].reshape(40, 8)[:, :0]
            for options in ({}, {"is_causal": True}):
                numbattn.weights(poison, poison, backend="cpu")
                assert not numbattn.scores(query, key, backend="cpu").any()
                numbattn.attention(poison, poison, poison, backend="cpu")
                out = numbattn.attention(query, key, value, backend="cpu", **options)
                assert (out == 1).all()


@pytest.mark.parametrize("shift", [0, 1, 4, 15])
def test_streamed_results_stay_inside_their_rows(shift: int) -> None:
    """Large results are written past the caches, on vectors of `out` only."""
    rng = np.random.default_rng(3)
    query = rng.standard_normal((1700, 16)).astype(np.float32)
    key = rng.standard_normal((2001, 16)).astype(np.float32)
    pitch = 2016
    buffer = np.full(shift + 1700 * pitch, 7, np.float32)
    out = buffer[shift:].reshape(1700, pitch)[:, :2001]
    for operation in ("scores", "weights"):
        for options in ({}, {"window_size": (500, 3), "q_offset": 400}):
            call = getattr(numbattn, operation)
            call(query, key, out=out, backend="cpu", **options)
            small = call(query[:900], key, backend="cpu", **options)
            testing.assert_same_bits(np.ascontiguousarray(out[:900]), small)
            assert (buffer[:shift] == 7).all()
            assert (buffer[shift:].reshape(1700, pitch)[:, 2001:] == 7).all()


def test_huge_offsets_with_a_window_see_nothing() -> None:
    query, key = np.ones((102, 16), np.float32), np.ones((32768, 16), np.float32)
    for offset in (3_000_000_000, 2**62, -(2**62)):
        got = numbattn.weights(
            query, key, q_offset=offset, window_size=(3, 0), backend="cpu"
        )
        assert not got.any()


def test_softcap_below_the_normal_range_gives_no_nan() -> None:
    got = numbattn.scores(
        np.zeros((20, 4), np.float32),
        np.ones((9, 4), np.float32),
        softcap=1e-39,
        backend="cpu",
    )
    assert not got.any()


@pytest.mark.parametrize("options", [{}, {"is_causal": True}, {"kv_lengths": 70}])
@pytest.mark.parametrize("operation", ["scores", "weights"])
@pytest.mark.parametrize("heads", [(6, 6), (6, 2), (6, 1)])
def test_keys_packed_once_for_all_tasks_give_the_same_bits(
    monkeypatch: pytest.MonkeyPatch,
    operation: str,
    heads: tuple[int, int],
    options: dict[str, object],
) -> None:
    from numbattn.backends.cpu import matrix

    random = np.random.default_rng(3)
    query = random.standard_normal((heads[0], 113, 33)).astype(np.float32)
    key = random.standard_normal((heads[1], 800, 33)).astype(np.float32)
    call = getattr(numbattn, operation)
    apart = call(query, key, **options)
    monkeypatch.setattr(matrix, "SHARED_FLOPS", 0)
    monkeypatch.setattr(matrix, "SHARED_TASKS", 1)
    matrix._plan.cache_clear()
    plan = matrix.plan(numbattn.checks.check(operation, query, key), apart)
    assert plan.panel > 0
    monkeypatch.setattr(matrix, "STREAM_BYTES", 0)  # panels start on vectors of `out`
    places = np.empty(apart.size + 32, np.float32)
    for first in (0, 3):
        matrix._plan.cache_clear()
        out = places[first : first + apart.size].reshape(apart.shape)
        assert np.array_equal(call(query, key, out=out, **options), apart)
    matrix._plan.cache_clear()


def test_warmup_has_every_kernel_there_is() -> None:
    from numbattn.backends import cpu
    from numbattn.backends.cpu import engine

    names = [
        info.name for info in pkgutil.iter_modules(cpu.__path__, cpu.__name__ + ".")
    ]
    modules = {importlib.import_module(name) for name in names}
    assert set(engine.MODULES) == {m for m in modules if hasattr(m, "kernel")}
    ready = numbattn.warmup(["float32"], backend="cpu")
    assert len(set(ready)) == len(ready) == 2 * len(engine.MODULES)


def test_a_second_process_compiles_nothing(tmp_path: Path) -> None:
    operations = ("scores", "weights")
    run_with_cache(tmp_path, operations)
    run_with_cache(tmp_path, operations, NO_COMPILER)
