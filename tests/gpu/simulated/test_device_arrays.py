"""Arrays on the device, as the simulator has them: nothing is copied on the way."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import numbattn
from numbattn.backends.cuda import device, transfers
from numbattn.backends.cuda.device import cuda
from numbattn.testing import exact
from numbattn.testing.bounds import assert_result, results_of

DTYPES = ("float16", "float32", "float64")


class OnDevice:
    """An array of somebody's, by ``__cuda_array_interface__``."""

    def __init__(self, array: np.ndarray, stream: int | None = None) -> None:
        self.array = array
        self.__cuda_array_interface__ = {
            "shape": array.shape, "strides": array.strides, "version": 3,
            "typestr": array.dtype.str, "stream": stream,
            "data": (array.__array_interface__["data"][0], False),
        }  # fmt: skip


def arrays(dtype: str, n: int = 37, m: int = 50) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = (2, 4, n, 24), (1, 2, m, 24), (2, 2, m, 9)
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("operation", ["scores", "weights", "attention"])
def test_results_are_right_and_of_the_same_kind(operation: str, dtype: str) -> None:
    given = arrays(dtype)[: 3 if operation == "attention" else 2]
    options: dict[str, Any] = {"is_causal": True, "q_offset": 9, "softcap": 5.0}
    got = getattr(numbattn, operation)(*map(cuda.to_device, given), **options)
    assert type(got) is type(cuda.to_device(given[0]))
    with results_of("cuda"):
        assert_result(got.copy_to_host(), exact(operation, *given, **options))


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_strides_give_the_bits_of_a_contiguous_array(dtype: str) -> None:
    query, key, value = arrays(dtype)
    want = numbattn.attention(*map(OnDevice, (query, key, value))).copy_to_host()
    odd = [
        np.asfortranarray(query),
        np.repeat(key, 2, axis=-1)[..., ::2],
        value[..., ::-1, ::-1].copy()[..., ::-1, ::-1],
    ]
    got = numbattn.attention(*map(OnDevice, odd)).copy_to_host()
    np.testing.assert_array_equal(got, want)


def test_out_and_its_lse() -> None:
    query, key, value = arrays("float32")
    place = np.zeros((2, 4, 9, 37), np.float32)
    out = OnDevice(place.swapaxes(-1, -2))
    got, lse = numbattn.attention(
        *map(OnDevice, (query, key, value)), out=out, return_lse=True
    )
    assert got is out
    want = exact("attention", query, key, value)
    assert_result((out.array.copy(), lse.copy_to_host()), want)


def test_small_arrays_may_be_here_or_there() -> None:
    query, key, value = arrays("float32")
    rng = np.random.default_rng(1)
    lengths = rng.integers(0, 50, (2, 4))
    sinks = rng.standard_normal(4).astype(np.float32)
    bias = rng.standard_normal((37, 50)).astype(np.float32)
    mask = rng.random((4, 37, 50)) < 0.7
    host = {"kv_lengths": lengths, "sinks": sinks, "bias": bias, "mask": mask}
    want = exact("attention", query, key, value, **host)
    there = list(map(OnDevice, (query, key, value)))
    for options in (host, {name: OnDevice(x) for name, x in host.items()}):
        got = numbattn.attention(*there, **options)
        assert_result(got.copy_to_host(), want)


def test_a_score_function_with_its_table_on_the_device() -> None:
    def biased(score, b, h, q_idx, kv_idx, table):  # type: ignore[no-untyped-def]
        return score + table[h]

    query, key, _ = arrays("float32")
    table = np.array([0.0, 1.0, -2.0, 4.0])
    there = list(map(OnDevice, (query, key)))
    plain = numbattn.scores(*there).copy_to_host()
    for given in (table, OnDevice(table)):
        got = numbattn.scores(*there, score_mod=biased, score_mod_args=(given,))
        np.testing.assert_allclose(
            got.copy_to_host(), plain + table[:, None, None], rtol=1e-5, atol=1e-5
        )


def test_an_index_outside_a_table_is_an_error() -> None:
    def biased(score, b, h, q_idx, kv_idx, table):  # type: ignore[no-untyped-def]
        return score + table[kv_idx]

    query, key, _ = arrays("float32")
    with pytest.raises(numbattn.OptionError, match="reads outside an argument array"):
        numbattn.scores(
            OnDevice(query), OnDevice(key), score_mod=biased,
            score_mod_args=(np.zeros(49),),
        )  # fmt: skip


def test_blocks_are_on_the_device_too() -> None:
    query, key, _ = arrays("float64")
    want = numbattn.scores(query, key, backend="reference")
    blocks = numbattn.iter_scores(OnDevice(query), OnDevice(key), block_shape=(20, 30))
    for rows, columns, block in blocks:
        np.testing.assert_allclose(block.copy_to_host(), want[..., rows, columns])


def test_nothing_of_the_arrays_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[int] = []
    upload = device.upload

    def noting(array: np.ndarray, stream: Any = 0) -> Any:
        copied.append(array.nbytes)
        return upload(array, stream)

    monkeypatch.setattr(device, "upload", noting)
    query, key, value = arrays("float32", 60, 600)
    numbattn.attention(*map(OnDevice, (query, key, value)))
    assert max(copied) < query.nbytes / 20


def test_a_copy_on_the_host_of_any_strides() -> None:
    array = np.arange(60.0).reshape(3, 4, 5)[::-1, ::2, 1:]
    found = numbattn.backends.cuda.backend.to_host(  # type: ignore[attr-defined]
        device.DeviceArray(
            array.__array_interface__["data"][0], array.shape, array.dtype,
            array.strides, array,
        )
    )  # fmt: skip
    np.testing.assert_array_equal(found, array)
    assert transfers.to_host is not None


def test_explain_says_that_it_is_the_simulator() -> None:
    query, key, value = map(OnDevice, arrays("float32"))
    text = str(numbattn.explain(query, key, value))
    assert "backend 'cuda'" in text
    assert "CUDA simulator" in text
    assert "tensor cores, tf32" in str(
        numbattn.explain(query, key, value, precision="tf32")
    )


@pytest.mark.parametrize("operation", ["scores", "weights", "attention"])
def test_tf32_is_used_where_it_is_allowed_and_near(operation: str) -> None:
    given = arrays("float32")[: 3 if operation == "attention" else 2]
    call = getattr(numbattn, operation)
    want = call(*given, backend="reference")
    exactly = call(*given, backend="cuda")
    rounded = call(*given, backend="cuda", precision="tf32")
    assert abs(exactly - want).max() < 1e-5
    assert 1e-5 < abs(rounded - want).max() < 2e-2
