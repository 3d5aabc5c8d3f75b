"""`masks.from_function`: what it evaluates, what it remembers, what it refuses."""

from __future__ import annotations

import functools
import math
import pickle
from typing import Any

import numpy as np
import pytest

from numbattn import DTypeError, OptionError, masks
from numbattn.masks.blocks import Blocks, blocks, by_pieces

ROWS, KEYS = np.array([0, 4, 9]), np.array([0, 5, 12])
reach = 3  # a global that tests of captured numbers rebind


def near(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    return abs(q_idx - kv_idx) < reach


def by_batch_and_head(b: Any, h: Any, q_idx: Any, kv_idx: Any, step: Any) -> Any:
    return (q_idx + h) % step <= kv_idx + b


def branched(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    if kv_idx > q_idx:
        return False
    return kv_idx % 2 == 0 or kv_idx == q_idx


def test_a_function_is_asked_with_positions() -> None:
    q_idx, j = np.arange(9)[:, None] - 2, np.arange(12)
    mask = masks.from_function(near)
    assert isinstance(mask, masks.Leaf)
    assert not mask.by_row
    assert mask.function is near
    assert mask.args == ()
    found = mask.materialize(9, 12, q_offset=-2)
    np.testing.assert_array_equal(found, abs(q_idx - j) < 3)
    branches = masks.from_function(branched).materialize(9, 12, q_offset=-2)
    expected = (j <= q_idx) & ((j % 2 == 0) | (j == q_idx))
    np.testing.assert_array_equal(branches, expected)
    root = masks.from_function(lambda b, h, q, k: math.sqrt(abs(q - k)) <= 1.5)
    np.testing.assert_array_equal(
        root.materialize(9, 12), abs(np.arange(9)[:, None] - j) <= 2
    )


def test_a_function_may_differ_by_batch_entry_and_head() -> None:
    mask = masks.from_function(by_batch_and_head, [4])
    assert mask.varies == (True, True)
    found = mask.materialize(9, 12, batch=2, heads=3, q_offset=1)
    b, h, i, j = np.indices((2, 3, 9, 12))
    np.testing.assert_array_equal(found, (i + 1 + h) % 4 <= j + b)
    assert mask.sparsity(9, 12, batch=2, heads=3, q_offset=1) == pytest.approx(
        1 - found.mean()
    )
    assert masks.from_function(near).varies == (False, False)
    assert masks.from_function(lambda b, h, q, k: k > h).varies == (False, True)
    both = masks.from_function(near) | masks.from_function(lambda b, h, q, k: b > 0)
    assert both.varies == (True, False)


def test_arrays_go_in_by_args_and_are_copied() -> None:
    edges = np.zeros((6, 6), dtype=">i2")
    edges[[0, 1, 4], [1, 2, 4]] = 1
    before = edges != 0
    mask = masks.from_function(
        lambda b, h, q, k, graph, least: graph[q, k] >= least, (edges, np.int8(1))
    )
    edges[...] = 1
    np.testing.assert_array_equal(mask.materialize(6, 6), before)
    array, least = mask.args  # type: ignore[attr-defined]
    assert array.dtype == np.int16
    assert array.dtype.isnative
    assert not array.flags.writeable
    assert type(least) is int


def test_blocks_of_a_function_are_exact() -> None:
    mask = masks.from_function(near)
    found = blocks(mask, ROWS, KEYS, 2, 0, 0)
    whole = mask.materialize(9, 12, q_offset=2)
    for a, c in np.ndindex(2, 2):
        block = whole[ROWS[a] : ROWS[a + 1], KEYS[c] : KEYS[c + 1]]
        some = np.flatnonzero(block.any(axis=0))
        hull = (some[0], some[-1] + 1) if len(some) else (0, 0)
        assert (found.first[a, c], found.last[a, c]) == hull
        assert found.full[a, c] == (bool(len(some)) and block[:, slice(*hull)].all())


def test_a_function_is_evaluated_again_when_what_it_captures_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []

    def evaluate(leaf: Any, *call: Any) -> Blocks:
        asked.append(1)
        return by_pieces(leaf, *call)

    mask = masks.from_function(near) & masks.causal()
    first = blocks(mask, ROWS, KEYS, 0, 0, 0, evaluate)
    assert blocks(mask, ROWS, KEYS, 0, 7, 7, evaluate) is first
    assert len(asked) == 1
    monkeypatch.setitem(globals(), "reach", 1)
    assert (blocks(mask, ROWS, KEYS, 0, 0, 0, evaluate).first != first.first).any()
    assert len(asked) == 2
    monkeypatch.setitem(globals(), "reach", 3)
    assert blocks(mask, ROWS, KEYS, 0, 0, 0, evaluate) is first
    monkeypatch.setitem(globals(), "reach", [3])
    with pytest.raises(OptionError, match="reach"):
        mask.check(9, 12, 1, 1)


def test_masks_pickle_where_their_functions_do() -> None:
    mask = ~masks.from_function(by_batch_and_head, (4,))
    twin = pickle.loads(pickle.dumps(mask))
    sizes = {"batch": 2, "heads": 2}
    np.testing.assert_array_equal(
        twin.materialize(9, 12, **sizes), mask.materialize(9, 12, **sizes)
    )
    assert repr(twin) == "~from_function(by_batch_and_head)"
    with_array = masks.from_function(by_batch_and_head, (np.array([2]),))
    (array,) = pickle.loads(pickle.dumps(with_array)).args
    assert not array.flags.writeable


captured_array = np.ones(3)

REFUSED: dict[str, tuple[Any, Any, str]] = {
    "too few parameters": (lambda b, h, q: True, (), "argument|parameter"),
    "args that are missing": (lambda b, h, q, k, x: True, (), "argument|parameter"),
    "args too many": (lambda b, h, q, k: True, (1,), "argument|parameter"),
    "no function": (3, (), "f of masks.from_function is 3"),
    "a partial": (functools.partial(near, 1), (), "partial"),
    "a builtin": (max, (), "max"),
    "a captured array": (
        lambda b, h, q, k: captured_array[q] > 0, (), "captured_array.*args"
    ),
    "no result": (lambda b, h, q, k: None, (), "without returning"),
    "an array for args": (near, np.ones(3), r"\(array,\)"),
    "text in args": (near, ("a",), r"args of masks.from_function\[0\]"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_functions_and_args_that_do_not_fit_are_refused_at_once(what: str) -> None:
    function, args, match = REFUSED[what]
    with pytest.raises(OptionError, match=match):
        masks.from_function(function, args)


def test_args_of_other_dtypes_are_refused() -> None:
    with pytest.raises(DTypeError, match=r"args of masks.from_function\[1\].*complex"):
        masks.from_function(near, (1, np.ones(3, complex)))

    class OnDevice:
        __cuda_array_interface__ = "anything"

    with pytest.raises(DTypeError, match="CUDA device"):
        masks.from_function(near, (OnDevice(),))


@pytest.mark.parametrize(
    "function",
    [
        lambda b, h, q, k: q - k,
        lambda b, h, q, k: 1.0,
        lambda b, h, q, k, *rest: (q > k, True),
    ],
    ids=["int", "float", "tuple"],
)
def test_what_is_no_bool_is_refused_when_it_is_returned(function: Any) -> None:
    mask = masks.from_function(function)
    with pytest.raises(OptionError, match=r"from_function, '<lambda>'.*line.*True or"):
        mask.materialize(3, 4)


def test_reading_outside_an_argument_array_is_refused() -> None:
    mask = masks.from_function(lambda b, h, q, k, x: x[k] > 0, (np.ones(3),))
    assert mask.materialize(2, 3).all()
    with pytest.raises(OptionError, match="outside an argument array"):
        mask.materialize(2, 4)
