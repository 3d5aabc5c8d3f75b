"""Choosing a backend: process, context, environment, call; other people's backends."""

from __future__ import annotations

import asyncio
import contextvars
import importlib
import random
import sys
import textwrap
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import numbattn
from numbattn import (
    BackendUnavailableError,
    OptionError,
    config,
    masks,
    score_mods,
    selector,
)

X = np.arange(12, dtype=np.float32).reshape(3, 4)

TOY_SOURCE = '''
"""A backend of somebody else: the reference, and it counts."""
import numpy as np

class Toy:
    name = "toy"
    runs = 0

    def unavailable_reason(self):
        return None

    def run(self, problem, out, lse, execution):
        Toy.runs += 1
        out[...] = (problem.query @ np.swapaxes(problem.key, -1, -2)) * problem.scale

    def workspace_bytes(self, problem, execution):
        return 123

    def plan(self, problem, execution):
        return {"blocks": "toy bricks"}

    def describe(self):
        return "a toy"

backend = Toy()
broken = object()

def explodes():
    raise ValueError("spring is loose")
'''


def install(folder: Path, entries: dict[str, str], source: str = TOY_SOURCE) -> None:
    """Write the package ``numbattn_toy`` with entry points, as pip would."""
    (folder / "numbattn_toy.py").write_text(source)
    info = folder / "numbattn_toy-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        textwrap.dedent("""\
            Metadata-Version: 2.1
            Name: numbattn-toy
            Version: 1.0
            """)
    )
    lines = [f"{name} = {target}" for name, target in entries.items()]
    text = "\n".join(["[numbattn.backends]", *lines, ""])
    (info / "entry_points.txt").write_text(text)


@pytest.fixture(autouse=True)
def untouched() -> Iterator[None]:
    """Leave the process as it was."""
    yield
    config.update(dict.fromkeys(config.Settings._fields))
    config.forget_environment()
    assert numbattn.get_backend() == "auto"


@pytest.fixture
def toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on sys.path for packages with backends."""
    monkeypatch.syspath_prepend(tmp_path)
    before = dict(selector._loaded)
    yield tmp_path
    selector._loaded.clear()
    selector._loaded.update(before)
    sys.modules.pop("numbattn_toy", None)
    importlib.invalidate_caches()


def test_names() -> None:
    listed = numbattn.list_backends()
    assert list(listed)[:3] == ["reference", "cpu", "cuda"]
    assert listed["reference"] is None


def test_set_and_get() -> None:
    assert numbattn.get_backend() == "auto"
    numbattn.set_backend("reference")
    assert numbattn.get_backend() == "reference"
    assert selector.choose(None).name == "reference"
    numbattn.set_backend("auto")
    assert numbattn.get_backend() == "auto"


@pytest.mark.parametrize("how", [numbattn.set_backend, numbattn.use_backend])
def test_what_cannot_run_is_refused_at_once(how: Any) -> None:
    with pytest.raises(BackendUnavailableError, match=r"'cuda' cannot run: \w"):
        how("cuda").__enter__()
    with pytest.raises(
        OptionError, match=r"'cupu'.*did you mean 'cpu'.*auto, reference"
    ):
        how("cupu").__enter__()
    with pytest.raises(OptionError, match="backend is None"):
        how(None).__enter__()
    assert numbattn.get_backend() == "auto"


def test_nothing_falls_back() -> None:
    with pytest.raises(BackendUnavailableError, match="'cuda' cannot run"):
        numbattn.scores(X, X, backend="cuda")


def test_contexts_nest_and_end_with_an_error() -> None:
    numbattn.set_backend("reference")
    with pytest.raises(ZeroDivisionError):  # noqa: SIM117, PT012
        with numbattn.use_backend("auto"):
            assert numbattn.get_backend() == "auto"
            with numbattn.use_backend("reference"):
                assert numbattn.get_backend() == "reference"
            assert numbattn.get_backend() == "auto"
            _ = 1 / 0
    assert numbattn.get_backend() == "reference"


