"""Users' functions compiled for GPUs, on a machine without one: PTX, machine code.

``python compiled_users.py [--every] BATCH...`` prints their figures, a line of JSON
for each.
"""

from __future__ import annotations

import json
import re
import sys
import types as python_types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numba.cuda.dispatcher
from cuda.bindings import nvjitlink

sys.path.insert(0, str(Path(__file__).resolve().parent))

import edges  # type: ignore[import-not-found]
import hosted  # type: ignore[import-not-found]
import users  # type: ignore[import-not-found]

from numbattn.backends.cuda import functions, geometry, kernels
from numbattn.backends.cuda.device import cuda, types

# device functions ask the device what it is, as soon as they are compiled
numba.cuda.dispatcher.get_current_device = lambda: python_types.SimpleNamespace(
    compute_capability=(8, 0)
)
CAPABILITIES = {"sm_80": (8, 0), "sm_90a": (9, 0, "a")}


def figures(kernel: Any, signature: Any, name: str, **bounds: Any) -> dict[str, Any]:
    """Return what a kernel takes on a GPU."""
    capability = CAPABILITIES[name]
    ptx, _ = cuda.compile_ptx(kernel, signature, cc=capability, **bounds)
    handle = nvjitlink.create(2, [f"-arch={name}", "-verbose"])
    code = ptx.encode()
    nvjitlink.add_data(handle, nvjitlink.InputType.PTX, code, len(code), "kernel")
    nvjitlink.complete(handle)
    log = bytearray(nvjitlink.get_info_log_size(handle))
    nvjitlink.get_info_log(handle, log)
    nvjitlink.destroy(handle)
    words = log.decode()
    return {
        "local": ".local" in ptx,
        "calls": len(re.findall(r"\bcall\b", ptx)),
        "stack": int(re.findall(r"(\d+) bytes stack frame", words)[0]),
        "spilled": sum(map(int, re.findall(r"(\d+) bytes spill", words))),
        "registers": int(re.findall(r"[Uu]sed (\d+) registers", words)[0]),
    }


def flat(kind: Any) -> Any:
    """Return the type of a flat array."""
    return types.Array(kind, 1, "C")


def wired(sample: Any, dtype: str) -> Any:
    """Return a sample's functions, for a GPU that is not there."""
    problem = users.problem_of(sample, dtype)
    functions.check(problem)
    return functions.wire(problem, lambda array: array)


def hosted_run(made: Any, arguments: tuple[Any, ...]) -> None:
    """Do on this machine's processor what the kernel of a sample does."""
    modify, attends = made.modify, made.attends

    def drive(scores, seen, places, arguments, status):  # type: ignore[no-untyped-def]
        for i in range(scores.size):
            b, h = places[5 * i], places[5 * i + 1]
            q, k, row = places[5 * i + 2], places[5 * i + 3], places[5 * i + 4]
            scores[i] = modify(scores[i], b, h, q, k, arguments, status)
            seen[i] = attends(b, h, q, k, row, arguments, status)
        return 0

    real = getattr(types, arguments[0].dtype.name)
    kinds = flat(real), flat(types.uint8), flat(types.int64)
    inner = types.Tuple(made.signature_types)
    hosted.run(drive, (*kinds, inner, flat(types.int64)), arguments)


def alone(batch: str, every: bool) -> Iterator[dict[str, Any]]:
    """Yield the figures of each function in a kernel of its own, and what is wrong.

    By turns in float32 and float64, for one GPU and the other, or `every` of them.
    """
    for number, sample in enumerate(users.BATCHES[batch]()):
        ways = [
            (dtype, name) for name in CAPABILITIES for dtype in ("float32", "float64")
        ]
        for dtype, name in ways if every else ways[number % 4 :][:1]:
            made = wired(sample, dtype)
            signature = types.void(
                flat(getattr(types, dtype)), flat(types.uint8), flat(types.int64),
                types.Tuple(made.signature_types), flat(types.int64),
            )  # fmt: skip
            found: dict[str, Any] = {}
            if every or batch != "names":  # many functions in each take their time
                found |= figures(users.kernel_of(made), signature, name)
            try:
                found["wrong"] = users.wrong(sample, dtype, hosted_run)
            except Exception as error:  # all of them are told
                found["wrong"] = f"{type(error).__name__}: {error}"
            yield {"name": sample[0], "dtype": dtype, "on": name, **found}


def within(every: bool) -> Iterator[dict[str, Any]]:
    """Yield the figures of the attention kernel: without functions, and with some."""
    samples = {each[0]: each for make in users.BATCHES.values() for each in make()}
    none = ("none", None, None, users.SIZES)
    for name, dtype, which in (
        ("", "float32", "sm_80"),
        ("both", "float32", "sm_80"),
        ("", "float64", "sm_90a"),
        ("relative_bias", "float64", "sm_90a"),
        ("documents", "float64", "sm_90a"),
    )[: 5 if every else 2]:
        made = wired(samples.get(name, none), dtype)
        shape = geometry.geometry(dtype, 64, which != "sm_80")
        source = kernels.attention_source(shape, made)
        bounds = source.threads, 1
        found = figures(source.function, source.signature, which, launch_bounds=bounds)
        yield {"name": name, "dtype": dtype, "on": which, **found}


def tell(line: dict[str, Any]) -> None:
    """Print a line of JSON."""
    sys.stdout.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    every = "--every" in sys.argv
    for each in [word for word in sys.argv[1:] if word != "--every"]:
        if each == "edges":
            tell(edges.wrong(hosted_run))
            continue
        for line in within(every) if each == "within" else alone(each, every):
            tell({"batch": each, **line})
