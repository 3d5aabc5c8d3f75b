"""Arrays on a CUDA device: who runs a call, what is refused and how; `precision`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import numbattn
from numbattn import (
    BackendUnavailableError,
    DTypeError,
    OptionError,
    ShapeError,
    selector,
)
from numbattn.backends.reference import ReferenceBackend

from .device_fakes import (
    BIAS,
    MASK,
    FakeCuda,
    K,
    OnDevice,
    Q,
    V,
    there,
)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    """A backend of that name that computes what lies in fake arrays."""
    backend = FakeCuda()
    monkeypatch.setitem(selector._loaded, "cuda", backend)  # type: ignore[arg-type]
    return backend


def test_auto_goes_where_the_arrays_are(cuda: FakeCuda) -> None:
    found = numbattn.explain(*there(Q, K, V))
    assert found.backend == "cuda"
    assert found.reason == "backend='auto' by default: the arrays are on a CUDA device"
    assert found.others["cpu"] == "takes arrays in host memory"
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


def test_a_small_array_on_a_device_is_not_read_for_a_backend_of_the_host(
    cuda: FakeCuda,
) -> None:
    lengths = OnDevice(np.array([[1], [2]]))
    with pytest.raises(BackendUnavailableError, match=r"kv_lengths is .*'cpu'") as e:
        numbattn.scores(Q, K, kv_lengths=lengths, backend="cpu")
    assert e.value.__context__ is None


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


def test_a_score_mod_keeps_arrays_of_the_host() -> None:
    def shifted(score, b, h, q_idx, kv_idx, table):
        return score + table[h]

    with pytest.raises(
        DTypeError, match=r"args of ScoreMod\[0\] is an array on a CUDA"
    ):
        numbattn.score_mods.ScoreMod(shifted, there(Q[0, :, 0, 0]))


def test_packed_sequences_are_of_the_host(cuda: FakeCuda) -> None:
    with pytest.raises(
        BackendUnavailableError, match="attention_varlen takes arrays in"
    ):
        numbattn.attention_varlen(*there(Q[0], K[0], V[:1]), [0, 5], [0, 6])


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
