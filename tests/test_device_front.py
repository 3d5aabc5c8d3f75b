"""Arrays on a CUDA device at the front door: taken as they lie, and never read.

There is no device here: the arrays are host memory that says otherwise, or memory that
may not be touched at all; `FakeCuda` stands for the backend.
"""

from __future__ import annotations

import gc
import mmap
import sys
import weakref
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import numbattn
from numbattn import (
    BackendUnavailableError,
    DTypeError,
    MemoryLimitError,
    OptionError,
    ShapeError,
    selector,
)
from numbattn.backends.reference import ReferenceBackend
from numbattn.device_arrays import DeviceArray
from numbattn.interchange import device_array, stream_number

from .device_fakes import ByDlpack, FakeCuda, Forbidden, OnDevice

RNG = np.random.default_rng(6)
Q, K, V = (
    RNG.standard_normal(s, np.float32) for s in ((2, 4, 5, 8), (2, 2, 6, 8), (2, 6, 3))
)
HALVES = ["float16", "bfloat16"]
POSIX = pytest.mark.skipif(not hasattr(mmap, "PROT_READ"), reason="needs mprotect")


def there(*arrays: Any) -> list[OnDevice]:
    return [OnDevice(array) for array in arrays]


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    """A backend of that name that computes what lies in fake arrays."""
    backend = FakeCuda()
    monkeypatch.setitem(selector._loaded, "cuda", backend)  # type: ignore[arg-type]
    return backend


# how arrays come


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", "|b1", "<i8"])
def test_an_interface_says_where_the_array_lies(dtype: str) -> None:
    base = np.zeros((4, 6, 8), dtype)
    for array in (base, base[::-1, 1:, ::2], base[:, :1], base[:0], base[0, 0, 0]):
        array = np.asarray(array)
        owner = OnDevice(array)
        got = device_array(owner, "query")
        assert got.address == array.__array_interface__["data"][0]
        assert (got.shape, got.strides) == (array.shape, array.strides)
        assert (got.dtype, got.owner, got.stream) == (array.dtype, owner, None)
        assert device_array(got, "query") is got


@pytest.mark.parametrize(
    ("said", "want"),
    [({}, None), ({"stream": None}, None), ({"stream": 1}, 1), ({"stream": 2}, 2),
     ({"stream": 2**45}, 2**45), ({"version": 2, "stream": 7}, None),
     ({"version": 2}, None)],
)  # fmt: skip
def test_its_stream_is_kept(said: dict[str, Any], want: int | None) -> None:
    assert device_array(OnDevice(Q, **said), "query").stream == want


def test_its_readonly_flag_is_kept() -> None:
    for flag in (False, True):
        place = Q.__array_interface__["data"][0], flag
        assert device_array(OnDevice(Q, data=place), "query").readonly is flag


def test_simulated_arrays_of_numba_are_device_arrays() -> None:
    fake: Any = SimpleNamespace(
        __cuda_ndarray__=True, __array_interface__=Q.__array_interface__, dtype=Q.dtype
    )
    assert device_array(fake, "query").shape == Q.shape
    with pytest.raises(BackendUnavailableError, match="query is an array on a CUDA"):
        numbattn.scores(fake, fake, backend="reference")


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"stream": 0}, "stream 0; it is 1 .*, 2 .*, and 0 is not allowed"),
        ({"stream": -1}, "stream -1"),
        ({"stream": "s"}, "stream 's'"),
        ({"version": 1}, "version 1; versions 2 and 3 are taken"),
        ({"version": 4}, "version 4; versions 2 and 3"),
        ({"version": None}, "version None"),
        ({"mask": OnDevice(Q)}, "has a mask in its __cuda_array_interface__.* mask="),
        ({"typestr": ">f4"}, "dtype >f4, whose bytes are swapped.*before it is copied"),
        ({"typestr": "nonsense"}, "cannot be read.*TypeError"),
        ({"typestr": "<f4", "data": None}, "cannot be read"),
        ({"shape": None}, "cannot be read"),
        ({"shape": (2.5,)}, "cannot be read"),
        ({"shape": (-1, 2), "strides": None}, r"shape \(-1, 2\)"),
        ({"strides": (4,)}, r"strides \(4,\), which no array can have"),
        ({"data": (0, False)}, "without an address"),
    ],
)
def test_an_interface_that_cannot_be_is_refused(said: Any, words: str) -> None:
    bad = OnDevice(Q.astype(">f4") if said.get("typestr") == ">f4" else Q, **said)
    for how in ({}, {"backend": "cpu"}, {"backend": "cuda"}):
        with pytest.raises(DTypeError, match=words) as caught:
            numbattn.scores(bad, bad, **how)
        assert str(caught.value).startswith("query ")