def test_use_backend_decorates() -> None:
    @numbattn.use_backend("reference")
    def inside() -> str:
        return numbattn.get_backend()

    assert [inside(), inside(), numbattn.get_backend()] == ["reference"] * 2 + ["auto"]


def test_a_call_goes_before_a_context(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBATTN_BACKEND", "nothing-such")
    config.forget_environment()
    with pytest.raises(OptionError, match=r"^NUMBATTN_BACKEND is 'nothing-such'"):
        selector.choose(None)
    numbattn.set_backend("cpu")
    assert selector.choose(None).name == "cpu"
    with numbattn.use_backend("reference"):
        assert selector.choose(None).name == "reference"
        assert selector.choose("cpu").name == "cpu"
    assert selector.choose("reference").name == "reference"


NAMES = ["auto", "reference", "cuda", "toy1", "toy2"]


def check_nested(rng: random.Random, depth: int) -> int:
    """Enter contexts within contexts; each level has to see its own."""
    if not depth:
        return 1
    count = 0
    around = numbattn.get_config()
    for _ in range(2):
        name, threads = rng.choice(NAMES), rng.randrange(1, 99)
        with config.override({"backend": name, "num_threads": threads}):
            found = numbattn.get_config()
            assert (found["backend"], found["num_threads"]) == (name, threads)
            count += check_nested(rng, depth - 1)
            assert numbattn.get_config() == found
        assert numbattn.get_config() == around
    return count + 1


def test_threads_do_not_leak() -> None:
    start = threading.Barrier(32)

    def work(seed: int) -> int:
        start.wait()
        assert numbattn.get_backend() == "auto"
        with numbattn.use_backend("reference"):
            return sum(check_nested(random.Random(seed + i), 6) for i in range(4))

    with numbattn.use_backend("reference"), ThreadPoolExecutor(32) as pool:
        counts = list(pool.map(work, range(32)))  # 126 contexts each time
        assert numbattn.get_backend() == "reference"
    assert counts == [4 * 127] * 32
    assert numbattn.get_backend() == "auto"


async def visit(seed: int, inherited: str) -> int:
    """Hold contexts open while other tasks run."""
    rng = random.Random(seed)
    assert numbattn.get_backend() == inherited
    for step in range(20):
        name = rng.choice(NAMES)
        with config.override({"backend": name, "num_threads": seed + 1}):
            await asyncio.sleep(0)
            with config.override({"num_threads": step + 100}):
                await asyncio.sleep(0)
                found = numbattn.get_config()
                assert (found["backend"], found["num_threads"]) == (name, step + 100)
            assert numbattn.get_config()["num_threads"] == seed + 1
        assert numbattn.get_backend() == inherited
    return 1


async def many(inherited: str) -> int:
    with config.override({"backend": inherited}):
        tasks = [asyncio.create_task(visit(i, inherited)) for i in range(50)]
        await asyncio.sleep(0)
    assert numbattn.get_backend() == "auto"  # the tasks keep what they inherited
    return sum(await asyncio.gather(*tasks))


def test_asyncio_tasks_in_many_threads_do_not_leak() -> None:
    def work(name: str) -> int:
        return asyncio.run(many(name))

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, ["reference", "toy1"] * 4)) == [50] * 8


def test_threads_and_tasks_at_once() -> None:
    results: list[int] = []
    threads = [
        threading.Thread(
            target=lambda: results.append(check_nested(random.Random(), 7))
        )
        for _ in range(31)
    ]
    for thread in threads:
        thread.start()
    assert asyncio.run(many("reference")) == 50
    for thread in threads:
        thread.join()
    assert len(results) == 31


def test_a_context_carried_to_a_thread_is_kept() -> None:
    seen: list[str] = []
    with numbattn.use_backend("reference"):
        inside = contextvars.copy_context()

    def look() -> None:
        seen.append(numbattn.get_backend())

    for target in (look, lambda: inside.run(look)):
        thread = threading.Thread(target=target)
        thread.start()
        thread.join()
    assert seen == ["auto", "reference"]


