"""attention_varlen: every sequence has the bits of a call of its own."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import numbattn
from numbattn import attention_varlen
from numbattn.testing import OUT_LAYOUTS, assert_same_bits, float_dtypes, guarded_empty

FIXED = settings(
    max_examples=300,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
RNG = np.random.default_rng(0)


def starts(lengths: Any) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)


def arrays(
    total_q: int, total_k: int, dtype: Any = np.float32, seed: int = 0, heads: Any = 4
) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = ((heads, total_q, 8), (2, total_k, 8), (2, total_k, 5))
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def one_by_one(
    given: list[np.ndarray],
    cu_q: Any,
    cu_k: Any,
    q_offset: Any = 0,
    backend: str = "reference",
    **options: Any,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the outputs and log-sum-exps of calls of their own."""
    parts = []
    for s, ((a, b), (c, d)) in enumerate(zip(pairwise(cu_q), pairwise(cu_k))):  # noqa: B905
        offset = q_offset if isinstance(q_offset, str | int) else int(q_offset[s])
        query, key, value = given[0][:, a:b], given[1][:, c:d], given[2][:, c:d]
        parts.append(
            numbattn.attention(
                query, key, value, q_offset=offset, return_lse=True, backend=backend,
                **options,
            )
        )  # fmt: skip
    return (
        np.concatenate([out for out, _ in parts], axis=1),
        np.concatenate([lse for _, lse in parts], axis=1),
    )


@st.composite
def calls(draw: st.DrawFn) -> dict[str, Any]:
    """Draw sequences, options, a dtype, a layout and what bounds the way."""
    count = draw(st.integers(1, 6))
    length = st.integers(0, 40)
    q = draw(st.lists(length, min_size=count, max_size=count))
    k = draw(st.lists(length | st.just(0), min_size=count, max_size=count))
    offsets = st.lists(st.integers(-9, 50), min_size=count, max_size=count)
    choices: dict[str, st.SearchStrategy[Any]] = {
        "scale": st.floats(-2, 2, width=32),
        "softcap": st.floats(0.1, 50),
        "is_causal": st.booleans(),
        "window_size": st.tuples(*[st.none() | st.integers(0, 20)] * 2),
        "q_offset": st.just("lower_right") | st.integers(-9, 50) | offsets,
        "sinks": st.lists(st.floats(-9, 9, width=16), min_size=4, max_size=4),
    }
    return {
        "cu_q": starts(q),
        "cu_k": starts(k),
        "options": {
            name: draw(some) for name, some in choices.items() if draw(st.booleans())
        },
        "dtype": draw(st.sampled_from(list(float_dtypes()))),
        "seed": draw(st.integers(0, 999)),
        "flash": draw(st.booleans()),
        "out": draw(st.none() | st.sampled_from([*OUT_LAYOUTS, "flash"])),
        "rows": draw(st.none() | st.integers(1, 20)),
        "list": draw(st.booleans()),
    }


@FIXED
@given(call=calls())
def test_each_sequence_is_a_call_of_its_own(backend: str, call: dict[str, Any]) -> None:
    each_is_a_call_of_its_own(backend, call)


@pytest.mark.heavy
@settings(FIXED, max_examples=5000, derandomize=False, print_blob=True)
@given(call=calls())
def test_each_of_many_sequences_is_a_call_of_its_own(
    backend: str, call: dict[str, Any]
) -> None:
    each_is_a_call_of_its_own(backend, call)


def each_is_a_call_of_its_own(backend: str, call: dict[str, Any]) -> None:
    cu_q, cu_k, dtype = call["cu_q"], call["cu_k"], float_dtypes()[call["dtype"]]
    packed = arrays(cu_q[-1], cu_k[-1], dtype, call["seed"])
    want = one_by_one(packed, cu_q, cu_k, backend=backend, **call["options"])
    if call["flash"]:
        packed = [np.ascontiguousarray(x.swapaxes(0, 1)).swapaxes(0, 1) for x in packed]
    more: dict[str, Any] = {}
    if call["out"] == "flash":
        more["out"] = np.full((cu_q[-1], 4, 5), np.nan, dtype).swapaxes(0, 1)
    elif call["out"] is not None:
        guard = guarded_empty((4, cu_q[-1], 5), dtype, call["out"])
        more["out"] = guard.array
    if call["list"]:
        cu_q, cu_k = cu_q.tolist(), cu_k.astype(np.uint16)
    half = call["dtype"] in ("float16", "bfloat16")
    if half and call["rows"] is not None and cu_q[-1]:  # else nothing is allocated
        more["max_memory"] = _least(packed, cu_q, cu_k, call["rows"], backend, more)
    out, lse = attention_varlen(
        *packed, cu_q, cu_k, return_lse=True, backend=backend, **call["options"], **more
    )
    if "out" in more:
        assert out is more["out"]
    if call["out"] not in (None, "flash"):
        assert guard.intact()
    assert_same_bits(np.array(out), want[0], "output")
    assert_same_bits(lse, want[1], "lse")


