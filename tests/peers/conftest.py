"""The peers. They are imported by the tests that run, not when tests are collected."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import pytest


def _peer(name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a peer's own import says is not ours
        return pytest.importorskip(
            name, reason=f"{name} is not installed: `tox -e peers` brings it"
        )


@pytest.fixture(scope="session")
def torch() -> Any:
    """PyTorch."""
    return _peer("torch")


@pytest.fixture(scope="session")
def jax() -> Any:
    """JAX, with its `nn`, which it does not load itself."""
    jax = _peer("jax")
    importlib.import_module("jax.nn")
    return jax
