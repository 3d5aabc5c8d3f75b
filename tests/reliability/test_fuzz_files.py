"""Anything as a .npy file or on the command line: an answer, or one line and a code."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import numbattn
from numbattn import NumbattnError
from numbattn.cli import main
from numbattn.cli.npy import load


def examples(count: int, fixed: bool = True) -> Any:
    return settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=fixed,
        print_blob=not fixed,
        suppress_health_check=list(HealthCheck),
    )


def header(
    text: str, version: tuple[int, int] = (1, 0), length: int | None = None
) -> Any:
    """Return the head of a .npy file, with a length that may be wrong."""
    body = text.encode("utf8", "replace")
    size = len(body) if length is None else length
    packed = (
        struct.pack("<H", size & 0xFFFF) if version[0] == 1 else struct.pack("<I", size)
    )
    return b"\x93NUMPY" + bytes(version) + packed + body


shapes = st.one_of(
    st.lists(st.integers(-2, 9), max_size=4).map(tuple).map(repr),
    st.sampled_from([
        "(2, 3)", "(3,)", "()", "(0, 3)", "(2**40,)", "(10**30, 2)", "(True, 3)",
        "(1.0, 2)", "None", "'x'", "(((((1,),),),),)", "(" * 200 + ")" * 200,
        "(9223372036854775807, 9223372036854775807)", "(1,) * 99", "lambda: 1",
        "(2147483648, 2147483648, 0)", f"({', '.join(['1'] * 80)},)",
    ]),
)  # fmt: skip
dtypes = st.one_of(
    st.sampled_from([
        "'<f4'", "'>f8'", "'|O'", "'<U3'", "'V4'", "'f2'", "'|b1'", "'<c8'", "'M8[s]'",
        "[('a', '<f4'), ('b', 'O')]", "[('a', '<f4')]", "'float31'", "''", "None", "3",
        "('<f4', (2,))", "'<U99999999999'", "[]", "{}", "'a4'", "'<f16'", "'<i1'",
    ]),
    st.text(max_size=8).map(repr),
)  # fmt: skip
fields = st.builds(
    "{{'descr': {}, 'fortran_order': {}, 'shape': {}}}{}".format,
    dtypes,
    st.sampled_from(["False", "True", "0", "None"]),
    shapes,
    st.sampled_from(["\n", "", " " * 20 + "\n", "\0"]),
)
versions = st.sampled_from([(1, 0), (2, 0), (3, 0), (0, 0), (9, 1)])
lengths = st.none() | st.integers(0, 2**20)
data = st.binary(max_size=40) | st.just(b"\0" * 48)


def whole(array: np.ndarray) -> bytes:
    import io

    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


GOOD = whole(np.ones((2, 3), np.float32))


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Draw a good file with some bytes changed, cut somewhere."""
    content = bytearray(GOOD)
    for at in draw(st.lists(st.integers(0, len(content) - 1), max_size=4)):
        content[at] = draw(st.integers(0, 255))
    return bytes(content[: draw(st.integers(0, len(content)))])


files = st.one_of(
    st.binary(max_size=60),
    st.binary(max_size=60).map(lambda tail: b"\x93NUMPY" + tail),
    st.builds(
        lambda *parts: header(*parts[:3]) + parts[3], fields, versions, lengths, data
    ),
    st.builds(
        lambda text, tail: header(text) + tail, st.text(max_size=60), st.just(b"\0" * 8)
    ),
    damaged(),
)


def read(folder: Path, content: bytes) -> None:
    path = folder / "K.npy"
    path.write_bytes(content)
    try:
        array = load(path, "key")
        numbattn.scores(np.ones((2, 3), np.float32), array, backend="reference")
    except NumbattnError as error:
        message = str(error)
    else:
        return
    assert "key" in message
    assert "\n" not in message
    assert len(message) < 1000


