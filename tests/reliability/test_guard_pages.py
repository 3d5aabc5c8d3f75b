"""Inputs and out end at a page that must not be touched, or start behind one."""

from __future__ import annotations

import mmap
from typing import Any

import pytest

from numbattn.backends.cpu import levels

from .children import python

pytestmark = pytest.mark.skipif(
    not hasattr(mmap, "PROT_READ"), reason="needs mprotect (POSIX)"
)

GUARDED = """
import ctypes, itertools, mmap
import numpy as np
import numbattn
from numbattn.testing import assert_same_bits

libc = ctypes.CDLL(None, use_errno=True)
libc.mprotect.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
PAGE, kept = mmap.PAGESIZE, []

def guarded(array, at_end):
    pages = -(-max(array.nbytes, 1) // PAGE)
    memory = mmap.mmap(-1, (pages + 2) * PAGE)
    whole = np.frombuffer(memory, np.uint8)
    start = (pages + 1) * PAGE - array.nbytes if at_end else PAGE
    start -= start % array.itemsize
    view = whole[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    view[...] = array
    for page in (0, pages + 1):
        assert not libc.mprotect(whole.ctypes.data + page * PAGE, PAGE, 0)
    kept.append(memory)
    return view

rng, calls = np.random.default_rng(0), 0
"""

ALL = """
for dtype, at_end in itertools.product((np.float32, np.float64), (True, False)):
    for k in range(50):
        n, m, d, d_v = (int(x) for x in rng.integers(1, (40, 90, 70, 70)))
        if k % 3 == 0:
            n = int(rng.integers(1, 17))
        q, k_, v = (
            rng.standard_normal(s).astype(dtype) for s in ((n, d), (m, d), (m, d_v))
        )
        bias, mask = rng.standard_normal((n, m)).astype(dtype), rng.random((n, m)) < 0.7
        options = dict(bias=bias, mask=mask, is_causal=bool(rng.random() < 0.5))
        for operation, arrays in (
            ("scores", (q, k_)), ("weights", (q, k_)), ("attention", (q, k_, v))
        ):
            run = getattr(numbattn, operation)
            want = run(*arrays, backend=BACKEND, **options)
            close = [guarded(a, at_end) for a in arrays]
            near = dict(
                options, bias=guarded(bias, at_end), mask=guarded(mask, at_end)
            )
            out = guarded(np.zeros_like(want), at_end)
            run(*close, backend=BACKEND, out=out, **near)
            assert_same_bits(out, want)
            calls += 1
print(calls)
"""

ATTENTION = """
from numbattn.backends.cpu import levels
assert LEVEL in (levels.chosen().name, "")

def laid_out(array, how):  # as it lies in memory, and the way back
    if how == 1:  # columns one behind the other
        return array.swapaxes(-1, -2), lambda x: x.swapaxes(-1, -2)
    if how == 2:  # backwards
        return array[..., ::-1, :], lambda x: x[..., ::-1, :]
    if how == 3:  # a gap behind each row but the last
        wide = np.full((*array.shape[:-1], array.shape[-1] + 3), np.nan, array.dtype)
        wide[..., :array.shape[-1]] = array
        return wide.reshape(-1)[:-3], lambda x: np.lib.stride_tricks.as_strided(
            x, array.shape, wide.strides)
    return array, lambda x: x

def close(array, at_end):
    flat, back = laid_out(array, int(rng.choice(4, p=(0.7, 0.1, 0.1, 0.1))))
    return back(guarded(np.ascontiguousarray(flat), at_end))

for dtype, k in itertools.product(DTYPES, range(COUNT)):
    at_end = k % 4 > 0
    n = int(rng.integers(1, 17) if k % 2 else rng.integers(17, 120))
    m = int(rng.choice([rng.integers(1, 40), rng.integers(40, 300),
                        rng.integers(300, 2600)], p=(0.5, 0.4, 0.1)))
    d, d_v = (int(x) for x in rng.choice([rng.integers(1, 34), rng.integers(34, 150)],
                                         2, p=(0.7, 0.3)))
    kv, group = (int(x) for x in rng.integers(1, 3, 2))
    shapes = (kv * group, n, d), (kv, m, d), (kv, m, d_v)
    arrays = [rng.standard_normal(shape).astype(dtype) for shape in shapes]
    options = {}
    if rng.random() < 0.4:
        shape = ((n, m), (1, m), (n, 1), (kv * group, n, m))[int(rng.integers(4))]
        bias = rng.standard_normal(shape).astype(dtype)
        bias[rng.random(shape) < rng.choice([0.2, 0.99])] = -np.inf
        options["bias"] = bias
    if rng.random() < 0.4:
        shape = ((n, m), (1, m), (n, 1), (kv * group, n, m))[int(rng.integers(4))]
        options["mask"] = rng.random(shape) < rng.choice([0.0, 0.01, 0.5, 1.0])
    if rng.random() < 0.2:
        arrays[2][..., int(rng.integers(m)), int(rng.integers(d_v))] = np.nan
    near = [close(a, at_end) for a in arrays]
    nearby = {name: close(a, at_end) for name, a in options.items()}
    more = {}
    if rng.random() < 0.3:
        more |= {"is_causal": True, "q_offset": "lower_right"}
    if rng.random() < 0.2:
        more["window_size"] = tuple(int(x) for x in rng.integers(0, m, 2))
    if rng.random() < 0.2:
        more["kv_lengths"] = rng.integers(0, m + 1, kv * group)
    if rng.random() < 0.2:
        more["softcap"] = 3.0
    want, lse = numbattn.attention(*arrays, **options, **more, return_lse=True)
    out = close(np.zeros_like(want), at_end)
    got, got_lse = numbattn.attention(
        *near, **nearby, **more, out=out, return_lse=True, num_threads=1 + k % 2)
    assert_same_bits(np.ascontiguousarray(out), want)
    assert_same_bits(got_lse, lse)
    kept.clear()
    calls += 1
print(calls)
"""


def test_nothing_is_read_beyond_a_page(backend: str) -> None:
    assert int(python(GUARDED + ALL.replace("BACKEND", repr(backend)))) == 600


def attention(level: str, dtypes: str, count: int, times: int) -> None:
    if level and not levels.LEVELS[level].features <= levels.target_features():
        pytest.skip(f"this processor or Numba's target lacks {level}")
    numbers = {"LEVEL": repr(level), "DTYPES": dtypes, "COUNT": str(count)}
    code = GUARDED + ATTENTION
    for name, value in numbers.items():
        code = code.replace(name, value)
    environment: dict[str, Any] = {"NUMBATTN_SIMD": level} if level else {}
    assert int(python(code, timeout=1500, **environment)) == times * count


@pytest.mark.parametrize("level", ["", "avx2", "sse2", "plain"])
def test_attention_reads_nothing_beyond_a_page(level: str) -> None:
    """On both sides of the short limit, with every option, strides and NaN."""
    dtypes = "[np.float32]" if level else "[np.float32, np.float64]"
    attention(level, dtypes, 150, 1 if level else 2)


@pytest.mark.heavy
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("level", ["avx512", "avx2", "sse2", "plain"])
def test_attention_never_reads_beyond_a_page(level: str) -> None:
    attention(level, "[np.float32, np.float64]", 3000, 2)
