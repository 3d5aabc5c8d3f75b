"""Masks by rule: each against its closed form, what they refuse, how they look."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import subprocess
import sys
import tracemalloc
from typing import Any

import numpy as np
import pytest

import numbattn
from numbattn import DTypeError, OptionError, ShapeError, masks
from numbattn.masks import views as mask_views

RNG = np.random.default_rng(5)
SIZES = [(1, 1), (7, 11), (13, 5), (0, 4), (3, 0), (33, 65)]
OFFSETS = [0, 3, -4, 100]


def pairs(n: int, m: int, q_offset: int) -> tuple[np.ndarray, np.ndarray]:
    """Return q_idx as a column and j as a row."""
    return np.arange(n)[:, None] + q_offset, np.arange(m)[None, :]


@pytest.mark.parametrize(("n", "m"), SIZES)
@pytest.mark.parametrize("q_offset", OFFSETS)
def test_masks_by_position_are_their_closed_form(n: int, m: int, q_offset: int) -> None:
    q_idx, j = pairs(n, m, q_offset)
    every = np.ones((n, m), bool)
    forms: list[tuple[masks.Mask, Any]] = [
        (masks.causal(), j <= q_idx),
        (masks.causal(2), j <= q_idx + 2),
        (masks.causal(-3), j <= q_idx - 3),
        (masks.sliding_window(2, 1), (q_idx - 2 <= j) & (j <= q_idx + 1)),
        (masks.sliding_window(0, 0), j == q_idx),
        (masks.sliding_window(None, 1), j <= q_idx + 1),
        (masks.sliding_window(3, -1), q_idx - 3 <= j),
        (masks.sliding_window(None, None), every),
        (masks.sliding_window(10**30, 0), j <= q_idx),
        (masks.causal(-(10**30)), ~every),
        (masks.prefix(4), j < 4),
        (masks.prefix(0), ~every),
        (masks.prefix(10**30), every),
        (masks.dilated(3), abs(q_idx - j) % 3 == 0),
        (masks.dilated(1), every),
        (masks.dilated(10**30), q_idx == j),
    ]
    for mask, form in forms:
        found = mask.materialize(n, m, q_offset=q_offset)
        assert found.dtype == bool
        np.testing.assert_array_equal(found, form & every, err_msg=repr(mask))
        assert mask.varies == (False, False)
        share = 1 - (form & every).mean() if n * m else 0
        assert mask.sparsity(n, m, q_offset=q_offset) == pytest.approx(share)


@pytest.mark.parametrize("q_offset", OFFSETS)
def test_prefixes_differ_by_batch_entry_and_head(q_offset: int) -> None:
    j = np.arange(9)
    lengths = np.array([[3, 0, 9], [1, 2, 20]])
    for given in (lengths, lengths[:, :1], lengths[:1]):
        mask = masks.prefix(given)
        found = mask.materialize(4, 9, batch=2, heads=3, q_offset=q_offset)
        whole = np.broadcast_to(given, (2, 3))[:, :, None, None]
        np.testing.assert_array_equal(found, np.broadcast_to(j < whole, (2, 3, 4, 9)))
        assert mask.varies == (given.shape[0] > 1, given.shape[1] > 1)
    by_batch = masks.prefix([3, 1])
    found = by_batch.materialize(4, 9, batch=2, heads=3)
    expected = np.broadcast_to(j < lengths[:, :1, None, None], (2, 3, 4, 9))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("q_offset", OFFSETS)
def test_documents_go_by_row_and_not_by_position(q_offset: int) -> None:
    q_ids, kv_ids = RNG.integers(-1, 3, 7), RNG.integers(-1, 3, 11)
    found = masks.document(q_ids, kv_ids).materialize(7, 11, q_offset=q_offset)
    np.testing.assert_array_equal(found, q_ids[:, None] == kv_ids)


@pytest.mark.parametrize(
    ("q_shape", "kv_shape"),
    [
        ((2, 7), (2, 11)),
        ((7,), (2, 11)),
        ((2, 7), (11,)),
        ((2, 3, 7), (1, 3, 11)),
        ((1, 3, 7), (2, 1, 11)),
        ((1, 1, 7), (2, 3, 11)),
    ],
)
def test_documents_differ_by_batch_entry_and_head(
    q_shape: tuple[int, ...], kv_shape: tuple[int, ...]
) -> None:
    q_ids, kv_ids = RNG.integers(0, 4, q_shape), RNG.integers(0, 4, kv_shape)
    mask = masks.document(q_ids.astype(np.uint8), kv_ids.tolist())
    by_axes = [
        (x[:, None] if x.ndim == 2 else np.broadcast_to(x, (1, 1, *x.shape)[-3:]))
        for x in (q_ids, kv_ids)
    ]
    expected = by_axes[0][..., :, None] == by_axes[1][..., None, :]
    found = mask.materialize(7, 11, batch=2, heads=3)
    np.testing.assert_array_equal(found, np.broadcast_to(expected, (2, 3, 7, 11)))


@pytest.mark.parametrize(
    "shape",
    [
        (),
        (11,),
        (7, 1),
        (7, 11),
        (3, 7, 11),
        (2, 1, 1, 11),
        (2, 3, 7, 11),
        (1, 1, 1, 1),
    ],
)
def test_arrays_broadcast_as_a_mask_array_does(shape: tuple[int, ...]) -> None:
    array = np.asarray(RNG.random(shape) < 0.5)
    mask = masks.from_array(array)
    found = mask.materialize(7, 11, batch=2, heads=3, q_offset=5)
    np.testing.assert_array_equal(found, np.broadcast_to(array, (2, 3, 7, 11)))


def test_what_an_array_repeats_is_kept_once() -> None:
    repeated = np.broadcast_to(RNG.random((2, 1, 1, 50)) < 0.5, (2, 8, 1000, 50))
    mask = masks.from_array(repeated)
    assert mask.args[0].size == 100  # type: ignore[attr-defined]
    with pytest.raises(ShapeError, match="1000, 50"):
        mask.check(999, 50, 2, 8)
    found = mask.materialize(1000, 50, batch=2, heads=8)
    np.testing.assert_array_equal(found, repeated)


def test_the_scalar_function_of_each_leaf_says_what_numpy_says() -> None:
    leaves: list[Any] = [
        masks.causal(1),
        masks.sliding_window(2, None),
        masks.prefix(4),
        masks.prefix([[1, 2], [3, 4]]),
        masks.prefix([[1], [5]]),
        masks.dilated(3),
        masks.document(RNG.integers(0, 3, (2, 5)), RNG.integers(0, 3, 6)),
        masks.from_array(RNG.random((2, 1, 6)) < 0.5),
    ]
    for leaf in leaves:
        assert isinstance(leaf, masks.Leaf)
        assert leaf.by_row
        whole = leaf.materialize(5, 6, batch=2, heads=2, q_offset=2)
        for b, h, i, j in np.ndindex(2, 2, 5, 6):
            seen = leaf.function(b, h, i + 2, j, i, *leaf.args)
            assert bool(seen) == whole[b, h, i, j], (leaf, b, h, i, j)


def test_combinations_are_those_of_the_arrays() -> None:
    a, b = masks.causal(), masks.document([0, 0, 1, 1, 2], [0, 1, 1, 2, 2, 0])
    x, y = a.materialize(5, 6), b.materialize(5, 6)
    for mask, expected in (
        (a & b, x & y),
        (a | b, x | y),
        (~a, ~x),
        (~(a | ~b) & a, ~(x | ~y) & x),
        (~~a, x),
    ):
        np.testing.assert_array_equal(mask.materialize(5, 6), expected)
    both = a & masks.prefix([[1, 2]])
    assert isinstance(both, masks.And)
    assert both.left is a
    assert (~both).varies == (False, True)
    assert isinstance(~both, masks.Not)
    assert isinstance(a | b, masks.Or)
    text = "~((causal(2) | sliding_window(3, None)) & prefix(2))"
    assert (
        repr(~((masks.causal(2) | masks.sliding_window(3, -1)) & masks.prefix(2)))
        == text
    )


def every_mask() -> list[masks.Mask]:
    return [
        masks.causal(1),
        masks.sliding_window(2, None),
        masks.prefix(4),
        masks.prefix([[1, 2], [3, 4]]),
        masks.dilated(3),
        masks.document([0, 1, 1, 2, 3], [3, 1, 1, 0, 2, 2]),
        masks.from_array(np.eye(5, 6, dtype=bool)),
        ~masks.causal() | masks.prefix([2]) & masks.document([1] * 5, [1] * 6),
    ]


@pytest.mark.parametrize("number", range(len(every_mask())))
def test_masks_pickle_and_copy_without_what_they_remember(number: int) -> None:
    mask = every_mask()[number]
    edges = np.array([0, 5]), np.array([0, 6])
    numbattn.masks.blocks.blocks(mask, *edges, 0, 0, 0)
    for twin in (
        pickle.loads(pickle.dumps(mask)),
        copy.deepcopy(mask),
        copy.copy(mask),
    ):
        assert type(twin) is type(mask)
        assert repr(twin) == repr(mask)
        assert len(twin.memo) == 0
        whole = {"batch": 2, "heads": 2} if number in (3,) else {}
        np.testing.assert_array_equal(
            twin.materialize(5, 6, **whole), mask.materialize(5, 6, **whole)
        )
        for each in getattr(twin, "args", ()):
            assert not isinstance(each, np.ndarray) or not each.flags.writeable


@pytest.mark.parametrize("number", range(len(every_mask())))
def test_masks_cannot_be_changed(number: int) -> None:
    mask = every_mask()[number]
    name = dataclasses.fields(mask)[0].name  # type: ignore[arg-type]
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(mask, name, 1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        mask.other = 1  # type: ignore[attr-defined]
    with pytest.raises(dataclasses.FrozenInstanceError):
        delattr(mask, name)


def test_masks_own_their_arrays() -> None:
    lengths, ids = np.array([1, 2]), np.arange(5, dtype=np.int64)
    array = np.eye(5, dtype=bool)
    made = [masks.prefix(lengths), masks.document(ids, ids), masks.from_array(array)]
    before = [x.materialize(5, 5, batch=2) for x in made]
    for given in (lengths, ids, array):
        given[...] = 0
    for mask, expected in zip(made, before, strict=True):
        np.testing.assert_array_equal(mask.materialize(5, 5, batch=2), expected)
        for each in mask.args:  # type: ignore[attr-defined]
            if isinstance(each, np.ndarray):
                with pytest.raises(ValueError, match="read-only"):
                    each[...] = 0
    # what is returned belongs to the caller
    made[2].materialize(5, 5)[...] = False


class OnDevice:
    __cuda_array_interface__ = "anything"


REFUSED: list[tuple[str, Any, type[Exception], str]] = [
    (
        "a float offset",
        lambda: masks.causal(1.5),
        OptionError,
        "offset of masks.causal is 1.5.*an int",
    ),
    (
        "a bool offset",
        lambda: masks.causal(True),
        OptionError,
        "offset of masks.causal is True",
    ),
    (
        "a negative side",
        lambda: masks.sliding_window(-2, 0),
        OptionError,
        "left of masks.sliding_window is -2.*-1",
    ),
    (
        "a side of text",
        lambda: masks.sliding_window(0, "all"),
        OptionError,
        "right of masks.sliding_window is 'all'",
    ),
    (
        "a negative length",
        lambda: masks.prefix(-1),
        OptionError,
        "lengths of masks.prefix is -1.*0 or more",
    ),
    (
        "no length",
        lambda: masks.prefix(None),
        OptionError,
        "lengths of masks.prefix is None",
    ),
    (
        "a float length",
        lambda: masks.prefix(2.0),
        OptionError,
        "lengths of masks.prefix is 2.0",
    ),
    (
        "a negative length among many",
        lambda: masks.prefix([3, -7]),
        OptionError,
        "has the value -7",
    ),
    (
        "float lengths",
        lambda: masks.prefix(np.ones(3)),
        DTypeError,
        r"a float64 array.*astype\(int\)",
    ),
    (
        "lengths of three axes",
        lambda: masks.prefix(np.ones((1, 1, 2), int)),
        ShapeError,
        r"\(1, 1, 2\)",
    ),
    (
        "no step",
        lambda: masks.dilated(0),
        OptionError,
        "step of masks.dilated is 0.*1 or more",
    ),
    (
        "a float step",
        lambda: masks.dilated(2.0),
        OptionError,
        "step of masks.dilated is 2.0",
    ),
    (
        "ids without axes",
        lambda: masks.document(3, [3]),
        ShapeError,
        r"q_ids of masks.document has shape \(\)",
    ),
    (
        "ids of four axes",
        lambda: masks.document([3], np.ones((1, 1, 1, 2), int)),
        ShapeError,
        r"kv_ids .*\(1, 1, 1, 2\)",
    ),
    (
        "float ids",
        lambda: masks.document([0.5], [1]),
        DTypeError,
        "q_ids of masks.document is a float64 array",
    ),
    (
        "bool ids",
        lambda: masks.document([1], [True]),
        DTypeError,
        "kv_ids of masks.document is a bool array",
    ),
    (
        "ids of text",
        lambda: masks.document("aab", [1]),
        DTypeError,
        "q_ids of masks.document is 'aab'",
    ),
    (
        "huge ids",
        lambda: masks.document([1], np.array([2**63], np.uint64)),
        OptionError,
        "9223372036854775808",
    ),
    (
        "ids of two batches",
        lambda: masks.document(np.ones((2, 4), int), np.ones((3, 4), int)),
        ShapeError,
        "their B has to be",
    ),
    (
        "ids of two numbers of heads",
        lambda: masks.document(np.ones((1, 2, 4), int), np.ones((1, 3, 4), int)),
        ShapeError,
        "their H has to be",
    ),
    (
        "ids on a device",
        lambda: masks.document(OnDevice(), [1]),
        DTypeError,
        "CUDA device",
    ),
    (
        "a float mask",
        lambda: masks.from_array(np.ones((2, 2))),
        DTypeError,
        "dtype bool.*bias=",
    ),
    (
        "an int mask",
        lambda: masks.from_array([[1, 0]]),
        DTypeError,
        r"dtype bool.*astype\(bool\)",
    ),
    (
        "a mask of five axes",
        lambda: masks.from_array(np.ones((1,) * 5, bool)),
        ShapeError,
        "reshape",
    ),
    (
        "a combination with an array",
        lambda: masks.causal() & np.ones((2, 2), bool),
        OptionError,
        "from_array",
    ),
    (
        "an array combined",
        lambda: np.ones((2, 2), bool) | masks.causal(),
        OptionError,
        "from_array",
    ),
    (
        "a combination with a function",
        lambda: masks.causal() | (lambda *_: True),
        OptionError,
        "from_function",
    ),
    (
        "a combination with None",
        lambda: masks.causal() & None,
        OptionError,
        "None is no mask",
    ),
    (
        "masks joined by and",
        lambda: masks.causal() and masks.prefix(1),
        OptionError,
        "&, | and ~",
    ),
    (
        "a negative size",
        lambda: masks.causal().materialize(-1, 3),
        OptionError,
        "n is -1",
    ),
    ("a float size", lambda: masks.causal().sparsity(3, 3.0), OptionError, "m is 3.0"),
    (
        "a batch of text",
        lambda: masks.causal().sparsity(3, 3, batch="2"),
        OptionError,
        "batch is '2'",
    ),
    (
        "no heads",
        lambda: masks.causal().materialize(3, 3, heads=None),
        OptionError,
        "heads is None",
    ),
    (
        "an offset by array",
        lambda: masks.causal().materialize(3, 3, q_offset=[1]),
        OptionError,
        "q_offset is",
    ),
    (
        "a head that is not there",
        lambda: masks.prefix([[1, 2]]).plot(3, 3, h=2),
        OptionError,
        "2 heads",
    ),
]


@pytest.mark.parametrize(
    ("make", "error", "match"), [x[1:] for x in REFUSED], ids=[x[0] for x in REFUSED]
)
def test_bad_input_is_refused_by_name(make: Any, error: Any, match: str) -> None:
    with pytest.raises(error, match=match) as caught:
        make()
    assert isinstance(caught.value, numbattn.NumbattnError)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("mask", "match"),
    [
        (masks.prefix([1, 2, 3]), r"lengths of masks.prefix has shape \(3,\).*3 batch"),
        (masks.prefix([[1, 2]]), r"\(1, 2\).*2 heads; the scores have 3"),
        (masks.document([0] * 4, [0] * 6), r"q_ids .*\(4,\).*5.*number of queries"),
        (masks.document([0] * 5, [0] * 4), r"kv_ids .*\(4,\).*6.*number of keys"),
        (masks.document([[0] * 5] * 3, [0] * 6), "q_ids .*3 batch entries"),
        (masks.document([0] * 5, np.ones((1, 2, 6), int)), "kv_ids .*2 heads"),
        (masks.from_array(np.ones((5, 7), bool)), r"\(5, 7\).*\(2, 3, 5, 6\)"),
        (masks.from_array(np.ones((2, 5, 6), bool)), r"\(2, 5, 6\).*\(2, 3, 5, 6\)"),
    ],
    ids=repr,
)
def test_arrays_that_do_not_fit_the_scores_are_refused(
    mask: masks.Mask, match: str
) -> None:
    for each in (mask, ~mask, masks.causal() & mask, mask | masks.causal()):
        with pytest.raises(ShapeError, match=match):
            each.check(5, 6, 2, 3)
        with pytest.raises(ShapeError, match=match):
            each.sparsity(5, 6, batch=2, heads=3)


def test_materialize_has_axes_for_batch_and_heads_where_there_are_any() -> None:
    mask = masks.causal()
    assert mask.materialize(3, 4).shape == (3, 4)
    assert mask.materialize(3, 4, batch=2).shape == (2, 1, 3, 4)
    assert mask.materialize(3, 4, heads=2).shape == (1, 2, 3, 4)
    assert mask.materialize(3, 4, batch=0).shape == (0, 1, 3, 4)


def test_sparsity_counts_without_the_array() -> None:
    size = 60_000
    ids = np.arange(size) // 500
    forms = [
        (masks.causal(), (size - 1) / (2 * size)),
        (~masks.causal(), (size + 1) / (2 * size)),
        (masks.document(ids, ids), 1 - 500 / size),
        (masks.sliding_window(0, 0), 1 - 1 / size),
        (masks.prefix([[size // 2, size // 4]]), 5 / 8),
    ]
    for mask, expected in forms:
        tracemalloc.start()
        try:
            found = mask.sparsity(size, size, batch=3, heads=2)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert found == pytest.approx(expected, rel=1e-12)
        assert peak < 64 * 2**20  # the array would be 3.6 GB


def test_sparsity_is_the_share_of_the_whole_mask() -> None:
    mask = masks.dilated(3) & masks.causal() | masks.prefix([[5, 700], [0, 41]])
    whole = mask.materialize(300, 1100, batch=2, heads=2, q_offset=9)
    found = mask.sparsity(300, 1100, batch=2, heads=2, q_offset=9)
    assert found == pytest.approx(1 - whole.mean(), rel=1e-12)
    assert masks.causal().sparsity(0, 5) == 0
    assert masks.causal().sparsity(4, 5, batch=0) == 0


def test_a_small_plot_is_the_mask() -> None:
    figures = pytest.importorskip("matplotlib.figure", reason="needs matplotlib")
    mask = masks.prefix([[1, 2], [3, 9]]) & masks.causal()
    ax = mask.plot(10, 12, b=1, h=1, q_offset=2)
    (image,) = ax.images
    expected = mask.materialize(10, 12, batch=2, heads=2, q_offset=2)[1, 1]
    np.testing.assert_array_equal(np.asarray(image.get_array()), expected)
    assert ax.get_title() == repr(mask)
    assert ax.get_xlim() == (-0.5, 11.5)
    assert image.get_clim() == (0, 1.2)
    ax.figure.canvas.draw()
    own = figures.Figure().subplots()
    assert masks.from_array(True).plot(3, 4, b=7, h=7, ax=own) is own


def test_a_large_plot_is_reduced() -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib")
    mask = masks.causal()
    ax = mask.plot(100_000, 3001)
    (image,) = ax.images
    shares = np.asarray(image.get_array())
    rows, keys = -(-100_000 // mask_views.PIXELS), -(-3001 // mask_views.PIXELS)
    assert shares.shape == (-(-100_000 // rows), -(-3001 // keys))
    assert 0 <= shares.min() < shares.max() <= 1
    seen = np.minimum(np.arange(rows) + 1, 3001).sum()
    widths = np.diff([*range(0, 3001, keys), 3001])
    assert (shares[0] * widths).sum() * rows == pytest.approx(seen)
    assert ax.get_aspect() == "auto"
    with_none = mask.plot(0, 5)
    with_none.figure.canvas.draw()


def test_masks_are_reached_without_numba_and_matplotlib() -> None:
    code = (
        "import sys, numbattn\n"
        "assert 'numbattn.masks' not in sys.modules\n"
        "mask = numbattn.masks.causal()\n"
        "mask.materialize(3, 3), mask.sparsity(3, 3)\n"
        "print({'numba', 'matplotlib', 'numbattn.problem'} & set(sys.modules))"
    )
    found = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == "set()"
