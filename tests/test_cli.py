"""The command line: files in, files out, exit codes, and one line for each error."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import numbattn
from numbattn.cli import main
from numbattn.cli.npy import FileError, write

Run = Callable[..., Result]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with Q, K and V, which is also the current one."""
    rng = np.random.default_rng(0)
    for name, shape in (("Q", (2, 5, 8)), ("K", (2, 7, 8)), ("V", (2, 7, 3))):
        np.save(tmp_path / f"{name}.npy", rng.standard_normal(shape, dtype=np.float32))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run() -> Run:
    def call(*arguments: str) -> Result:
        return CliRunner().invoke(main, list(arguments))

    return call


def arrays(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    q, k, v = (np.load(folder / f"{name}.npy") for name in "QKV")
    return q, k, v


def left_over(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.stem not in "QKV")


REFERENCE = ("--backend", "reference")


@pytest.mark.parametrize(
    ("given", "options"),
    [
        ((), {}),
        (("--scale", "0.5"), {"scale": 0.5}),
        (("--softcap", "2"), {"softcap": 2.0}),
        (("--causal",), {"is_causal": True}),
        (("--window", "1", "-1"), {"window_size": (1, -1)}),
        (("--causal", "--q-offset", "2"), {"is_causal": True, "q_offset": 2}),
    ],
)
@pytest.mark.parametrize("operation", ["scores", "weights", "attention"])
def test_the_file_holds_what_the_function_returns(
    folder: Path,
    run: Run,
    operation: str,
    given: tuple[str, ...],
    options: dict[str, Any],
) -> None:
    q, k, v = arrays(folder)
    if operation == "attention":
        command = ["attention", "Q.npy", "K.npy", "V.npy"]
        expected = numbattn.attention(q, k, v, backend="reference", **options)
    else:
        command = ["scores", "Q.npy", "K.npy"]
        command += ["--weights"] if operation == "weights" else []
        operate = getattr(numbattn, operation)
        expected = operate(q, k, backend="reference", **options)
    result = run(*command, "-o", "O.npy", *given, *REFERENCE)
    assert result.exit_code == 0, result.output
    found = np.load("O.npy")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)
    assert left_over(folder) == ["O.npy"]


def test_json_says_what_was_done(folder: Path, run: Run) -> None:
    result = run("scores", "Q.npy", "K.npy", "-o", "S.npy", "--json", *REFERENCE)
    report = json.loads(result.stdout)
    assert report["operation"] == "scores"
    assert report["shape"] == [2, 5, 7]
    assert report["dtype"] == "float32"
    assert report["backend"] == "reference"


def test_the_text_says_what_was_done(folder: Path, run: Run) -> None:
    result = run("scores", "Q.npy", "K.npy", "-o", "S.npy", *REFERENCE)
    assert result.stdout.startswith(
        "S.npy: scores (2, 5, 7) float32, backend reference"
    )


@pytest.mark.parametrize("dtype", [">f4", "f2", "i4"])
def test_other_dtypes_are_converted(folder: Path, run: Run, dtype: str) -> None:
    q, k, _ = arrays(folder)
    q, k = (10 * q).astype(dtype), (10 * k).astype(dtype)
    np.save("Q.npy", q)
    np.save("K.npy", k)
    assert run("scores", "Q.npy", "K.npy", "-o", "S.npy", *REFERENCE).exit_code == 0
    expected = numbattn.scores(q, k, backend="reference")
    found = np.load("S.npy")
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def test_an_empty_result_is_a_file_too(folder: Path, run: Run) -> None:
    np.save("Q.npy", np.zeros((0, 8), np.float32))
    np.save("K.npy", np.zeros((7, 8), np.float32))
    result = run("scores", "Q.npy", "K.npy", "-o", "S.npy", *REFERENCE)
    assert result.exit_code == 0, result.output
    assert np.load("S.npy").shape == (0, 7)


def test_the_output_may_replace_an_input(folder: Path, run: Run) -> None:
    q, k, _ = arrays(folder)
    assert run("scores", "Q.npy", "K.npy", "-o", "Q.npy", *REFERENCE).exit_code == 0
    np.testing.assert_array_equal(
        np.load("Q.npy"), numbattn.scores(q, k, backend="reference")
    )


