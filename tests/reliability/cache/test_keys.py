"""What tells kernels apart, and a Numba that is not as known."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
from numba import types
from numba.core import bytecode, caching

from numbattn.backends.cpu import cache, sources

from .small import (
    kernel,
    loaded,
    loaded_with_one_warning,
    place,
    times_three,
)


def with_features(fresh: pytest.MonkeyPatch) -> None:
    codegen = type(numba.njit(times_three).targetctx.codegen())
    fresh.setattr(codegen, "magic_tuple", lambda self: ("x86_64", "i386", "-avx"))


OTHERS: dict[str, Callable[[pytest.MonkeyPatch], object]] = {
    "numba": lambda p: p.setattr(numba, "__version__", "0.0"),
    "llvmlite": lambda p: p.setattr(cache.llvmlite, "__version__", "0.0"),
    "llvm": lambda p: p.setattr(
        cache.llvmlite.binding, "llvm_version_info", (1, 2, 3), raising=False
    ),
    "numpy": lambda p: p.setattr(np, "__version__", "0.0"),
    "python": lambda p: p.setattr(sys, "version", f"{sys.version} free-threading"),
    "processor": with_features,
    "NUMBA_OPT": lambda p: p.setattr(numba.config, "OPT", 1),
    "NUMBA_BOUNDSCHECK": lambda p: p.setattr(numba.config, "BOUNDSCHECK", 1),
    "NUMBA_LLVM_REFPRUNE_FLAGS": lambda p: p.setattr(
        numba.config, "LLVM_REFPRUNE_FLAGS", "per_bb"
    ),
    "SVML": lambda p: p.setattr(numba.config, "USING_SVML", True),
    "a setting to come": lambda p: p.setattr(numba.config, "NEW", 1, raising=False),
    "sources": lambda p: p.setattr(sources, "DIGEST", "0" * 32),
}


@pytest.mark.parametrize("other", OTHERS)
def test_kernels_of_another_world_are_not_found(
    root: Path, fresh: pytest.MonkeyPatch, other: str
) -> None:
    before = place()
    OTHERS[other](fresh)
    cache._versions.cache_clear()
    after = place()
    fresh.undo()
    cache._versions.cache_clear()
    assert after.name != before.name or after.parent.name != before.parent.name


def test_signature_and_options_tell_kernels_apart(root: Path) -> None:
    fortran = types.int64(types.Array(types.float64, 2, "F"))
    contiguous = types.int64(types.Array(types.float64, 2, "C"))
    assert len({place(), place(fortran), place(contiguous), place(options="x")}) == 4


@pytest.mark.parametrize("name", ["NUMBA_NUM_THREADS", "THREADING_LAYER", "CACHE_DIR"])
def test_what_leaves_code_alone_does_not_recompile_it(
    root: Path, fresh: pytest.MonkeyPatch, name: str
) -> None:
    before = place()
    fresh.setattr(numba.config, name, "7")
    assert place() == before


def test_every_source_is_in_the_hash(fresh: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "numbattn" / "backends" / "cpu"
    folder.mkdir(parents=True)
    for path in sources.FOLDER.glob("*.py"):
        (folder / path.name).write_bytes(path.read_bytes())
    options = sources.FOLDER.parents[1] / "options.py"
    (tmp_path / "numbattn" / "options.py").write_bytes(options.read_bytes())
    fresh.setattr(sources, "FOLDER", folder)
    assert sources.unchanged()
    for path in (*folder.glob("*.py"), tmp_path / "numbattn" / "options.py"):
        whole = path.read_bytes()
        path.write_bytes(whole + b"\n")
        assert not sources.unchanged(), path.name
        path.write_bytes(whole)
    (folder / "new.py").touch()
    assert not sources.unchanged()


def test_sources_edited_while_it_runs_are_not_published(
    root: Path, fresh: pytest.MonkeyPatch
) -> None:
    """The code in memory is the old one; the files are the new."""
    fresh.setattr(sources, "unchanged", lambda: False)
    assert not loaded()
    assert not list(root.rglob("*.kernel"))


def moved(*_: object, **__: object) -> Any:
    raise AttributeError("it has moved")


UNKNOWN: dict[str, Callable[[pytest.MonkeyPatch], object]] = {
    "no _Cache": lambda p: p.delattr(caching, "_Cache"),
    "no CompileResultCacheImpl": lambda p: p.delattr(caching, "CompileResultCacheImpl"),
    "no dumps": lambda p: p.setitem(sys.modules, "numba.core.serialize", None),
    "no reduce": lambda p: p.setattr(
        caching.CompileResultCacheImpl, "__abstractmethods__", frozenset({"reduce"})
    ),
    "another argument": lambda p: p.setattr(
        caching._Cache, "load_overload", lambda self, sig, target_context, more: None
    ),
    "another duty": lambda p: p.setattr(
        caching._Cache, "__abstractmethods__", frozenset({"verify"})
    ),
    "other symbols": lambda p: p.setattr(bytecode.FunctionIdentity, "_unique_ids", 1),
}


@pytest.mark.parametrize("how", UNKNOWN)
def test_unknown_numba_turns_it_off_with_one_warning(
    root: Path, fresh: pytest.MonkeyPatch, how: str
) -> None:
    with fresh.context() as patch:
        UNKNOWN[how](patch)
        assert cache._parts() is None
    assert not loaded_with_one_warning("Numba .* is not as numbattn knows it")
    assert not root.exists()


def test_unknown_processor_turns_it_off(root: Path, fresh: pytest.MonkeyPatch) -> None:
    codegen = type(numba.njit(times_three).targetctx.codegen())
    fresh.setattr(codegen, "magic_tuple", moved)
    assert not loaded_with_one_warning("it has moved")
    assert not root.exists()


def test_no_address_gets_into_the_name(root: Path, fresh: pytest.MonkeyPatch) -> None:
    fresh.setattr(numba.config, "NEW", object(), raising=False)
    before = place()
    fresh.setattr(numba.config, "NEW", object(), raising=False)
    assert place() == before


@pytest.mark.parametrize("part", ["reduce", "rebuild", "dumps"])
def test_numba_that_fails_inside_is_no_obstacle(
    root: Path, fresh: pytest.MonkeyPatch, part: str
) -> None:
    kernel(root)
    parts = cache._parts()
    assert parts is not None
    fresh.setattr(parts, part, moved)
    if part == "rebuild":
        assert not loaded_with_one_warning("cannot be loaded")
    else:
        kernel_file = place()
        kernel_file.unlink()
        assert not loaded_with_one_warning("nothing can be kept")
