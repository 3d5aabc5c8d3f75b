"""Bad input: one typed error that helps, soon, on every backend; `out` untouched.

All messages stand in ``messages.txt``. After a change read the new ones as a user
would (argument, what it got, what is allowed, what to do), and write the file again:
``NUMBATTN_WRITE_MESSAGES=1 pytest -n 0 tests/reliability/bad_input``.
"""

from __future__ import annotations

import os
import pathlib
import pickle
import re
import time
from typing import Any

import numpy as np
import pytest

import numbattn
from numbattn import NumbattnError

from .cases import CALLS, OTHERS, OUT, K, Q, V, attention

GOLDEN = pathlib.Path(__file__).with_name("messages.txt")
WRITE = "NUMBATTN_WRITE_MESSAGES" in os.environ
SECONDS = 0.020
"""Four times the 5 ms that are promised."""


def golden() -> dict[str, str]:
    """Return the messages by name."""
    entries = re.findall(r"^\[(.*)\]\n(.*)\n", GOLDEN.read_text(), re.MULTILINE)
    return dict(entries)


def general(text: str, backend: str, folder: pathlib.Path) -> str:
    """Return a message without what differs between backends and machines."""
    text = text.replace(str(folder), "FOLDER")
    text = re.sub(r"'[^']*cases\.py'", "'FILE'", text)
    text = text.replace(f"{backend!r}", "'BACKEND'") if "max_memory" in text else text
    for word in ("takes", "has no"):
        text = text.replace(f"backend {backend!r} {word}", f"backend 'BACKEND' {word}")
    # why a backend cannot run here is of this machine
    text = re.sub(r"cannot run: .*?\. Choose", "cannot run: WHY. Choose", text)
    text = re.sub(r"takes \d+ \([^)]*\)", "takes SIZE", text)
    if "needs" in text and "max_memory allows" in text:
        text = re.sub(r"\d[\d.]* bytes \([^)]*\)", "SIZE", text)
        text = re.sub(r"\d+ \([^)]*\) are free", "FREE are free", text)
        text = re.sub(r"fits: max_memory=\d+", "fits: max_memory=SIZE", text)
    return text


def complaint(run: Any) -> tuple[NumbattnError, float]:
    """Return what a call raises, and the least time that it took."""
    seconds, caught = float("inf"), None
    for _ in range(5):
        start = time.perf_counter()
        try:
            run()
        except NumbattnError as error:
            seconds = min(seconds, time.perf_counter() - start)
            caught = error
        if seconds < SECONDS / 4:
            break
    assert caught is not None, "nothing was raised"
    return caught, seconds


def compare(name: str, error: NumbattnError, text: str) -> None:
    assert "\n" not in text
    assert len(text) < 500
    assert "numba." not in text.replace("numbattn.", "")
    found = f"{type(error).__name__}: {text}"
    if not WRITE:
        assert found == golden().get(name), "see how this file says to write messages"
        return
    kept = (golden() if GOLDEN.exists() else {}) | {name: found}
    names = [each for each in (*CALLS, *OTHERS) if each in kept]
    GOLDEN.write_text("\n".join(f"[{each}]\n{kept[each]}\n" for each in names))


@pytest.mark.parametrize("name", CALLS)
def test_a_bad_call(name: str, backend: str, tmp_path: pathlib.Path) -> None:
    changes = CALLS[name]
    out = np.full(OUT, 7, np.float32)
    given = changes.get("out", out)
    before = given.tobytes() if isinstance(given, np.ndarray) else None
    error, seconds = complaint(lambda: attention(backend, {"out": out, **changes}))
    assert type(error) is not NumbattnError
    assert seconds < SECONDS
    assert (out == 7).all()
    if before is not None:
        assert given.tobytes() == before
    (argument,) = list(changes)[:1]
    assert argument in str(error) or argument == "backend"
    compare(name, error, general(str(error), backend, tmp_path))
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)


ALSO_OF_SCORES = [
    name
    for name, changes in CALLS.items()
    if not {"value", "out", "return_lse", "stream"} & set(changes)
    and name != "key and value heads"
] + ["heads", "heads of three axes", "no heads", "on a device"]


@pytest.mark.parametrize("operation", ["scores", "weights", "iter_scores"])
@pytest.mark.parametrize("name", ALSO_OF_SCORES)
def test_the_other_functions_raise_the_same_type(name: str, operation: str) -> None:
    if "sinks" in CALLS[name] and operation != "weights":
        with pytest.raises(TypeError, match="sinks"):  # they do not have it
            getattr(numbattn, operation)(Q, K, **CALLS[name])
        return
    changes = {"query": Q, "key": K, "backend": "reference", **CALLS[name]}
    changes.pop("value", None)
    query, key = changes.pop("query"), changes.pop("key")
    want, _ = complaint(lambda: attention("reference", CALLS[name]))
    got, _ = complaint(lambda: getattr(numbattn, operation)(query, key, **changes))
    assert type(got) is type(want)


@pytest.mark.parametrize("name", OTHERS)
def test_a_bad_setting_or_file(
    name: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = numbattn.get_config()
    error, _ = complaint(lambda: OTHERS[name]("reference", tmp_path, monkeypatch))
    assert numbattn.get_config() == before
    compare(name, error, general(str(error), "reference", tmp_path))
    assert not [path for path in tmp_path.iterdir() if path.name != "K.npy"]


def test_the_good_call_is_good(backend: str) -> None:
    out = np.full(OUT, 7, np.float32)
    assert attention(backend, {"out": out}) is out
    np.testing.assert_allclose(out, 1, rtol=1e-6)
    assert V.shape[-1] == 3


def test_the_file_has_the_cases_and_no_others() -> None:
    assert list(golden()) == [*CALLS, *OTHERS]
    assert len(golden()) >= 150
