"""Device functions run by this machine's processor.

Numba writes LLVM's code for a GPU, and LLVM compiles it for what is here.

What is checked this way is everything that numba-cuda and numbattn write, down to
LLVM's instructions; not what NVVM makes of them. libm stands for libdevice.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import math
import re
from typing import Any

import llvmlite.binding as llvm
import numpy as np

from numbattn.backends.cuda.device import cuda

_SCALAR = re.compile(r"\b(?:void|float|double|i\d+|ptr)\*+|\bptr\*+")
_AGGREGATE = re.compile(r"(?:\{[^{}*]*\}|\[[^\[\]*]*\])\*+|%\"[^\"]*\"\*+")
_LINE = re.compile(r"^target .*$|^; ModuleID.*$", re.MULTILINE)
_FLOAT, _DOUBLE = ctypes.c_float, ctypes.c_double
_kept: list[Any] = []


def _opaque(code: str) -> str:
    """Return LLVM's code with pointers of no type, as its later versions have them."""
    code, before = _LINE.sub("", code), ""
    while code != before:
        before = code
        code = _AGGREGATE.sub("ptr", _SCALAR.sub("ptr", code))
    return code


def _libm(name: str) -> int:
    """Return the address of what does the same as a function of libdevice."""
    found = ctypes.CDLL(ctypes.util.find_library("m"))
    tests = {
        "isnan": math.isnan, "isinf": math.isinf, "isfinite": math.isfinite,
        "finite": math.isfinite,
    }  # fmt: skip
    own = name.removeprefix("__nv_")
    for test, function in tests.items():
        if own in (f"{test}d", f"{test}f"):
            real = _FLOAT if own.endswith("f") else _DOUBLE
            made = ctypes.CFUNCTYPE(ctypes.c_int32, real)(function)
            _kept.append(made)
            return ctypes.cast(made, ctypes.c_void_p).value or 0
    if own in ("powi", "powif"):
        real = _FLOAT if own == "powif" else _DOUBLE
        made = ctypes.CFUNCTYPE(real, real, ctypes.c_int32)(_power)
        _kept.append(made)
        return ctypes.cast(made, ctypes.c_void_p).value or 0
    return ctypes.cast(getattr(found, own), ctypes.c_void_p).value or 0


def _power(x: float, y: int) -> float:
    with np.errstate(all="ignore"):
        return float(np.float64(x) ** y)


def _modules(library: Any, found: dict[str, Any]) -> dict[str, Any]:
    """Collect a code library and all that it links."""
    if library.name not in found:
        found[library.name] = library
        for each in library._linking_libraries:
            _modules(each, found)
    return found


def _passed(value: Any) -> list[Any]:
    """Return an argument as device code takes it."""
    if isinstance(value, tuple):
        return [part for each in value for part in _passed(each)]
    if isinstance(value, np.ndarray):
        assert value.ndim == 1
        assert value.flags.c_contiguous
        data = ctypes.c_void_p(value.ctypes.data)
        size, item = ctypes.c_int64(value.size), ctypes.c_int64(value.itemsize)
        return [ctypes.c_void_p(), ctypes.c_void_p(), size, item, data, size, item]
    real = isinstance(value, (float, np.floating))
    return [_DOUBLE(value) if real else ctypes.c_int64(value)]


def run(function: Any, signature: tuple[Any, ...], arguments: tuple[Any, ...]) -> None:
    """Compile a function as for a GPU, and run it here.

    Parameters
    ----------
    function : function
        It returns 0.
    signature : tuple of types
        Of its arguments.
    arguments : tuple
        Flat arrays, numbers, and tuples of both.
    """
    made = cuda.jit(device=True)(function).compile_device(signature)
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    whole = llvm.parse_assembly("")
    for library in _modules(made.library, {}).values():
        for module in library.llvm_strs:
            whole.link_in(llvm.parse_assembly(_opaque(module)))
    whole.verify()
    for each in whole.functions:
        if each.is_declaration and each.name.startswith("__nv_"):
            llvm.add_symbol(each.name, _libm(each.name))
    machine = llvm.Target.from_default_triple().create_target_machine(opt=0)
    engine = llvm.create_mcjit_compiler(whole, machine)
    engine.finalize_object()
    address = engine.get_function_address(made.fndesc.llvm_func_name)
    passed, result = _passed(arguments), ctypes.c_int64(1)
    kinds = [ctypes.c_void_p, *(type(each) for each in passed)]
    outcome = ctypes.CFUNCTYPE(ctypes.c_int32, *kinds)(address)(
        ctypes.addressof(result), *passed
    )
    assert outcome == 0, f"device code ended with {outcome}"
