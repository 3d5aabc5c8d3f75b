"""The examples in the public docstrings run and print what they say."""

from __future__ import annotations

import doctest
import inspect

import pytest

import numbattn

FUNCTIONS = {
    f"{prefix}{name}": function
    for prefix, place, names in (
        ("", numbattn, numbattn.__all__),
        ("masks.", numbattn.masks, numbattn.masks.__all__),
        ("score_mods.", numbattn.score_mods, numbattn.score_mods.__all__),
        ("masks.Mask.", numbattn.masks.Mask, ("materialize", "sparsity", "plot")),
    )
    for name in names
    if inspect.isfunction(function := getattr(place, name))
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_examples_of(name: str) -> None:
    function = FUNCTIONS[name]
    module = inspect.getmodule(function)
    assert module is not None
    (found,) = doctest.DocTestFinder(recurse=False).find(
        function, name, module=module, globs={}
    )
    assert found.examples, "a public function shows how it is used"
    said: list[str] = []
    failed, _ = doctest.DocTestRunner(verbose=False).run(found, out=said.append)
    numbattn.set_config(backend=None)  # some set it; other tests see the environment's
    assert not failed, "".join(said)


def test_there_are_public_functions() -> None:
    assert {"scores", "weights", "attention", "use_backend"} <= set(FUNCTIONS)
    assert {"masks.causal", "masks.Mask.plot", "score_mods.alibi"} <= set(FUNCTIONS)
