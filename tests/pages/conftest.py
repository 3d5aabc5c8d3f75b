"""The site of made-up results, built as a user builds it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from . import made_up

COMMITS = 12


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The asv.conf.json of a clone with made-up results."""
    return made_up.clone(tmp_path_factory.mktemp("clone"), COMMITS)


@pytest.fixture(scope="session")
def site(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built site."""
    into = tmp_path_factory.mktemp("site")
    built = build("history", "summary", "--config", config, "--into", into)
    assert built.returncode == 0, built.stderr
    return into


def build(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run tools/build_site.py."""
    return subprocess.run(
        [sys.executable, made_up.ROOT / "tools" / "build_site.py", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
