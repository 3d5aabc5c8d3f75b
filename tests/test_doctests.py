"""The examples in the public docstrings run and print what they say."""

from __future__ import annotations

import doctest
import inspect

import public_names
import pytest

import numbattn

NAMES = {n: each for n, each in public_names.names().items() if callable(each)}


@pytest.mark.parametrize("name", NAMES)
def test_the_examples_of(name: str) -> None:
    shown = NAMES[name]
    module = inspect.getmodule(shown)
    assert module is not None
    (found,) = doctest.DocTestFinder(recurse=False).find(
        shown, name, module=module, globs={}
    )
    assert found.examples, "a public name shows how it is used"
    said: list[str] = []
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS)
    failed, _ = runner.run(found, out=said.append)
    numbattn.set_config(backend=None)  # some set it; other tests see the environment's
    assert not failed, "".join(said)


def test_the_public_names_are_there() -> None:
    assert {"numbattn.scores", "numbattn.weights", "numbattn.attention"} <= set(NAMES)
    assert {"numbattn.ShapeError", "numbattn.MemoryEstimate"} <= set(NAMES)
    assert {"numbattn.masks.causal", "numbattn.masks.Mask.plot"} <= set(NAMES)
    assert {"numbattn.score_mods.alibi", "numbattn.testing.exact"} <= set(NAMES)
    # what a class has from a public base is documented there, once
    assert "numbattn.masks.And.materialize" not in NAMES
    # constants have neither methods nor examples
    constants = {n for n, each in public_names.names().items() if not callable(each)}
    assert constants == {
        f"numbattn.testing.{name}"
        for name in ("C", "CHECKS", "LAYOUTS", "OUT_LAYOUTS", "RULES")
    }