@examples(600)
@given(content=files)
@example(content=GOOD)
def test_any_file(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    read(tmp_path_factory.getbasetemp(), content)


@pytest.mark.heavy
@pytest.mark.timeout(3600)
@examples(20_000, fixed=False)
@given(content=files)
def test_any_file_at_length(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    read(tmp_path_factory.getbasetemp(), content)


@pytest.mark.parametrize("cut", range(len(GOOD)))
def test_a_file_cut_anywhere(tmp_path: Path, cut: int) -> None:
    (tmp_path / "K.npy").write_bytes(GOOD[:cut])
    with pytest.raises(NumbattnError, match="key"):
        load(tmp_path / "K.npy", "key")


OPTIONS = (
    "-o", "--output", "--scale", "--softcap", "--causal", "--window", "--q-offset",
    "--backend", "--num-threads", "--max-memory", "--json", "--weights", "--help", "-h",
    "--no-such", "--", "-",
)  # fmt: skip
# What an operating system lets onto a command line; no way out of the folder.
words = st.text(
    st.characters(exclude_characters="\0/\\", exclude_categories=["Cs"]), max_size=12
).filter(lambda text: text not in ("..", "."))
values = st.one_of(
    words,
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(
        ["Q.npy", "K.npy", "V.npy", "bad.npy", "none.npy", "S.npy", "folder"]
    ),
    st.sampled_from(["reference", "cuda", "auto", "2 GB", "1e999", "9" * 5000, "-1"]),
)
commands = st.one_of(
    st.tuples(st.just("scores"), st.just("Q.npy"), st.just("K.npy")),
    st.tuples(st.just("attention"), *map(st.just, ("Q.npy", "K.npy", "V.npy"))),
    st.tuples(st.sampled_from(["scores", "attention", "info", "no-such"])),
    st.tuples(words),
    st.just(()),
)
tails = st.lists(st.sampled_from(OPTIONS) | values, max_size=8)
SLOW = {"demo", "bench", "check", "warmup"}


def invoke(folder: Path, arguments: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        result = CliRunner().invoke(main, arguments)
    assert result.exit_code in (0, 1, 2), result
    assert result.exception is None or isinstance(result.exception, SystemExit), result
    assert "Traceback" not in result.output
    if result.exit_code == 1:
        assert result.stderr.startswith("error: ")
        assert result.stderr.count("\n") == 1


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with good arrays and a bad one."""
    place = tmp_path_factory.mktemp("files")
    for name, shape in (("Q", (2, 5, 8)), ("K", (2, 7, 8)), ("V", (2, 7, 3))):
        np.save(place / f"{name}.npy", np.ones(shape, np.float32))
    (place / "bad.npy").write_bytes(GOOD[:70])
    (place / "folder").mkdir()
    return place


def command_line(folder: Path, command: tuple[str, ...], tail: list[str]) -> None:
    arguments = [*command, *tail]
    if SLOW & set(arguments[:1]):
        return
    if command and command[0] in ("scores", "attention"):
        arguments += ["--backend", "reference", "-o", "S.npy"]
    before = {
        path: path.read_bytes() for path in folder.glob("?.npy") if path.stem in "QKV"
    }
    invoke(folder, arguments)
    for path in folder.iterdir():
        assert not path.name.endswith(".part"), arguments
        if path in before:  # an output may replace an input: it was asked for
            path.write_bytes(before[path])
        elif path.name not in ("bad.npy", "folder"):
            path.unlink()
    (folder / "bad.npy").write_bytes(GOOD[:70])


@examples(300)
@given(command=commands, tail=tails)
def test_any_command_line(
    folder: Path, command: tuple[str, ...], tail: list[str]
) -> None:
    command_line(folder, command, tail)


@pytest.mark.heavy
@pytest.mark.timeout(3600)
@examples(20_000, fixed=False)
@given(command=commands, tail=tails)
def test_any_command_line_at_length(
    folder: Path, command: tuple[str, ...], tail: list[str]
) -> None:
    command_line(folder, command, tail)
