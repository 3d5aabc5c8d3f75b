"""What `check` makes of a call: shapes, heads, dtypes, copies, options, blocks."""

from __future__ import annotations

import pickle
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import numbattn
from numbattn.checks import check
from numbattn.memory import parse_bytes
from numbattn.options import UNBOUNDED
from numbattn.outputs import check_out
from numbattn.problem import AttentionProblem, prepared

BF16 = np.dtype(ml_dtypes.bfloat16)


def ones(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.ones(shape, dtype)


SHAPES = [
    # query, key, value -> leading axes
    ((5, 8), (6, 8), (6, 3), ()),
    ((4, 5, 8), (6, 8), (6, 3), (4,)),
    ((5, 8), (4, 6, 8), (6, 3), (4,)),
    ((5, 8), (6, 8), (4, 6, 3), (4,)),
    ((1, 5, 8), (4, 6, 8), (1, 6, 3), (4,)),
    ((8, 5, 8), (2, 6, 8), (2, 6, 3), (8,)),
    ((8, 5, 8), (1, 6, 8), (4, 6, 3), (8,)),
    ((2, 8, 5, 8), (2, 6, 8), (1, 1, 6, 3), (2, 8)),
    ((2, 1, 5, 8), (3, 2, 1, 6, 8), (6, 3), (3, 2, 1)),
    ((3, 1, 4, 5, 8), (7, 2, 6, 8), (2, 6, 3), (3, 7, 4)),
    ((0, 5, 8), (0, 6, 8), (0, 6, 3), (0,)),
    ((0, 4, 5, 8), (1, 4, 6, 8), (4, 6, 3), (0, 4)),
    ((0, 8), (0, 8), (0, 0), ()),
]


@pytest.mark.parametrize(("query", "key", "value", "lead"), SHAPES)
def test_leading_axes(query: Any, key: Any, value: Any, lead: Any) -> None:
    problem = check("attention", ones(*query), ones(*key), ones(*value))
    assert problem.lead == lead
    assert problem.out_shape == (*lead, query[-2], value[-1])
    assert problem.lse_shape == (*lead, query[-2])
    assert (problem.n, problem.m, problem.d_k, problem.d_v, problem.n_total) == (
        query[-2], key[-2], query[-1], value[-1], query[-2],
    )  # fmt: skip
    arrays = (problem.query, problem.key, problem.value)
    assert [a.shape for a in arrays if a is not None] == [query, key, value]
    for operation in ("scores", "weights"):
        assert check(operation, ones(*query), ones(*key)).out_shape[-1] == key[-2]


@pytest.mark.parametrize(
    ("dtypes", "result", "inside"),
    [
        (("f4", "f4", "f4"), "f4", "f4"),
        (("f8", "f8", "f8"), "f8", "f8"),
        (("f4", "f4", "f8"), "f8", "f8"),
        (("f2", "f2", "f2"), "f2", "f4"),
        ((BF16, BF16, BF16), BF16, "f4"),
        ((BF16, "f2", BF16), "f4", "f4"),
        ((BF16, "f4", BF16), "f4", "f4"),
        (("f2", "f2", "f8"), "f8", "f8"),
        (("i4", "f4", "f4"), "f8", "f8"),
        (("?", "?", "?"), "f8", "f8"),
        (("u1", "f2", "f2"), "f8", "f8"),
        ((">f4", ">f4", ">f4"), "f4", "f4"),
        ((">f2", "<f2", ">f2"), "f2", "f4"),
    ],
)
def test_dtypes(dtypes: Any, result: Any, inside: Any) -> None:
    arrays = [ones(3, 4, dtype=dtype) for dtype in dtypes]
    problem = prepared(check("attention", *arrays))
    assert problem.dtype == np.dtype(result)
    assert problem.dtype.isnative
    assert problem.acc_dtype == np.dtype(inside)
    for made in (problem.query, problem.key, problem.value):
        assert made is not None
        assert made.dtype == np.dtype(inside)
        assert made.dtype.isnative
        assert (made == 1).all()


def test_bias_and_scale_never_promote() -> None:
    x = ones(3, 4)
    problem = prepared(
        check("scores", x, x, scale=np.float64(1 / 3), bias=np.full((3, 3), 1e300))
    )
    assert problem.dtype == np.float32
    assert problem.scale == float(np.float32(1 / 3))
    assert problem.bias is not None
    assert problem.bias.dtype == np.float32
    assert np.isposinf(problem.bias).all()


def test_what_fits_is_not_copied() -> None:
    base = ones(2, 9, 8)
    odd = base[:, ::-2, ::2]
    problem = check("attention", odd, base.transpose(0, 2, 1)[:, :, :4], base[:, :8])
    assert problem.copied_bytes == 0
    for array in (problem.query, problem.key, problem.value):
        assert np.shares_memory(array, base)


def unaligned(array: np.ndarray) -> np.ndarray:
    room = np.zeros(array.nbytes + 1, np.uint8)
    found = room[1:].view(array.dtype).reshape(array.shape)
    found[...] = array
    return found


def field(array: np.ndarray) -> np.ndarray:
    """Return it with strides that are no multiples of its item size."""
    table = np.zeros(array.shape, np.dtype([("x", array.dtype), ("y", "u1")]))
    table["x"] = array
    return table["x"]


@pytest.mark.parametrize("change", [unaligned, field, lambda a: a.astype(">f4")])
def test_what_does_not_fit_is_copied(change: Any) -> None:
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    problem = check("scores", change(x), x)
    assert (problem.copies, problem.copied_bytes) == (("query",), x.nbytes)
    problem = prepared(problem)
    assert problem.query.flags.c_contiguous
    assert problem.query.flags.aligned
    assert (problem.query == x).all()
    assert problem.key is x


def test_a_broadcast_array_is_converted_once() -> None:
    wide = np.broadcast_to(ones(1, 4, dtype=np.float16), (10**9, 6, 4))
    problem = check("scores", ones(1, 4), wide)
    assert problem.copied_bytes == 4 * 4
    problem = prepared(problem)
    assert problem.key.shape == wide.shape
    assert problem.key.strides[:2] == (0, 0)


def test_subclasses_give_base_arrays(tmp_path: Any) -> None:
    class Mine(np.ndarray):
        pass

    mapped = np.memmap(tmp_path / "x", np.float32, "w+", shape=(3, 4))
    problem = check("scores", ones(3, 4).view(Mine), mapped)
    assert type(problem.query) is type(problem.key) is np.ndarray
    assert np.shares_memory(problem.key, mapped)
    assert problem.copied_bytes == 0


def test_array_likes() -> None:
    class Like:
        def __array__(self, *_: Any, **__: Any) -> np.ndarray:
            return ones(3, 2, dtype=np.float16)

    problem = check("attention", [[1, 2]], Like(), ((1.0,), (2.0,), (3.0,)))
    assert problem.out_shape == (1, 1)
    assert problem.dtype == np.float64


def test_defaults() -> None:
    problem = check("weights", ones(5, 16), ones(6, 16))
    assert problem.scale == 0.25
    assert (problem.left, problem.right) == (UNBOUNDED, UNBOUNDED)
    assert (problem.q_offset, problem.kv_lengths, problem.softcap) == (0, 6, 0.0)
    assert problem.bias is problem.mask is problem.value is None
    assert check("weights", ones(5, 0), ones(6, 0)).scale == 1.0


@pytest.mark.parametrize(
    ("options", "left", "right"),
    [
        ({"is_causal": True}, UNBOUNDED, 0),
        ({"is_causal": np.True_}, UNBOUNDED, 0),
        ({"window_size": (3, None)}, 3, UNBOUNDED),
        ({"window_size": [-1, np.int8(2)]}, UNBOUNDED, 2),
        ({"window_size": (2, 5), "is_causal": True}, 2, 0),
        ({"window_size": (2, 0), "is_causal": False}, 2, 0),
        ({"window_size": (2**70, 0)}, UNBOUNDED, 0),
        ({"window_size": (None, -1)}, UNBOUNDED, UNBOUNDED),
    ],
)
def test_window(options: Any, left: int, right: int) -> None:
    problem = check("scores", ones(5, 4), ones(6, 4), **options)
    assert (problem.left, problem.right) == (left, right)


@pytest.mark.parametrize(
    ("offset", "lengths", "expected"),
    [
        (3, None, 3),
        (np.int16(-3), None, -3),
        (np.array(4), None, 4),
        (10**30, None, 2**61),
        (-(10**30), None, -(2**61)),
        ("lower_right", None, 6 - 5),
        ("lower_right", 2, 2 - 5),
        ("lower_right", [[4], [0]], [[-1], [-5]]),
        ([[1], [2]], None, [[1], [2]]),
        (np.array([[2**64 - 1]], np.uint64), None, [[2**61]]),
        (np.array([[200]], np.uint8), None, [[200]]),
        (np.array([[-100]], np.int8), None, [[-100]]),
        (np.array([[-(2**63)] * 3]), None, [[-(2**61)] * 3]),
    ],
)
def test_q_offset(offset: Any, lengths: Any, expected: Any) -> None:
    problem = check(
        "scores", ones(2, 3, 5, 4), ones(3, 6, 4), is_causal=True, q_offset=offset,
        kv_lengths=lengths,
    )  # fmt: skip
    assert np.array_equal(problem.q_offset, expected)
    if isinstance(problem.q_offset, np.ndarray):
        assert problem.q_offset.dtype == np.int64
    else:
        assert type(problem.q_offset) is int


def test_q_offset_without_a_window_means_nothing() -> None:
    problem = check("scores", ones(5, 4), ones(6, 4), q_offset=3)
    assert problem.q_offset == 0


def test_lengths_are_a_copy() -> None:
    lengths = np.array([1, 2])
    problem = check("scores", ones(2, 5, 4), ones(2, 6, 4), kv_lengths=lengths)
    assert not np.shares_memory(problem.kv_lengths, lengths)


RNG = np.random.default_rng(0)
BLOCK_OPTIONS: list[dict[str, Any]] = [
    {},
    {"is_causal": True},
    {"is_causal": True, "q_offset": [[-2], [4]]},
    {"window_size": (2, 3), "q_offset": 1},
    {"kv_lengths": 5},
    {"kv_lengths": [[0], [7]], "softcap": 2.0},
    {"bias": RNG.standard_normal((3, 1, 9)), "mask": RNG.random((7, 1)) < 0.8},
    {"bias": RNG.standard_normal(9), "mask": np.array(True)},
    {"bias": 0.5, "mask": RNG.random((2, 3, 7, 9)) < 0.5},
    {"is_causal": True, "q_offset": 10**18},
]


@pytest.mark.parametrize("options", BLOCK_OPTIONS)
def test_blocks_are_pieces(options: Any, backend: str) -> None:
    run = numbattn.selector.choose(backend).run
    execution = numbattn.backends.Execution()
    query, key = RNG.standard_normal((2, 3, 7, 4)), RNG.standard_normal((2, 1, 9, 4))
    problem = check("scores", query, key, **options)
    whole = np.empty(problem.out_shape)
    run(problem, whole, None, execution)
    for q0, q1, k0, k1 in [(0, 7, 0, 9), (2, 5, 3, 8), (6, 7, 8, 9), (0, 3, 4, 9)]:
        part = problem.block(q0, q1, k0, k1)
        assert part.n_total == 7
        found = np.empty(part.out_shape)
        run(part, found, None, execution)
        assert np.array_equal(found, whole[..., q0:q1, k0:k1])


@pytest.mark.parametrize("options", BLOCK_OPTIONS)
def test_rows_are_pieces(options: Any, backend: str) -> None:
    run = numbattn.selector.choose(backend).run
    execution = numbattn.backends.Execution()
    arrays = [RNG.standard_normal((2, 3, size, 4)) for size in (7, 9, 9)]
    problem = check("attention", *arrays, **options)
    whole, lse = np.empty(problem.out_shape), np.empty(problem.lse_shape)
    run(problem, whole, lse, execution)
    for q0, q1 in [(0, 7), (2, 5), (6, 7)]:
        part = problem.rows(q0, q1)
        found, row_lse = np.empty(part.out_shape), np.empty(part.lse_shape)
        run(part, found, row_lse, execution)
        assert np.array_equal(found, whole[..., q0:q1, :])
        assert np.array_equal(row_lse, lse[..., q0:q1])


def test_a_problem_is_frozen_and_pickles() -> None:
    problem = check("scores", ones(5, 4), ones(6, 4), is_causal=True)
    with pytest.raises(AttributeError):
        problem.n = 3  # type: ignore[misc]
    again = pickle.loads(pickle.dumps(problem))
    assert isinstance(again, AttentionProblem)
    assert again.out_shape == (5, 6)


@pytest.mark.parametrize(
    "out",
    [
        np.zeros((5, 6), ">f4"),
        np.zeros((6, 5), np.float32).T,
        np.zeros((5, 12), np.float32)[:, ::-2],
        unaligned(np.zeros((5, 6), np.float32)),
    ],
)
def test_outs_that_are_taken(out: np.ndarray) -> None:
    check_out(check("scores", ones(5, 4), ones(6, 4)), out)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2 GB", 2 * 10**9), ("2GiB", 2**31), ("1.5 kb", 1500), (".5 MiB", 2**19),
        ("123", 123), (" 7 B ", 7), (2**70, 2**70), (np.int32(5), 5), (2e9, 2 * 10**9),
        (str(2**60 + 1), 2**60 + 1),
    ],
)  # fmt: skip
def test_sizes(text: Any, size: int) -> None:
    assert parse_bytes(text) == size
    assert type(parse_bytes(text)) is int


@pytest.mark.parametrize("bad", ["", "GB", "-1", "1 XB", "1e9", ".1 B", b"1", True, []])
def test_no_sizes(bad: Any) -> None:
    with pytest.raises(numbattn.OptionError, match="NUMBATTN_MAX_MEMORY is "):
        parse_bytes(bad, "NUMBATTN_MAX_MEMORY")
