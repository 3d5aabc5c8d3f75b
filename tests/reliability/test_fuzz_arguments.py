"""Anything as any argument or setting: it works, or it is a typed error."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import numbattn
from numbattn import NumbattnError, config
from numbattn.testing.strategies import junk

Q = np.ones((2, 2, 3, 4), np.float32)
GOOD: dict[str, Any] = {"query": Q, "key": Q, "value": Q}
OPTIONS = (
    "scale", "softcap", "bias", "mask", "is_causal", "window_size", "q_offset",
    "kv_lengths", "sinks", "num_threads", "max_memory", "progress", "backend", "out",
    "return_lse", "block_shape", "precision", "stream",
)  # fmt: skip
NAMES = (*GOOD, *OPTIONS)
VARIABLES = ("BACKEND", "NUM_THREADS", "MAX_MEMORY", "PRECISION", "SIMD", "CACHE_DIR")


def examples(count: int, fixed: bool = True) -> Any:
    return settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=fixed,
        print_blob=not fixed,
        suppress_health_check=list(HealthCheck),
    )


bad = st.dictionaries(st.sampled_from(NAMES), junk(), min_size=1, max_size=3)


def complaint(run: Callable[[], Any]) -> str | None:
    """Return what a call complains about, None where it works."""
    try:
        run()
    except NumbattnError as error:
        message = str(error)
    else:
        return None
    assert message
    assert "\n" not in message
    assert len(message) < 2000
    return message


def call(backend: str, operation: str, changes: dict[str, Any]) -> None:
    """Call one function with junk; complain unless it works or says what is wrong."""
    arguments = {**GOOD, "backend": backend, **changes}
    count = 3 if operation in ("attention", "explain") else 2
    arrays = [arguments.pop(name) for name in GOOD][:count]
    for name, only in (
        ("return_lse", ("attention",)),
        ("block_shape", ("iter_scores",)),
        ("out", ("scores", "weights", "attention")),
        ("stream", ("scores", "weights", "attention")),
        ("sinks", ("weights", "attention", "explain")),
    ):
        if operation not in only:
            arguments.pop(name, None)
    if operation == "explain":
        arguments.pop("progress", None)
    if arguments.get("progress") is True:
        arguments["progress"] = None  # it would draw

    def run() -> None:
        found = getattr(numbattn, operation)(*arrays, **arguments)
        if operation == "iter_scores":
            list(found)

    complaint(run)


OPERATIONS = st.sampled_from(["scores", "weights", "attention", "iter_scores"])


@examples(400)
@given(operation=OPERATIONS, changes=bad)
def test_any_argument(backend: str, operation: str, changes: dict[str, Any]) -> None:
    call(backend, operation, changes)


@pytest.mark.heavy
@pytest.mark.timeout(7200)
@examples(20_000, fixed=False)
@given(operation=OPERATIONS, changes=bad)
def test_any_argument_at_length(
    backend: str, operation: str, changes: dict[str, Any]
) -> None:
    call(backend, operation, changes)


VARLEN = {
    "query": Q[0], "key": Q[0], "value": Q[0],
    "cu_seqlens_q": [0, 1, 3], "cu_seqlens_k": [0, 2, 3],
}  # fmt: skip
OTHERS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "attention_varlen": (
        VARLEN,
        tuple(
            name
            for name in OPTIONS
            if name not in ("kv_lengths", "block_shape", "out", "stream")
        ),
    ),
    "merge_states": (
        {"out_a": Q, "lse_a": Q[..., 0], "out_b": Q, "lse_b": Q[..., 0]}, ()
    ),
    "scaled_dot_product_attention": (
        GOOD, ("attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
@examples(300)
@given(data=st.data())
def test_any_argument_of_the_other_functions(name: str, data: st.DataObject) -> None:
    good, options = OTHERS[name]
    names = st.sampled_from((*good, *options))
    changes = data.draw(st.dictionaries(names, junk(), min_size=1, max_size=3))
    if changes.get("progress") is True:
        changes["progress"] = None  # it would draw
    complaint(lambda: getattr(numbattn, name)(**{**good, **changes}))


@examples(200)
@given(changes=bad)
def test_explain_takes_any_argument(changes: dict[str, Any]) -> None:
    call("reference", "explain", changes)


@contextlib.contextmanager
def clean_settings() -> Iterator[None]:
    config.forget_environment()
    try:
        yield
    finally:
        config.update(dict.fromkeys(config.Settings._fields))
        config.forget_environment()


def set_anything(name: str, value: Any) -> None:
    with clean_settings():
        before = numbattn.get_config()
        for way in (numbattn.set_config, numbattn.config_context):
            if name not in before:  # Python's own complaint
                with pytest.raises(TypeError, match="unexpected keyword"):
                    way(**{name: value})
                continue
            try:
                context = way(**{name: value})
                if context is not None:
                    with context:
                        numbattn.get_config()
            except NumbattnError:
                assert numbattn.get_config() == before
            config.update(dict.fromkeys(config.Settings._fields))


settings_names = st.sampled_from(
    ["backend", "num_threads", "max_memory", "precision", "thread"]
)


@examples(300)
@given(name=settings_names, value=junk())
def test_any_setting(name: str, value: Any) -> None:
    set_anything(name, value)


@pytest.mark.heavy
@pytest.mark.timeout(3600)
@examples(20_000, fixed=False)
@given(name=settings_names, value=junk())
def test_any_setting_at_length(name: str, value: Any) -> None:
    set_anything(name, value)


@examples(100)
@given(value=junk())
def test_any_backend_name(value: Any) -> None:
    with clean_settings():
        for way in (numbattn.set_backend, numbattn.use_backend):
            try:
                context = way(value)
                if context is not None:
                    with context:
                        pass
            except NumbattnError:
                assert numbattn.get_backend() == "auto"
            config.update({"backend": None})


# What an operating system lets into the environment: no NUL.
words = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
texts = st.one_of(
    words,
    st.integers().map(str),
    st.sampled_from(
        ["1", "cpu", "2 GB", "9" * 5000, "~nobody-of-this-name/x", "~", "²"]
    ),
    st.from_regex(r"[0-9.]{1,30} ?[kKmMgGtTpP]?i?[bB]?", fullmatch=True),
)


def from_environment(variables: dict[str, str]) -> None:
    with pytest.MonkeyPatch.context() as patch, clean_settings():
        for name in VARIABLES:
            patch.delenv(f"NUMBATTN_{name}", raising=False)
        for name, text in variables.items():
            patch.setenv(f"NUMBATTN_{name}", text)
        config.forget_environment()
        for read in (numbattn.get_config, config.simd, config.cache_dir):
            said = complaint(read)
            assert said is None or "NUMBATTN_" in said
        with contextlib.suppress(NumbattnError):
            numbattn.scores(Q, Q)
        patch.undo()


@examples(300)
@given(variables=st.dictionaries(st.sampled_from(VARIABLES[:5]), texts))
def test_any_environment(variables: dict[str, str]) -> None:
    from_environment(variables)


@examples(200)
@given(text=texts)
def test_any_cache_directory(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch, clean_settings():
        patch.setenv("NUMBATTN_CACHE_DIR", text)
        config.forget_environment()
        said = complaint(config.cache_dir)
        assert said is None or "NUMBATTN_CACHE_DIR" in said


@pytest.mark.heavy
@pytest.mark.timeout(3600)
@examples(20_000, fixed=False)
@given(variables=st.dictionaries(st.sampled_from(VARIABLES[:5]), texts))
def test_any_environment_at_length(variables: dict[str, str]) -> None:
    from_environment(variables)