def test_a_link_stays_a_link(folder: Path, run: Run) -> None:
    (folder / "there").mkdir()
    (folder / "S.npy").symlink_to("there/S.npy")
    assert run("scores", "Q.npy", "K.npy", "-o", "S.npy", *REFERENCE).exit_code == 0
    assert (folder / "S.npy").is_symlink()
    assert np.load("there/S.npy").shape == (2, 5, 7)


def test_a_new_file_has_the_usual_permissions(folder: Path, run: Run) -> None:
    before = os.umask(0o027)
    try:
        run("scores", "Q.npy", "K.npy", "-o", "S.npy", *REFERENCE)
    finally:
        os.umask(before)
    assert (folder / "S.npy").stat().st_mode & 0o777 == 0o640


def _object_file(path: Path) -> None:
    np.save(path, np.array([{}, None], dtype=object), allow_pickle=True)


def _cut_file(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (Path.unlink, "No such file"),
    "text": (lambda path: path.write_text("1,2,3\n"), "is not a .npy file"),
    "empty": (lambda path: path.write_bytes(b""), "is not a .npy file"),
    "magic only": (lambda path: path.write_bytes(b"\x93NUMPY"), "K.npy is"),
    "archive": (lambda path: np.savez(path.open("wb"), a=[1.0]), ".npz archive"),
    "objects": (_object_file, "Python objects"),
    "cut": (_cut_file, "cut short"),
    "strings": (lambda path: np.save(path, np.array(["a"])), "key"),
    "complex": (lambda path: np.save(path, np.ones((2, 7, 8), complex)), "complex128"),
    "wrong shape": (lambda path: np.save(path, np.ones((2, 7, 9))), "key"),
}


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("kind", BROKEN)
def test_a_bad_input_is_one_line(folder: Path, run: Run, kind: str) -> None:
    spoil, words = BROKEN[kind]
    spoil(folder / "K.npy")
    result = run("scores", "Q.npy", "K.npy", "-o", "S.npy", *REFERENCE)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert words in result.stderr
    assert left_over(folder) == []


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("--backend", "cpuu"), "cpu"),
        (("--backend", "cuda"), "cuda"),
        (("--scale", "nan"), "scale"),
        (("--max-memory", "2 potatoes"), "max_memory"),
        (("--num-threads", "-1"), "num_threads"),
        (("-o", "nowhere/S.npy"), "nowhere"),
        (("-o", "."), "folder"),
    ],
)
def test_a_bad_option_is_one_line(
    folder: Path, run: Run, given: tuple[str, ...], words: str
) -> None:
    result = run("scores", "Q.npy", "K.npy", "-o", "S.npy", *given)
    assert result.exit_code == 1, result.output
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert words in result.stderr
    assert left_over(folder) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("scores", "Q.npy", "K.npy"),
        ("scores", "Q.npy", "-o", "S.npy"),
        ("scores", "Q.npy", "K.npy", "-o", "S.npy", "--scale", "wide"),
        ("score",),
        ("bench", "--pairs", "2"),
    ],
)
def test_a_wrong_command_line_is_2(
    folder: Path, run: Run, arguments: tuple[str, ...]
) -> None:
    assert run(*arguments).exit_code == 2


def test_a_failing_write_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "S.npy"
    target.write_bytes(b"before")

    def fill(array: np.ndarray) -> None:
        array[:] = 1.0
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        write(target, (10,), np.float32, fill)
    assert target.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.skipif(
    not hasattr(os, "posix_fallocate"), reason="no way to reserve disk space"
)
def test_a_full_disk_is_an_error_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    started = []
    with pytest.raises(FileError, match="No space left"):
        write(tmp_path / "S.npy", (10,), np.float32, started.append)
    assert started == []
    assert list(tmp_path.iterdir()) == []


_SLOW_WRITE = """
import sys, time
from pathlib import Path
from numbattn.cli.npy import write

def fill(array):
    print("started", flush=True)
    time.sleep(60)

write(Path("S.npy"), (1000,), "f4", fill)
"""


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_removes_the_temporary_file(
    tmp_path: Path, number: signal.Signals
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _SLOW_WRITE],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        assert len(list(tmp_path.iterdir())) == 1
        start = time.monotonic()
        process.send_signal(number)
        assert process.wait(30) != 0
        assert time.monotonic() - start < 10
    assert list(tmp_path.iterdir()) == []


