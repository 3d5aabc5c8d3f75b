"""The house: who may import whom, and what a fresh `import numbattn` loads."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import numbattn

ROOT = Path(numbattn.__file__).parent

# Each module imports only what stands before it: data flows back to the front.
ORDER = [
    "errors",
    "cells",
    "pictures",
    "limits",
    "memory",
    "device_arrays",
    "arrays",
    "interchange",
    "shapes",
    "functions.bytecode",
    "functions.captures",
    "functions",
    "functions.complaints",
    "functions.inferred",
    "functions.places",
    "functions.evaluation",
    "score_mod",
    "score_mods",
    "options",
    "masks.inputs",
    "masks.blocks",
    "masks.views",
    "masks.documents",
    "masks.nodes",
    "masks.leaves",
    "masks.by_function",
    "masks",
    "merge",
    "problem",
    "checks",
    "config",
    "progress",
    "backends",
    "selector",
    "ready",
    "settings",
    "outputs",
    "blocks",
    "admission",
    "device_calls",
    "dispatch",
    "packed",
    "estimate",
    "explain",
    "streaming",
    "varlen",
    "api",
    "sdpa",
    "plot.reduction",
    "plot.computed",
    "plot.bars",
    "plot",
]
LEAVES = {
    "errors", "limits", "memory", "device_arrays", "arrays", "interchange", "shapes",
    "functions.bytecode", "functions.captures", "functions", "functions.complaints",
    "functions.inferred", "functions.places", "functions.evaluation", "score_mod",
    "score_mods", "options",
    "masks.inputs", "masks.blocks", "masks.views", "masks.documents", "masks.nodes",
    "masks.leaves",
    "masks.by_function", "masks", "problem", "config",
}  # fmt: skip
# they use what is public
TOOLS = {"testing", "cli", "_devices", "_peers", "_timing", "__main__"}
LIBRARIES = {
    "numba": ("backends.cpu", "backends.cuda.device"),  # one door to numba.cuda
    "llvmlite": ("backends.cpu", "backends.cuda"),
    "greenlet": ("backends.cuda",),
    "numba_cuda": ("backends.cuda",),
    "cuda": ("backends.cuda",),
    "matplotlib": ("pictures", "plot", "masks.views"),  # the others, its types
}
HEAVY = [
    "numba", "llvmlite", "numba_cuda", "rich", "click", "dask", "matplotlib",
    "ml_dtypes", "psutil", "platformdirs", "torch", "onnx", "importlib.metadata",
]  # fmt: skip


def modules() -> dict[str, Path]:
    """Return every module by its name within the package."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = list(path.relative_to(ROOT).with_suffix("").parts)
        if parts[-1] == "__init__":
            parts.pop()
        found[".".join(parts)] = path
    return found


MODULES = modules()


def absolute(node: ast.ImportFrom, name: str) -> str:
    """Return the module of a ``from`` import with its full name."""
    if not node.level:
        return node.module or ""
    here = ["numbattn", *filter(None, name.split("."))]
    if MODULES[name].name != "__init__.py":
        here.pop()
    here = here[: len(here) - node.level + 1]
    return ".".join([*here, *filter(None, [node.module])])


def imports(name: str) -> Iterator[str]:
    """Yield what a module imports, anywhere in its code, with full names."""
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = absolute(node, name)
            for alias in node.names:
                inner = f"{module}.{alias.name}".removeprefix("numbattn").lstrip(".")
                is_module = module.startswith("numbattn") and inner in MODULES
                yield f"{module}.{alias.name}" if is_module else module


def own(name: str) -> set[str]:
    """Return the modules of this package that a module imports."""
    return {
        each.removeprefix("numbattn").lstrip(".")
        for each in imports(name)
        if each.split(".")[0] == "numbattn"
    }


def test_every_module_has_its_place() -> None:
    tops = {name.split(".")[0] for name in MODULES} - {""}
    assert tops - TOOLS - {"data"} == {name.split(".")[0] for name in ORDER}


def test_imports_are_found() -> None:
    assert own("selector") >= {"config", "errors", "backends", "problem"}
    assert own("backends.cuda") >= {"backends.cuda.presence", "backends"}
    assert any(name.split(".")[0] == "numba" for name in imports("backends.cpu.launch"))


