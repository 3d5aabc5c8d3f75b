"""``check_backend``: it passes what is right and catches each kind of wrong backend."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import numbattn
from numbattn.testing import CHECKS, Check, check_backend

Result = Any


def test_report_of_a_right_backend() -> None:
    # of the others test_contract.py runs every check by itself
    report = check_backend("reference")
    assert report.ok, str(report)
    assert report.available
    assert report.failed == 0
    assert report.passed == len(report.checks) > 36
    assert report.backend == "reference"
    assert max(report.worst.values()) <= 16
    assert str(report).startswith("reference: ok, ")


def test_every_backend_of_the_package_computes(listed_backend: str) -> None:
    got = numbattn.scores([[2.0]], [[3.0]], backend=listed_backend)
    assert got == [[6.0]]


@pytest.mark.parametrize("name", ["cuda", "no-such-backend"])
def test_a_backend_that_cannot_run_is_reported(name: str) -> None:
    try:
        numbattn.scores([[1.0]], [[1.0]], backend=name)
    except numbattn.NumbattnError as error:
        reason = str(error).split()[0]
    else:
        pytest.skip(f"backend {name!r} runs here")
    report = check_backend(name)
    assert not report.ok
    assert not report.available
    assert report.checks == ()
    assert reason in report.reason
    assert report.reason in str(report)


def test_unknown_level_is_refused() -> None:
    with pytest.raises(ValueError, match="small, full"):
        check_backend("reference", level="large")


def test_the_kit_needs_neither_pytest_nor_numba() -> None:
    code = (
        "import sys; from numbattn.testing import check_backend;"
        "r = check_backend('reference'); print(r); "
        "assert r.ok and not {'pytest', 'numba'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _fewer_bits(operation: str, arrays: list[Any], options: dict[str, Any]) -> None:
    query = np.asarray(arrays[0])
    arrays[0] = query.astype(np.float16).astype(query.dtype)


def _causal_off_by_one(
    operation: str, arrays: list[Any], options: dict[str, Any]
) -> None:
    if options.get("is_causal") and not isinstance(options.get("q_offset", 0), str):
        options["q_offset"] = options.get("q_offset", 0) + 1


def _window_right_exclusive(
    operation: str, arrays: list[Any], options: dict[str, Any]
) -> None:
    left, right = options.get("window_size") or (None, None)
    if right is not None and right > 0:
        options["window_size"] = (left, right - 1)


def _tiled_heads(operation: str, arrays: list[Any], options: dict[str, Any]) -> None:
    query, key = np.asarray(arrays[0]), np.asarray(arrays[1])
    if query.ndim > 2 < key.ndim and query.shape[-3] > key.shape[-3] > 1:
        times = query.shape[-3] // key.shape[-3]
        for i in range(1, len(arrays)):
            array = np.asarray(arrays[i])
            if array.ndim > 2 and array.shape[-3] > 1:
                reps = [1] * array.ndim
                reps[-3] = times
                arrays[i] = np.tile(array, reps)


def _ignores_bias(operation: str, arrays: list[Any], options: dict[str, Any]) -> None:
    options.pop("bias", None)


def _default_scale_one(
    operation: str, arrays: list[Any], options: dict[str, Any]
) -> None:
    options.setdefault("scale", 1.0)


def _uncapped(operation: str, arrays: list[Any], options: dict[str, Any]) -> None:
    options.pop("softcap", None)


def _lengths_one_more(
    operation: str, arrays: list[Any], options: dict[str, Any]
) -> None:
    lengths = options.get("kv_lengths")
    if lengths is not None:
        m = np.asarray(arrays[1]).shape[-2]
        options["kv_lengths"] = np.minimum(np.asarray(lengths) + 1, m)
        if np.ndim(lengths) == 0:
            options["kv_lengths"] = int(options["kv_lengths"])


BEFORE = (
    _fewer_bits,
    _causal_off_by_one,
    _window_right_exclusive,
    _tiled_heads,
    _ignores_bias,
    _default_scale_one,
    _uncapped,
    _lengths_one_more,
)


def _with_out(result: Result, change: Callable[[np.ndarray], np.ndarray]) -> Result:
    if isinstance(result, tuple):
        return (change(result[0]), result[1])
    return change(result)


def _masked_value_leaks(
    result: Result, operation: str, arrays: list[Any], options: dict[str, Any]
) -> Result:
    if operation != "attention" or np.isfinite(np.asarray(arrays[2], float)).all():
        return result
    return _with_out(result, lambda out: out * np.float16(np.nan))


def _zero_for_empty_lse(
    result: Result, operation: str, arrays: list[Any], options: dict[str, Any]
) -> Result:
    if isinstance(result, tuple):
        return (result[0], np.where(np.isneginf(result[1]), 0, result[1]))
    return result


def _lse_of_base_two(
    result: Result, operation: str, arrays: list[Any], options: dict[str, Any]
) -> Result:
    if isinstance(result, tuple):
        with np.errstate(over="ignore"):
            return (result[0], (result[1] / np.log(2)).astype(result[1].dtype))
    return result


def _uniform_for_empty(
    result: Result, operation: str, arrays: list[Any], options: dict[str, Any]
) -> Result:
    if operation != "weights" or not result.size:
        return result
    empty = (result == 0).all(axis=-1, keepdims=True)
    return np.where(empty, result.dtype.type(1 / result.shape[-1]), result)


def _lowest_for_masked(
    result: Result, operation: str, arrays: list[Any], options: dict[str, Any]
) -> Result:
    if operation != "scores":
        return result
    lowest = np.float32(-3e38).astype(result.dtype)
    return np.where(np.isneginf(result), lowest, result)


def _a_copy_of_out(
    result: Result, operation: str, arrays: list[Any], options: dict[str, Any]
) -> Result:
    return _with_out(result, np.copy) if "out" in options else result


def _bits_by_thread(
    result: Result, operation: str, arrays: list[Any], options: dict[str, Any]
) -> Result:
    if options.get("num_threads") == 2:
        return _with_out(result, lambda out: out * out.dtype.type(1 + 2**-22))
    return result


AFTER = (
    _masked_value_leaks,
    _zero_for_empty_lse,
    _lse_of_base_two,
    _uniform_for_empty,
    _lowest_for_masked,
    _a_copy_of_out,
    _bits_by_thread,
)


@pytest.mark.parametrize("defect", [*BEFORE, *AFTER], ids=lambda f: f.__name__[1:])
def test_a_wrong_backend_is_caught(
    monkeypatch: pytest.MonkeyPatch, defect: Callable[..., Any]
) -> None:
    """Put one defect around the right answers: some check has to see it."""
    for operation in ("scores", "weights", "attention"):
        right = getattr(numbattn, operation)

        def wrong(
            *arrays: Any, _right: Any = right, _name: str = operation, **options: Any
        ) -> Any:
            given = list(arrays)
            if defect in BEFORE:
                defect(_name, given, options)
                return _right(*given, **options)
            return defect(_right(*given, **options), _name, given, options)

        monkeypatch.setattr(numbattn, operation, wrong)
    small = [c for c in CHECKS if c.level == "small"]
    caught = next((c.name for c in small if fails(c)), None)
    assert caught is not None


def fails(check: Check) -> bool:
    try:
        check.run("reference")
    except AssertionError:
        return True
    return False


def test_report_of_a_wrong_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*arrays: Any, **options: Any) -> Any:
        out, lse = right(*arrays, **(options | {"return_lse": True}))
        return (out, lse + 1) if options.get("return_lse") else out

    right = numbattn.attention
    monkeypatch.setattr(numbattn, "attention", wrong)
    report = check_backend("reference")
    assert report.available
    assert not report.ok
    assert 0 < report.failed < len(report.checks)
    bad = next(c for c in report.checks if not c.ok)
    assert "FAILED" in str(report)
    assert bad.name in str(report)
    assert bad.message in str(report)


def test_an_error_in_a_check_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arrays: Any, **options: Any) -> Any:
        raise ZeroDivisionError("in the kernel")

    monkeypatch.setattr(numbattn, "weights", broken)
    report = check_backend("reference")
    assert any("ZeroDivisionError: in the kernel" in c.message for c in report.checks)
