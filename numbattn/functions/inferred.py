"""What a compiler's inference found of a user's function, checked and in words.

Backends share this whichever Numba compiles for them: classes of types go by their
names, so that nothing of Numba is imported here.
"""

from __future__ import annotations

import operator
from typing import Any

from . import complaints

_WORDS = {
    "Boolean": "a bool",
    "NoneType": "None",
    "Optional": "None in some case",
    "BaseTuple": "a tuple",
    "Sequence": "a list",
    "UnicodeType": "text",
    "Complex": "a complex number",
}


def _families(kind: Any) -> set[str]:
    return {each.__name__ for each in type(kind).__mro__}


def check_powers(words: str, found: Any) -> None:
    """Refuse powers of ints whose result would be an int or not, by a sign.

    Compiled, 2 ** -1 of ints is 0.

    Parameters
    ----------
    words : str
        Which function: from `complaints.name_of`.
    found : object
        Numba's type annotation of it.

    Raises
    ------
    OptionError
        There is such a power.
    """
    for expression, signature in found.calltypes.items():
        function = getattr(expression, "_kws", {}).get("fn")
        if function not in (operator.pow, operator.ipow):
            continue
        exponent = found.typemap[expression.rhs.name]
        written = getattr(exponent, "literal_value", -1) >= 0
        if not written and all("Integer" in _families(x) for x in signature.args):
            raise complaints.wrong_power(words, expression.loc.line)


def in_words(kind: Any) -> str:
    """Return what a function of this result type returns: "a bool", "a tuple"."""
    families = _families(kind)
    for family, words in _WORDS.items():
        if family in families:
            return words
    if "Argument" in families:  # each backend has its own
        return f"an array of {kind.ndim} axes"
    return str(kind)
