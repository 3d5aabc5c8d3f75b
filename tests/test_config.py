"""Settings: their precedence, the environment, bad values, what show_config says."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import numbattn
from numbattn import MemoryLimitError, OptionError, config

X = np.ones((3, 4), np.float32)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Start without settings, and leave without."""
    for name in ("BACKEND", "NUM_THREADS", "MAX_MEMORY", "CACHE_DIR", "SIMD"):
        monkeypatch.delenv(f"NUMBATTN_{name}", raising=False)
    config.forget_environment()
    yield monkeypatch
    monkeypatch.undo()
    config.update(dict.fromkeys(config.Settings._fields))
    config.forget_environment()


def set_env(environment: pytest.MonkeyPatch, **values: str) -> None:
    for name, value in values.items():
        environment.setenv(f"NUMBATTN_{name}", value)
    config.forget_environment()


def test_defaults() -> None:
    assert numbattn.get_config() == {
        "backend": "auto",
        "num_threads": None,
        "max_memory": None,
        "precision": "float32",
    }


def test_precedence(environment: pytest.MonkeyPatch) -> None:
    def now() -> tuple[Any, str]:
        return numbattn.get_config()["num_threads"], config.origin("num_threads")

    assert now() == (None, "default")
    set_env(environment, NUM_THREADS="2")
    assert now() == (2, "environment (NUMBATTN_NUM_THREADS)")
    numbattn.set_config(num_threads=3)
    assert now() == (3, "set")
    with numbattn.config_context(num_threads=4):
        assert now() == (4, "context")
        with numbattn.config_context(max_memory=10**9):
            assert now() == (4, "context")
            with numbattn.config_context(num_threads=None):
                assert now() == (3, "set")
                assert numbattn.get_config()["max_memory"] == 10**9
        assert numbattn.get_config()["max_memory"] is None
    assert now() == (3, "set")
    numbattn.set_config(num_threads=None)
    assert now() == (2, "environment (NUMBATTN_NUM_THREADS)")


def test_settings_reach_the_call_and_the_call_goes_first() -> None:
    big = np.ones((300, 4), np.float32)
    with numbattn.config_context(backend="reference", max_memory="1 kB"):
        with pytest.raises(MemoryLimitError, match="max_memory allows 1000"):
            numbattn.scores(big, big)
        assert numbattn.scores(big, big, max_memory="1 GB").shape == (300, 300)
    assert numbattn.scores(big, big, backend="reference").shape == (300, 300)


def test_threads_reach_the_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    from numbattn.backends import reference

    seen: list[int | None] = []
    run = reference.ReferenceBackend.run

    def spy(self: Any, problem: Any, out: Any, lse: Any, execution: Any) -> None:
        seen.append(execution.num_threads)
        run(self, problem, out, lse, execution)

    monkeypatch.setattr(reference.ReferenceBackend, "run", spy)
    with numbattn.use_backend("reference"):
        numbattn.scores(X, X)
        with numbattn.config_context(num_threads=5):
            numbattn.scores(X, X)
            numbattn.scores(X, X, num_threads=6)
    assert seen == [None, 5, 6]


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("NUM_THREADS", "two", "'two'; it has to be an int of 1 or more"),
        ("NUM_THREADS", "0", "0; it has to be an int"),
        ("NUM_THREADS", "-1", "'-1'; it has to be an int"),
        ("MAX_MEMORY", "2 potatoes", "'2 potatoes', not a size"),
        ("PRECISION", "half", "'half'; it has to be 'float32', or 'tf32'"),
        ("BACKEND", "reverence", "'reverence'.*did you mean 'reference'"),
    ],
)
def test_bad_environment(
    environment: pytest.MonkeyPatch, name: str, value: str, words: str
) -> None:
    set_env(environment, **{name: value})
    for _ in range(2):
        with pytest.raises(OptionError, match=f"^NUMBATTN_{name} is {words}"):
            numbattn.scores(X, X)


def test_environment_is_read_once_and_empty_is_unset(
    environment: pytest.MonkeyPatch,
) -> None:
    set_env(environment, NUM_THREADS=" 2 ", MAX_MEMORY="", BACKEND=" ")
    expected: dict[str, Any] = {"backend": "auto", "num_threads": 2}
    expected |= {"max_memory": None, "precision": "float32"}
    assert numbattn.get_config() == expected
    environment.setenv("NUMBATTN_NUM_THREADS", "3")
    assert numbattn.get_config() == expected


