"""`numbattn info` and `numbattn warmup`: what is here, and getting it ready."""

from __future__ import annotations

import itertools
import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter
from typing import Any

import click

_PACKAGES = ("numbattn", "numpy", "numba", "llvmlite", "numba-cuda", "ml_dtypes")


def collect() -> dict[str, Any]:
    """Return what a report about this installation should say."""
    from numbattn import config
    from numbattn.selector import list_backends
    from numbattn.settings import details

    settings = config.current()._asdict()
    backends = list_backends()
    return {
        "versions": collect_versions(),
        "machine": collect_machine(),
        "backends": backends,
        "runs": {name: _describe(name) for name, why in backends.items() if not why},
        "details": details(),
        "settings": {
            **{
                name: {"value": value, "origin": config.origin(name)}
                for name, value in settings.items()
            },
            "simd": {"value": config.simd(), "origin": _from("NUMBATTN_SIMD")},
        },
        "cache": _cache(config.cache_dir()),
    }


def _describe(name: str) -> str:
    from numbattn.selector import load

    try:
        return load(name).describe()
    except Exception as error:  # this command is for finding out what is broken
        return f"broken: {type(error).__name__}: {error}"


def collect_machine() -> dict[str, Any]:
    """Return what the machine is."""
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "cores_allowed": _cores_allowed(),
        "memory_bytes": _memory(),
    }


def collect_versions() -> dict[str, str]:
    """Return the versions of Python, of this package and of what it is built on."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _cores_allowed() -> int | None:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _memory() -> int:
    import psutil

    return int(psutil.virtual_memory().total)


def _from(variable: str) -> str:
    return f"environment ({variable})" if os.environ.get(variable) else "default"


def _cache(folder: Path | None) -> dict[str, Any]:
    return {
        "folder": None if folder is None else str(folder),
        "origin": "environment (NUMBATTN_CACHE_DIR)"  # where it may be empty
        if "NUMBATTN_CACHE_DIR" in os.environ
        else "default",
    }


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def info(as_json: bool) -> None:
    """Show versions, processor, backends, settings and where each comes from.

    Paste it into a report of a fault.
    """
    found = collect()
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    machine, cache = found["machine"], found["cache"]
    click.echo("versions")
    for name, number in found["versions"].items():
        click.echo(f"  {name:<12}{number}")
    click.echo(
        f"machine\n  {machine['processor']}, {machine['cores_allowed']} of "
        f"{machine['cores']} cores, {machine['memory_bytes'] / 2**30:.1f} GiB\n"
        f"  {machine['system']}\nbackends"
    )
    for name, why in found["backends"].items():
        line = f"cannot run: {why}" if why else found["runs"][name]
        click.echo(f"  {name:<12}{line}")
    click.echo("settings")
    for name, setting in found["settings"].items():
        value = "not set" if setting["value"] is None else setting["value"]
        click.echo(f"  {name:<12}{value} ({setting['origin']})")
    where = cache["folder"] or "nowhere"
    click.echo(f"kernels are kept in\n  {where} ({cache['origin']})")
    for name, lines in found["details"].items():
        click.echo(name)
        for what, words in lines.items():
            click.echo(f"  {what:<17}{words}")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def warmup(as_json: bool) -> None:
    """Compile the kernels now and keep them in the cache.

    All kernels for float32 and float64, of each backend that can run. The first call in
    every later process then takes a fraction of a second. `numbattn info` shows where
    the cache is; NUMBATTN_CACHE_DIR moves it.
    """
    import numbattn
    from numbattn.cli.waiting import steps
    from numbattn.selector import BUILTIN

    start = perf_counter()
    names = [
        name
        for name, why in numbattn.list_backends().items()
        if not why and name in BUILTIN
    ]
    found: dict[str, list[str]] = {name: [] for name in names}
    with steps(2 * len(names)) as begin:
        for name, dtype in itertools.product(names, ("float32", "float64")):
            begin(f"compiling for {dtype} on {name}")
            found[name] += numbattn.warmup([dtype], backend=name)
    seconds = perf_counter() - start
    if as_json:
        click.echo(json.dumps(found))
        return
    for name, kernels in found.items():
        ready_here = ", ".join(kernels) if kernels else "nothing to compile"
        click.echo(f"{name}: {ready_here}")
    click.echo(f"ready after {seconds:.1f} s")
