"""Vector widths: forced ones give right answers, and a wrong one cannot be chosen."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator

import pytest

from numbattn import OptionError, config
from numbattn.backends.cpu import levels

FEATURES = sorted(frozenset().union(*(x.features for x in levels.LEVELS.values())))
ALL = [
    frozenset(some)
    for count in range(len(FEATURES) + 1)
    for some in itertools.combinations(FEATURES, count)
]
FORCED = ("avx2", "sse2", "plain")


@pytest.fixture(autouse=True)
def forget(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let every test choose anew, and what follows choose as before."""
    yield
    monkeypatch.undo()
    config.forget_environment()
    levels.chosen.cache_clear()


def choose(
    monkeypatch: pytest.MonkeyPatch, features: Iterable[str], forced: str = ""
) -> levels.Simd:
    """Return the level chosen on a target with these features."""
    monkeypatch.setattr(levels, "target_features", lambda: frozenset(features))
    monkeypatch.setenv("NUMBATTN_SIMD", forced)
    config.forget_environment()
    levels.chosen.cache_clear()
    return levels.chosen()


def test_the_universe_is_what_the_levels_need() -> None:
    assert len(ALL) == 2 ** len(FEATURES) >= 128
    assert "plain" in levels.LEVELS
    assert not levels.LEVELS["plain"].features


def test_no_level_is_chosen_that_the_target_lacks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On every one of the 128 possible targets."""
    for features in ALL:
        level = choose(monkeypatch, features)
        assert level.features <= features
        wider = [x for x in levels.LEVELS.values() if x.width > level.width]
        assert not any(x.features <= features for x in wider)


def test_a_forced_level_runs_or_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = 0
    for features, forced in itertools.product(ALL, levels.LEVELS):
        needed = levels.LEVELS[forced].features
        if needed <= features:
            assert choose(monkeypatch, features, forced).name == forced
            continue
        with pytest.raises(OptionError, match=f"NUMBATTN_SIMD='{forced}' needs") as no:
            choose(monkeypatch, features, forced)
        assert all(name in str(no.value) for name in needed - features)
        assert "possible here: " in str(no.value)
        refused += 1
    assert refused > 300


@pytest.mark.parametrize(
    ("features", "name"),
    [
        ("", "plain"),
        ("sse2", "sse2"),
        ("sse2 avx2", "sse2"),  # without fma
        ("sse2 avx2 fma", "avx2"),
        ("sse2 avx2 fma avx512f", "avx2"),  # Knights Landing
        ("sse2 avx2 fma avx512f avx512vl avx512dq", "avx512"),
        ("neon", "neon"),
    ],
)
def test_levels_of_known_processors(
    monkeypatch: pytest.MonkeyPatch, features: str, name: str
) -> None:
    assert choose(monkeypatch, features.split()).name == name


def test_only_what_numba_targets_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A feature that the processor has and Numba switches off is not there."""

    class Target:
        class target_context:  # noqa: N801
            @staticmethod
            def codegen() -> type:
                return Target.target_context

            @staticmethod
            def magic_tuple() -> tuple[str, str, str]:
                return "x86_64", "znver4", "+sse2,+avx2,-fma,-avx512f,+avx512vl"

    monkeypatch.setattr(levels, "cpu_target", Target)
    assert levels.target_features() == {"sse2", "avx2", "avx512vl"}


def child(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own, on one thread."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, "NUMBATTN_NUM_THREADS": "1", **variables},
        capture_output=True,
        text=True,
        check=False,
    )


CALL = """
import numbattn
try:
    print(numbattn.scores([[2.0]], [[3.0]], backend="cpu"))
except numbattn.OptionError as error:
    print("refused:", error)
"""


@pytest.mark.parametrize("forced", ["neon", "avx512", "avx2"])
def test_a_width_that_the_processor_lacks_is_an_error_not_an_abort(forced: str) -> None:
    """The plainest processor that Numba can be told to compile for has none of them."""
    done = child(
        CALL, NUMBATTN_SIMD=forced, NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES=""
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"refused: NUMBATTN_SIMD='{forced}' needs ")


def test_the_plainest_target_chooses_by_itself() -> None:
    code = "from numbattn.backends.cpu import levels; print(levels.chosen().name)"
    done = child(code, NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES="")
    assert done.stdout.split() in (["plain"], ["sse2"], ["neon"]), done.stderr


SMALL = """
import numpy as np
from numbattn.backends.cpu import levels
from numbattn.testing import random_case, run_case
from numbattn.testing.problems import held
from numbattn.testing.rules_sizes import EDGES, guarded

assert levels.chosen().name == {forced!r}
few = ("scores", "attention")
for size in EDGES[::2]:
    for axis in ("n", "m", "d_k", "d_v"):
        held("cpu", guarded(axis, size, "float32"), few)
        if axis != "n":
            held("cpu", guarded(axis, size, "float32", 7), few, is_causal=True)
for k in range(200):
    rng = np.random.default_rng([5, k])
    run_case(random_case(rng, few[k % 2], "float32", work=200_000), "cpu")
print("ok")
"""

FUNCTIONS = """
from numbattn.backends.cpu import levels
from numbattn.testing import rules_functions, rules_masks
from numbattn.testing.problems import batch, held, inputs
from numbattn.testing.rules_arguments import of_dtype, rank_2

assert levels.chosen().name == {forced!r}
few = ("scores", "attention")
for n in (7, 40):
    arrays = inputs("float32", n=n, m=37)
    held("cpu", arrays, few, score_mod=rules_functions.tenth)
    held("cpu", arrays, few, score_mod=rules_functions.hides, score_mod_args=(3,))
    for dtype in ("uint8", "float64", "bool"):
        table = of_dtype(dtype, (n, 37))
        held("cpu", arrays, few, score_mod=rank_2, score_mod_args=(table,))
    for kind in ("prefixes", "documents", "dilated", "array", "function"):
        mask = rules_masks.kinds(n, 37)[kind]
        held("cpu", batch("float32", n=n, m=37, d=9), few, mask=mask)
print("ok")
"""

FULL = """
from numbattn.backends.cpu import levels
from numbattn.testing import check_backend

assert levels.chosen().name == {forced!r}
report = check_backend("cpu", level="full")
print(report)
assert report.ok
"""


def run_forced(code: str, forced: str) -> None:
    done = child(code.format(forced=forced), NUMBATTN_SIMD=forced)
    if levels.LEVELS[forced].features <= levels.target_features():
        assert done.returncode == 0, done.stdout + done.stderr
    else:
        assert "OptionError: NUMBATTN_SIMD" in done.stderr


@pytest.mark.parametrize("forced", FORCED)
def test_a_forced_width_is_right(forced: str) -> None:
    """Scores and attention in float32; the kernels of a width take 8 s to compile."""
    run_forced(SMALL, forced)


@pytest.mark.parametrize("forced", FORCED)
def test_functions_and_mask_objects_are_right_on_a_forced_width(forced: str) -> None:
    run_forced(FUNCTIONS, forced)


@pytest.mark.heavy
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("forced", FORCED)
def test_the_whole_kit_on_a_forced_width(forced: str) -> None:
    run_forced(FULL, forced)
