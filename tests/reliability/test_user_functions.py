"""Users' functions under stress: memory, threads, forks, interrupts, and bad ones."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

import numbattn
from numbattn import OptionError, masks
from numbattn.score_mods import ScoreMod

from .children import python

RNG = np.random.default_rng(0)
QUERY, KEY, VALUE = RNG.standard_normal((3, 2, 40, 16)).astype(np.float32)
TABLE = np.linspace(-1, 1, 40).astype(np.float32)

GROWTH = """
import gc, os
import numpy as np, numbattn
from numbattn import masks

def resident():
    gc.collect()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

x = np.random.default_rng(0).standard_normal((64, 16)).astype(np.float32)
table = np.ones(64, np.float32)
def call(i):
    half = 0.5  # captured anew each time
    arrays = (x, x, x) if i % 3 == 0 else (x, x)
    work = (numbattn.attention, numbattn.scores, numbattn.weights)[i % 3]
    if WHAT == "score_mod":
        work(*arrays, score_mod=lambda s, b, h, q, k, t: s * half + t[k],
             score_mod_args=(table + i,))
    else:
        work(*arrays, mask=masks.from_function(
            lambda b, h, q, k, t: q * half >= k - t[k], (table + i,)))
for i in range(100):
    call(i)
before = resident()
for i in range(1000):
    call(i)
print(resident() - before)
"""


@pytest.mark.parametrize("what", ["score_mod", "mask"])
def test_1000_lambdas_made_anew_leave_nothing_behind(what: str) -> None:
    grown = int(python(f"WHAT = {what!r}{GROWTH}", NUMBATTN_NUM_THREADS="1"))
    assert grown < 5 * 2**20


def _fastest(call: Callable[[], Any]) -> float:
    best = math.inf
    for _ in range(30):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best


@pytest.mark.parametrize("what", ["score_mod", "mask"])
def test_a_known_function_costs_less_than_a_millisecond(what: str) -> None:
    plain = partial(numbattn.attention, QUERY, KEY, VALUE, num_threads=1, backend="cpu")
    plain()

    def again() -> Any:
        if what == "mask":
            return plain(mask=masks.from_function(lambda b, h, q, k: k <= q + 3))
        return plain(score_mod=lambda s, b, h, q, k: s - 0.25 * abs(q - k))

    again()
    assert _fastest(again) - _fastest(plain) < 4 * 1e-3


def _made(number: int) -> dict[str, Any]:
    """Return options with functions that are compiled for this number."""
    slope = number / 8

    def sloped(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        return score - slope * abs(q_idx - kv_idx)

    def seen(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        return (q_idx + kv_idx) % (number + 2) != 1

    return {"score_mod": sloped, "mask": masks.from_function(seen)}


def test_threads_with_different_functions_at_once() -> None:
    """New ones, so that threads compile at once, and each gets its own."""
    numbers = [1001, 1002, 1003, 1004]
    wanted = {
        n: numbattn.attention(QUERY, KEY, VALUE, backend="reference", **_made(n))
        for n in numbers
    }
    wrong: list[int] = []
    start = threading.Barrier(8)

    finished: list[int] = []

    def work(first: int) -> None:
        start.wait()
        for step in range(12):
            n = numbers[(first + step) % 4]
            got = numbattn.attention(QUERY, KEY, VALUE, backend="cpu", **_made(n))
            if not np.allclose(got, wanted[n], 1e-4, 1e-5):
                wrong.append(n)
        finished.append(first)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(finished) == list(range(8))
    assert not wrong


def test_a_fork_keeps_compiled_functions_and_compiles_others() -> None:
    code = """
import os
import numpy as np, numbattn
x = np.random.default_rng(0).standard_normal((300, 64)).astype(np.float32)
def right(step):
    mod = lambda s, b, h, q, k: s - abs(q - k) / step
    def own(s, b, h, q, k): return mod(s, b, h, q, k)
    got = numbattn.attention(x, x, x, score_mod=own)
    want = numbattn.attention(x, x, x, score_mod=own, backend="reference")
    return np.allclose(got, want, 1e-4, 1e-5)
assert right(4)
child = os.fork()
if child == 0:
    os._exit(0 if right(4) and right(5) else 3)
_, status = os.waitpid(child, 0)
assert status == 0, status
assert right(4) and right(6)
"""
    python(code, NUMBA_NUM_THREADS="2")


def test_a_fork_while_a_function_is_compiled() -> None:
    code = """
import os, threading, time
import numpy as np, numbattn
x = np.random.default_rng(0).standard_normal((300, 64)).astype(np.float32)
numbattn.attention(x, x, x)
def work(step):
    def mod(s, b, h, q, k):
        for i in range(step):
            s = s * 0.99 + np.tanh(s) * np.exp(-abs(s)) / (1 + abs(q - k))
        return s
    return numbattn.attention(x, x, x, score_mod=mod)