def test_a_context_sees_what_is_set_elsewhere_for_other_settings() -> None:
    with numbattn.use_backend("reference"):
        assert numbattn.get_config()["num_threads"] is None
        numbattn.set_config(num_threads=7)
        assert numbattn.get_config()["num_threads"] == 7
        numbattn.set_backend("cpu")
        assert numbattn.get_backend() == "reference"
    assert numbattn.get_backend() == "cpu"


def test_toy_backend_is_found_named_run_and_explained(toys: Path) -> None:
    install(toys, {"toy": "numbattn_toy:backend"})
    assert "numbattn-toy offers it" in str(numbattn.list_backends()["toy"])
    numbattn.scores(X, X, backend="reference")
    assert "numbattn_toy" not in sys.modules  # until it is named
    with numbattn.use_backend("toy"):
        assert np.array_equal(numbattn.scores(X, X), X @ X.T)
        assert np.array_equal(numbattn.scores(X, X.astype(np.float16)), X @ X.T)
    assert sys.modules["numbattn_toy"].Toy.runs == 2
    assert numbattn.list_backends()["toy"] is None
    found = numbattn.explain(X, X, backend="toy")
    assert (found.backend, found.memory.workspace) == ("toy", 123)
    assert "toy bricks" in str(found)
    assert "toy" in numbattn.explain(X, X, backend="reference").others
    numbattn.set_backend("toy")
    assert np.array_equal(numbattn.scores(X, X), X @ X.T)
    with pytest.raises(OptionError, match="did you mean 'toy'"):
        numbattn.scores(X, X, backend="toyy")


def test_toy_backend_made_by_its_class_or_a_function(toys: Path) -> None:
    source = TOY_SOURCE + "\ndef make():\n    return Toy()\n"
    install(toys, {"toy": "numbattn_toy:make"}, source)
    assert np.array_equal(numbattn.scores(X, X, backend="toy"), X @ X.T)
    selector._loaded.pop("toy")
    entries = toys / "numbattn_toy-1.0.dist-info" / "entry_points.txt"
    entries.write_text("[numbattn.backends]\ntoy = numbattn_toy:Toy\n")
    importlib.invalidate_caches()
    assert np.array_equal(numbattn.scores(X, X, backend="toy"), X @ X.T)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("numbattn_toy:broken", "it has no name, no unavailable_reason, no run"),
        ("numbattn_toy:explodes", "cannot be loaded: ValueError: spring is loose"),
        ("numbattn_toy:missing", "of numbattn-toy cannot be loaded: AttributeError"),
        ("numbattn_nowhere:x", "cannot be loaded: ModuleNotFoundError"),
        ("numbattn_toy:backend", "calls itself 'toy'"),
    ],
)
def test_bad_toys_are_explained(toys: Path, target: str, words: str) -> None:
    source = TOY_SOURCE.replace("broken = object()", "broken = lambda: 3")
    install(toys, {"bad": target, "toy": "numbattn_toy:backend"}, source)
    with pytest.raises(BackendUnavailableError, match=words):
        numbattn.scores(X, X, backend="bad")
    assert np.array_equal(numbattn.scores(X, X, backend="toy"), X @ X.T)


def test_toys_cannot_take_our_names(toys: Path) -> None:
    install(toys, {"reference": "numbattn_toy:backend", "auto": "numbattn_toy:backend"})
    selector._loaded.pop("reference", None)
    assert selector.load("reference").describe().startswith("NumPy")
    assert list(numbattn.list_backends()) == ["reference", "cpu", "cuda"]


def test_a_toy_that_cannot_run(toys: Path) -> None:
    source = TOY_SOURCE.replace("return None", "return 'the batteries are empty'", 1)
    install(toys, {"toy": "numbattn_toy:backend"}, source)
    with pytest.raises(BackendUnavailableError, match="'toy' cannot run: the batt"):
        numbattn.scores(X, X, backend="toy")
    assert numbattn.list_backends()["toy"] == "the batteries are empty"
    with pytest.raises(BackendUnavailableError, match="batteries"):
        numbattn.set_backend("toy")
    assert numbattn.get_backend() == "auto"


