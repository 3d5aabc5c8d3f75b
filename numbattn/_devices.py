"""What the CUDA backend is measured by: problems, their roofline, and timing them.

Timing takes PyTorch: its arrays go into numbattn as they are, its operators are the
other side, and its events tell the time on the device.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from numbattn._peers import Case

WARM_UP, REPEATS = 3, 20


class Chip(NamedTuple):
    """Peaks of a device, by its data sheet."""

    name: str
    bytes_per_second: float
    flops: Mapping[str, float]
    """Of products in a dtype: dense, float32 and float64 without tensor cores."""


H200 = Chip(
    "H200",
    4.8e12,
    {"float32": 67e12, "float64": 34e12, "float16": 990e12, "bfloat16": 990e12},
)


@dataclass(frozen=True)
class Goal:
    """A problem, whom it is compared with, and what has to come of it."""

    case: Case
    than: str
    """Of `OTHERS`, or "copy": the bandwidth of a copy on the same device."""
    ratio: float
    """Their time over ours, at least; of "copy": of the bandwidth, at least."""


GOALS = (
    Goal(Case("scores", 8192, 8192, 128), "matmul", 0.8),
    Goal(Case("scores", 16384, 16384, 128, dtype="bfloat16"), "matmul", 0.8),
    Goal(Case("attention", 4096, 4096, 64, lead=(16,)), "sdpa", 1.5),
    Goal(
        Case("attention", 4096, 4096, 128, lead=(16,), dtype="bfloat16"), "flash", 0.5
    ),
    Goal(
        Case(
            "attention", 4096, 4096, 128, lead=(16,), dtype="bfloat16", causal=True
        ),
        "flash",
        0.5,
    ),
    Goal(Case("scores", 16384, 16384, 8), "copy", 0.85),
    Goal(Case("attention", 1, 8192, 128, lead=(32, 32)), "copy", 0.85),
)  # fmt: skip
"""What issue 6 promises of a GPU; the last two are bound by memory."""


def traffic(case: Case) -> float:
    """Return the bytes that have to be read and written, each once."""
    size = {"float64": 8, "float32": 4}.get(case.dtype, 2)
    d_v = case.d if case.d_v is None else case.d_v
    heads = math.prod(case.lead)
    shared = heads
    if case.kv_heads is not None:
        shared = heads // case.lead[-1] * case.kv_heads
    elements = heads * case.n * case.d + shared * case.m * case.d
    if case.operation == "attention":
        elements += shared * case.m * d_v + heads * case.n * d_v
    else:
        elements += heads * case.n * case.m
    return float(size * elements)


class Roofline(NamedTuple):
    """The least time that a device can take, and what it is bound by."""

    seconds: float
    bound: str


def roofline(case: Case, chip: Chip = H200) -> Roofline:
    """Return the greater of the times of the arithmetic and of the memory."""
    arithmetic = case.flops / chip.flops[case.dtype]
    memory = traffic(case) / chip.bytes_per_second
    if arithmetic >= memory:
        return Roofline(arithmetic, "arithmetic")
    return Roofline(memory, "memory")


def seconds(run: Callable[[], object], repeats: int = REPEATS) -> float:
    """Return the median time of a call on the device, by CUDA events, after warm-up."""
    import torch

    for _ in range(WARM_UP):
        run()
    torch.cuda.synchronize()
    found = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        found.append(float(start.elapsed_time(end)) / 1e3)
    return statistics.median(found)


def arrays(case: Case) -> dict[str, Any]:
    """Return query, key, value and out of a problem, on the device."""
    import torch

    dtype = getattr(torch, case.dtype)
    generator = torch.Generator("cuda").manual_seed(0)
    d_v = case.d if case.d_v is None else case.d_v
    few = case.lead if case.kv_heads is None else (*case.lead[:-1], case.kv_heads)
    shapes = {
        "query": (*case.lead, case.n, case.d),
        "key": (*few, case.m, case.d),
        "value": (*few, case.m, d_v),
    }
    found = {
        name: torch.randn(shape, generator=generator, device="cuda").to(dtype)
        for name, shape in shapes.items()
    }
    last = d_v if case.operation == "attention" else case.m
    found["out"] = torch.empty(*case.lead, case.n, last, dtype=dtype, device="cuda")
    return found


def ours(case: Case, given: Mapping[str, Any]) -> Callable[[], object]:
    """Return numbattn's call."""
    import numbattn

    names = ("query", "key", "value")[: 3 if case.operation == "attention" else 2]
    operate = getattr(numbattn, case.operation)
    rest = {"is_causal": case.causal, "out": given["out"], "backend": "cuda"}
    return lambda: operate(*(given[name] for name in names), **rest)


def _matmul(case: Case, given: Mapping[str, Any]) -> Callable[[], object]:
    import torch

    transposed = given["key"].transpose(-1, -2)
    return lambda: torch.matmul(given["query"], transposed, out=given["out"])


def _sdpa(case: Case, given: Mapping[str, Any]) -> Callable[[], object]:
    import torch

    q, k, v = (
        given[name].reshape(-1, case.lead[-1], *given[name].shape[-2:])
        for name in ("query", "key", "value")
    )
    attend = torch.nn.functional.scaled_dot_product_attention
    return lambda: attend(q, k, v, is_causal=case.causal)


def _flash(case: Case, given: Mapping[str, Any]) -> Callable[[], object]:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    run = _sdpa(case, given)

    def flash() -> object:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return run()

    return flash


OTHERS: dict[str, Callable[[Case, Mapping[str, Any]], Callable[[], object]]] = {
    "matmul": _matmul,
    "sdpa": _sdpa,
    "flash": _flash,
}
"""PyTorch's side, by the names that goals have for it."""


def copy_bandwidth(size: int = 1 << 30) -> float:
    """Return bytes a second that a copy on the device reads and writes together."""
    import torch

    source = torch.ones(size // 4, device="cuda")
    target = torch.empty_like(source)
    return 2.0 * size / seconds(lambda: target.copy_(source))


def measured(goal: Goal) -> dict[str, Any]:
    """Time a goal's two sides on the device at hand.

    TF32 is off: a float32 product of PyTorch's is one.
    """
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    given = arrays(goal.case)
    mine = seconds(ours(goal.case, given))
    if goal.than == "copy":
        theirs = traffic(goal.case) / copy_bandwidth()
    else:
        theirs = seconds(OTHERS[goal.than](goal.case, given))
    least = roofline(goal.case)
    return {
        "case": str(goal.case),
        "than": goal.than,
        "milliseconds": mine * 1e3,
        "theirs": theirs * 1e3,
        "ratio": theirs / mine,
        "goal": goal.ratio,
        "met": theirs / mine >= goal.ratio,
        "tflops": goal.case.flops / mine / 1e12,
        "of_h200_roofline": least.seconds / mine,
    }
