"""The node cases of ONNX's operator Attention, on every backend.

The cases, their expected outputs, their tolerances and the comparison itself are
those of the `onnx` package; nothing is downloaded.
"""

from __future__ import annotations

import functools
import warnings
from typing import Any

import pytest

from .onnx_attention import attention_op

onnx = pytest.importorskip("onnx", minversion="1.23.2")

INPUTS = (
    "query",
    "key",
    "value",
    "attn_mask",
    "past_key",
    "past_value",
    "nonpad_kv_seqlen",
)
OUTPUTS = ("Y", "present_key", "present_value", "qk_matmul_output")
EXCLUDED: dict[str, str] = {}
"""Names of cases that do not run, each with its reason (printed as a skip)."""


@functools.cache
def cases() -> dict[str, Any]:
    """Return the cases of one Attention node each (not the expanded graphs)."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        # Making the cases of all other operators warns, about their own arithmetic.
        warnings.simplefilter("ignore")
        found = collect_testcases("Attention")
    return {
        case.name: case
        for case in found
        if [node.op_type for node in case.model.graph.node] == ["Attention"]
    }


def run(case: Any, backend: str) -> tuple[list[Any], list[Any]]:
    """Return the expected and the computed outputs of a case."""
    (node,) = case.model.graph.node
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    ((given, expected),) = case.data_sets
    remaining = iter(given)
    arrays = {
        name: next(remaining)
        for name, used in zip(INPUTS, node.input, strict=False)
        if used
    }
    assert next(remaining, None) is None
    outputs = attention_op(backend, **arrays, **attributes)
    got = [outputs[i] for i, name in enumerate(node.output) if name]
    return expected, got


def test_the_cases_are_all_there() -> None:
    assert len(cases()) == 93
    emitting = [
        c for c in cases().values() if OUTPUTS[3] in c.model.graph.node[0].output
    ]
    modes = set()
    for case in emitting:
        attributes = case.model.graph.node[0].attribute
        mode = [a.i for a in attributes if a.name == "qk_matmul_output_mode"]
        modes.add(mode[0] if mode else 0)
    assert len(emitting) == 18
    assert modes == {0, 1, 2, 3}
    # At least 85 run, and every one that emits the scores.
    assert len(set(cases()) - set(EXCLUDED)) >= 85
    assert not {c.name for c in emitting} & set(EXCLUDED)


@pytest.mark.parametrize("name", sorted(cases()))
def test_case(backend: str, name: str) -> None:
    if name in EXCLUDED:
        pytest.skip(EXCLUDED[name])
    from onnx.backend.test.runner import Runner

    case = cases()[name]
    expected, got = run(case, backend)
    Runner.assert_similar_outputs(expected, got, rtol=case.rtol, atol=case.atol)
