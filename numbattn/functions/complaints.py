"""What is said of functions that cannot be compiled, or read outside of an array.

Backends that compile users' functions share these words.
"""

from __future__ import annotations

import types

from ..errors import OptionError
from . import describe

OUTSIDE = 1
"""Status of a call in which a function would have read outside an argument array."""

ALLOWED = (
    "It may use numbers, comparisons, if, for over range, functions of numbers in math "
    "and numpy, and elements of the arrays that it gets as arguments"
)
_TELLING = (
    "unknown attribute", "untyped global", "not supported", "unsupported",
    "cannot unify", "undefined", "not defined",
)  # fmt: skip


def name_of(function: types.FunctionType, is_mask: bool) -> str:
    """Return "score_mod 'alibi' (line 12 of bias.py)"."""
    words = "f of masks.from_function" if is_mask else "score_mod"
    return f"{words} {describe(function)}"


def raise_status(status: int, words: str) -> None:
    """Raise what compiled code noted while it ran; nothing where `status` is 0.

    Parameters
    ----------
    status : int
        What it noted.
    words : str
        Which functions it may have been.

    Raises
    ------
    OptionError
        An index was outside an argument array, or outside a captured tuple.
    """
    if status == OUTSIDE:
        raise OptionError(
            f"{words} reads outside an argument array: an index is beyond its axis. "
            "Keep indices within it, as by min(max(x, 0), len(table) - 1)"
        )
    if status:
        raise OptionError(
            f"{words} failed in compiled code: an index of a tuple is outside it. Pass "
            "numbers that are looked up as an array, by score_mod_args or args"
        )


def refused(words: str, error: Exception) -> OptionError:
    """Return what Numba says, in its most telling lines.

    Parameters
    ----------
    words : str
        Which function: from `name_of`.
    error : Exception
        What Numba raised.

    Returns
    -------
    OptionError
        To be raised in its place.
    """
    text = str(getattr(error, "msg", error))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    place = getattr(getattr(error, "loc", None), "line", None)
    at = f" (line {place})" if place else ""
    call = next((line[4:] for line in lines if line.startswith(">>> ")), "")
    telling = [line for line in lines if any(x in line.lower() for x in _TELLING)]
    why = (telling or lines or ["no reason given"])[0][:300]
    why = why.replace("of type Module(<module 'namespace'>)", "of math or numpy")
    if "cannot be determined" in why:
        why = "the type of a variable is unclear; if it is assigned within an "
        why += "expression (:=), assign it before"
    elif call.startswith("getitem"):
        why = "an index has to be an int for each axis, at most: int(x) makes one"
    elif call:
        why = f"there is no {call[:300]}"
    return OptionError(f"{words} cannot be compiled{at}: {why}. {ALLOWED}")


def unknown(words: str, error: Exception) -> OptionError:
    """Return what is said of a fault that is none of Numba's errors."""
    if isinstance(error, AttributeError):
        return OptionError(
            f"{words} cannot be compiled: {error.name!r} is none of the functions of "
            f"numbers in math and numpy. {ALLOWED}"
        )
    # the compiler's own faults are no better for the user
    return OptionError(f"{words} cannot be compiled: {type(error).__name__}: {error}")


def wrong_power(words: str, line: int) -> OptionError:
    """Return what is said of an int to the power of an int."""
    return OptionError(
        f"{words} raises an int to the power of an int (line {line}), which is an int "
        "or not by its sign; make the base a float, as in 2.0 ** -h"
    )


def wrong_result(words: str, what: str, is_mask: bool) -> OptionError:
    """Return what is said of a result that is no bool of a mask, no number of a score.

    Parameters
    ----------
    words : str
        Which function: from `name_of`.
    what : str
        What it returns: "a bool", "None".
    is_mask : bool
        Whether it has to return a bool.

    Returns
    -------
    OptionError
        To be raised.
    """
    if is_mask:
        return OptionError(
            f"{words} returns {what}; a mask has to return a bool, True where the "
            "query attends the key: compare, as in kv_idx <= q_idx"
        )
    if what == "a bool":
        return OptionError(
            f"{words} returns a bool; a score_mod has to return the new score. For a "
            "mask pass mask=numbattn.masks.from_function(f)"
        )
    return OptionError(
        f"{words} returns {what}; it has to return one real number, the new score, on "
        "every way through it"
    )
