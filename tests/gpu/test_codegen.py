"""Every CUDA kernel as machine code for two targets, held to its budget. No GPU."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from numbattn.backends.cuda import budgets, codegen, presence
from numbattn.backends.cuda.budgets import BUDGETS
from numbattn.backends.cuda.codegen import CHIPS, Figures

ROOT = Path(__file__).resolve().parents[2]
Call = Callable[..., Any]


def tool(name: str) -> Any:
    """Import a program of tools/."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TABLES = tool("cuda_figures")


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Call]:
    """Call a function in a process of its own: the compilers stay out of this one."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        why = pool.submit(codegen.missing).result()
        if why is not None:
            pytest.skip(why)
        yield lambda function, *args: pool.submit(function, *args).result()


@pytest.fixture(scope="module")
def compiler(elsewhere: Call) -> Call:
    return elsewhere


def test_every_kernel_has_a_budget(compiler: Call) -> None:
    assert sorted(compiler(codegen.names)) == sorted(BUDGETS)


@pytest.mark.parametrize("name", BUDGETS)
def test_a_kernel_keeps_its_budget_and_its_line_in_the_docs(
    compiler: Call, name: str
) -> None:
    found = compiler(codegen.figures_of, name)
    assert [each.target for each in found] == budgets.targets(name)
    wrong = [line for each in found for line in budgets.complaints(each, BUDGETS[name])]
    assert not wrong, "\n".join(wrong)
    page = TABLES.rows_of(TABLES.PAGE.read_text(), "figures")
    said = {(row[0], row[1]): row for row in page}
    for each in found:
        row = TABLES.figures_row(each)
        assert alike(row, said[row[0], row[1]]), (row, "python tools/cuda_figures.py")


def alike(row: list[str], said: list[str]) -> bool:
    """Whether two lines differ by no more than compilers do."""
    exact, near = slice(0, 3), slice(9, None)
    registers = TABLES.HEADINGS.index("registers")
    return (
        row[exact] == said[exact]
        and row[registers + 1 : registers + 3] == said[registers + 1 : registers + 3]
        and abs(int(row[registers]) - int(said[registers])) <= 8
        and all(
            abs(int(mine) - int(theirs)) <= max(4, 0.1 * int(theirs))
            for mine, theirs in zip(row[near], said[near], strict=True)
        )
    )


def test_the_docs_have_every_kernel_and_no_other() -> None:
    rows = TABLES.rows_of(TABLES.PAGE.read_text(), "figures")
    assert sorted({row[0] for row in rows}) == sorted(BUDGETS)
    assert len(rows) == sum(len(budgets.targets(name)) for name in BUDGETS)


def test_the_rooflines_in_the_docs_are_calculated() -> None:
    page = TABLES.PAGE.read_text()
    assert TABLES.rows_of(page, "rooflines") == list(TABLES.rooflines())
    one = TABLES.put(page, "rooflines", TABLES.table(["a"], [["1"]]))
    assert TABLES.rows_of(one, "rooflines") == [["1"]]
    with pytest.raises(ValueError, match="0 times the markers of 'nothing'"):
        TABLES.put(page, "nothing", "")


def test_a_line_that_is_out_of_date_is_seen() -> None:
    opcodes = dict.fromkeys(codegen.OPCODES, 100)
    figures = Figures("k", "sm_80", 128, 160, 2048, 0, 0, 0, 0, opcodes)
    row = TABLES.figures_row(figures)
    near = replace(figures, registers=168, opcodes={**opcodes, "FFMA": 91})
    assert alike(TABLES.figures_row(near), row)
    for changed in (
        replace(figures, registers=169),
        replace(figures, shared=1024),
        replace(figures, spill_loads=4),
        replace(figures, opcodes={**opcodes, "HMMA": 88}),
    ):
        assert not alike(TABLES.figures_row(changed), row)


TOYS = """
import json
from dataclasses import asdict
from types import SimpleNamespace

from numbattn.backends.cuda import codegen
from numbattn.backends.cuda.device import cuda, device_function, types

@device_function
def twice(x):
    return x + x

def plain(source, target):
    place = cuda.grid(1)
    target[place] = twice(source[place])

def spills(source, target):
    kept = cuda.local.array(64, types.float32)
    place = cuda.grid(1)
    for i in range(64):
        kept[i] = source[place + i]
    for i in range(64):
        target[place + i] = kept[(i * place) % 64]

def shares(source, target):
    tile = cuda.shared.array(256, types.float32)
    t = cuda.threadIdx.x
    tile[t] = source[t]
    cuda.syncthreads()
    target[t] = tile[255 - t] * source[t] + tile[t]

array = types.Array(types.float32, 1, "C")
for function in (plain, spills, shares):
    toy = SimpleNamespace(
        function=function, signature=types.void(array, array), threads=256, blocks=2
    )
    for target in codegen.TARGETS:
        print(json.dumps(asdict(codegen.figures(function.__name__, toy, target))))
