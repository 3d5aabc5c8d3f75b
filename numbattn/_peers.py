"""The sides of a comparison, as source for `numbattn._timing.Worker`.

Each side gets the same numbers (one seed), prepares everything outside the timed
function, and writes into an array that exists already where its library can.
"""

from __future__ import annotations

import importlib.util
import math
from dataclasses import asdict, dataclass
from typing import Any

from ._timing import Worker

ARRAYS = """
import math
import numpy as np

_rng = np.random.default_rng(0)

def _normal(lead, rows, columns):
    numbers = _rng.standard_normal((*lead, rows, columns), np.float32)
    return numbers.astype(dtype, copy=False)

d_v = d if d_v is None else d_v
_kv_lead = lead if kv_heads is None else (*lead[:-1], kv_heads)
q, k, v = _normal(lead, n, d), _normal(_kv_lead, m, d), _normal(_kv_lead, m, d_v)
arrays = (q, k, v) if operation == "attention" else (q, k)
mask = _rng.random((n, m)) < 0.5 if mask else None
seen = mask  # which keys a query sees: all that causal and window say, as one mask
if causal or window is not None:
    _i, _j = np.ogrid[:n, :m]
    _view = (_j <= _i) if causal else np.ones((n, m), bool)
    if window is not None:
        _view = _view & (_j >= _i - window)
    seen = _view if mask is None else _view & mask
only_causal = causal and window is None and mask is None
scale = 1.0 / math.sqrt(d)
out = np.zeros((*lead, n, d_v if operation == "attention" else m), dtype)
"""

# A library may offer several ways; the fastest on this problem is timed.
FASTEST = """
import time

def _seconds(way):
    start = time.perf_counter()
    way()
    return time.perf_counter() - start

run = ways[0]
if len(ways) > 1:
    for way in ways:
        way()
    run = min(ways, key=lambda way: min(_seconds(way) for _ in range(3)))
"""

_NUMBATTN = """
import numbattn

operate = getattr(numbattn, operation)
given = {"mask": mask, "window_size": window and (window, None)}
given = {name: each for name, each in given.items() if each is not None}

def run():
    return operate(*arrays, is_causal=causal, out=out, backend=backend, **given)

ways = [run]
"""

_NUMPY = """
hidden = None if seen is None else ~seen
# heads that share a key are rows of one product
_heads = k.shape[:-2]
_rows = out.size // out.shape[-1] // math.prod(_heads)
_q = q.reshape(*_heads, _rows, d) if kv_heads else q
s = np.zeros((*_q.shape[:-1], m), dtype) if operation == "attention" else out
_s = s.reshape(*lead, n, m)
_out = out.reshape(*_q.shape[:-1], out.shape[-1])
k_t = k.swapaxes(-1, -2)

def run():
    np.matmul(_q, k_t, out=s)
    if operation != "scores":
        np.multiply(s, s.dtype.type(scale), out=s)
    if hidden is not None:
        _s[..., hidden] = -np.inf
    if operation != "scores":
        np.subtract(s, s.max(-1, keepdims=True), out=s)
        np.exp(s, out=s)
        np.divide(s, s.sum(-1, keepdims=True), out=s)
    if operation == "attention":
        np.matmul(s, v, out=_out)
    return out

ways = [run]
"""

_TORCH = """
import torch

tq, tk, tv, to = (torch.from_numpy(a) for a in (q, k, v, out))
tk_t = tk.transpose(-1, -2)
tseen = None if seen is None or only_causal else torch.from_numpy(seen)
hidden = None if seen is None else torch.from_numpy(~seen)
sdpa = torch.nn.functional.scaled_dot_product_attention

def scores():
    torch.matmul(tq, tk_t, out=to)
    if operation != "scores":
        to.mul_(scale)
    if hidden is not None:
        to.masked_fill_(hidden, -math.inf)
    if operation == "weights":
        torch.softmax(to, -1, out=to)
    return to

def attention():
    return sdpa(
        tq, tk, tv, attn_mask=tseen, is_causal=only_causal, enable_gqa=bool(kv_heads)
    )

ways = [attention if operation == "attention" else scores]
if operation == "attention" and tseen is not None:
    floats = torch.zeros(seen.shape, dtype=tq.dtype).masked_fill_(~tseen, -math.inf)
    ways.append(lambda: sdpa(tq, tk, tv, attn_mask=floats))
if operation == "attention" and n == 1 and lead and seen is None:
    # heads that share a key as its queries, in SDPA and in two products
    tq_rows = tq.reshape(*tk.shape[:-2], -1, d)
    ways.append(lambda: sdpa(tq_rows, tk, tv).reshape(to.shape))
    ways.append(
        lambda: (torch.softmax(tq_rows @ tk_t * scale, -1) @ tv).reshape(to.shape)
    )
torch.inference_mode().__enter__()
"""

