"""The way of every call: check, choose, admit, run."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from . import admission, blocks, config, device_calls, memory, outputs, selector
from .arrays import DeviceArrayError, outline
from .backends import Execution
from .checks import NO_ARGS, NO_OFFSET, check, plain
from .errors import BackendUnavailableError, OptionError, shown
from .interchange import stream_number
from .masks import Mask
from .options import flag, positive
from .problem import AttentionProblem, Operation, in_halves, prepared
from .progress import reporting

if TYPE_CHECKING:
    from .backends import Backend

_PLAIN = Execution()
_PLAIN_ELEMENTS = 2**21  # 64 MiB at 32 bytes each: plain matrices are not converted


def start(
    operation: Operation,
    arrays: Sequence[object],
    options: Mapping[str, Any],
    backend: str | None,
    num_threads: object,
    max_memory: object,
    precision: object,
    stream: object = None,
) -> tuple[AttentionProblem, Backend, Execution]:
    """Check a call and choose who runs it."""
    settings = config.current()
    exact = settings.precision
    if precision is not None:
        exact = config.precise(precision)
    threads = settings.num_threads
    if num_threads is not None:
        threads = positive(num_threads, "num_threads", "threads")
    limit = settings.max_memory
    if max_memory is not None:
        limit = memory.parse_bytes(max_memory)
    number = None if stream is None else stream_number(stream)
    problem: AttentionProblem | None
    try:
        problem = check(operation, *arrays, **options)
    except DeviceArrayError:
        problem = None
    if problem is None:  # not within "except": what is raised here is not "during" that
        problem = _with_small_read(operation, arrays, options, backend)
    chosen = selector.choose(backend, problem)
    if number is not None and not hasattr(chosen, "run_device"):
        raise OptionError(
            f"stream is given, and backend {chosen.name!r} has no streams: it is for "
            "backend 'cuda'"
        )
    if problem.dtype is not problem.acc_dtype and getattr(chosen, "halves", False):
        problem = in_halves(problem)
    if problem.indices is not None:
        check_functions(problem, chosen)
    if threads is None is limit and number is None and exact is _PLAIN.precision:
        return problem, chosen, _PLAIN
    return problem, chosen, Execution(threads, None, limit, exact, number)


def _with_small_read(
    operation: Operation,
    arrays: Sequence[object],
    options: Mapping[str, Any],
    backend: str | None,
) -> AttentionProblem:
    """Check a call again, with the small arrays of its options read from the device."""
    options = device_calls.read_small(options, backend)
    try:
        return check(operation, *arrays, **options)
    except DeviceArrayError as error:
        raise selector.refuse_device(backend, str(error)) from None


def check_functions(problem: AttentionProblem, backend: Backend) -> None:
    """Let the backend say what is wrong with users' functions, before any work."""
    if not hasattr(backend, "check_functions"):
        raise BackendUnavailableError(
            f"backend {backend.name!r} takes neither score_mod nor mask objects: it "
            "has no check_functions. Choose another by backend= or set_backend"
        )
    backend.check_functions(problem)


def foresee(
    operation: str | None,
    allowed: Sequence[str],
    arrays: Sequence[object],
    options: Mapping[str, Any],
    backend: str | None,
    num_threads: object,
    max_memory: object,
    precision: object,
) -> tuple[AttentionProblem, Backend, Execution]:
    """Do as `start` for a call that is not made: shapes and dtypes will do."""
    query, key, value = arrays
    if operation is None:
        operation = "scores" if value is None else "attention"
    if operation not in allowed:
        *names, last = map(repr, allowed)
        words = f"{', '.join(names)} or {last}"
        raise OptionError(f"operation is {shown(operation)}; it has to be {words}")
    known = {"query": query, "key": key}
    if operation == "attention":
        known["value"] = value
    options = {
        name: outline(given, name)
        if name == "bias" or (name == "mask" and not isinstance(given, Mask))
        else given
        for name, given in options.items()
    }
    if operation in ("scores", "iter_scores"):
        operation = "scores"
        if options["scale"] is None:
            options["scale"] = 1.0
    outlined = [outline(given, name) for name, given in known.items()]
    checked = cast(Operation, operation)
    execution = backend, num_threads, max_memory, precision
    return start(checked, outlined, options, *execution)