def _least(
    packed: Any, cu_q: Any, cu_k: Any, rows: int, backend: str, more: Any
) -> int:
    """Return a limit that some rows at a time keep."""
    with pytest.raises(numbattn.MemoryLimitError) as caught:
        attention_varlen(
            *packed, cu_q, cu_k, return_lse=True, backend=backend, max_memory=1, **more
        )
    return caught.value.wanted + 4 * (rows - 1) * 4 * 6 + 2**14


def test_half_precision_is_rounded_once_also_in_pieces(backend: str) -> None:
    cu_q, cu_k = starts([30, 0, 100, 3]), starts([50, 7, 64, 0])
    packed = arrays(133, 121, np.float16)
    want = one_by_one(packed, cu_q, cu_k, backend=backend, is_causal=True)
    for rows in (1, 7, 50, 133):
        limit = _least(packed, cu_q, cu_k, rows, backend, {})
        got = attention_varlen(
            *packed, cu_q, cu_k, is_causal=True, backend=backend, max_memory=limit
        )
        assert_same_bits(got, want[0])


class Target:
    """The least that `out` may be."""

    def __init__(self, shape: tuple[int, ...], dtype: Any) -> None:
        self.inner = np.full(shape, np.nan, dtype)
        self.shape, self.dtype = shape, self.inner.dtype

    def __setitem__(self, at: Any, block: np.ndarray) -> None:
        assert block.dtype == self.dtype
        self.inner[at] = block


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_out_may_be_anything_that_takes_slices(backend: str, dtype: str) -> None:
    cu_q, cu_k = starts([5, 20]), starts([9, 3])
    packed = arrays(25, 12, dtype)
    out = Target((4, 25, 5), dtype)
    assert attention_varlen(*packed, cu_q, cu_k, out=out, backend=backend) is out
    want, _ = one_by_one(packed, cu_q, cu_k, backend=backend)
    assert_same_bits(out.inner, want)


def test_out_may_overlap_the_query(backend: str) -> None:
    cu_q, cu_k = starts([5, 20, 4]), starts([9, 3, 8])
    query, key, value = arrays(29, 20)
    value = np.concatenate([value, value[..., :3]], axis=-1)
    want, _ = one_by_one([query, key, value], cu_q, cu_k, backend=backend)
    out = query[:, ::-1]
    got = attention_varlen(query, key, value, cu_q, cu_k, out=out, backend=backend)
    assert got is out
    assert_same_bits(np.array(out), want)


@pytest.mark.parametrize("heads", [(4, 4), (4, 1), (1, 4), (0, 0)])
def test_heads(backend: str, heads: tuple[int, int]) -> None:
    cu_q, cu_k = starts([5, 20, 4]), starts([9, 3, 8])
    packed = [
        RNG.standard_normal((h, rows, 3))
        for h, rows in zip((heads[0], heads[1], heads[1]), (29, 20, 20), strict=True)
    ]
    out, lse = attention_varlen(*packed, cu_q, cu_k, return_lse=True, backend=backend)
    want = one_by_one(packed, cu_q, cu_k, backend=backend)
    assert_same_bits(out, want[0])
    assert_same_bits(lse, want[1])


@pytest.mark.parametrize(
    ("lengths_q", "lengths_k"),
    [([], []), ([0], [0]), ([3], [0]), ([0, 0], [4, 0]), ([1] * 50, [2] * 50)],
)
def test_empty_and_many_sequences(
    backend: str, lengths_q: list[int], lengths_k: list[int]
) -> None:
    cu_q, cu_k = starts(lengths_q), starts(lengths_k)
    packed = arrays(cu_q[-1], cu_k[-1])
    out, lse = attention_varlen(*packed, cu_q, cu_k, return_lse=True, backend=backend)
    assert out.shape == (4, cu_q[-1], 5)
    if len(cu_q) > 1:
        want = one_by_one(packed, cu_q, cu_k, backend=backend)
        assert_same_bits(out, want[0])
        assert_same_bits(lse, want[1])


