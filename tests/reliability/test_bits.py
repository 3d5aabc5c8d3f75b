"""The same bits, whatever runs beside, on however many threads, cut as you like."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

import numbattn

from .children import python

OPERATIONS = ["scores", "weights", "attention"]

DIGESTS = """
import hashlib
import numpy as np, numbattn
rng = np.random.default_rng(0)
for dtype in (np.float32, np.float64):
    # few rows, tiles, rows beyond a stretch; the last are jobs of several slabs
    for n, m, d in ((5, 700, 40), (1, 150_000, 8), (150, 900, 130), (20, 70_000, 80)):
        query = rng.standard_normal((n, d)).astype(dtype)
        key, value = rng.standard_normal((2, m, d)).astype(dtype)
        for more in ({}, {"is_causal": True, "q_offset": m - n, "softcap": 5.0}):
            for call, arrays in ((numbattn.scores, (query, key)),
                                 (numbattn.weights, (query, key)),
                                 (numbattn.attention, (query, key, value))):
                out = np.ascontiguousarray(call(*arrays, **more))
                print(n, m, hashlib.sha256(out).hexdigest()[:16])
"""


def test_same_bits_for_1_2_4_and_8_threads() -> None:
    found = {n: python(DIGESTS, NUMBA_NUM_THREADS=str(n)) for n in (1, 2, 4, 8)}
    assert len(found[1].splitlines()) == 48
    assert found[1] == found[2] == found[4] == found[8]


def test_same_bits_wherever_a_slab_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slabs of 10 us park every attention task, many times."""
    from numbattn.backends.cpu import launch, matrix

    rng = np.random.default_rng(1)
    for n in (3, 100):
        query = rng.standard_normal((n, 64)).astype(np.float32)
        key, value = rng.standard_normal((2, 20_000, 64)).astype(np.float32)
        for operation in OPERATIONS:
            arrays = (query, key, value)[: 3 if operation == "attention" else 2]
            call = getattr(numbattn, operation)
            with monkeypatch.context() as patched:
                patched.setattr(launch, "SLAB_FLOPS", np.inf)
                want = call(*arrays, backend="cpu")
            slabs: list[int] = []

            def tell(done: int, total: int, slabs: list[int] = slabs) -> None:
                slabs.append(done)

            with monkeypatch.context() as patched:
                patched.setattr(launch, "SLAB_FLOPS", 0)
                patched.setattr(launch, "SLAB_SECONDS", 1e-5)
                matrix._plan.cache_clear()  # it knows what has slabs
                for threads in (1, None):
                    got = call(*arrays, num_threads=threads, progress=tell)
                    assert np.array_equal(got, want)
            matrix._plan.cache_clear()
            assert len(slabs) > 4


def digest(out: np.ndarray) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(out)).digest()


def compositions(operation: str, count: int) -> None:
    """Heads alone, and in batches of any make-up."""
    rng = np.random.default_rng(2)
    heads = 9
    query = rng.standard_normal((heads, 40, 24)).astype(np.float32)
    key, value = rng.standard_normal((2, heads, 300, 24)).astype(np.float32)
    call = getattr(numbattn, operation)

    def run(chosen: object, more: dict[str, object]) -> np.ndarray:
        arrays = (query[chosen], key[chosen], value[chosen])
        return call(*arrays[: 3 if operation == "attention" else 2], **more)

    options: list[dict[str, object]] = [{}, {"is_causal": True}, {"softcap": 3.0}]
    alone = [[digest(run(i, more)) for i in range(heads)] for more in options]
    for _ in range(count):
        which = int(rng.integers(len(options)))
        chosen = rng.integers(0, heads, int(rng.integers(1, 12)))
        out = run(chosen, options[which])
        for i, head in enumerate(chosen):
            assert digest(out[i]) == alone[which][head]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_same_bits_in_100_batch_compositions(operation: str) -> None:
    compositions(operation, 100)


@pytest.mark.parametrize("m", [300, 70_000])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_same_bits_in_pieces_of_queries(operation: str, m: int) -> None:
    """Pieces above the limit for few rows, and pieces within it of a call within it."""
    rng = np.random.default_rng(3)
    for dtype in (np.float32, np.float64):
        query = rng.standard_normal((130, 24)).astype(dtype)
        key, value = rng.standard_normal((2, m, 24)).astype(dtype)
        others = (key, value) if operation == "attention" else (key,)
        call = getattr(numbattn, operation)
        for rows, least in ((130, 17), (16, 1)):
            whole = call(query[:rows], *others, backend="cpu")
            for _ in range(3):
                cuts = [0]
                while rows - cuts[-1] >= 2 * least:
                    cuts.append(int(rng.integers(cuts[-1] + least, rows - least + 1)))
                for first, last in zip(cuts, [*cuts[1:], rows], strict=True):
                    piece = call(query[first:last], *others, backend="cpu")
                    assert np.array_equal(piece, whole[first:last])
