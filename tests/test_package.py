"""What is in the wheel, and that names and versions agree."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import numbattn

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.Path:
    folder = tmp_path_factory.mktemp("wheel")
    built = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    (path,) = folder.glob("*.whl")
    assert path.name.endswith("-py3-none-any.whl")
    return zipfile.Path(path)


def test_version_of_the_metadata_is_the_module_s() -> None:
    assert numbattn.__version__ == PROJECT["version"]
    assert importlib.metadata.version("numbattn") == PROJECT["version"]


def test_the_changelog_has_the_version() -> None:
    assert f"\n## {PROJECT['version']}" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize(
    "name",
    [
        "py.typed",
        "__init__.pyi",
        "__main__.py",
        "data/minilm_layer5.npz",
        "data/NOTICE",
        "data/LICENSE-Apache-2.0.txt",
        "testing/__init__.py",
        "cli/__init__.py",
        "backends/reference.py",
    ],
)
def test_the_wheel_has(wheel: zipfile.Path, name: str) -> None:
    assert (wheel / "numbattn" / name).is_file()


def test_the_wheel_has_nothing_but_the_package(wheel: zipfile.Path) -> None:
    names = {entry.name for entry in wheel.iterdir()}
    assert names == {"numbattn", f"numbattn-{PROJECT['version']}.dist-info"}


def test_the_wheel_carries_every_licence(wheel: zipfile.Path) -> None:
    info = wheel / f"numbattn-{PROJECT['version']}.dist-info"
    found = {Path(entry.at).name for entry in (info / "licenses").iterdir()}
    found |= {
        Path(entry.at).name
        for entry in (info / "licenses" / "numbattn" / "data").iterdir()
    }
    assert {"LICENSE", "NOTICE", "LICENSE-Apache-2.0.txt"} <= found


def test_the_wheel_is_small(wheel: zipfile.Path) -> None:
    assert Path(str(wheel.root.filename)).stat().st_size < 700_000


@pytest.mark.parametrize(
    "extra", ["cuda", "plot", "dask", "bench", "docs", "peers", "test"]
)
def test_the_extras_exist(extra: str) -> None:
    assert PROJECT["optional-dependencies"][extra]


def test_python_dash_m_is_the_command() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "numbattn", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout == f"numbattn, version {PROJECT['version']}\n"