# DLPack


@pytest.mark.parametrize("version", [None, (1, 0)])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "?", "bfloat16", "i4", "u1"])
def test_a_capsule_says_where_the_array_lies(dtype: str, version: Any) -> None:
    base = np.zeros((4, 6, 8), dtype)
    for array in (base, base[1:, 2:, ::2], base[:0]):
        owner = ByDlpack(array, version)
        got = device_array(owner, "query")
        if array.size:
            assert got.address == array.__array_interface__["data"][0]
        assert (got.shape, got.dtype) == (array.shape, array.dtype)
        assert got.strides == array.strides or not array.size
        assert got.owner[0] is owner
        assert got.stream == owner.asked["stream"] == 1
        assert not got.readonly


@pytest.mark.parametrize("kind", [2, 13])
def test_managed_memory_and_missing_strides_are_taken(kind: int) -> None:
    got = device_array(ByDlpack(Q, device_type=kind, no_strides=True), "query")
    assert (got.shape, got.strides) == (Q.shape, Q.strides)


def test_a_readonly_capsule_is_known_by_its_flag() -> None:
    array = Q.copy()
    array.flags.writeable = False
    assert device_array(ByDlpack(array, (1, 0)), "query").readonly


def test_a_capsule_lives_as_long_as_what_was_made_of_it() -> None:
    class Counted(np.ndarray):
        pass

    array = Q.copy().view(Counted)
    gone = weakref.ref(array)
    fake = ByDlpack(array)
    got = device_array(fake, "query")[0, :, 1:]
    fake.array = None  # type: ignore[assignment]
    del array
    gc.collect()
    assert gone() is not None  # the capsule holds it
    del got
    gc.collect()
    assert gone() is None


def test_what_torch_refuses_by_its_interface_comes_by_dlpack(cuda: FakeCuda) -> None:
    class Tensor(ByDlpack):
        @property
        def __cuda_array_interface__(self) -> Any:
            raise TypeError("Got unsupported ScalarType BFloat16")

    query = Tensor(Q.astype(ml_dtypes.bfloat16))
    out = numbattn.attention(query, query, query)
    assert type(out) is Tensor
    assert out.array.dtype == ml_dtypes.bfloat16


def test_a_tensor_of_torch_on_the_host_is_a_host_array() -> None:
    class Tensor:
        def __dlpack_device__(self) -> tuple[int, int]:
            return 1, 0

        @property
        def __cuda_array_interface__(self) -> Any:
            raise AttributeError(
                "Can't get __cuda_array_interface__ on non-CUDA tensor"
            )

        def __array__(self, *_: object, **__: object) -> np.ndarray:
            return Q

    got = numbattn.scores(Tensor(), K, backend="reference")
    np.testing.assert_array_equal(got, numbattn.scores(Q, K, backend="reference"))


def test_bfloat16_asks_for_ml_dtypes(monkeypatch: pytest.MonkeyPatch) -> None:
    query = ByDlpack(np.zeros((3, 4), ml_dtypes.bfloat16))
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(DTypeError, match=r"^query is of bfloat16.*pip install ml_dtyp"):
        numbattn.scores(query, query)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"lanes": 2}, "code 2, 32 bits, 2 lanes; allowed are float16"),
        ({"code": 5, "bits": 64}, "code 5, 64 bits"),
        ({"code": 2, "bits": 8}, "code 2, 8 bits"),
        ({"said": 2, "device_type": 1}, "capsule is of device type 1"),
        ({"version": (2, 1)}, r"DLPack of version 2\.\d+; 1 and before"),
    ],
)
def test_a_capsule_that_cannot_be_is_refused(changed: Any, words: str) -> None:
    bad = ByDlpack(Q, **changed)
    with pytest.raises(DTypeError, match=words):
        numbattn.scores(bad, bad)


