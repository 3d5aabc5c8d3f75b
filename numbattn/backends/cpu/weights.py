"""Softmax weights: the score kernel that keeps whole rows and normalises them."""

from __future__ import annotations

from .launch import Kernel
from .levels import Simd
from .scores import build


def kernel(dtype: str, level: Simd) -> Kernel:
    """The weights kernel of one element type; arguments as for the scores."""
    return build(dtype, level, True)