_ONNXRUNTIME = """
import onnxruntime
from onnx import helper

settings = onnxruntime.SessionOptions()
settings.log_severity_level = 4
settings.intra_op_num_threads = num_threads or 0

def describe(arrays):
    return [
        helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape
        )
        for name, a in arrays.items()
    ]

def runner(nodes, inputs, outputs):
    # inputs and outputs by name; nothing is copied in a run
    graph = helper.make_graph(nodes, "g", describe(inputs), describe(outputs))
    domains = [helper.make_opsetid("", 23), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=domains)
    model.ir_version = 11
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), settings, providers=["CPUExecutionProvider"]
    )
    binding = session.io_binding()
    for name, a in inputs.items():
        binding.bind_cpu_input(name, a)
    for name, a in outputs.items():
        value = onnxruntime.OrtValue.ortvalue_from_numpy(a)
        binding.bind_ortvalue_output(name, value)
    return lambda: session.run_with_iobinding(binding)

def matrices():
    if seen is not None:
        raise NotImplementedError("masked scores have no single operator")
    inputs = {"q": q, "k_t": np.ascontiguousarray(k.swapaxes(-1, -2))}
    nodes = [helper.make_node("MatMul", ["q", "k_t"], ["o"])]
    if operation == "weights":
        inputs["scale"] = np.array(scale, dtype)
        nodes = [
            helper.make_node("MatMul", ["q", "k_t"], ["s"]),
            helper.make_node("Mul", ["s", "scale"], ["t"]),
            helper.make_node("Softmax", ["t"], ["o"], axis=-1),
        ]
    go = runner(nodes, inputs, {"o": out})
    return lambda: (go(), out)[1]

q4, k4, v4 = (a[(None,) * (4 - a.ndim)] for a in (q, k, v))

def attention():
    # the standard operator
    inputs = {"q": q4, "k": k4, "v": v4}
    if seen is not None and not only_causal:
        inputs["mask"] = seen
    causal = int(only_causal)
    node = helper.make_node("Attention", list(inputs), ["o"], is_causal=causal)
    go = runner([node], inputs, {"o": out[(None,) * (4 - out.ndim)]})
    return lambda: (go(), out)[1]

def packed(a):
    # (batch, n, heads * d), as the operators of the domain com.microsoft hold it
    return np.ascontiguousarray(a.swapaxes(1, 2)).reshape(a.shape[0], a.shape[2], -1)

def unpacked(a):
    return a.reshape(*a.shape[:2], -1, d_v).swapaxes(1, 2).reshape(out.shape)

def multi_head():
    if kv_heads or (only_causal and n != m):
        raise NotImplementedError("one key head a query head; causal squares only")
    inputs = {"q": packed(q4), "k": packed(k4), "v": packed(v4)}
    names, more = ["q", "k", "v"], {"unidirectional": 1} if only_causal else {}
    if seen is not None and not only_causal:
        inputs["bias"] = np.where(seen, 0, -np.inf).astype(dtype)[None, None]
        names += ["", "", "bias"]
    result = np.zeros((q4.shape[0], n, q4.shape[1] * d_v), dtype)
    node = helper.make_node(
        "MultiHeadAttention", names, ["o"], domain="com.microsoft",
        num_heads=q4.shape[1], **more,
    )
    go = runner([node], inputs, {"o": result})
    return lambda: (go(), unpacked(result))[1]

def grouped():
    # that of exported language models: always causal, one buffer for past and present
    view = only_causal or (window is not None and causal and mask is None)
    if d_v != d or not (view and n == m or seen is None and n == 1):
        raise NotImplementedError("causal, and as wide in the value as in the key")
    past_k, past_v = k4.copy(), v4.copy()
    inputs = {
        "q": packed(q4), "k": packed(k4[:, :, m - n:]), "v": packed(v4[:, :, m - n:]),
        "past_k": past_k, "past_v": past_v,
        "last": np.full(q4.shape[0], m - 1, np.int32), "total": np.array(m, np.int32),
    }
    result = np.zeros((q4.shape[0], n, q4.shape[1] * d_v), dtype)
    node = helper.make_node(
        "GroupQueryAttention", list(inputs), ["o", "new_k", "new_v"],
        domain="com.microsoft", num_heads=q4.shape[1], kv_num_heads=k4.shape[1],
        local_window_size=-1 if window is None else window + 1,
    )
    outputs = {"o": result, "new_k": past_k, "new_v": past_v}
    go = runner([node], inputs, outputs)
    return lambda: (go(), unpacked(result))[1]

ways, refusals = [], []
makers = [attention, multi_head, grouped] if operation == "attention" else [matrices]
for make in makers:
    try:
        way = make()
        way()
    except Exception as error:  # an operator that does not take this problem
        refusals.append(f"{make.__name__}: {error}")
    else:
        ways.append(way)
if not ways:
    raise NotImplementedError("; ".join(refusals))
"""