def test_what_is_no_capsule_is_refused_with_its_reason() -> None:
    class Graph(ByDlpack):
        def __dlpack__(self, **_: Any) -> Any:
            raise BufferError("Can't export tensors that require gradient")

    with pytest.raises(DTypeError, match=r"query \(Graph\).*BufferError: .* gradient"):
        numbattn.scores(Graph(Q), Graph(Q))

    class Wrong(ByDlpack):
        def __dlpack__(self, **_: Any) -> Any:
            return "capsule"

    with pytest.raises(DTypeError, match="DLPack, and 'capsule' is no capsule"):
        numbattn.scores(Wrong(Q), Wrong(Q))


# calls


def near(got: Any, want: np.ndarray) -> None:
    assert isinstance(got, OnDevice)
    assert got.array.dtype == want.dtype
    np.testing.assert_array_equal(got.array, want)


MASK = RNG.random((5, 6)) < 0.7
BIAS = RNG.standard_normal((4, 5, 6), np.float32)
OPTIONS: dict[str, dict[str, Any]] = {
    "none": {},
    "views": {"is_causal": True, "q_offset": np.array([[1], [2]]), "softcap": 3.0},
    "lengths": {"kv_lengths": np.array([[2], [6]]), "window_size": (2, 1)},
    "arrays": {"bias": BIAS, "mask": MASK},
    "functions": {
        "score_mod": lambda s, b, h, q, k, table: s + table[h],
        "score_mod_args": (np.arange(4.0),),
        "mask": numbattn.masks.sliding_window(2, 0),
    },
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("operation", ["scores", "weights", "attention"])
def test_a_call_has_the_meaning_of_the_call_on_the_host(
    operation: str, options: dict[str, Any], cuda: FakeCuda
) -> None:
    arrays = (Q, K, V)[: 2 + (operation == "attention")]
    call = getattr(numbattn, operation)
    want = call(*arrays, backend="reference", **options)
    near(call(*there(*arrays), **options), want)
    # what may be on the device is not read there, the rest by the backend
    moved = {
        name: OnDevice(value) if isinstance(value, np.ndarray) else value
        for name, value in options.items()
    }
    if "score_mod_args" in moved:
        moved["score_mod_args"] = (OnDevice(options["score_mod_args"][0]),)
    near(call(*there(*arrays), **moved), want)
    problem = cuda.calls[-1].problem
    for name in ("bias", "mask"):
        kept = type(moved.get(name)) is OnDevice
        assert (type(getattr(problem, name)) is DeviceArray) == kept
    assert (problem.copies, problem.copied_bytes) == ((), 0)


def test_sinks_and_the_log_sum_exp_come_along(cuda: FakeCuda) -> None:
    sinks = np.array([0.5, -np.inf, 1.0, 2.0])
    how: dict[str, Any] = {"return_lse": True}
    want, want_lse = numbattn.attention(
        Q, K, V, sinks=sinks, backend="reference", **how
    )
    for given in (sinks, OnDevice(sinks)):
        out, lse = numbattn.attention(*there(Q, K, V), sinks=given, **how)
        near(out, want)
        near(lse, want_lse)


@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision_stays_as_it_is(dtype: str, cuda: FakeCuda) -> None:
    arrays = [array.astype(dtype) for array in (Q, K, V)]
    want, want_lse = numbattn.attention(*arrays, backend="reference", return_lse=True)
    out, lse = numbattn.attention(*there(*arrays), return_lse=True)
    near(out, want)
    near(lse, want_lse)
    assert lse.array.dtype == np.float32
    problem = cuda.calls[-1].problem
    assert problem.query.address == arrays[0].__array_interface__["data"][0]


def test_results_are_made_for_the_query_and_its_stream(cuda: FakeCuda) -> None:
    query = OnDevice(Q, stream=5)
    out = numbattn.scores(query, OnDevice(K), stream=7, precision="tf32", num_threads=3)
    assert out.made_for == (query, 7)
    call = cuda.calls[-1]
    assert call.problem.query.stream == 5
    execution = call.execution
    assert (execution.stream, execution.precision, execution.num_threads) == (
        7,
        "tf32",
        3,
    )
    numbattn.scores(query, OnDevice(K))
    assert cuda.calls[-1].execution == (None, None, None, "float32", None)


def test_out_is_filled_where_it_lies(cuda: FakeCuda) -> None:
    want = numbattn.attention(Q, K, V, backend="reference")
    memory = np.zeros((2, 4, 5, 6), np.float32)
    for place in (memory[..., :3], memory[..., ::2], memory[:, :, ::-1, 3:]):
        out = OnDevice(place)
        assert numbattn.attention(*there(Q, K, V), out=out) is out
        np.testing.assert_array_equal(place, want)
    numbattn.attention(*there(Q, K, V), out=ByDlpack(memory[..., :3]))
    np.testing.assert_array_equal(memory[..., :3], want)


@pytest.mark.parametrize(
    ("out", "error", "words"),
    [
        (
            np.zeros((2, 4, 5, 6), np.float32),
            DTypeError,
            "query and key are on.*out is in",
        ),
        ([0.0], DTypeError, "out is in host memory"),
        (OnDevice(np.zeros((4, 5, 6), "f4")), ShapeError, r"out has shape \(4, 5, 6\)"),
        (OnDevice(np.zeros((2, 4, 5, 6), "f8")), DTypeError, "out has dtype float64"),
        (
            OnDevice(np.zeros((2, 4, 5, 6), "f4"), data=(64, True)),
            OptionError,
            "out is read-only",
        ),
        (
            OnDevice(np.broadcast_to(np.float32(), (2, 4, 5, 6)), data=(64, False)),
            OptionError,
            "out repeats its elements",
        ),
        (
            OnDevice(np.zeros((2, 4, 5, 6), "f4"), data=(66, False)),
            DTypeError,
            "out is .* multiples of their 4 bytes",
        ),
    ],
)
def test_an_out_that_does_not_fit_is_refused(
    out: Any, error: type[Exception], words: str, cuda: FakeCuda
) -> None:
    with pytest.raises(error, match=words):
        numbattn.scores(*there(Q, K), out=out)
    assert not cuda.calls


def test_an_out_over_an_input_is_refused_and_one_between_its_elements_is_not(
    cuda: FakeCuda,
) -> None:
    packed = RNG.standard_normal((5, 24)).astype(np.float32)
    query, key, value = packed[:, :8], packed[:, 8:16], packed[:, 16:]
    want = numbattn.attention(query, key, value, backend="reference")
    with pytest.raises(OptionError, match=r"^out overlaps key; .*a copy of key$"):
        numbattn.attention(*there(query, key, value), out=OnDevice(packed[:, 9:17]))
    apart = packed.copy()
    arrays = there(apart[:, :8], apart[:, 8:16].copy(), apart[:, 16:])
    numbattn.attention(*arrays, out=OnDevice(apart[:, 8:16]))
    np.testing.assert_array_equal(apart[:, 8:16], want)
    bias = np.zeros((5, 5), np.float32)
    with pytest.raises(OptionError, match="out overlaps bias"):
        numbattn.scores(*there(query, key), bias=OnDevice(bias), out=OnDevice(bias))


def test_blocks_of_scores_stay_on_the_device(cuda: FakeCuda) -> None:
    want = numbattn.scores(Q, K, is_causal=True, backend="reference")
    got = np.zeros_like(want)
    blocks = numbattn.iter_scores(
        *there(Q, K), is_causal=True, block_shape=(2, 4), precision="tf32"
    )
    for rows, columns, block in blocks:
        near(block, want[..., rows, columns])
        got[..., rows, columns] = block.array
    np.testing.assert_array_equal(got, want)
    assert len(cuda.calls) == 6
    assert cuda.calls[0].execution.precision == "tf32"
    with pytest.raises(MemoryLimitError, match="max_memory allows 100 "):
        numbattn.iter_scores(*there(Q, K), block_shape=(2, 4), max_memory=100)


def test_pytorchs_call_takes_them(cuda: FakeCuda) -> None:
    sdpa = numbattn.scaled_dot_product_attention
    arrays = Q[:, :2], K, V[:, None]
    for mask in (MASK, BIAS[0]):
        want = numbattn.attention(
            *arrays, **{"mask" if mask is MASK else "bias": mask}, backend="reference"
        )
        near(sdpa(*there(*arrays), attn_mask=OnDevice(mask)), want)
        near(sdpa(*there(*arrays), attn_mask=mask), want)
    with pytest.raises(
        BackendUnavailableError, match="attn_mask is an array on a CUDA"
    ):
        sdpa(*arrays, attn_mask=OnDevice(MASK))


def test_empty_results_are_returned_without_a_run(cuda: FakeCuda) -> None:
    out, lse = numbattn.attention(*there(Q[..., :0, :], K, V), return_lse=True)
    assert (out.array.shape, lse.array.shape) == ((2, 4, 0, 3), (2, 4, 0))
    near(numbattn.scores(*there(Q, K[..., :0, :])), np.zeros((2, 4, 5, 0), np.float32))
    assert not cuda.calls
    near(
        numbattn.attention(*there(Q, K[..., :0, :], V[..., :0, :])),
        np.zeros((2, 4, 5, 3), "f4"),
    )


def test_progress_is_reported(cuda: FakeCuda) -> None:
    said: list[tuple[int, int]] = []
    numbattn.scores(*there(Q, K), progress=lambda *now: said.append(now))
    assert said[-1] == (240, 240)


def test_max_memory_counts_what_the_device_gives(cuda: FakeCuda) -> None:
    arrays = there(Q, K, V)
    wanted = numbattn.estimate_memory(*arrays, return_lse=True)
    assert (wanted.backend, wanted.copies) == ("cuda", 0)
    assert (wanted.result, wanted.lse) == (2 * 4 * 5 * 3 * 4, 2 * 4 * 5 * 4)
    numbattn.attention(*arrays, return_lse=True, max_memory=wanted.total)
    with pytest.raises(
        MemoryLimitError, match=r"max_memory allows .* on the device"
    ) as e:
        numbattn.attention(*arrays, return_lse=True, max_memory=wanted.total - 1)
    assert e.value.wanted == wanted.total
    out = OnDevice(np.zeros((2, 4, 5, 3), np.float32))
    assert numbattn.estimate_memory(*arrays, out=out).result == 0


# who runs it


def test_auto_goes_where_the_arrays_are(cuda: FakeCuda) -> None:
    found = numbattn.explain(*there(Q, K, V))
    assert found.backend == "cuda"
    assert found.reason == "backend='auto' by default: the arrays are on a CUDA device"
    assert numbattn.explain(Q, K, V).backend == "cpu"
    assert numbattn.explain(*there(Q, K, V), backend="cuda").backend == "cuda"


@pytest.mark.parametrize("name", ["cpu", "reference"])
def test_a_backend_of_the_host_says_how_to_copy(name: str, cuda: FakeCuda) -> None:
    words = f"query is an array on a CUDA device, and backend '{name}' takes arrays in "
    for call in (numbattn.scores, numbattn.explain, numbattn.iter_scores):
        with pytest.raises(BackendUnavailableError, match=words) as caught:
            call(*there(Q, K), backend=name)
        for copy in (
            "query.get() in CuPy",
            ".cpu().numpy()",
            ".copy_to_host() in Numba",
        ):
            assert copy in str(caught.value)
    assert not cuda.calls


def test_without_the_backend_its_reason_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Broken(FakeCuda):
        def unavailable_reason(self) -> str:
            return "there is no driver"

    monkeypatch.setitem(selector._loaded, "cuda", Broken())  # type: ignore[arg-type]
    for how, words in (
        ({}, "'cuda', which 'auto' means for it, cannot run: there is no driver. Copy"),
        ({"backend": "cuda"}, "'cuda' cannot run: there is no driver. Copy it to"),
    ):
        with pytest.raises(BackendUnavailableError, match=words):
            numbattn.scores(*there(Q, K), **how)
        with pytest.raises(BackendUnavailableError, match=words):
            numbattn.scores(
                *there(Q, K), kv_lengths=OnDevice(np.array([[1], [2]])), **how
            )
    with pytest.raises(OptionError, match="did you mean 'cuda'"):
        numbattn.scores(*there(Q, K), backend="cuder")


def test_stream_is_for_a_backend_that_has_some(cuda: FakeCuda) -> None:
    with pytest.raises(
        OptionError, match="stream is given, and backend 'reference' has"
    ):
        numbattn.scores(Q, K, stream=1, backend="reference")
    numbattn.scores(Q, K, stream=1, backend="cuda")


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("d..", "query is on a CUDA device, key and value are in host memory"),
        (".dd", "key and value are on a CUDA device, query is in host memory"),
        ("d.d", "query and value are on a CUDA device, key is in host memory"),
    ],
)
def test_arrays_of_two_places_are_named(place: str, words: str, cuda: FakeCuda) -> None:
    arrays = [
        OnDevice(array) if where == "d" else array
        for where, array in zip(place, (Q, K, V), strict=True)
    ]
    for how in ({}, {"backend": "cuda"}, {"backend": "cpu"}):
        with pytest.raises(DTypeError, match=f"{words}.*cupy.asarray.*x.get()"):
            numbattn.attention(*arrays, **how)
    with pytest.raises(
        DTypeError, match="out is on a CUDA device, query and key are in"
    ):
        numbattn.scores(Q, K, out=OnDevice(np.zeros((2, 4, 5, 6), "f4")))