def test_explain() -> None:
    query = np.zeros((2, 8, 5, 4), np.float16)
    key, value = np.zeros((2, 6, 4), ">f2"), np.zeros((6, 3), np.float16)
    found = numbattn.explain(query, key, value, backend="reference", is_causal=True)
    assert found.operation == "attention"
    assert found.axes == {
        "query": "(2 batch, 8 heads, n = 5, d_k = 4)",
        "key": "(2 heads, m = 6, d_k = 4), each for 4 query heads",
        "value": "(m = 6, d_v = 3)",
        "result": "(2 batch, 8 heads, n = 5, d_v = 3)",
        "note": found.axes["note"],
    }
    assert "heads, not batch" in found.axes["note"]
    assert (found.dtype, found.acc_dtype) == ("float16", "float32")
    assert found.memory.result == 2 * 8 * 5 * 3 * 2
    assert found.memory.copies == 4 * (query.size + key.size + value.size)
    assert found.others["cpu"] == "can run; name it to use it"
    assert found.others["cuda"] == numbattn.list_backends()["cuda"]
    for words in ("attention on backend 'reference'", "not chosen", "blocks of 5 quer"):
        assert words in str(found)


def test_explain_tells_of_functions_and_masks(backend: str) -> None:
    query = np.zeros((4, 20, 8), np.float32)

    def halved(score, b, h, q_idx, kv_idx):
        return score / 2

    window = masks.sliding_window(2, 0) | masks.prefix(1)
    options = {"mask": window, "backend": backend}
    found = numbattn.explain(query, query, query, score_mod=halved, **options)
    assert found.plan["score_mod"] == "halved"
    assert found.plan["mask object"] == "(sliding_window(2, 0) | prefix(1))"
    composed = score_mods.softcap(2.0) @ score_mods.alibi(4)
    lines = str(
        numbattn.explain(query, query, query, score_mod=composed, **options)
    ).splitlines()
    said = {line.strip().partition("  ")[0]: line for line in lines}
    assert said["score_mod"].endswith("  softcap @ alibi")
    assert said["mask object"].endswith("  (sliding_window(2, 0) | prefix(1))")


def test_explain_is_silent_on_what_is_not_given(backend: str) -> None:
    query = np.zeros((20, 8), np.float32)
    seen = np.ones((20, 20), bool)
    found = numbattn.explain(query, query, mask=seen, backend=backend)
    assert not {"score_mod", "mask object"} & set(found.plan)


def test_explain_says_of_a_function_what_the_call_would(backend: str) -> None:
    query = np.zeros((20, 8), np.float32)
    with pytest.raises(OptionError, match="takes 1 arguments; it is called with 5"):
        numbattn.explain(query, query, score_mod=lambda score: score, backend=backend)


def test_explain_says_who_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    def reason(**how: Any) -> str:
        return numbattn.explain(X, X, **how).reason

    assert reason() == "backend='auto' by default: the arrays are in host memory"
    assert reason(backend="cpu") == "backend='cpu' in the call"
    monkeypatch.setenv("NUMBATTN_BACKEND", "reference")
    config.forget_environment()
    assert reason() == "backend='reference' by the environment (NUMBATTN_BACKEND)"
    numbattn.set_backend("cpu")
    assert reason() == "backend='cpu' by set_backend or set_config"
    with numbattn.use_backend("reference"):
        assert reason() == "backend='reference' by use_backend or config_context"


def test_explain_runs_nothing_and_complains_as_the_call_does() -> None:
    with pytest.raises(numbattn.ShapeError, match="d_k"):
        numbattn.explain(X, X[:, :3])
    with pytest.raises(BackendUnavailableError, match="cuda"):
        numbattn.explain(X, X, backend="cuda")
    with pytest.raises(OptionError, match="operation is 'score'"):
        numbattn.explain(X, X, operation="score")  # type: ignore[arg-type]
