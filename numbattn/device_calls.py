"""Calls whose query, key and value lie on a device: nothing of them is copied.

The result is of the library that the query is from, unless the caller gives `out`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from . import admission, blocks, memory, selector
from .arrays import on_device
from .backends import DeviceBackend, Execution
from .device_arrays import DeviceArray
from .interchange import device_array
from .problem import AttentionProblem, prepared

if TYPE_CHECKING:
    from .backends import Backend

_SMALL = ("q_offset", "kv_lengths", "sinks")
_OF_HOST = (int, str, type(None), np.ndarray)


def read_small(options: Mapping[str, Any], backend: str | None) -> Mapping[str, Any]:
    """Return the options with the small arrays among them read from the device.

    These decide how the work is cut up, or are checked by their values, and so have to
    be here. The arguments of a score_mod are taken along.
    """
    found = {
        name: _read(value, name, backend)
        for name in _SMALL
        if type(value := options.get(name)) not in _OF_HOST and on_device(value)
    }
    args = options.get("score_mod_args")
    if isinstance(args, (tuple, list)) and any(map(on_device, args)):
        found["score_mod_args"] = tuple(
            _read(value, f"score_mod_args[{i}]", backend) if on_device(value) else value
            for i, value in enumerate(args)
        )
    return {**options, **found} if found else options


def _read(value: object, name: str, backend: str | None) -> Any:
    chosen = cast(DeviceBackend, selector.on_device(backend, name, "to_host"))
    return chosen.to_host(device_array(value, name))


def run(
    query: object,
    target: DeviceArray | None,
    problem: AttentionProblem,
    out: Any,
    return_lse: bool,
    backend: Backend,
    execution: Execution,
) -> Any:
    """Run a call; return `out`, or (out, lse).

    Parameters
    ----------
    query : object
        As the caller gave it: results are of its library.
    target : DeviceArray or None
        Where `out` lies.
    problem : AttentionProblem
        The call, on a device.
    out : object
        What the caller gave for the result; None for nothing.
    return_lse : bool
        Whether to return the log-sum-exp, too.
    backend : DeviceBackend
        Who runs it.
    execution : Execution
        How.
    """
    able = cast(DeviceBackend, backend)
    if execution.max_memory is not None:
        found = admission.estimate(problem, out, return_lse, None, backend, execution)
        memory.require_within(found, execution.max_memory)
    problem, lse, lse_target = prepared(problem), None, None
    stream = execution.stream
    if target is None:
        out, target = able.empty_like(query, problem.out_shape, problem.dtype, stream)
    if return_lse:
        shape, dtype = problem.lse_shape, problem.acc_dtype
        lse, lse_target = able.empty_like(query, shape, dtype, stream)
    if target.size or (lse_target is not None and lse_target.size):
        able.run_device(problem, target, lse_target, execution)
    return (out, lse) if return_lse else out


def scores_by_block(
    query: object,
    problem: AttentionProblem,
    backend: Backend,
    execution: Execution,
    cut: blocks.Cut,
) -> Iterator[tuple[slice, slice, Any]]:
    """Yield (query slice, key slice, block), each block a fresh array on the device."""
    able = cast(DeviceBackend, backend)
    for part, (_, q0, q1, k0, k1), run_so in blocks.parts(problem, cut, execution):
        shape, stream = part.out_shape, execution.stream
        block, target = able.empty_like(query, shape, problem.dtype, stream)
        if prod(shape):
            able.run_device(part, target, None, run_so)
        yield slice(q0, q1), slice(k0, k1), block
        del block, target  # or it would be kept while the next one is made