def run(
    operation: Operation,
    query: object,
    key: object,
    value: object,
    return_lse: bool,
    out: Any,
    scale: object,
    softcap: object,
    score_mod: object,
    score_mod_args: object,
    bias: object,
    mask: object,
    is_causal: object,
    window_size: object,
    q_offset: object,
    kv_lengths: object,
    sinks: object,
    backend: str | None,
    num_threads: object,
    max_memory: object,
    progress: object,
    precision: object,
    stream: object,
) -> Any:
    """Run a call; return `out`, or (out, lse)."""
    if (
        softcap is None
        and score_mod is None
        and bias is None
        and mask is None
        and is_causal is False
        and window_size is None
        and q_offset is NO_OFFSET
        and kv_lengths is None
        and sinks is None
        and backend is None
        and num_threads is None
        and max_memory is None
        and progress is None
        and precision is None
        and stream is None
        and score_mod_args is NO_ARGS
        and operation != "attention"
    ):
        result = _at_once(operation, query, key, scale, out)
        if result is not None:
            return result
    arrays = (query, key, value) if operation == "attention" else (query, key)
    options = {
        "scale": scale,
        "softcap": softcap,
        "score_mod": score_mod,
        "score_mod_args": score_mod_args,
        "bias": bias,
        "mask": mask,
        "is_causal": is_causal,
        "window_size": window_size,
        "q_offset": q_offset,
        "kv_lengths": kv_lengths,
        "sinks": sinks,
    }
    if return_lse is not False and return_lse is not True:
        return_lse = flag(return_lse, "return_lse")
    problem, chosen, execution = start(
        operation, arrays, options, backend, num_threads, max_memory, precision, stream
    )
    target = None
    if out is not None:
        target = outputs.check_out(problem, out)
        problem = outputs.separate(problem, target)
    go: Callable[..., Any] = compute
    if problem.on_device:  # results are of the query's library
        go = functools.partial(device_calls.run, query, target)
    if progress is None or progress is False:
        return go(problem, out, return_lse, chosen, execution)
    with reporting(progress, operation) as report:
        execution = execution._replace(progress=report)
        return go(problem, out, return_lse, chosen, execution)


def _at_once(
    operation: Operation, query: object, key: object, scale: object, out: Any
) -> Any:
    """Run a small call without options, on plain matrices; None for any other.

    It makes the way of such a call, where Python is most of the time, 5 us shorter.
    """
    settings = config.current()
    if (
        settings.num_threads is not None
        or settings.max_memory is not None
        or settings.precision is not _PLAIN.precision
    ):
        return None
    problem = plain(operation, query, key, scale, out)
    if problem is None or not admission.is_small(problem, _PLAIN_ELEMENTS):
        return None
    chosen = selector.choose(None, problem)
    if out is None:
        out = np.empty((problem.n, problem.m), problem.dtype)
    chosen.run(problem, out, None, _PLAIN)
    return out


def compute(
    problem: AttentionProblem,
    out: Any,
    return_lse: bool,
    backend: Backend,
    execution: Execution,
) -> Any:
    """Run a call that `start` checked, of arrays on the host; return as `run` does."""
    target, cut = None, None
    if out is not None or problem.dtype is not problem.array_dtype:
        target, cut = admission.way(problem, out, return_lse, backend, execution)
    if execution is not _PLAIN or not admission.is_small(problem):
        admission.admit(problem, out, return_lse, cut, backend, execution)
    if problem.copies:
        problem = prepared(problem)
    if out is None:
        out = target = np.empty(problem.out_shape, problem.dtype)
    lse = np.empty(problem.lse_shape, problem.acc_dtype) if return_lse else None
    if cut is not None:
        blocks.write(problem, out, lse, backend, execution, cut)
    elif target is not None and (target.size or (lse is not None and lse.size)):
        backend.run(problem, target, lse, execution)
    return (out, lse) if return_lse else out
