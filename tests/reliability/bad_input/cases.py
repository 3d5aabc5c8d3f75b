"""Every class of bad input: what differs from a good call, and bad settings."""

from __future__ import annotations

import pathlib
import warnings
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

import numbattn
from numbattn import config
from numbattn.cli import npy

Q = np.ones((2, 4, 5, 8), np.float32)
K = np.ones((2, 2, 6, 8), np.float32)
V = np.ones((2, 2, 6, 3), np.float32)
OUT = (2, 4, 5, 3)


class OnDevice:
    """A CUDA array, as far as anyone may look."""

    __cuda_array_interface__ = {  # noqa: RUF012
        "shape": (5, 8), "typestr": "<f4", "version": 3, "data": (64, False),
    }  # fmt: skip
    shape = (5, 8)
    dtype = np.dtype(np.float32)

    def __array__(self, *_: object, **__: object) -> np.ndarray:
        raise AssertionError("a device array was copied to the host behind one's back")


class Sparse:
    """As SciPy's and PyData's sparse arrays look from outside."""

    nnz = 3
    shape = (5, 8)


class Raises:
    """Its conversion fails in its own way, in several lines."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __array__(self, *_: object, **__: object) -> np.ndarray:
        raise self.error


class Hostile:
    """Nothing of it can be looked at."""

    def __getattr__(self, name: str) -> Any:
        raise ZeroDivisionError(name)

    def __repr__(self) -> str:
        raise ZeroDivisionError("repr")


class Tracer(Raises):
    """A JAX tracer: an array without values."""

    def __init__(self) -> None:
        super().__init__(TypeError("the tracer has no concrete value\nin jit"))


class Target:
    """An out that is no array; its shape and dtype are what one says."""

    def __init__(self, shape: Any, dtype: Any) -> None:
        self.shape, self.dtype = shape, dtype

    def __setitem__(self, at: object, block: object) -> None:
        raise AssertionError("it was written")


def ones(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.ones(shape, dtype)


def matrix() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        return np.matrix(np.ones((5, 8)))


def frozen() -> np.ndarray:
    array = np.zeros(OUT, np.float32)
    array.flags.writeable = False
    return array


structured = np.zeros((5, 8), [("x", "f4"), ("y", "f4")])
huge = 10**5000

CALLS: dict[str, dict[str, Any]] = {
    # arrays
    "none": {"query": None},
    "a set": {"key": {1.0, 2.0}},
    "an object": {"value": object()},
    "a function": {"query": len},
    "text": {"query": "query.npy"},
    "bytes": {"key": np.full((6, 8), b"1")},
    "objects": {"key": np.full((6, 8), None)},
    "dates": {"value": np.zeros((6, 3), "M8[s]")},
    "time spans": {"value": np.zeros((6, 3), "m8[s]")},
    "structured": {"query": structured},
    "complex": {"query": Q * 1j},
    "longdouble": {"key": K.astype("g")},
    "float8": {"key": K.astype(ml_dtypes.float8_e4m3fn)},
    "masked": {"query": np.ma.ones((5, 8))},
    "matrix": {"query": matrix()},
    "sparse": {"query": Sparse()},
    "ragged": {"query": [[1.0, 2.0], [3.0]]},
    "requires grad": {"query": Raises(RuntimeError("requires grad"))},
    "a tracer": {"query": Tracer()},
    "a broken array": {"query": Raises(KeyError("data"))},
    "hostile": {"query": Hostile()},
    "on a device": dict.fromkeys(("query", "key", "value"), OnDevice()),
    "partly on a device": {"query": OnDevice(), "value": OnDevice()},
    "a number": {"query": 3.0},
    "a vector": {"query": ones(8)},
    "a vector key": {"key": ones(8)},
    "a vector value": {"value": ones(3)},
    # shapes
    "d_k": {"key": K[..., :7]},
    "m": {"value": V[..., :5, :]},
    "batch": {"key": ones(3, 2, 6, 8)},
    "heads": {"key": ones(2, 3, 6, 8), "value": V[:, :1]},
    "heads of three axes": {"query": Q[0][:3], "key": K[0], "value": V[0]},
    "key and value heads": {"key": K.repeat(2, 1)},
    "no heads": {"key": K[:, :0], "value": V[:, :0]},
    # numbers
    "scale nan": {"scale": np.nan},
    "scale inf": {"scale": -np.inf},
    "scale beyond float32": {"scale": 1e39},
    "scale beyond floats": {"scale": huge},
    "scale array": {"scale": ones(1)},
    "scale list": {"scale": [1.0]},
    "scale text": {"scale": "1"},
    "scale complex": {"scale": 1j},
    "scale bool": {"scale": True},
    "softcap 0": {"softcap": 0.0},
    "softcap negative": {"softcap": -30},
    "softcap tiny": {"softcap": 1e-60},
    "softcap nan": {"softcap": np.nan},
    "softcap text": {"softcap": "x" * 10_000},
    # bias and mask
    "bias bool": {"bias": ones(5, 6, dtype=bool)},
    "bias int": {"bias": ones(5, 6, dtype=int)},
    "bias complex": {"bias": ones(5, 6, dtype=complex)},
    "bias shape": {"bias": ones(5, 5)},
    "bias axes": {"bias": ones(1, 2, 4, 5, 6)},
    "bias of key heads": {"bias": ones(2, 5, 6)},
    "bias longdouble": {"bias": ones(5, 6, dtype="g")},
    "bias masked": {"bias": np.ma.ones((5, 6))},
    "bias on a device": {"bias": OnDevice()},
    "mask float": {"mask": ones(5, 6)},
    "mask nan": {"mask": np.full((5, 6), np.nan)},
    "mask int": {"mask": ones(5, 6, dtype="u1")},
    "mask text": {"mask": "causal"},
    "mask rows": {"mask": ones(4, 6, dtype=bool)},
    "mask columns": {"mask": ones(5, 7, dtype=bool)},
    "mask on a device": {"mask": OnDevice()},
    # positions
    "causal word": {"is_causal": "lower_right"},
    "causal int": {"is_causal": 1},
    "causal none": {"is_causal": None},
    "window number": {"window_size": 3},
    "window one": {"window_size": (3,)},
    "window three": {"window_size": (1, 1, 1)},
    "window text": {"window_size": "ab"},
    "window 0-D": {"window_size": np.array(3)},
    "window 2-D": {"window_size": ones(2, 2)},
    "window negative": {"window_size": (-2, 0)},
    "window float": {"window_size": (1, 2.0)},
    "window bool": {"window_size": (True, 0)},
    "offset word": {"q_offset": "upper_right"},
    "offset float": {"q_offset": 1.0},
    "offset bool": {"q_offset": True},
    "offset none": {"q_offset": None},
    "offset axes": {"q_offset": np.zeros(2, int)},
    "offset shape": {"q_offset": np.zeros((2, 2), int)},
    "offset floats": {"q_offset": np.zeros((2, 1))},
    "lengths above m": {"kv_lengths": 7},
    "lengths far above m": {"kv_lengths": huge},
    "lengths negative": {"kv_lengths": -1},
    "lengths float": {"kv_lengths": 2.0},
    "lengths text": {"kv_lengths": "all"},
    "lengths array above m": {"kv_lengths": [[3], [9]]},
    "lengths axes": {"kv_lengths": [3, 4]},
    "lengths bools": {"kv_lengths": np.ones((2, 1), bool)},
    # sinks
    "sinks number": {"sinks": 0.0},
    "sinks one": {"sinks": [0.0]},
    "sinks of key heads": {"sinks": ones(2)},
    "sinks for each batch": {"sinks": ones(2, 4)},
    "sinks bool": {"sinks": ones(4, dtype=bool)},
    "sinks complex": {"sinks": ones(4, dtype=complex)},
    "sinks longdouble": {"sinks": ones(4, dtype="g")},
    "sinks text": {"sinks": "softmax"},
    "sinks ragged": {"sinks": [[0.0], [1.0, 2.0]]},
    "sinks on a device": {"sinks": OnDevice()},
    # execution
    "backend unknown": {"backend": "refrence"},
    "backend number": {"backend": 3},
    "backend list": {"backend": []},
    "backend empty": {"backend": ""},
    "backend unavailable": {"backend": "cuda"},
    "threads 0": {"num_threads": 0},
    "threads negative": {"num_threads": -2},
    "threads bool": {"num_threads": True},
    "threads float": {"num_threads": 1.5},
    "threads text": {"num_threads": "all"},
    "memory word": {"max_memory": "2 potatoes"},
    "memory empty": {"max_memory": ""},
    "memory 0": {"max_memory": 0},
    "memory negative": {"max_memory": "-1 GB"},
    "memory nan": {"max_memory": np.nan},
    "memory inf": {"max_memory": np.inf},
    "memory beyond floats": {"max_memory": "9" * 400 + " GB"},
    "memory bool": {"max_memory": True},
    "memory too low": {"max_memory": "3 B"},
    "precision word": {"precision": "fast"},
    "precision dtype": {"precision": np.float32},
    "stream on the host": {"stream": 1},
    "stream 0": {"stream": 0},
    "stream text": {"stream": "default"},
    "progress word": {"progress": "yes"},
    "lse word": {"return_lse": "yes"},
    "lse array": {"return_lse": ones(2, dtype=bool)},
    # out
    "out shape": {"out": np.full((2, 4, 5, 4), 7, np.float32)},
    "out axes": {"out": np.full((1, *OUT), 7, np.float32)},
    "out dtype": {"out": np.full(OUT, 7.0)},
    "out integer": {"out": np.full(OUT, 7)},
    "out half": {"out": np.full(OUT, 7, np.float16)},
    "out read-only": {"out": frozen()},
    "out repeats": {
        "out": np.lib.stride_tricks.as_strided(
            np.zeros(3, np.float32), OUT, (0, 0, 0, 4)
        )
    },
    "out list": {"out": [[0.0]]},
    "out text": {"out": "out.npy"},
    "out masked": {"out": np.ma.zeros(OUT, np.float32)},
    "out on a device": {"out": OnDevice()},
    "out without a shape": {"out": Target(7, np.float32)},
    "out of no dtype": {"out": Target(OUT, "torch.float32")},
    "out hostile": {"out": Hostile()},
}


def attention(backend: str, changes: dict[str, Any]) -> Any:
    """Call attention with something bad in it."""
    arguments = {"query": Q, "key": K, "value": V, "backend": backend, **changes}
    arrays = [arguments.pop(name) for name in ("query", "key", "value")]
    return numbattn.attention(*arrays, **arguments)


def environment(name: str, text: str) -> Callable[..., Any]:
    """Return a call that reads a variable of the environment."""

    def run(backend: str, folder: pathlib.Path, monkeypatch: Any) -> None:
        monkeypatch.setenv(f"NUMBATTN_{name}", text)
        config.forget_environment()
        try:
            config.environment(), config.simd(), config.cache_dir()
            numbattn.scores(Q, K)
        finally:
            monkeypatch.undo()
            config.forget_environment()

    return run


def plain(call: Callable[[], Any]) -> Callable[..., Any]:
    """Return a call that needs neither backend nor folder."""
    return lambda backend, folder, monkeypatch: call()


def blocks(**options: Any) -> Callable[..., Any]:
    """Return a call of iter_scores."""
    return lambda backend, folder, monkeypatch: numbattn.iter_scores(
        Q, K, backend=backend, **options
    )


def varlen(**changes: Any) -> Callable[..., Any]:
    """Return a call of attention_varlen on two sequences."""
    arguments = {
        "query": Q[0], "key": K[0], "value": V[0], "cu_seqlens_q": [0, 2, 5],
        "cu_seqlens_k": [0, 4, 6], **changes,
    }  # fmt: skip
    return lambda backend, folder, monkeypatch: numbattn.attention_varlen(
        backend=backend, **arguments
    )


def merged(**changes: Any) -> Callable[..., Any]:
    """Return a call of merge_states."""
    arguments = {
        "out_a": V,
        "lse_a": V[..., 0],
        "out_b": V,
        "lse_b": V[..., 0],
        **changes,
    }
    return plain(lambda: numbattn.merge_states(**arguments))


def torch_like(**changes: Any) -> Callable[..., Any]:
    """Return a call of scaled_dot_product_attention."""
    arguments = {"query": Q[:, :2], "key": K, "value": V, **changes}
    return plain(lambda: numbattn.scaled_dot_product_attention(**arguments))


def file(data: bytes | None) -> Callable[..., Any]:
    """Return a call that reads a file of these bytes; None for no file."""

    def run(backend: str, folder: pathlib.Path, monkeypatch: Any) -> Any:
        path = folder / "K.npy"
        if data is not None:
            path.write_bytes(data)
        return npy.load(path, "key")

    return run


def header(text: str, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    """Return a .npy file with this text as its header."""
    body = text.encode("latin1")
    return b"\x93NUMPY" + version + len(body).to_bytes(2, "little") + body + data


GOOD = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)}\n"


def _into(target: Callable[[pathlib.Path], pathlib.Path]) -> Callable[..., Any]:
    return lambda backend, folder, monkeypatch: npy.write(
        target(folder), (2, 3), np.float32, lambda array: None
    )


OTHERS: dict[str, Callable[..., Any]] = {
    "block_shape number": blocks(block_shape=3),
    "block_shape 0": blocks(block_shape=(0, 4)),
    "block_shape float": blocks(block_shape=(4, 4.0)),
    "block_shape too large": blocks(block_shape=(5, 6), max_memory=50),
    "varlen bias": varlen(bias=ones(5, 6)),
    "varlen mask": varlen(mask=ones(5, 6, dtype=bool)),
    "varlen batch": varlen(query=Q),
    "varlen one head": varlen(key=K[0, 0]),
    "varlen other layout": varlen(
        query=Q[0].swapaxes(0, 1), key=K[0].swapaxes(0, 1), value=V[0].swapaxes(0, 1)
    ),
    "varlen starts number": varlen(cu_seqlens_q=5),
    "varlen starts floats": varlen(cu_seqlens_q=[0, 2.0, 5]),
    "varlen starts axes": varlen(cu_seqlens_q=[[0, 2, 5]]),
    "varlen starts none": varlen(cu_seqlens_k=None),
    "varlen starts on a device": varlen(cu_seqlens_k=OnDevice()),
    "varlen first": varlen(cu_seqlens_q=[1, 2, 5]),
    "varlen backwards": varlen(cu_seqlens_k=[0, 7, 6]),
    "varlen last": varlen(cu_seqlens_k=[0, 4, 5]),
    "varlen counts": varlen(cu_seqlens_k=[0, 6]),
    "varlen offsets": varlen(q_offset=[0, 1, 2]),
    "varlen memory": varlen(max_memory=10),
    "merge shapes": merged(out_b=V[..., :2]),
    "merge lse": merged(lse_b=V),
    "merge complex": merged(out_a=V * 1j),
    "merge on a device": merged(out_a=OnDevice()),
    "sdpa dropout": torch_like(dropout_p=0.1),
    "sdpa mask and causal": torch_like(attn_mask=ones(5, 6), is_causal=True),
    "sdpa heads": torch_like(query=Q),
    "sdpa int mask": torch_like(attn_mask=ones(5, 6, dtype=int)),
    "sdpa complex mask": torch_like(attn_mask=ones(5, 6, dtype=complex)),
    "sdpa mask shape": torch_like(attn_mask=ones(6, 5, dtype=bool)),
    "sinks of scores": plain(
        lambda: numbattn.estimate_memory(Q, K, operation="scores", sinks=ones(4))
    ),
    "explain operation": plain(lambda: numbattn.explain(Q, K, operation="score")),
    "set_backend unknown": plain(lambda: numbattn.set_backend("numpy")),
    "set_backend none": plain(lambda: numbattn.set_backend(None)),  # type: ignore[arg-type]
    "set_config threads": plain(lambda: numbattn.set_config(num_threads=0)),
    "set_config memory": plain(lambda: numbattn.set_config(max_memory="lots")),
    "set_config precision": plain(lambda: numbattn.set_config(precision="tf16")),
    "set_config backend": plain(lambda: numbattn.set_config(backend="gpu")),
    "config_context": plain(
        lambda: numbattn.config_context(num_threads=-1).__enter__()
    ),
    "use_backend": plain(lambda: numbattn.use_backend("CUDA").__enter__()),
    "environment backend": environment("BACKEND", "foo"),
    "environment threads": environment("NUM_THREADS", "two"),
    "environment many threads": environment("NUM_THREADS", "9" * 5000),
    "environment memory": environment("MAX_MEMORY", "2 potatoes"),
    "environment vectors": environment("SIMD", "avx1024"),
    "environment cache": environment("CACHE_DIR", __file__),
    "file missing": file(None),
    "file empty": file(b""),
    "file of text": file(b"1,2,3\n"),
    "file magic only": file(b"\x93NUMPY"),
    "file archive": file(b"PK\x03\x04"),
    "file cut short": file(header(GOOD, b"\0" * 20)),
    "file of objects": file(header(GOOD.replace("<f4", "|O"), b"\0" * 48)),
    "file with a broken header": file(header("{'descr': ")),
    "file of an unknown version": file(header(GOOD, version=b"\x09\x00")),
    "file of a negative shape": file(header(GOOD.replace("(2, 3)", "(-2, 3)"))),
    "file of a huge shape": file(
        header(GOOD.replace("(2, 3)", "(9" + "9" * 30 + ",)"))
    ),
    "file of no dtype": file(header(GOOD.replace("<f4", "float31"))),
    "output in no folder": _into(lambda folder: folder / "nowhere" / "S.npy"),
    "output is a folder": _into(lambda folder: folder),
}
