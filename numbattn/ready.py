"""`warmup`: get a backend ready before the first call."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from . import selector
from .arrays import float_name
from .errors import DTypeError

if TYPE_CHECKING:
    from numpy.typing import DTypeLike


def warmup(
    dtypes: Iterable[DTypeLike] = ("float32", "float64"), *, backend: str | None = None
) -> list[str]:
    """Compile what calls need, or load it from the disk, so that the first one is fast.

    Compiled kernels are kept on disk (see NUMBATTN_CACHE_DIR): once this ran, the
    first call in every later process takes a fraction of a second. ``numbattn warmup``
    does the same on the command line.

    Parameters
    ----------
    dtypes : iterable of dtype, optional
        Dtypes of the calls to come. float16 and bfloat16 use the kernels of float32,
        integers and bools those of float64.
    backend : str, optional
        As in a call.

    Returns
    -------
    list of str
        Names of the kernels that are ready; empty where a backend has none to compile.

    Raises
    ------
    DTypeError
        No call takes such a dtype.
    OptionError
        There is no such backend.
    BackendUnavailableError
        The backend cannot run here.

    Examples
    --------
    >>> import numbattn
    >>> numbattn.warmup(backend="reference")
    []
    """
    if isinstance(dtypes, str):
        raise DTypeError(
            f"dtypes is {dtypes!r}; it has to be several, such as [{dtypes!r}]"
        )
    names = dict.fromkeys(_computed_in(dtype) for dtype in dtypes)
    prepare = getattr(selector.choose(backend), "warmup", None)
    return [] if prepare is None else list(prepare(tuple(names)))


def _computed_in(dtype: DTypeLike) -> str:
    try:
        wanted = np.dtype(dtype)
    except TypeError:
        raise DTypeError(f"dtypes has {dtype!r}, which NumPy does not know") from None
    return "float64" if float_name(wanted, "dtypes") == "float64" else "float32"
