"""Users' functions in the simulator: what `compiled` makes of them, in Python.

They get `Number` in place of numbers, which NumPy computes with in the types that a
GPU would have: int64, float64 and the scores' float, and nothing raises.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from numbattn.errors import OptionError
from numbattn.functions.complaints import OUTSIDE, wrong_result
from numbattn.functions.places import PLAIN, Number, bare

from .arguments import Kind

FAILED = 2  # see `compiled`


class View:
    """An array of a user's function; see `compiled.Argument`."""

    __slots__ = ("elements", "first", "note", "read", "shape")
    __array_ufunc__ = None

    def __init__(
        self, elements: Any, shape: Any, first: int, read: Any, note: Any
    ) -> None:
        self.elements, self.shape, self.first = elements, shape, first
        self.read, self.note = read, note

    @property
    def ndim(self) -> int:
        """How many axes it has."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """How many elements it has."""
        return int(np.prod(self.shape))

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, index: Any) -> Any:
        parts = index if isinstance(index, tuple) else (index,)
        if not 0 < len(parts) <= self.ndim:
            raise TypeError(f"an array of {self.ndim} axes gets {len(parts)} indices")
        place = 0
        for axis, size in enumerate(self.shape):
            place *= size
            if axis < len(parts):
                part = operator.index(parts[axis])
                part += size if part < 0 else 0
                if not 0 <= part < size:
                    self.note()
                    part = 0
                place += part
        place += self.first
        rest = self.shape[len(parts) :]
        if rest:
            return View(self.elements, rest, place, self.read, self.note)
        # of an array without elements there is one all the same
        place = place if place < len(self.elements) else 0
        return Number(self.read(self.elements[place]))


def _seen(
    kinds: Sequence[Kind], at: int, arguments: Sequence[Any], real: Any, note: Any
) -> Iterator[Any]:
    """Yield what a function gets, from slot `at` on."""
    numbers = {bool: np.bool_, int: np.int64, float: np.float64}
    for kind in kinds:
        value, *shape = arguments[at : at + kind.slots]
        if kind.number:
            yield Number(numbers[kind.number](value))
        else:
            read = real if value.dtype.kind == "f" else np.int64
            read = np.bool_ if kind.is_bool else read
            yield View(value, tuple(map(int, shape)), 0, read, note)
        at += kind.slots


def part(
    function: Any, words: str, kinds: Sequence[Kind], checked: bool, real: Any,
    is_mask: bool, at: int,
) -> Any:  # fmt: skip
    """What calls a user's function: ``call(place, arguments, status)``.

    Parameters
    ----------
    function : function
        With `names` in place of what it uses.
    words : str
        Which one it is, for messages.
    kinds : sequence of Kind
        Of its arguments.
    checked : bool
        Whether a read outside of an array is noted.
    real : type
        numpy.float32 or float64: of the score, and of elements.
    is_mask : bool
        Whether it has to return a bool.
    at : int
        The slot of `arguments` where its own begin.
    """

    def call(place: Any, arguments: Any, status: Any) -> Any:
        given = [Number(np.int64(x)) for x in place[0 if is_mask else 1 :]]
        if not is_mask:
            given.insert(0, Number(real(place[0])))

        def note() -> None:
            if checked:
                status[0] = OUTSIDE

        # a thread of the simulator does not inherit which warnings are off
        with np.errstate(all="ignore"):
            try:
                found = function(*given, *_seen(kinds, at, arguments, real, note))
            except IndexError:  # of a tuple
                status[0] = FAILED
                return False if is_mask else real(0)
            except Exception as error:
                what = f"{type(error).__name__}: {error}"
                raise OptionError(f"{words} cannot be compiled: {what}") from error
            return _result(found, words, real, is_mask)

    return call


def leaf(function: Any, kinds: Sequence[Kind], at: int) -> Any:
    """What calls a function of a mask of ours, which reads inside its arrays."""

    def call(place: Any, arguments: Any, status: Any) -> Any:
        given, slot = list(place), at
        for kind in kinds:
            value, *shape = arguments[slot : slot + kind.slots]
            given.append(value if kind.number else value.reshape(shape))
            slot += kind.slots
        return bool(function(*given))

    return call


def _result(found: Any, words: str, real: Any, is_mask: bool) -> Any:
    """What a function returned, as a kernel gets it."""
    value, kind = bare(found), ""
    if isinstance(found, (Number, *PLAIN)):
        kind = np.asarray(value).dtype.kind
    if kind not in (("b",) if is_mask else ("i", "u", "f")):
        raise wrong_result(words, _shown(found, kind), is_mask)
    return bool(value) if is_mask else real(value)


def _shown(found: Any, kind: str) -> str:
    """What a function returned, in words."""
    if kind == "b":
        return "a bool"
    if isinstance(found, View):
        return f"an array of {found.ndim} axes"
    known = {str: "text", tuple: "a tuple", complex: "a complex number"}
    return known.get(type(found), "None" if found is None else str(bare(found)))


def to_int(x: Any = 0) -> Number:
    """See `compiled.to_int`."""
    value = bare(x)
    if np.asarray(value).dtype.kind != "f":
        return Number(np.int64(value))
    if np.isnan(value):
        return Number(np.int64(0))
    low, high = np.iinfo(np.int64).min, np.iinfo(np.int64).max
    whole = int(min(max(float(value), -1e300), 1e300))
    return Number(np.int64(min(max(whole, low), high)))


def rint(x: Any) -> Any:
    """See `compiled.rint`."""
    return np.rint(x)
