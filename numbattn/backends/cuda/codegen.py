"""Kernels as machine code, without a GPU, and what that code says of itself.

Numba and NVVM make PTX, nvJitLink machine code (with the same compiler as the driver),
nvdisasm its listing. None of them asks for a device.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from . import presence

TARGETS: dict[str, tuple[Any, ...]] = {"sm_80": (8, 0), "sm_90a": (9, 0, "a")}
"""Compute capabilities by the name that assemblers have for them."""

OPCODES = (
    "HMMA", "HGMMA", "FFMA", "DFMA", "MUFU.EX2", "LDSM", "LDGSTS", "LDGSTS.128",
    "LDG", "LDG.128", "LDS.128", "SHFL", "BAR", "LDL", "STL",
)  # fmt: skip
"""Instructions that are counted: an opcode, and a modifier that it has to have."""

_LINE = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?\w+\s+)?([A-Z][\w.]*)", re.M)


class Chip(NamedTuple):
    """What a streaming multiprocessor has (CUDA C++ programming guide, table 30)."""

    name: str
    shared: int
    """Bytes of shared memory."""
    registers: int = 65536
    threads: int = 2048
    blocks: int = 32


CHIPS = {"sm_80": Chip("A100", 164 * 1024), "sm_90a": Chip("H200", 228 * 1024)}
_RESERVED = 1024  # bytes of shared memory that the system takes for each block
_INCLUDED = {"sm_80": 0, "sm_90a": _RESERVED}


class Occupancy(NamedTuple):
    """How much of a multiprocessor a kernel's blocks fill."""

    blocks: int
    share: float
    """Of the threads that there is room for."""
    limit: str
    """What keeps one more block out."""


class Variant(Protocol):
    """One kernel as it is compiled: a `kernels.Source`."""

    @property
    def function(self) -> Callable[..., None]:
        """The kernel, in Python."""

    @property
    def signature(self) -> Any:
        """Numba's, of its arguments."""

    @property
    def threads(self) -> int:
        """Of a block."""

    @property
    def blocks(self) -> int:
        """That have to fit on a multiprocessor: it limits the registers."""

    @property
    def target(self) -> str | None:
        """The one of `TARGETS` that it is for; None for all."""


@dataclass(frozen=True)
class Figures:
    """What the assembler and the listing say of one kernel for one target."""

    name: str
    target: str
    threads: int
    registers: int
    shared: int
    """Bytes of static shared memory."""
    stack: int
    """Bytes of the stack frame."""
    spill_stores: int
    spill_loads: int
    """Bytes."""
    local: int
    """Bytes of local memory beyond the stack frame."""
    opcodes: Mapping[str, int]

    @property
    def occupancy(self) -> Occupancy:
        """Blocks at a time on a multiprocessor of the target's chip."""
        return occupancy(CHIPS[self.target], self.registers, self.shared, self.threads)


class Text(NamedTuple):
    """What is made of a kernel on the way."""

    ptx: str
    log: str
    """Of the assembler."""
    cubin: bytes


def occupancy(chip: Chip, registers: int, shared: int, threads: int) -> Occupancy:
    """Return how many blocks are on a multiprocessor at a time.

    The rules are those of cuda_occupancy.h for compute capability 8.0 and 9.0:
    registers go to warps by 256, in four partitions; shared memory to blocks by 128.
    """
    warps = ceil(threads / 32)
    of_warp = ceil(registers * 32 / 256) * 256
    fits = chip.registers // 4 // of_warp * 4 if of_warp else chip.threads // 32
    of_block = ceil((shared + _RESERVED) / 128) * 128
    found = {
        "threads": chip.threads // (32 * warps),
        "registers": fits // warps,
        "shared memory": chip.shared // of_block,
        "blocks": chip.blocks,
    }
    limit = min(found, key=lambda each: found[each])
    blocks = found[limit]
    return Occupancy(blocks, blocks * warps * 32 / chip.threads, limit)


def missing() -> str | None:
    """Return what is not here of what compiling needs, None where all of it is."""
    if importlib.util.find_spec("numba_cuda") is None:
        return f"numba-cuda is not installed: {presence.INSTALL}"
    if presence.simulated():
        return "the CUDA simulator is on (NUMBA_ENABLE_CUDASIM), which compiles nothing"
    try:
        from cuda.pathfinder import load_nvidia_dynamic_lib

        for library in ("nvvm", "nvJitLink"):
            load_nvidia_dynamic_lib(library)
    except (ImportError, RuntimeError) as error:
        first = str(error).strip().partition("\n")[0]
        return f"a compiler of CUDA is not found ({first}): {presence.INSTALL}"
    if _disassembler() is None:
        return "nvdisasm is not found: pip install nvidia-cuda-nvdisasm"
    return None