thread = threading.Thread(target=lambda: [work(step) for step in range(2, 8)])
thread.start()
from numbattn.backends.cpu import launch
while launch._compiling.acquire(blocking=False):  # until it is at work
    launch._compiling.release()
    time.sleep(0.001)
    assert thread.is_alive()
child = os.fork()
if child == 0:
    os._exit(0 if np.isfinite(work(3)).all() else 3)
for _ in range(1000):
    done, status = os.waitpid(child, os.WNOHANG)
    if done:
        break
    time.sleep(0.05)
else:
    os.kill(child, 9)
    raise AssertionError("the child hangs")
assert status == 0, status
thread.join()
assert np.isfinite(work(3)).all()
"""
    python(code, NUMBA_NUM_THREADS="2")


INTERRUPTED = """
import os, signal, threading, time
import numpy as np, numbattn
from numbattn import masks

rng = np.random.default_rng(0)
query = rng.standard_normal((3000, 64)).astype(np.float32)
key = np.broadcast_to(rng.standard_normal((1, 64)).astype(np.float32), (4_000_000, 64))
def mod(score, b, h, q_idx, kv_idx):
    return score - 1e-6 * abs(q_idx - kv_idx)
options = {OPTIONS}
small = [rng.standard_normal((n, 24)).astype(np.float32) for n in (40, 3000, 3000)]
numbattn.attention(*small, **options)

def interrupt():
    global sent
    time.sleep(0.5)
    sent = time.perf_counter()
    os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=interrupt).start()
try:
    numbattn.attention(query, key, key, **options)
    raise AssertionError("over before its time")
except KeyboardInterrupt:
    print(time.perf_counter() - sent)