def test_values_without_width_still_have_a_log_sum_exp(backend: str) -> None:
    query, key, value = arrays(7, 9)
    cu = [0, 3, 7], [0, 5, 9]
    want = attention_varlen(query, key, value, *cu, return_lse=True, backend=backend)[1]
    out, lse = attention_varlen(
        query, key, value[..., :0], *cu, return_lse=True, backend=backend
    )
    assert out.shape == (4, 7, 0)
    np.testing.assert_allclose(lse, want, rtol=1e-6)


def test_other_sequences_are_not_read(backend: str) -> None:
    cu_q, cu_k = starts([5, 20, 4]), starts([9, 3, 8])
    packed = arrays(29, 20)
    want, _ = one_by_one(packed, cu_q, cu_k, backend=backend)
    packed[1][:, 9:12] = packed[2][:, 9:12] = packed[0][:, 5:25] = np.nan
    got = attention_varlen(*packed, cu_q, cu_k, backend=backend)
    assert np.isnan(got[:, 5:25]).all()
    assert_same_bits(got[:, :5], want[:, :5])
    assert_same_bits(got[:, 25:], want[:, 25:])


def test_integers_become_float64(backend: str) -> None:
    packed = [np.ones((2, 4, 3), int)] * 3
    got = attention_varlen(*packed, [0, 1, 4], [0, 2, 4], backend=backend)
    assert got.dtype == np.float64


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_progress_is_of_all_sequences(backend: str, dtype: str) -> None:
    cu_q, cu_k = starts([30, 0, 20]), starts([40, 7, 0])
    packed = arrays(50, 47, dtype)
    seen: list[tuple[int, int]] = []
    attention_varlen(
        *packed, cu_q, cu_k, backend=backend,
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert seen == sorted(seen)
    assert {total for _, total in seen} == {4 * 30 * 40}
    assert seen[-1][0] == 4 * 30 * 40


def test_flash_attention_s_layout_is_not_copied(backend: str) -> None:
    for dtype, copied in ((np.float32, False), (np.float16, True)):
        packed = [
            RNG.standard_normal((50, heads, 8)).astype(dtype).swapaxes(0, 1)
            for heads in (4, 2, 2)
        ]
        with pytest.raises(numbattn.MemoryLimitError) as caught:
            attention_varlen(
                *packed, [0, 50], [0, 50], max_memory=1, backend=backend,
                out=np.empty((50, 4, 8), dtype).swapaxes(0, 1),
            )  # fmt: skip
        assert ("copies of inputs" in str(caught.value)) is copied


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_limit_is_kept_and_the_advice_fits(backend: str, dtype: str) -> None:
    lengths = [300, 200, 1, 400]
    cu = starts(lengths)
    packed = arrays(cu[-1], cu[-1], dtype, heads=2)
    attention_varlen(*packed, cu, cu, backend=backend)  # compiled, caches filled
    with pytest.raises(numbattn.MemoryLimitError, match="attention_varlen") as caught:
        attention_varlen(*packed, cu, cu, backend=backend, max_memory=1000)
    needed = caught.value.wanted
    assert "the first sequence takes" in str(caught.value)
    tracemalloc.start()
    attention_varlen(*packed, cu, cu, backend=backend, max_memory=needed, num_threads=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < needed + 2**18
    with pytest.raises(numbattn.MemoryLimitError, match="such as the first 2") as error:
        attention_varlen(*packed, cu, cu, backend=backend, max_memory=needed - 1)
    assert error.value.wanted == needed
    some = [packed[0][:, :500], packed[1][:, :500], packed[2][:, :500]]
    attention_varlen(*some, cu[:3], cu[:3], backend=backend, max_memory=needed - 1)


BAD: dict[str, tuple[dict[str, Any], type, str]] = {
    "bias": ({"bias": np.zeros((7, 9))}, numbattn.OptionError, "bias.*shape of its"),
    "mask": ({"mask": np.ones(9, bool)}, numbattn.OptionError, "mask.*is_causal"),
    "start": ({"cu_seqlens_q": [1, 3, 7]}, numbattn.OptionError, r"q\[0\] is 1.* be 0"),
    "back": (
        {"cu_seqlens_k": [0, 5, 3, 9], "cu_seqlens_q": [0, 1, 2, 7]},
        numbattn.OptionError,
        r"cu_seqlens_k\[2\] is 3, below cu_seqlens_k\[1\], which is 5",
    ),
    "total": (
        {"cu_seqlens_k": [0, 5, 8]},
        numbattn.OptionError,
        r"cu_seqlens_k\[2\], the last, is 8; it has to be 9.*swapaxes",
    ),
    "negative": ({"cu_seqlens_q": [0, -1, 7]}, numbattn.OptionError, r"q\[1\] is -1"),
    "huge": (
        {"cu_seqlens_q": np.array([0, 2**63], np.uint64)},
        numbattn.OptionError,
        r"cu_seqlens_q\[1\]",
    ),
    "count": ({"cu_seqlens_k": [0, 9]}, numbattn.ShapeError, "cu_seqlens_k 2"),
    "none": ({"cu_seqlens_k": None}, numbattn.OptionError, "cu_seqlens_k is None"),
    "number": ({"cu_seqlens_q": 7}, numbattn.OptionError, "cu_seqlens_q is 7"),
    "empty": ({"cu_seqlens_q": np.zeros(0, int)}, numbattn.ShapeError, "seqlens_q"),
    "axes": ({"cu_seqlens_q": [[0, 3, 7]]}, numbattn.ShapeError, r"q has shape \(1"),
    "float": ({"cu_seqlens_q": [0, 3.0, 7]}, numbattn.DTypeError, "cu_seqlens_q"),
    "bools": ({"cu_seqlens_q": [False, True]}, numbattn.DTypeError, "cu_seqlens_q"),
    "offset": ({"q_offset": [1, 2, 3]}, numbattn.ShapeError, "q_offset.*2 sequences"),
    "offset word": ({"q_offset": "left"}, numbattn.OptionError, "q_offset.*lower"),
    "offset float": ({"q_offset": [1.0, 2.0]}, numbattn.DTypeError, "q_offset"),
    "two axes": ({"query": np.ones((7, 8))}, numbattn.ShapeError, r"query\[None\]"),
    "four axes": ({"key": np.ones((1, 2, 9, 8))}, numbattn.ShapeError, "key has shape"),
    "value": ({"value": np.ones((2, 8, 5))}, numbattn.ShapeError, "number of keys"),
    "sinks": ({"sinks": [0.0, 1.0]}, numbattn.ShapeError, "sinks has shape"),
    "lse": ({"return_lse": 1}, numbattn.OptionError, "return_lse"),
    "progress": ({"progress": 3}, numbattn.OptionError, "progress"),
    "out shape": ({"out": np.zeros((4, 7, 8), "f4")}, numbattn.ShapeError, "out has"),
    "backend": ({"backend": "cuda"}, numbattn.BackendUnavailableError, "cuda"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named_and_out_untouched(backend: str, name: str) -> None:
    changes, error, says = BAD[name]
    query, key, value = arrays(7, 9)
    out = np.full((4, 7, 5), 7, np.float32)
    given: dict[str, Any] = {
        "query": query, "key": key, "value": value, "cu_seqlens_q": [0, 3, 7],
        "cu_seqlens_k": [0, 5, 9], "out": out, "backend": backend, **changes,
    }  # fmt: skip
    with pytest.raises(error, match=says):
        attention_varlen(**given)
    assert (out == 7).all()


def test_device_arrays_are_refused() -> None:
    class OnDevice:
        __cuda_array_interface__ = {"shape": (3,), "typestr": "<i8", "version": 3}  # noqa: RUF012

    for at in (0, 3):
        given: list[Any] = [*arrays(7, 9), [0, 7], [0, 9]]
        given[at] = OnDevice()
        name = ("query", "", "", "cu_seqlens_q")[at]
        with pytest.raises(numbattn.BackendUnavailableError, match=f"{name} is an arr"):
            attention_varlen(*given)


def test_cu_seqlens_are_read_once(backend: str) -> None:
    """What a progress callback changes comes too late."""
    cu = np.array([0, 3, 7])
    packed = arrays(7, 7)
    want = attention_varlen(*packed, cu.copy(), cu.copy(), backend=backend)

    def spoil(done: int, total: int) -> None:
        cu[1] = 0

    got = attention_varlen(*packed, cu, cu, backend=backend, progress=spoil)
    assert_same_bits(got, want)