@lru_cache(maxsize=1)
def _disassembler() -> str | None:
    spec = importlib.util.find_spec("nvidia")
    places = spec.submodule_search_locations if spec is not None else None
    for place in places or ():
        for found in sorted(Path(place).glob("*/bin/nvdisasm*")):
            return str(found)
    return shutil.which("nvdisasm")


def variants() -> dict[str, Variant]:
    """Return every kernel of the project, as it is compiled for a GPU."""
    from . import kernels  # it imports Numba

    return dict(kernels.variants())


def compiled(variant: Variant, target: str) -> Text:
    """Compile a kernel for a target, down to machine code."""
    from .device import compiling_for, cuda

    with compiling_for(TARGETS[target]):
        ptx, _ = cuda.compile_ptx(
            variant.function,
            variant.signature,
            cc=TARGETS[target],
            launch_bounds=(variant.threads, variant.blocks),
        )
    return Text(ptx, *_assembled(ptx, target))


def _assembled(ptx: str, target: str) -> tuple[str, bytes]:
    """Return the assembler's log and the machine code."""
    from cuda.bindings import nvjitlink

    handle = nvjitlink.create(2, [f"-arch={target}", "-verbose"])
    try:
        code = ptx.encode()
        kind = nvjitlink.InputType.PTX
        nvjitlink.add_data(handle, kind, code, len(code), "kernel")
        nvjitlink.complete(handle)
        log = bytearray(nvjitlink.get_info_log_size(handle))
        nvjitlink.get_info_log(handle, log)
        cubin = bytearray(nvjitlink.get_linked_cubin_size(handle))
        nvjitlink.get_linked_cubin(handle, cubin)
    finally:
        nvjitlink.destroy(handle)
    return log.decode().rstrip("\x00"), bytes(cubin)


def listing(cubin: bytes) -> str:
    """Return machine code in the assembler's words (SASS)."""
    program = _disassembler()
    if program is None:
        raise FileNotFoundError(missing())
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        done = subprocess.run(
            [program, "-c", file.name], capture_output=True, text=True, check=True
        )
    return done.stdout


def counted(sass: str) -> dict[str, int]:
    """Return how often each of `OPCODES` is in a listing."""
    found = Counter(_LINE.findall(sass))
    if not found:
        raise ValueError("the listing has no instructions")
    wanted = {name: name.split(".") for name in OPCODES}
    return {
        name: sum(
            count
            for mnemonic, count in found.items()
            if (parts := mnemonic.split("."))[0] == opcode
            and set(modifiers) <= set(parts[1:])
        )
        for name, (opcode, *modifiers) in wanted.items()
    }


def read_log(log: str, target: str) -> dict[str, int]:
    """Return the numbers in the assembler's log.

    For compute capability 9.0 its shared memory includes what the system takes.
    """

    def most(pattern: str, needed: bool = False) -> int:
        found = [int(number) for number in re.findall(pattern, log)]
        if needed and not found:
            raise ValueError(f"the assembler's log has no {pattern!r}:\n{log}")
        return max(found, default=0)

    return {
        "registers": most(r"[Uu]sed (\d+) registers", needed=True),
        "shared": max(0, most(r"(\d+) bytes smem") - _INCLUDED[target]),
        "stack": most(r"(\d+) bytes stack frame", needed=True),
        "spill_stores": most(r"(\d+) bytes spill stores", needed=True),
        "spill_loads": most(r"(\d+) bytes spill loads", needed=True),
        "local": most(r"(\d+) bytes lmem"),
    }


def figures(name: str, variant: Variant, target: str) -> Figures:
    """Compile a kernel for a target, and read what came of it."""
    text = compiled(variant, target)
    return Figures(
        name=name,
        target=target,
        threads=variant.threads,
        opcodes=counted(listing(text.cubin)),
        **read_log(text.log, target),
    )


@lru_cache(maxsize=1)
def _variants() -> dict[str, Variant]:
    return variants()


def names() -> list[str]:
    """Return the names of `variants`."""
    return list(_variants())


@lru_cache(maxsize=2)
def figures_of(name: str) -> tuple[Figures, ...]:
    """Return the figures of one of `variants`, for each target that it is for.

    A second target costs half as long: Numba keeps the device functions.
    """
    variant = _variants()[name]
    targets = TARGETS if variant.target is None else (variant.target,)
    return tuple(figures(name, variant, target) for target in targets)