def test_check_passes_on_the_reference(run: Run) -> None:
    result = run("check", "--backend", "reference", "--json")
    assert result.exit_code == 0, result.output
    (found,) = json.loads(result.stdout)
    assert found["ok"]
    assert found["passed"] == found["checks"] > 0
    assert found["gflops"] > 0


def test_check_says_why_a_backend_cannot_run(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NUMBA_DISABLE_CUDA", "1")
    monkeypatch.setenv("NUMBA_ENABLE_CUDASIM", "0")
    result = run("check", "--backend", "cuda")
    assert result.exit_code == 1  # it was asked for
    assert " no " in result.stdout
    assert "\ncuda cannot run: " in result.stdout
    assert "NUMBA_DISABLE_CUDA=1" in result.stdout


def test_check_fails_where_a_backend_is_wrong(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from numbattn.backends.reference import backend

    def wrong(self: object, problem: Any, out: np.ndarray, *rest: object) -> None:
        out[...] = 7.0

    monkeypatch.setattr(type(backend), "run", wrong)
    result = run("check", "--backend", "reference")
    assert result.exit_code == 1
    assert "FAILED reference" in result.stderr


def test_info_tells_versions_backends_and_settings(run: Run) -> None:
    found = json.loads(run("info", "--json").stdout)
    assert found["versions"]["numbattn"] == numbattn.__version__
    assert found["versions"]["numpy"] == np.__version__
    assert found["backends"]["reference"] is None
    assert found["backends"]["cuda"]
    assert found["settings"]["backend"]["value"] == "auto"
    text = run("info")
    assert text.exit_code == 0
    assert np.__version__ in text.stdout


def test_info_tells_threads_and_where_kernels_are(tmp_path: Path) -> None:
    folder = tmp_path / f"kernels-{'0' * 32}"
    folder.mkdir()
    (folder / "a.kernel").write_bytes(bytes(2**20))
    (tmp_path / "photo.jpg").write_bytes(bytes(2**21))
    shown = subprocess.run(
        [sys.executable, "-m", "numbattn", "info"],
        env={**os.environ, "NUMBATTN_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    assert f"{tmp_path} (environment (NUMBATTN_CACHE_DIR))" in lines
    found = f"kernel cache {tmp_path}: 1 files, 1.0 MiB, 0 of them of these sources"
    assert found in lines
    for start in ("threads ", "threading layer ", "vectors ", "processor "):
        assert any(line.startswith(start) for line in lines), start


def test_info_shows_where_a_setting_comes_from(tmp_path: Path) -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "numbattn", "info", "--json"],
        env={**os.environ, "NUMBATTN_BACKEND": "reference"},
        capture_output=True,
        text=True,
        check=True,
    )
    setting = json.loads(shown.stdout)["settings"]["backend"]
    assert setting["value"] == "reference"
    assert "NUMBATTN_BACKEND" in setting["origin"]


@pytest.fixture
def only_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    from numbattn import _peers

    peers = {"numpy": None, "torch": "not here"}
    monkeypatch.setattr(_peers, "installed_peers", lambda: peers)


BENCH = ("bench", "--pairs", "5", "--backend", "reference", "--num-threads", "1")


@pytest.mark.usefixtures("only_numpy")
def test_bench_compares_with_numpy(run: Run) -> None:
    given = (*BENCH, "--n", "32", "--operation", "scores", "--operation", "attention")
    found = json.loads(run(*given, "--json").stdout)
    assert found["left_out"] == {"torch": "not here"}
    assert found["versions"]["numpy"] == np.__version__
    assert found["versions"]["numbattn"] == numbattn.__version__
    assert found["machine"]["cores"] == os.cpu_count()
    assert found["date"].endswith("+00:00")
    assert [row["case"].split()[0] for row in found["results"]] == [
        "scores",
        "attention",
    ]
    for row in found["results"]:
        assert row["backend"] == "reference"
        assert row["shape"]["n"] == row["shape"]["m"] == 32
        assert row["times_faster"]["numpy"] > 0
        assert row["errors"] == {}
    text = run(*given)
    assert text.exit_code == 0
    assert "torch: left out, not here" in text.stdout
    assert text.stderr == ""  # no bar where nobody would see it


@pytest.mark.usefixtures("only_numpy")
def test_bench_draws_bars(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need matplotlib")
    from PIL import Image

    given = (*BENCH, "--n", "16,8", "--operation", "scores")
    for name in ("speed.png", "speed.svg"):
        assert run(*given, "--plot", str(tmp_path / name)).exit_code == 0
    with Image.open(tmp_path / "speed.png") as image:
        assert len(image.convert("RGB").getcolors(10**6) or ()) > 10
    for words in ("scores 16×16", "scores 8×8", "numpy", "numbattn"):
        assert words in (tmp_path / "speed.svg").read_text()
    wrong = run(*given, "--plot", str(tmp_path / "speed.docx"))
    assert wrong.exit_code == 1
    assert "speed.docx" in wrong.stderr


def test_bench_without_anybody_to_compare_with(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from numbattn import _peers

    monkeypatch.setattr(_peers, "installed_peers", lambda: {"jax": "not here"})
    given = (*BENCH, "--n", "8", "--operation", "scores", "--peer", "jax")
    (row,) = json.loads(run(*given, "--json").stdout)["results"]
    assert row["numbattn_ms"] > 0
    assert row["times_faster"] == {}
    broken = run(*given[:4], "nowhere", *given[5:])
    assert broken.exit_code == 1
    assert "nowhere" in broken.stderr


def test_bench_s_grid() -> None:
    from numbattn.cli.bench import grid

    cases = grid(
        ("weights",), False, n=(2, 3), m=None, d=(4,), heads=(1, 5),
        dtype=("float64",), causal=True,
    )  # fmt: skip
    assert [str(case) for case in cases] == [
        "weights 2×2 d 4 float64 causal",
        "weights 3×3 d 4 float64 causal",
        "weights 5×2×2 d 4 float64 causal",
        "weights 5×3×3 d 4 float64 causal",
    ]
    assert [(c.n, c.m) for c in grid(("scores",), False, n=(2,), m=(7, 8))] == [
        (2, 7),
        (2, 8),
    ]
    usual = grid(("scores", "attention"), False, n=None, causal=False)
    assert len(usual) > len(grid(("scores", "attention"), True)) == 2


_ON_A_TERMINAL = """
import os, pty, sys
from numbattn.cli import main
pid, terminal = pty.fork()
if pid == 0:
    main(sys.argv[1:])
shown = b""
try:
    while part := os.read(terminal, 4096):
        shown += part
except OSError:  # its end, on Linux
    pass
os.waitpid(pid, 0)
sys.stdout.write(shown.decode())
"""


@pytest.mark.skipif(os.name != "posix", reason="pseudo-terminals")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("scores", "Q.npy", "K.npy", "-o", "S.npy", *REFERENCE), "scores"),
        (("scores", "Q.npy", "K.npy", "-o", "S.npy", "--weights", *REFERENCE), "weig"),
        (("attention", "Q.npy", "K.npy", "V.npy", "-o", "O.npy", *REFERENCE), "atten"),
        ((*BENCH, "--n", "8", "--operation", "scores", "--peer", "numpy"), "timing"),
    ],
    ids=lambda given: given[0] if isinstance(given, tuple) else "",
)
def test_a_terminal_shows_a_bar(
    folder: Path, arguments: tuple[str, ...], words: str
) -> None:
    def shown(*more: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", _ON_A_TERMINAL, *arguments, *more],
            env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
            capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        return done.stdout

    bar = "━"
    assert re.search(f"{words}[^\n]*{bar}", shown())
    if arguments[0] != "bench":
        assert bar not in shown("--no-progress")


def test_check_reports_its_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    from numbattn.testing import check_backend, registry, report

    monkeypatch.setattr(report, "CHECKS", registry.CHECKS[:3])
    seen: list[tuple[int, int]] = []
    check_backend("reference", progress=lambda *now: seen.append(now))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_warmup_names_what_it_compiled(run: Run) -> None:
    result = run("warmup", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["reference"] == []


def test_warmup_takes_dtypes_and_a_backend() -> None:
    half = numbattn.warmup([np.float16, "float32"], backend="cpu")
    assert half == [
        name for name in numbattn.warmup(backend="cpu") if "float32" in name
    ]
    assert numbattn.warmup(["int8"], backend="reference") == []
    for wrong in (["complex64"], ["longdouble"], ["nonsense"], "float32"):
        with pytest.raises(numbattn.DTypeError, match=r"^dtypes "):
            numbattn.warmup(wrong)
    with pytest.raises(numbattn.OptionError, match="nah"):
        numbattn.warmup(backend="nah")
