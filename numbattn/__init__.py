"""Dot-product attention for NumPy arrays: scores, weights, output.

Everything is loaded when it is first used: ``import numbattn`` imports neither Numba
nor a backend. Only `limits` is there from the start, for limits set before that.
"""

import lazy_loader as _lazy

__version__ = "0.1.0"

from . import limits as _limits  # noqa: F401

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