got = numbattn.attention(*small, **options)
want = numbattn.attention(*small, backend="reference", **options)
np.testing.assert_allclose(got, want, 1e-3, 1e-5)
assert threading.active_count() == 1
"""


@pytest.mark.parametrize(
    "options",
    ["dict(score_mod=mod)", "dict(mask=masks.dilated(3) | masks.causal())"],
)
def test_ctrl_c_is_answered_with_a_function(options: str) -> None:
    waited = float(python(INTERRUPTED.replace("{OPTIONS}", options)))
    assert waited < 4 * 0.25  # 0.25 s are promised


class Callable_:  # noqa: N801
    """Not a plain function."""

    def __call__(self, score: Any, *rest: Any) -> Any:
        return score


def _raises(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    if score > 1e9:
        raise ValueError
    return score


def _asserts(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    assert q_idx >= 0
    return score


def _tries(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    try:
        return score
    finally:
        score = 0


def _yields(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    yield score


async def _awaits(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    return score


def _imports(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    import os

    return score + os.getpid()


def _writes(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    global WRITTEN
    WRITTEN = 1
    return score


def _recurs(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    return _recurs(score, b, h, q_idx, kv_idx - 1) if kv_idx > 0 else score


def _nothing(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    if score > 1e9:
        return score
    return None


def _prints(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    print(score)  # noqa: T201
    return score


def _undefined(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    return score + not_there  # type: ignore[name-defined] # noqa: F821


def _keyword(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any, *, size: Any) -> Any:
    return score * size


def _stores(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any, table: Any) -> Any:
    table[kv_idx] = 0
    return score


SECRET = {"a": 1}
WRITTEN = 0
BAD: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "too few parameters": (lambda score, b, h, q_idx: score, ()),
    "too many parameters": (lambda score, b, h, q_idx, kv_idx, more: score, ()),
    "an argument too many": (lambda score, b, h, q_idx, kv_idx: score, (TABLE,)),
    "a class": (Callable_, ()),
    "an object": (Callable_(), ()),
    "a builtin": (max, ()),
    "a ufunc": (np.add, ()),
    "a partial": (partial(_raises), ()),
    "a string": ("score * 2", ()),
    "raise": (_raises, ()),
    "assert": (_asserts, ()),
    "try": (_tries, ()),
    "yield": (_yields, ()),
    "async": (_awaits, ()),
    "import": (_imports, ()),
    "a global is written": (_writes, ()),
    "an argument is written": (_stores, (TABLE,)),
    "recursion": (_recurs, ()),
    "None now and then": (_nothing, ()),
    "None": (lambda score, b, h, q_idx, kv_idx: None, ()),
    "a complex number": (lambda score, b, h, q_idx, kv_idx: score + 1j, ()),
    "a string returned": (lambda score, b, h, q_idx, kv_idx: "1.0", ()),
    "a tuple": (lambda score, b, h, q_idx, kv_idx: (score, score), ()),
    "a list": (lambda score, b, h, q_idx, kv_idx: [score], ()),
    "a bool": (lambda score, b, h, q_idx, kv_idx: q_idx > kv_idx, ()),
    "an array returned": (lambda score, b, h, q_idx, kv_idx, t: t, (TABLE,)),
    "a row returned": (lambda score, b, h, q_idx, kv_idx, t: t[0], (TABLE[None],)),
    "a captured array": (lambda score, b, h, q_idx, kv_idx: score + TABLE[kv_idx], ()),
    "a captured dict": (lambda score, b, h, q_idx, kv_idx: score * SECRET["a"], ()),
    "an undefined name": (_undefined, ()),
    "print": (_prints, ()),
    "a keyword without default": (_keyword, ()),
    "a float for an index": (
        lambda score, b, h, q_idx, kv_idx, t: t[kv_idx / 2], (TABLE,)
    ),
    "too many indices": (lambda score, b, h, q_idx, kv_idx, t: t[0, 0], (TABLE,)),
    "a function that is not there": (
        lambda score, b, h, q_idx, kv_idx: np.no_such_function(score), ()
    ),
    "a method": (lambda score, b, h, q_idx, kv_idx: score.conjugate(), ()),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_function_is_refused_before_any_work(backend: str, name: str) -> None:
    function, args = BAD[name]
    out = np.full_like(VALUE, 7)
    options: dict[str, Any] = {
        "score_mod": function, "score_mod_args": args, "backend": backend,
    }  # fmt: skip
    with pytest.raises(OptionError) as caught:
        numbattn.attention(QUERY, KEY, VALUE, out=out, **options)
    assert (out == 7).all()
    assert "score_mod" in str(caught.value)
    if hasattr(function, "__code__"):
        said = str(caught.value)
        assert f"line {function.__code__.co_firstlineno}" in said
        assert "test_user_functions.py" in said
    with pytest.raises(OptionError):
        numbattn.iter_scores(QUERY, KEY, **options)
    with pytest.raises(OptionError):
        numbattn.attention_varlen(QUERY, KEY, VALUE, [0, 40], [0, 40], **options)


BAD_MASKS: dict[str, Any] = {
    "a score": lambda b, h, q_idx, kv_idx: 1.0,
    "an int": lambda b, h, q_idx, kv_idx: q_idx & 1,
    "None": lambda b, h, q_idx, kv_idx: None,
    "a tuple": lambda b, h, q_idx, kv_idx: (True, False),
    "text": lambda b, h, q_idx, kv_idx: "yes",
    "a function that is not there": lambda b, h, q_idx, kv_idx: np.nothing(q_idx) > 0,
}


@pytest.mark.parametrize("name", BAD_MASKS)
def test_a_bad_mask_function_is_refused_before_any_work(
    backend: str, name: str
) -> None:
    out = np.full_like(VALUE, 7)
    with pytest.raises(OptionError, match=r"f of masks\.from_function"):
        numbattn.attention(
            QUERY, KEY, VALUE, out=out, backend=backend,
            mask=masks.causal() & masks.from_function(BAD_MASKS[name]),
        )  # fmt: skip
    assert (out == 7).all()
    with pytest.raises(OptionError, match=r"f of masks\.from_function"):
        numbattn.iter_scores(
            QUERY, KEY, backend=backend, mask=masks.from_function(BAD_MASKS[name])
        )


def test_after_errors_calls_are_right(backend: str) -> None:
    mod = ScoreMod(lambda s, b, h, q, k, t: s + t[k], (TABLE,))
    want = numbattn.attention(QUERY, KEY, VALUE, score_mod=mod, backend=backend)
    outside = ScoreMod(lambda s, b, h, q, k, t: s + t[k + 1], (TABLE,))
    for score_mod in (BAD["None now and then"][0], BAD["a complex number"][0], outside):
        for _ in range(2):
            with pytest.raises(OptionError):
                numbattn.attention(
                    QUERY, KEY, VALUE, score_mod=score_mod, backend=backend
                )
    got = numbattn.attention(QUERY, KEY, VALUE, score_mod=mod, backend=backend)
    assert np.array_equal(got, want)


def test_an_unchecked_function_reads_what_it_likes() -> None:
    """Beyond its axis, here, where the array that it is part of goes on."""

    def ahead(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any, table: Any) -> Any:
        return score + table[kv_idx + 5]

    rest = RNG.standard_normal(60).astype(np.float32)
    part = rest[:40]
    given: dict[str, Any] = {"backend": "cpu"}
    with pytest.raises(OptionError, match="outside"):
        numbattn.scores(QUERY, KEY, score_mod=ScoreMod(ahead, (part,)), **given)
    got = numbattn.scores(
        QUERY, KEY, score_mod=ScoreMod(ahead, (part,), unchecked=True), **given
    )
    want = numbattn.scores(QUERY, KEY, score_mod=ScoreMod(ahead, (rest,)), **given)
    assert np.array_equal(got, want)


def test_an_argument_beyond_the_dtype_is_infinite(backend: str) -> None:
    mod = ScoreMod(lambda s, b, h, q, k, t: t[k] - s, (np.full(40, 1e300),))
    got = numbattn.scores(QUERY, KEY, score_mod=mod, backend=backend)
    assert (got == np.inf).all()