@pytest.mark.parametrize("how", [numbattn.set_config, numbattn.config_context])
@pytest.mark.parametrize(
    ("values", "error", "words"),
    [
        ({"num_threads": 0}, OptionError, "num_threads is 0"),
        ({"num_threads": 2, "max_memory": "x"}, OptionError, "max_memory is 'x'"),
        ({"num_threads": 2, "precision": "bf16"}, OptionError, "precision is 'bf16'"),
        ({"num_threads": 2, "backend": "nah"}, OptionError, "backend is 'nah'"),
        ({"backend": 3}, OptionError, "backend is 3"),
        ({"num_threads": 2, "backend": "cuda"}, RuntimeError, "'cuda' cannot run"),
        ({"threads": 2}, TypeError, "threads"),
    ],
)
def test_bad_settings_set_nothing(
    how: Any, values: Any, error: type[Exception], words: str
) -> None:
    before = numbattn.get_config()
    with pytest.raises(error, match=words):
        how(**values).__enter__()
    assert numbattn.get_config() == before


def test_unknown_setting_by_name() -> None:
    with pytest.raises(OptionError, match=r"'num_thread'; did you mean 'num_threads'"):
        config.parse("num_thread", 1)


def test_cache_dir(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    default = config.cache_dir()
    assert default is not None
    assert default.name == "numbattn"
    set_env(environment, CACHE_DIR=str(tmp_path / "new"))
    assert config.cache_dir() == tmp_path / "new"
    set_env(environment, CACHE_DIR="relative")
    assert config.cache_dir() == Path.cwd() / "relative"
    set_env(environment, CACHE_DIR="")
    assert config.cache_dir() is None
    (tmp_path / "file").touch()
    set_env(environment, CACHE_DIR=str(tmp_path / "file"))
    with pytest.raises(OptionError, match=r"^NUMBATTN_CACHE_DIR is .*not a directory"):
        config.cache_dir()


def test_cache_dir_that_leads_nowhere_is_an_option_error(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    set_env(environment, CACHE_DIR="~no-such-user/kernels")
    with pytest.raises(OptionError, match=r"^NUMBATTN_CACHE_DIR is '~no-such-user/"):
        config.cache_dir()
    gone = tmp_path / "gone"
    gone.mkdir()
    environment.chdir(gone)
    gone.rmdir()
    set_env(environment, CACHE_DIR="relative")
    with pytest.raises(OptionError, match=r"^NUMBATTN_CACHE_DIR is 'relative'"):
        config.cache_dir()


def test_simd(environment: pytest.MonkeyPatch) -> None:
    assert config.simd() is None
    set_env(environment, SIMD="AVX2")
    assert config.simd() == "avx2"
    set_env(environment, SIMD="avx215")
    with pytest.raises(OptionError, match="SIMD is 'avx215'; did you mean 'avx"):
        config.simd()


def test_show_config(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    set_env(environment, NUM_THREADS="2", CACHE_DIR=str(tmp_path), SIMD="plain")
    environment.setenv("NUMBATTN_PRECISION", "tf32")
    numbattn.set_config(max_memory="1 GB")
    text = io.StringIO()
    with numbattn.use_backend("reference"):
        numbattn.show_config(text)
    lines = [" ".join(line.split()) for line in text.getvalue().splitlines()]
    for line in (
        "backend reference (context)",
        "num_threads 2 (environment (NUMBATTN_NUM_THREADS))",
        "max_memory 1000000000 (set)",
        "precision tf32 (environment (NUMBATTN_PRECISION))",
        f"cache directory {tmp_path}",
        "vectors plain",
        f"numpy {np.__version__}",
        f"numbattn {numbattn.__version__}",
    ):
        assert line in lines
    starts = [" ".join(line.split()[:2]) for line in lines]
    assert "cuda no:" in starts
    assert "reference NumPy" in starts


def test_show_config_survives_a_bad_environment(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    set_env(environment, NUM_THREADS="x", SIMD="y", BACKEND="z")
    numbattn.show_config()
    printed = capsys.readouterr().out
    assert "error  NUMBATTN_NUM_THREADS is 'x'" in printed
    assert "error: NUMBATTN_SIMD is 'y'" in printed


def test_bad_environment_does_not_stop_the_import() -> None:
    code = (
        "import numpy as np, numbattn\n"
        "try:\n"
        "    numbattn.scores(np.ones((2, 2)), np.ones((2, 2)))\n"
        "except numbattn.OptionError as error:\n"
        "    print(error)\n"
    )
    env = {**os.environ, "NUMBATTN_MAX_MEMORY": "lots"}
    found = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=env, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert found.stdout.startswith("NUMBATTN_MAX_MEMORY is 'lots'")