"""


@pytest.fixture(scope="module")
def toys(elsewhere: Call) -> dict[tuple[str, str], Figures]:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", TOYS],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = [Figures(**json.loads(line)) for line in done.stdout.splitlines()]
    assert len(found) == 6
    return {(each.name, each.target): each for each in found}


@pytest.mark.parametrize("target", codegen.TARGETS)
def test_what_a_kernel_takes_is_seen(
    toys: dict[tuple[str, str], Figures], target: str
) -> None:
    plain, spills, shares = (
        toys[name, target] for name in ("plain", "spills", "shares")
    )
    generous = budgets.Budget(255, budgets.STATIC, 1, {"LDG": 1})
    assert budgets.complaints(plain, generous) == []
    assert budgets.complaints(shares, generous._replace(least={"FFMA": 1})) == []
    assert plain.shared == 0
    assert shares.shared == 1024  # the system's own is not counted
    assert shares.opcodes["BAR"] == 1
    assert spills.stack >= 256
    assert spills.opcodes["LDL"] > 0
    said = " ".join(budgets.complaints(spills, generous))
    assert "bytes of stack" in said
    assert "stores to local memory" in said


def test_a_budget_is_exceeded_in_words() -> None:
    opcodes = dict.fromkeys(codegen.OPCODES, 0)
    figures = Figures("k", "sm_80", 128, 200, 2048, 0, 4, 8, 0, opcodes)
    said = budgets.complaints(figures, budgets.Budget(168, 1024, 3, {"HMMA": 32}))
    assert said == [
        "k for sm_80: 4 bytes of registers that are spilled (stores), and there may be "
        "none",
        "k for sm_80: 8 bytes of registers that are spilled (loads), and there may be "
        "none",
        "k for sm_80: 200 registers; the budget is 168",
        "k for sm_80: 2048 bytes of shared memory; the budget is 1024",
        "k for sm_80: 2 blocks on a multiprocessor (by registers); the budget is 3",
        "k for sm_80: 0 HMMA; there have to be 32",
    ]


@pytest.mark.parametrize(
    ("target", "registers", "shared", "threads", "blocks", "limit"),
    [
        # by hand, from the rules in cuda_occupancy.h
        ("sm_80", 32, 0, 1024, 2, "threads"),
        ("sm_80", 33, 0, 1024, 1, "registers"),
        ("sm_90a", 64, 0, 256, 4, "registers"),
        ("sm_90a", 255, 0, 128, 2, "registers"),
        ("sm_90a", 168, 0, 128, 3, "registers"),
        ("sm_90a", 16, 0, 32, 32, "blocks"),
        ("sm_80", 96, 48 * 1024, 128, 3, "shared memory"),
        ("sm_90a", 96, 48 * 1024, 128, 4, "shared memory"),
        ("sm_90a", 24, 0, 128, 16, "threads"),
    ],
)
def test_occupancy(
    target: str, registers: int, shared: int, threads: int, blocks: int, limit: str
) -> None:
    found = codegen.occupancy(CHIPS[target], registers, shared, threads)
    assert (found.blocks, found.limit) == (blocks, limit)
    assert found.share == blocks * threads / 2048


def test_a_log_that_says_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"has no .*registers"):
        codegen.read_log("fatal: everything is different now", "sm_80")
    with pytest.raises(ValueError, match="no instructions"):
        codegen.counted(".section .text\n")


def test_instructions_are_counted_with_their_modifiers() -> None:
    sass = """
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/              @!P0 LDGSTS.E.BYPASS.128 [R5], [R2.64] ;
        /*0020*/               @P1 LDG.E.128.CONSTANT R4, [R2.64] ;
        /*0030*/                   LDG.E R4, [R2.64] ;
        /*0040*/                   HMMA.16816.F32.BF16 R4, R8, R2, R4 ;
        /*1000*/              @UP0 BAR.SYNC.DEFER_BLOCKING 0x0 ;
    """
    found = {name: n for name, n in codegen.counted(sass).items() if n}
    assert found == {
        "HMMA": 1, "LDGSTS": 1, "LDGSTS.128": 1, "LDG": 2, "LDG.128": 1, "BAR": 1,
    }  # fmt: skip


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    here = {"numba_cuda"}
    absent = "libnvJitLink.so.13 is nowhere\nsearched in: ..."

    def load(library: str) -> None:
        if library not in here:
            raise RuntimeError(absent)

    finder = ModuleType("cuda.pathfinder")
    finder.load_nvidia_dynamic_lib = load  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cuda", ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "cuda.pathfinder", finder)
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: name if name in here else None
    )
    monkeypatch.setattr(presence, "simulated", lambda: False)
    monkeypatch.setattr(codegen, "_disassembler", lambda: None)
    assert codegen.missing() == (
        "a compiler of CUDA is not found (libnvJitLink.so.13 is nowhere): "
        "pip install 'numbattn[cuda]'"
    )
    here |= {"nvvm", "nvJitLink"}
    assert (
        codegen.missing() == "nvdisasm is not found: pip install nvidia-cuda-nvdisasm"
    )
    monkeypatch.setattr(codegen, "_disassembler", lambda: "/bin/nvdisasm")
    assert codegen.missing() is None
    monkeypatch.setattr(presence, "simulated", lambda: True)
    assert "NUMBA_ENABLE_CUDASIM" in str(codegen.missing())
    here.clear()
    assert codegen.missing() == (
        "numba-cuda is not installed: pip install 'numbattn[cuda]'"
    )