@pytest.mark.parametrize("name", ["bias", "mask"])
def test_options_on_a_device_need_the_inputs_there(name: str, cuda: FakeCuda) -> None:
    given = {name: OnDevice(BIAS if name == "bias" else MASK)}
    words = f"{name} is an array on a CUDA device, and it has to be in host memory here"
    with pytest.raises(BackendUnavailableError, match=words):
        numbattn.scores(Q, K, backend="cuda", **given)
    with pytest.raises(
        BackendUnavailableError, match=f"{name} is .*'cpu' takes arrays"
    ):
        numbattn.scores(Q, K, backend="cpu", **given)


def test_packed_sequences_are_of_the_host(cuda: FakeCuda) -> None:
    with pytest.raises(
        BackendUnavailableError, match="attention_varlen takes arrays in"
    ):
        numbattn.attention_varlen(*there(Q[0], K[0], V[:1]), [0, 5], [0, 6])


# what they may be


@pytest.mark.parametrize(
    ("arrays", "error", "words"),
    [
        ((Q.astype(int), K), DTypeError, r"query is an int64 .*\.to\(torch.float32\)"),
        ((Q, K > 0), DTypeError, "key is a bool array .* where nothing is converted"),
        (
            (Q, K.astype("f8")),
            DTypeError,
            "query is float32, key is float64.*one dtype",
        ),
        ((Q.astype("f2"), K), DTypeError, "query is float16, key is float32"),
        ((Q.astype(complex), K), DTypeError, "query has dtype complex128"),
        (
            (Q.view([("re", "f4"), ("im", "f4")]), K),
            DTypeError,
            "query is a structured",
        ),
        ((Q, K[..., :7]), ShapeError, "d_k"),
        ((Q[0, 0, 0], K), ShapeError, "query has shape"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(
    arrays: Any, error: type[Exception], words: str, cuda: FakeCuda
) -> None:
    with pytest.raises(error, match=words):
        numbattn.scores(*there(*arrays))
    assert not cuda.calls


def test_inputs_between_elements_are_refused(cuda: FakeCuda) -> None:
    raw = np.zeros(4 * 5 * 8 + 16, np.uint8)
    odd = np.lib.stride_tricks.as_strided(raw.view("f4"), (3, 4), (18, 4))
    shifted = raw[2:98].view("f4").reshape(3, 8)[:, :4]
    for bad in (odd, shifted):
        with pytest.raises(DTypeError, match=r"query is .* multiples of their 4 bytes"):
            numbattn.scores(*there(bad, bad))


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"bias": BIAS.astype("f8")}, DTypeError, "bias is .* it has to be of float32"),
        ({"bias": BIAS.astype(int)}, DTypeError, "bias is an int64 array"),
        ({"bias": BIAS[:3]}, ShapeError, "bias has shape"),
        ({"mask": BIAS}, DTypeError, "mask is a float32 array"),
        ({"mask": MASK[:4]}, ShapeError, "mask has shape"),
        (
            {"kv_lengths": np.array([[7], [1]])},
            OptionError,
            "kv_lengths has the value 7",
        ),
        ({"q_offset": np.array([1.5])}, DTypeError, "q_offset is a float64"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    options: dict[str, Any], error: type[Exception], words: str, cuda: FakeCuda
) -> None:
    ((name, value),) = options.items()
    with pytest.raises(error, match=words):
        numbattn.scores(*there(Q, K), **{name: OnDevice(value)})


# nothing is read


@POSIX
def test_nothing_reads_what_is_on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = FakeCuda(reads=False)
    monkeypatch.setitem(selector._loaded, "cuda", backend)  # type: ignore[arg-type]
    memory = Forbidden()
    arrays = [memory.array(each.shape) for each in (Q, K, V)]
    options: dict[str, Any] = {
        "bias": memory.array((4, 5, 6)), "mask": memory.array((5, 6), bool),
        "is_causal": True, "kv_lengths": 3,
    }  # fmt: skip
    out = memory.array((2, 4, 5, 3))
    for dtype in ("float32", "float16"):
        if dtype == "float16":
            arrays = [memory.array(each.shape, dtype) for each in (Q, K, V)]
            out = memory.array((2, 4, 5, 3), dtype)
        how = {"out": out, "return_lse": True, **options}
        numbattn.attention(*arrays, **how)
        numbattn.weights(*arrays[:2], **options)
        numbattn.estimate_memory(*arrays, **how)
        str(numbattn.explain(*arrays, **options))
        list(numbattn.iter_scores(*arrays[:2], block_shape=(2, 3), **options))
        with pytest.raises(OptionError, match="out overlaps value"):
            numbattn.attention(*arrays, out=arrays[2], **options)
    assert len(backend.calls) == 16
    problem = backend.calls[0].problem
    part = problem.at((slice(1, 2), slice(2, 4))).rows(1, 3)
    assert part.query.address - problem.query.address == 4 * (1 * 160 + 2 * 40 + 8)
    assert (part.bias.shape, part.mask.shape) == ((2, 2, 6), (2, 6))


@POSIX
def test_complaints_do_not_read_either() -> None:
    memory = Forbidden()
    array = memory.array((3, 4))
    for call in (
        lambda: numbattn.scores(array, array, backend="cpu"),
        lambda: numbattn.scores(array, array),
        lambda: numbattn.scores(array, Q),
        lambda: numbattn.scores(Q, K, kv_lengths=array),
        lambda: numbattn.merge_states(array, array, array, array),
        lambda: numbattn.scores(array, array, scale=array),
        lambda: numbattn.scores(array, array, score_mod_args=array),
    ):
        with pytest.raises(numbattn.NumbattnError):
            call()


# streams


class HasStream:
    def __init__(self, **attributes: Any) -> None:
        vars(self).update(attributes)


class Cooperative:
    def __init__(self, address: Any) -> None:
        self.address = address

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.address


@pytest.mark.parametrize(
    ("stream", "want"),
    [
        (None, None), (1, 1), (2, 2), (2**46, 2**46),
        (HasStream(cuda_stream=0), 1), (HasStream(cuda_stream=99), 99),
        (HasStream(ptr=0), 1), (HasStream(ptr=77), 77),
        (Cooperative(0), 1), (Cooperative(55), 55),
    ],
)  # fmt: skip
def test_streams_of_any_library_become_numbers(stream: Any, want: Any) -> None:
    assert stream_number(stream) == want


@pytest.mark.parametrize(
    "stream",
    [0, -3, True, 1.0, "default", object(), HasStream(ptr="x"), Cooperative(None)],
)
def test_what_is_no_stream_is_refused(stream: Any, cuda: FakeCuda) -> None:
    with pytest.raises(OptionError, match=r"^stream is .*1 for the legacy default"):
        numbattn.scores(*there(Q, K), stream=stream)


# precision


def test_precision_is_an_option_and_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    class Recorder(ReferenceBackend):
        name = "recorder"
        got: list[str] = []  # noqa: RUF012

        def run(self, problem: Any, out: Any, lse: Any, execution: Any) -> None:
            self.got.append(execution.precision)
            super().run(problem, out, lse, execution)

    monkeypatch.setitem(selector._loaded, "recorder", Recorder())
    x, how = Q[0, 0], {"backend": "recorder"}
    numbattn.scores(x, x, **how)
    numbattn.scores(x, x, precision="tf32", **how)
    with numbattn.config_context(precision="tf32", backend="recorder"):
        numbattn.scores(x, x)  # without options: the short way
        numbattn.attention(x, x, x)
        numbattn.attention(x, x, x, precision="float32")
        list(numbattn.iter_scores(x, x, block_shape=(9, 9)))
        numbattn.attention_varlen(x[None], x[None], x[None], [0, 5], [0, 5])
    list(numbattn.iter_scores(x, x, precision="tf32", block_shape=(9, 9), **how))
    packed = x[None], x[None], x[None], [0, 5], [0, 5]
    numbattn.attention_varlen(*packed, precision="tf32", **how)
    assert Recorder.got == [
        "float32", "tf32", "tf32", "tf32", "float32", "tf32", "tf32", "tf32", "tf32",
    ]  # fmt: skip
    for call in (numbattn.explain, numbattn.estimate_memory):
        call(x, x, precision="tf32", **how)
        with pytest.raises(OptionError, match="precision is 'half'; it has to be"):
            call(x, x, precision="half", **how)
