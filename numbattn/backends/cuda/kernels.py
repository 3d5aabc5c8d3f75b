"""Compiled kernels: one for each operation, dtype, geometry and user's functions."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import numpy as np

from . import (
    attention,
    careful,
    device,
    elements,
    fragments,
    geometry,
    layout,
    ptx,
    scores,
    tensor_attention,
    tensor_scores,
)
from .device import cuda, device_function, simulated, types
from .functions import Wired
from .geometry import Geometry, TensorGeometry

if simulated:
    from . import simulator

Shape = Geometry | TensorGeometry
_kept: dict[Hashable, Any] = {}
_lock = threading.RLock()
NO_FUNCTIONS = Wired(
    device_function(elements.unchanged), device_function(elements.everywhere), (0,),
    (types.int64,), None, (),
)  # fmt: skip
"""Of calls without a score_mod and a mask object."""


class Kernel(NamedTuple):
    """A kernel and how many threads its blocks have."""

    run: Any
    threads: int

    def launch(self, grid: int, stream: Any, arguments: tuple[Any, ...]) -> None:
        """Start `grid` blocks."""
        if not grid:
            return
        if simulated:
            simulator.launch(self.run, grid, self.threads, arguments)
        else:
            self.run[grid, self.threads, stream](*arguments)


class Source(NamedTuple):
    """What a kernel is compiled from."""

    function: Callable[..., None]
    signature: Any
    threads: int
    blocks: int
    """Of them that shall fit on a multiprocessor."""
    target: str | None = None
    """What alone it is for: sm_80 or sm_90a."""


def _array(kind: Any) -> Any:
    return types.Array(kind, 1, "C")


def _numbers(real: Any) -> tuple[Any, ...]:
    return types.UniTuple(types.int64, layout.SIZES), types.UniTuple(real, 2)


def _kinds(shape: Shape) -> tuple[Any, Any]:
    """Types of the arrays' elements, and of scores."""
    return tuple(getattr(types, np.dtype(k).name) for k in (shape.bits, shape.real))


def attention_source(shape: Shape, functions: Wired) -> Source:
    """The attention kernel of a geometry."""
    bits, real = _kinds(shape)
    arrays = [_array(bits)] * 4 + [_array(real)] * 2 + [_array(types.uint8)]
    arrays += [_array(real)]
    arrays += [_array(types.int64), _array(types.int8), _array(real)]
    arrays += [_array(types.int32)]
    signature = types.void(*arrays, *_numbers(real), *_tail(functions))
    room = tensor_attention if isinstance(shape, TensorGeometry) else attention
    function = room.build(shape, functions.modify, functions.attends)
    return Source(function, signature, shape.threads, shape.blocks)


def scores_source(shape: Shape, functions: Wired) -> Source:
    """The kernel of scores and weights of a geometry."""
    bits, real = _kinds(shape)
    arrays = [_array(bits)] * 3 + [_array(real), _array(types.uint8), _array(real)]
    arrays += [_array(types.int64), _array(types.int8)]
    signature = types.void(*arrays, *_numbers(real), *_tail(functions))
    tensor = isinstance(shape, TensorGeometry)
    room = tensor_scores if tensor else scores
    function = room.build(shape, functions.modify, functions.attends)
    blocks = shape.blocks if tensor else geometry.SCORES_BLOCKS
    return Source(function, signature, shape.threads, blocks)


def careful_source(shape: Shape, functions: Wired) -> Source:
    """The kernel that computes outputs again which are not finite."""
    bits, real = _kinds(shape)
    arrays = [_array(bits)] * 4 + [_array(real), _array(types.uint8)]
    arrays += [_array(types.int64)]
    arrays += [_array(real), _array(types.int32)]
    signature = types.void(*arrays, *_numbers(real), *_tail(functions))
    threads = careful.SIMULATED_THREADS if simulated else careful.THREADS
    read, write = ptx.read, ptx.write
    if isinstance(shape, TensorGeometry):
        read, write = fragments.reading(shape), fragments.writing(shape)
    function = careful.build(
        shape.real, shape.block_q, threads, read, write,
        functions.modify, functions.attends,
    )  # fmt: skip
    return Source(function, signature, threads, 1)


def _tail(functions: Wired) -> tuple[Any, ...]:
    kinds = types.BaseTuple.from_types(functions.signature_types)
    return kinds, _array(types.int64)


SOURCES = {
    "attention": attention_source,
    "scores": scores_source,
    "careful": careful_source,
}


def kernel(name: str, shape: Shape, functions: Wired) -> Kernel:
    """The kernel, compiled now if it was not yet."""
    key = name, shape, functions.key
    found = _kept.get(key)
    if found is None:
        with _lock:
            found = _kept.get(key)
            if found is None:
                found = _kept[key] = _made(SOURCES[name](shape, functions))
    return found


def _made(source: Source) -> Kernel:
    if simulated:
        return Kernel(source.function, source.threads)
    bounds = (source.threads, source.blocks)
    compiled = cuda.jit(source.signature, launch_bounds=bounds)(source.function)
    return Kernel(compiled, source.threads)


def _target(hopper: bool) -> str:
    return "sm_90a" if hopper else "sm_80"


def variants() -> dict[str, Source]:
    """Every kernel without users' functions, by name."""
    found = {}
    none = NO_FUNCTIONS
    for (dtype, wide, hopper), shape in geometry.ON_DEVICE.items():
        target = _target(hopper)
        name = f"attention_{dtype}_{shape.block_d}_{target}"
        found[name] = attention_source(shape, none)._replace(target=target)
        if hopper and not wide:
            found[f"scores_{dtype}"] = scores_source(shape, none)
            found[f"careful_{dtype}"] = careful_source(shape, none)
    for (kind, wide, hopper), tensor in geometry.TENSOR.items():
        target = _target(hopper)
        if hopper or not wide:
            name = f"attention_{kind}_{tensor.block_d}_{target}"
            found[name] = attention_source(tensor, none)._replace(target=target)
        if hopper and not wide:
            found[f"careful_{kind}"] = careful_source(tensor, none)
    for (kind, hopper), tensor in geometry.TENSOR_SCORES.items():
        target = _target(hopper)
        source = scores_source(tensor, none)._replace(target=target)
        found[f"scores_{kind}_{target}"] = source
    return found


def warmup(dtypes: tuple[str, ...]) -> list[str]:
    """Compile the kernels of these dtypes for this device; return their names."""
    hopper, done = device.hopper(), []
    for dtype in dtypes:
        for d in (64, 128):
            name = f"{dtype}_{d}"
            if dtype in ("float16", "bfloat16"):
                shape: Shape = geometry.tensor_geometry(dtype, d, d, hopper)
                of_scores: Shape = geometry.tensor_scores_geometry(dtype, hopper)
            else:
                shape = of_scores = geometry.geometry(dtype, d, hopper)
            for kind in ("attention", "careful"):
                kernel(kind, shape, NO_FUNCTIONS)
                done.append(f"{kind}_{name}")
            kernel("scores", of_scores, NO_FUNCTIONS)
        done.append(f"scores_{dtype}")
    return done
