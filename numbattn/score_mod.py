"""`ScoreMod`: a function of scores together with its args."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import DeviceArrayError
from .errors import DTypeError, OptionError, shown
from .functions import SCORE_MOD, check_args, check_function
from .functions.evaluation import apply_score_mod


@dataclass(frozen=True, eq=False)
class ScoreMod:
    """A function of scores with the args that it goes with.

    It is passed as ``score_mod=``, with `score_mod_args` empty. ``a @ b`` applies b
    first. It pickles where its function does: one of a module, not a lambda.

    Parameters
    ----------
    function : function
        ``f(score, b, h, q_idx, kv_idx, *args)``, a plain Python function.
    args : tuple
        Of numbers and arrays. Arrays are not copied: a call sees what is in them.
    unchecked : bool
        Whether reads outside the arrays of `args` go unnoticed. That is faster; a
        function that reads outside then reads foreign memory.
    inner : ScoreMod, optional
        What is applied before; made by ``@``.

    Raises
    ------
    OptionError, DTypeError
        A function that cannot be compiled, or args that it cannot have.

    Examples
    --------
    >>> import numpy as np
    >>> from numbattn.score_mods import ScoreMod, softcap
    >>> def shifted(score, b, h, q_idx, kv_idx, table):
    ...     return score + table[h]
    >>> mod = softcap(2.0) @ ScoreMod(shifted, (np.array([0.0, 1.0]),))
    >>> mod
    softcap @ shifted
    >>> round(mod(1.0, 0, 1, 0, 0), 3)
    1.523
    """

    function: Callable[..., Any]
    args: tuple[Any, ...] = ()
    unchecked: bool = field(default=False, kw_only=True)
    inner: ScoreMod | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        try:
            args = check_args(self.args, "args of ScoreMod")
        except DeviceArrayError as error:
            raise DTypeError(
                f"{error.args[0]} is an array on a CUDA device; a ScoreMod has arrays "
                "in host memory: pass .get() in CuPy, .cpu().numpy() in PyTorch"
            ) from None
        check_function(self.function, "function of ScoreMod", SCORE_MOD, len(args))
        object.__setattr__(self, "args", args)
        if not isinstance(self.unchecked, bool):
            raise OptionError(
                f"unchecked is {shown(self.unchecked)}; it has to be True or False"
            )
        if not isinstance(self.inner, (ScoreMod, type(None))):
            raise OptionError(
                f"inner is {shown(self.inner)}; it has to be a ScoreMod, or None"
            )

    @classmethod
    def of_call(cls, function: Any, args: Any) -> ScoreMod:
        """Return that of a call, checked.

        Parameters
        ----------
        function : object
            The call's ``score_mod``, where it is no ScoreMod.
        args : object
            Its ``score_mod_args``.

        Returns
        -------
        ScoreMod
            Both.

        Examples
        --------
        >>> from numbattn.score_mods import ScoreMod
        >>> ScoreMod.of_call(lambda score, b, h, q_idx, kv_idx: score / 2, ()).args
        ()
        """
        args = check_args(args, "score_mod_args")
        check_function(function, "score_mod", SCORE_MOD, len(args))
        return _made(function, args, False, None)

    def apart_from(self, out: NDArray[Any]) -> ScoreMod:
        """Return it with copies of the arrays that `out` overlaps.

        Parameters
        ----------
        out : ndarray
            What a call is going to write.

        Returns
        -------
        ScoreMod
            Itself where nothing overlaps.

        Examples
        --------
        >>> import numpy as np
        >>> from numbattn.score_mods import head_bias
        >>> bias = np.zeros((1, 4))
        >>> mod = head_bias(bias)
        >>> mod.apart_from(np.empty(4)) is mod
        True
        """
        if not any(_overlap(x, out) for part in self.parts for x in part.args):
            return self
        args = tuple(x.copy() if _overlap(x, out) else x for x in self.args)
        inner = None if self.inner is None else self.inner.apart_from(out)
        return _made(self.function, args, self.unchecked, inner)

    @property
    def name(self) -> str:
        """The names of the functions, the last one first."""
        return " @ ".join(
            part.function.__name__.lstrip("_") for part in reversed(self.parts)
        )

    @property
    def parts(self) -> tuple[ScoreMod, ...]:
        """What it is composed of, each without `inner`, in the order of application."""
        if self.inner is None:
            return (self,)
        return (*self.inner.parts, self._after(None))

    def _after(self, inner: ScoreMod | None) -> ScoreMod:
        return _made(self.function, self.args, self.unchecked, inner)

    def __matmul__(self, other: ScoreMod) -> ScoreMod:
        if not isinstance(other, ScoreMod):
            return NotImplemented
        result = other
        for part in self.parts:
            result = part._after(result)
        return result

    def __call__(self, score: float, b: int, h: int, q_idx: int, kv_idx: int) -> float:
        """Return the score that it makes of one score, without compiling anything."""
        found = np.full((1, 1), score, np.float64)
        place = np.array([q_idx], np.int64), np.array([kv_idx], np.int64)
        for part in self.parts:
            function: Any = part.function
            found = apply_score_mod(function, found, b, h, *place, part.args)
        return float(found[0, 0])

    def __repr__(self) -> str:
        return self.name


def _made(
    function: Any, args: tuple[Any, ...], unchecked: bool, inner: ScoreMod | None
) -> ScoreMod:
    """Return a ScoreMod of what has been checked."""
    found = object.__new__(ScoreMod)
    vars(found).update(function=function, args=args, unchecked=unchecked, inner=inner)
    return found


def _overlap(value: Any, out: NDArray[Any]) -> bool:
    return isinstance(value, np.ndarray) and np.may_share_memory(value, out)
