"""The sides of a comparison, as source for `numbattn._timing.Worker`.

Each side gets the same numbers (one seed), prepares everything outside the timed
function, and writes into an array that exists already where its library can.
"""

from __future__ import annotations

import importlib.util
from dataclasses import asdict, dataclass
from typing import Any

from numbattn._timing import Worker

_ARRAYS = """
import math
import numpy as np

_rng = np.random.default_rng(0)
q = _rng.standard_normal((*lead, n, d)).astype(dtype)
k = _rng.standard_normal((*lead, m, d)).astype(dtype)
v = _rng.standard_normal((*lead, m, d)).astype(dtype)
plain = (q, k, v)
scale = 1.0 / math.sqrt(d)
columns = d if operation == "attention" else m
out = np.zeros((*lead, n, columns), dtype)
"""

_NUMBATTN = """
import numbattn

operate = getattr(numbattn, operation)
arrays = (q, k, v) if operation == "attention" else (q, k)

def run():
    return operate(*arrays, is_causal=causal, out=out, backend=backend)
"""

_NUMPY = """
masked = np.triu(np.ones((n, m), bool), 1) if causal else None
s = out if operation != "attention" else np.zeros((*lead, n, m), dtype)
k_t = k.swapaxes(-1, -2)

def scores():
    np.matmul(q, k_t, out=s)
    if operation != "scores":
        np.multiply(s, s.dtype.type(scale), out=s)
    if causal:
        s[..., masked] = -np.inf

def run():
    scores()
    if operation != "scores":
        np.subtract(s, s.max(-1, keepdims=True), out=s)
        np.exp(s, out=s)
        np.divide(s, s.sum(-1, keepdims=True), out=s)
    if operation == "attention":
        np.matmul(s, v, out=out)
    return out
"""

_TORCH = """
import torch

tq, tk, tv, to = (torch.from_numpy(a) for a in (q, k, v, out))
tk_t = tk.transpose(-1, -2)
masked = torch.ones((n, m), dtype=torch.bool).triu(1) if causal else None

def scores():
    torch.matmul(tq, tk_t, out=to)
    if operation != "scores":
        to.mul_(scale)
    if causal:
        to.masked_fill_(masked, -math.inf)

def run():
    with torch.inference_mode():
        if operation == "attention":
            return torch.nn.functional.scaled_dot_product_attention(
                tq, tk, tv, is_causal=causal
            )
        scores()
        if operation == "weights":
            torch.softmax(to, -1, out=to)
        return to
"""

_ONNXRUNTIME = """
import onnxruntime
from onnx import TensorProto, helper

kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
names = ("q", "k", "v") if operation == "attention" else ("q", "k_t")
k_t = np.ascontiguousarray(k.swapaxes(-1, -2))
if operation == "attention":
    # the operator takes 4-D arrays
    q, k, v, out = (a[(None,) * (4 - a.ndim)] for a in (q, k, v, out))
    nodes = [helper.make_node("Attention", names, ["o"], is_causal=int(causal))]
elif causal:
    raise NotImplementedError("causal scores have no single operator")
elif operation == "weights":
    nodes = [
        helper.make_node("MatMul", names, ["s"]),
        helper.make_node("Mul", ["s", "scale"], ["t"]),
        helper.make_node("Softmax", ["t"], ["o"], axis=-1),
    ]
else:
    nodes = [helper.make_node("MatMul", names, ["o"])]
arrays = {"q": q, "k": k, "v": v, "k_t": k_t}
graph = helper.make_graph(
    nodes,
    "g",
    [helper.make_tensor_value_info(x, kind, arrays[x].shape) for x in names],
    [helper.make_tensor_value_info("o", kind, out.shape)],
    [helper.make_tensor("scale", kind, [], [scale])] if operation == "weights" else [],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)])
model.ir_version = 11
settings = onnxruntime.SessionOptions()
settings.log_severity_level = 3
settings.intra_op_num_threads = num_threads or 0
session = onnxruntime.InferenceSession(
    model.SerializeToString(), settings, providers=["CPUExecutionProvider"]
)
binding = session.io_binding()
for x in names:
    binding.bind_cpu_input(x, arrays[x])
binding.bind_ortvalue_output("o", onnxruntime.OrtValue.ortvalue_from_numpy(out))

def run():
    session.run_with_iobinding(binding)
    return out
"""

SOURCES = {
    "numbattn": _NUMBATTN,
    "numpy": _NUMPY,
    "torch": _TORCH,
    "onnxruntime": _ONNXRUNTIME,
}
_NEEDS = {"torch": ("torch",), "onnxruntime": ("onnxruntime", "onnx")}


@dataclass(frozen=True)
class Case:
    """One problem to time: the operation, its shapes and its dtype."""

    operation: str
    n: int
    m: int
    d: int
    lead: tuple[int, ...] = ()
    dtype: str = "float32"
    causal: bool = False

    def __str__(self) -> str:
        lead = "".join(f"{size}×" for size in self.lead)
        causal = " causal" if self.causal else ""
        return (
            f"{self.operation} {lead}{self.n}×{self.m} d {self.d} {self.dtype}{causal}"
        )

    @property
    def flops(self) -> float:
        """Floating-point operations of the matrix products; causal counts its half."""
        size = 2.0 * self.n * self.m * self.d
        for axis in self.lead:
            size *= axis
        if self.operation == "attention":
            size *= 2
        return size / 2 if self.causal else size


def installed_peers() -> dict[str, str | None]:
    """Return the libraries to compare with: name to None, or why it is left out."""
    peers: dict[str, str | None] = {"numpy": None}
    for name, needs in _NEEDS.items():
        missing = [need for need in needs if importlib.util.find_spec(need) is None]
        peers[name] = f"{' and '.join(missing)} not installed" if missing else None
    return peers


def program(side: str) -> str:
    """Return the source that defines one side's ``run()``, which returns its result."""
    return _ARRAYS + SOURCES[side]


def variables(
    case: Case, *, backend: str | None = None, num_threads: int | None = None
) -> dict[str, Any]:
    """Return what `program` finds set."""
    return {**asdict(case), "backend": backend, "num_threads": num_threads}


def start(
    side: str,
    case: Case,
    *,
    backend: str | None = None,
    num_threads: int | None = None,
) -> Worker:
    """Start the worker of one side for one case."""
    given = variables(case, backend=backend, num_threads=num_threads)
    return Worker(program(side), given, num_threads=num_threads)
