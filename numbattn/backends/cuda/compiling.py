"""A user's function compiled for a GPU by itself: what is wrong is known to be its."""

from __future__ import annotations

import inspect
from types import FunctionType
from typing import Any

from numbattn.functions import complaints, inferred

from .device import NumbaError, device_function, types


def jitted(
    bound: FunctionType, words: str, signature: tuple[Any, ...], is_mask: bool
) -> Any:
    """Compile a function for kernels.

    Parameters
    ----------
    bound : function
        With `names` in place of what it uses.
    words : str
        Which one it is, for messages.
    signature : tuple of types
        Of its arguments.
    is_mask : bool
        Whether it has to return a bool.

    Returns
    -------
    dispatcher
        Compiled for these types.

    Raises
    ------
    OptionError
        It cannot be compiled, or it returns something else.
    """
    inner = device_function(_positional(bound))
    try:
        made = _of_so_many(inner, len(signature))
        found = made.compile_device(signature)
    except NumbaError as error:
        raise complaints.refused(words, error) from None
    except Exception as error:
        raise complaints.unknown(words, error) from error
    for overload in inner.overloads.values():
        inferred.check_powers(words, overload.type_annotation)
    result = types.unliteral(found.signature.return_type)
    fits = types.Boolean if is_mask else (types.Integer, types.Float)
    if not isinstance(result, fits):
        raise complaints.wrong_result(words, inferred.in_words(result), is_mask)
    return made


def _positional(function: Any) -> Any:
    """A function whose parameters behind the star, which have defaults, are plain."""
    code = function.__code__
    if code.co_flags & inspect.CO_VARARGS or not code.co_kwonlyargcount:
        return function
    count = code.co_argcount + code.co_kwonlyargcount
    last = code.co_varnames[code.co_argcount : count]
    defaults = (*(function.__defaults__ or ()), *map(function.__kwdefaults__.get, last))
    return FunctionType(
        code.replace(co_argcount=count, co_kwonlyargcount=0), function.__globals__,
        function.__name__, defaults, function.__closure__,
    )  # fmt: skip


def _of_so_many(function: Any, count: int) -> Any:
    """A function of just so many parameters: others have defaults, or are a tuple."""
    code = function.py_func.__code__
    if code.co_argcount == count and not code.co_flags & inspect.CO_VARARGS:
        return function
    names = ", ".join(f"x{i}" for i in range(count))
    scope: dict[str, Any] = {"function": function}
    exec(f"def call({names}): return function({names})", scope)
    return device_function(scope["call"])