_JAX = """
import os

if num_threads and hasattr(os, "sched_setaffinity"):  # XLA reads no variable for it
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:num_threads])
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp

jax.config.update("jax_enable_x64", dtype == "float64")
jseen = None if seen is None else jnp.asarray(seen)

def matrices(q, k):
    s = q @ k.swapaxes(-1, -2)
    if operation != "scores":
        s = s * scale
    if jseen is not None:
        s = jnp.where(jseen, s, -jnp.inf)
    return s if operation == "scores" else jax.nn.softmax(s, -1)

def attention(q, k, v):
    given = None if only_causal or jseen is None else jseen[None, None]
    return jax.nn.dot_product_attention(q, k, v, mask=given, is_causal=only_causal)

def compiled(function, *arrays):
    arrays = [jnp.asarray(a) for a in arrays]
    go = jax.jit(function)
    return lambda: np.asarray(go(*arrays).block_until_ready())  # not copied

ways = []
if operation == "attention" and d_v == d:
    # it holds heads behind queries; changing that layout is not timed
    last = (a[(None,) * (4 - a.ndim)].swapaxes(1, 2) for a in (q, k, v))
    theirs = compiled(attention, *last)
    ways.append(lambda: theirs().swapaxes(1, 2))
if operation != "attention":
    ways.append(compiled(matrices, q, k))
elif not kv_heads:
    ways.append(compiled(lambda q, k, v: matrices(q, k) @ v, q, k, v))
"""

SOURCES = {
    "numbattn": _NUMBATTN,
    "numpy": _NUMPY,
    "torch": _TORCH,
    "onnxruntime": _ONNXRUNTIME,
    "jax": _JAX,
}
_NEEDS = {
    "torch": ("torch",),
    "onnxruntime": ("onnxruntime", "onnx"),
    "jax": ("jax", "jaxlib"),
}


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
    d_v: int | None = None
    kv_heads: int | None = None
    mask: bool = False
    """Whether a random boolean mask hides half of the keys."""
    window: int | None = None
    """How many keys to the left a query sees beside its own."""

    def __str__(self) -> str:
        lead = "".join(f"{size}×" for size in self.lead)
        d = f"{self.d}" if self.d_v is None else f"{self.d} and {self.d_v}"
        more = {
            " causal": self.causal,
            " masked": self.mask,
            f" window {self.window}": self.window is not None,
            f" kv heads {self.kv_heads}": self.kv_heads is not None,
        }
        options = "".join(name for name, given in more.items() if given)
        return f"{self.operation} {lead}{self.n}×{self.m} d {d} {self.dtype}{options}"

    @property
    def flops(self) -> float:
        """Floating-point operations of the matrix products.

        Causal counts its half and a window its width; a mask hides no work.
        """
        columns = self.d
        if self.operation == "attention":
            columns += self.d if self.d_v is None else self.d_v
        pairs = self.n * self.m / 2 if self.causal else float(self.n * self.m)
        if self.window is not None:
            pairs = min(pairs, self.n * (self.window + 1.0))
        return 2.0 * pairs * columns * math.prod(self.lead)


def installed_peers() -> dict[str, str | None]:
    """Return the libraries to compare with: name to None, or why it is left out."""
    peers: dict[str, str | None] = {"numpy": None}
    for name, needs in _NEEDS.items():
        missing = [need for need in needs if importlib.util.find_spec(need) is None]
        peers[name] = f"{' and '.join(missing)} not installed" if missing else None
    return peers


def program(side: str) -> str:
    """Return the source that defines one side's ``run()``, which returns its result.

    It also leaves ``ways``, the functions that ``run`` is the fastest of.
    """
    return ARRAYS + SOURCES[side] + FASTEST


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
