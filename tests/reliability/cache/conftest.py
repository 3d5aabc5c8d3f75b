"""An empty kernel cache in a process that has not used one yet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from numbattn import config
from numbattn.backends.cpu import cache


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """A process that has not used the cache yet."""
    for name in ("_warned", "_swept"):
        monkeypatch.setattr(cache, name, False)
    monkeypatch.setattr(cache, "_patient", True)
    cache._parts.cache_clear()
    config.forget_environment()
    yield monkeypatch
    monkeypatch.undo()
    cache._parts.cache_clear()
    config.forget_environment()


@pytest.fixture
def root(fresh: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty place for the cache."""
    path = tmp_path / "cache"
    fresh.setenv("NUMBATTN_CACHE_DIR", str(path))
    return path