def packages(name: str) -> list[str]:
    """Return the packages that a module is in: their names are its own to import."""
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


@pytest.mark.parametrize("name", ORDER)
def test_direction(name: str) -> None:
    wrong = {
        each
        for each in own(name)
        if (each if each in ORDER else each.split(".")[0])
        not in [*ORDER[: ORDER.index(name)], *packages(name)]
    }
    assert wrong == set()


@pytest.mark.parametrize("name", [n for n in MODULES if n.startswith("backends.")])
def test_backends_import_leaves_and_themselves_only(name: str) -> None:
    mine = ".".join(name.split(".")[:2])
    wrong = {
        each
        for each in own(name)
        if each not in LEAVES | {"", "backends"}
        and each != mine
        and not each.startswith(f"{mine}.")
    }
    assert wrong == set()


@pytest.mark.parametrize("name", [n for n in MODULES if n])
def test_libraries_stay_where_they_belong(name: str) -> None:
    wrong = {
        each
        for each in imports(name)
        if (homes := LIBRARIES.get(each.split(".")[0])) is not None
        and not any(f"{name}.".startswith(f"{home}.") for home in homes)
    }
    assert wrong == set()


def test_no_front_module_names_a_backend_s_module() -> None:
    for name in ORDER:
        assert not {each for each in own(name) if each.startswith("backends.")}, name


def test_files_are_of_a_size_to_be_read() -> None:
    for name in ORDER:
        # api.py is mostly docstrings, one for each function that users call
        limit = 520 if name == "api" else 400
        assert len(MODULES[name].read_text().splitlines()) <= limit, name


def python(code: str) -> str:
    found = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    return found.stdout


def test_import_loads_next_to_nothing() -> None:
    code = (
        "import sys, numpy; before = set(sys.modules); import numbattn\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    loaded = python(code).split()
    ours = [n for n in loaded if n.startswith("numbattn")]
    assert ours == ["numbattn", "numbattn.limits"]
    assert [n for n in loaded if any(f"{n}.".startswith(f"{h}.") for h in HEAVY)] == []


def test_a_call_on_the_reference_loads_no_compiler() -> None:
    code = (
        "import sys, numpy as np, numbattn\n"
        "numbattn.attention(*np.ones((3, 4, 4)), backend='reference')\n"
        "print(*sys.modules)"
    )
    loaded = python(code).split()
    assert "numbattn.backends.reference" in loaded
    assert not {"numba", "llvmlite", "rich", "numbattn.backends.cpu"} & set(loaded)


WITHOUT_NUMBA = """
import sys
from importlib.machinery import PathFinder

class Hides(PathFinder):
    @classmethod
    def find_spec(cls, name, *rest):
        if name.split(".")[0] not in ("numba", "llvmlite"):
            return super().find_spec(name, *rest)

sys.meta_path = [Hides if each is PathFinder else each for each in sys.meta_path]
import numpy as np, numbattn
x = np.ones((3, 4), np.float32)
print(numbattn.attention(x, x, x, backend="reference").sum())
print(numbattn.list_backends()["cpu"])
for backend in ("cpu", "auto"):
    try:
        numbattn.scores(x, x, backend=backend)
    except numbattn.BackendUnavailableError as error:
        print(error)
"""


def test_works_without_numba_and_says_so() -> None:
    total, why, named, auto = python(WITHOUT_NUMBA).splitlines()
    assert float(total) == 12
    assert "pip install numba" in why
    assert "'cpu' cannot run: " in named
    assert "'auto' means" in auto
    assert "backend=" in auto


def test_import_is_quick() -> None:
    code = (
        "import time, numpy; start = time.perf_counter(); import numbattn\n"
        "print(time.perf_counter() - start)"
    )
    assert min(float(python(code)) for _ in range(3)) < 0.040


def test_names_complete_and_resolve() -> None:
    public = {name for name in dir(numbattn) if not name.startswith("_")}
    expected = {"scores", "weights", "attention", "iter_scores", "explain", "testing"}
    expected |= {"warmup", "masks"}
    assert public >= expected
    for name in public:
        assert getattr(numbattn, name) is not None
    with pytest.raises(AttributeError, match="nothing_such"):
        _ = numbattn.nothing_such  # type: ignore[attr-defined]
