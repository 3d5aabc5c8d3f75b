"""A wrong backend fails in the right place: the toy backend of the docs, mutated.

Each mutant is the backend of ``docs/backends.md`` with one defect in its code, as its
author could have written it. It has to fail the check that is named for it, by an
AssertionError of that rule; all named checks pass on the backend as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from numbattn import selector
from numbattn.testing import CHECKS, RULES, check_backend, run_check

DOCS = Path(__file__).resolve().parents[2] / "docs" / "backends.md"
(CODE,) = (
    block
    for block in re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    if "class Rowwise" in block
)
BIAS = "np.broadcast_to(at(p.bias, head, p.lead), (p.n, p.m))[i]"

# name: (what the code says, what the mutant says, the check that has to fail)
MUTANTS: dict[str, tuple[str, str, str]] = {
    "causal off by one": (
        "j <= position + p.right", "j <= position + p.right + 1",
        "causal_from[1]",
    ),
    "window exclusive at the left": (
        "position - p.left <= j", "position - p.left < j", "window_of[3 none]",
    ),
    "ignores q_offset": (
        "i + at(p.q_offset, head, p.lead, 0)", "i", "offsets_by_heads[B 1]",
    ),
    "q_offset of the first batch for all": (
        "at(p.q_offset, head, p.lead, 0)",
        "at(p.q_offset, (0,) * len(head), p.lead, 0)",
        "offsets_by_heads[B 1]",
    ),
    "one key too many": (
        "j < at(p.kv_lengths, head, p.lead, 0)",
        "j <= at(p.kv_lengths, head, p.lead, 0)",
        "lengths_by_heads[B H]",
    ),
    "ignores kv_lengths": (
        "seen &= j < at(p.kv_lengths, head, p.lead, 0)", "pass",
        "one_option[kv_lengths]",
    ),
    "heads tiled instead of repeated": (
        "i * mine // whole for", "i % mine for", "grouped_heads[4:2]",
    ),
    "ignores the strides of the bias": (
        BIAS,
        "np.ndarray((p.n, p.m), p.bias.dtype, np.ascontiguousarray("
        "np.broadcast_to(at(p.bias, head, p.lead), (p.n, p.m)).T))[i]",
        "bias_of_shape[n m]",
    ),
    "bias before softcap": (
        "s = (at(p.key, head, p.lead) @ query) * p.scale",
        "s = (at(p.key, head, p.lead) @ query) * p.scale\n"
        f"        s = s + (0 if p.bias is None else {BIAS})",
        "two_options[softcap and bias]",
    ),
    "softcap without the cap in front": (
        "p.softcap * np.tanh(s / p.softcap)", "np.tanh(s / p.softcap)",
        "softcap_of[20.0]",
    ),
    "mask upside down": (
        "seen &= np.broadcast_to(at(p.mask", "seen &= ~np.broadcast_to(at(p.mask",
        "mask_of_shape[n m]",
    ),
    "a bias of -inf does not mask": (
        "seen & (bias != -np.inf)", "seen", "minus_infinite_bias_hides_nan",
    ),
    "the lowest number for masked scores": (
        "s = np.where(seen, s, -np.inf)\n        if p.operation == \"scores\":\n"
        "            return s, None",
        "s = np.where(seen, s, -np.inf)\n        if p.operation == \"scores\":\n"
        "            return np.where(seen, s, -3e38), None",
        "masked_scores[mask]",
    ),
    "NaN for rows without keys": (
        "np.zeros(p.m), sink", "np.full(p.m, np.nan), sink",
        "row_without_keys[mask]",
    ),
    "lse in base two": (
        "lse = top + np.log(total)", "lse = (top + np.log(total)) / np.log(2)",
        "lse_of_equal_scores[float32, 70]",
    ),
    "lse of 0 for rows without keys": (
        "np.zeros(p.m), sink", "np.zeros(p.m), 0 if sink == -np.inf else sink",
        "empty_row_is_not_read[mask]",
    ),
    "softmax without the maximum": (
        "np.exp(s - top)", "np.exp(s.astype(p.acc_dtype))",
        "large_logits[float32, 1000.0]",
    ),
    "ignores sinks": ("+ np.exp(sink - top)", "", "one_option[sinks]"),
    "the sink of the first head for all": (
        "p.sinks[head[-1] if head else 0]", "p.sinks[0]", "sinks_of_heads[4:4]",
    ),
    "scaled sinks": (
        "p.sinks[head[-1] if head else 0]",
        "p.scale * p.sinks[head[-1] if head else 0]",
        "sinks_are_not_scores[scale]",
    ),
    "a row without keys forgets its sink": (
        "np.zeros(p.m), sink", "np.zeros(p.m), -np.inf",
        "sink_of_a_row_without_keys[0.0]",
    ),
    "reads masked values": (
        "weights[seen] @ at(p.value, head, p.lead)[seen]",
        "weights @ at(p.value, head, p.lead)",
        "masked_is_not_read_by_few[mask, 3]",
    ),
    "skips values of weight 0": (
        "seen = s != -np.inf  #", "seen = weights.astype(p.acc_dtype) > 0  #",
        "nan_in_a_value_of_weight_zero[3, float32]",
    ),
    "plain float32 sums over keys": (
        "return weights[seen] @ at(p.value, head, p.lead)[seen], lse",
        "terms = weights[seen, None].astype(p.acc_dtype) "
        "* at(p.value, head, p.lead)[seen]\n"
        "        return np.add.accumulate(terms)[-1] if len(terms) else 0, lse",
        "constant_value[float32, 65536]",
    ),
    "plain float32 sums over d": (
        "s = (at(p.key, head, p.lead) @ query) * p.scale",
        "s = np.zeros(p.m, p.acc_dtype)\n"
        "        for c in range(p.d_k):\n"
        "            s += (at(p.key, head, p.lead)[:, c] * query[c]).astype(s.dtype)\n"
        "        s = s.astype(np.longdouble) * p.scale",
        "positive_sums[float32, 2048]",
    ),
    "plain float32 sums of weights": (
        "weights.sum()", "np.add.accumulate(weights.astype(p.acc_dtype))[-1]",
        "sums_of_equal_weights[float32, 65536, 3]",
    ),
    "scores in half precision": (
        "return s, None", "return s.astype(np.float16), None",
        "every_edge[m, float32]",
    ),
    "writes past the end of a row": (
        "out[(*head, i)], row_lse = self.row(problem, head, i)",
        "out[(*head, i)], row_lse = self.row(problem, head, i)\n"
        "                np.lib.stride_tricks.as_strided("
        "out[(*head, i)], (out.shape[-1] + 1,))[-1] = 0",
        "nothing_beyond_out[n, float32]",
    ),
    "leaves masked scores unwritten": (
        "out[(*head, i)], row_lse = self.row(problem, head, i)",
        "row, row_lse = self.row(problem, head, i)\n"
        "                np.copyto(out[(*head, i)], row, where=row != -np.inf)",
        "writes_every_element[scores]",
    ),
    "writes into its inputs": (
        "query = at(p.query, head, p.lead)[i].astype(np.longdouble)",
        "query = at(p.query, head, p.lead)[i].astype(np.longdouble)\n"
        "        p.key[..., 0] *= 1 + 2**-20",
        "inputs_are_not_written[scores, float32, 3]",
    ),
    "reads the row behind the last": (
        "at(p.key, head, p.lead) @ query",
        "(lambda k: k + 0 * np.lib.stride_tricks.as_strided("
        "k, (1, k.shape[1] + 1))[0, -1])(at(p.key, head, p.lead)) @ query",
        "poison_around[scores, nan]",
    ),
    "bits by the number of heads": (
        "s = (at(p.key, head, p.lead) @ query) * p.scale",
        "s = (at(p.key, head, p.lead) @ query) * p.scale "
        "* (1 + 2.0**-22 * len(list(np.ndindex(p.lead))))",
        "batch_compositions_keep_bits[scores, float32]",
    ),
    "bits by the place of the row": (
        "s = (at(p.key, head, p.lead) @ query) * p.scale",
        "s = (at(p.key, head, p.lead) @ query) * p.scale * (1 + 2.0**-22 * (i % 7))",
        "query_blocks_keep_bits[scores, float32]",
    ),
    "offsets of 32 bits": (
        "position = np.arange(p.m), i + at(p.q_offset, head, p.lead, 0)",
        "position = np.arange(p.m), np.int64(np.int32((i + at("
        "p.q_offset, head, p.lead, 0)) & 0x7FFFFFFF))",
        "offsets_are_wide",
    ),
    "a workspace of half a byte": (
        "return 16 * (inputs + 8 * problem.m)", "return inputs / 2",
        "estimates_its_workspace[scores]",
    ),
    "ignores the score_mod": (
        "p.score_mod.parts if p.score_mod is not None else ()", "()",
        "score_mods_compose[5]",
    ),
    "the score_mod before softcap": (
        "        s = (at(p.key, head, p.lead) @ query) * p.scale\n",
        "        s = (at(p.key, head, p.lead) @ query) * p.scale\n"
        "        s, _ = self.functions(p, head, i, 0, s)\n"
        "        self.functions = lambda *a: (a[-1], np.zeros(p.m, bool))\n",
        "score_mod_comes_after_softcap[softcap]",
    ),
    "compositions backwards": (
        "in p.score_mod.parts if", "in p.score_mod.parts[::-1] if",
        "score_mods_compose[30]",
    ),
    "b for h": (
        "(part.function, s[None], b, h, ", "(part.function, s[None], h, b, ",
        "score_mod_gets_its_place[b h, 0]",
    ),
    "rows for positions": (
        "np.array([position + p.first_key])", "np.array([i + p.first_row])",
        "score_mod_gets_its_place[h, 250]",
    ),
    "keys of the block for keys of the call": (
        "np.arange(p.m) + p.first_key\n", "np.arange(p.m)\n",
        "functions_keep_bits_when_iterated[5, score_mod]",
    ),
    "ignores the mask object": (
        "if p.pattern is None:", "if True:", "one_mask_object[documents]",
    ),
    "rows of the block for rows of the call": (
        "np.array([i + p.first_row])", "np.array([i])",
        "cut_mask_objects_count_on[40, array]",
    ),
    "a mask object for the first head": (
        "attended(b, h, row", "attended(0, 0, row", "one_mask_object[prefixes]",
    ),
    "functions go wrong after the call": (
        "(problem.block(0, 1, 0, 1), (0,) * len(problem.lead), 0)", "",
        "bad_functions_leave_out[scores]",
    ),
    "tells no progress": (
        "execution.progress(done * area, heads * area)", "pass",
        "reports_progress[scores]",
    ),
}  # fmt: skip


def toy(code: str) -> Any:
    """Return the backend of some code, under the name of the documentation."""
    namespace: dict[str, Any] = {}
    exec(compile(code, "rowwise", "exec"), namespace)
    return namespace["backend"]


@pytest.fixture
def rowwise(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Put a backend in the place of another package's."""

    def put(code: str) -> None:
        monkeypatch.setitem(selector._loaded, "rowwise", toy(code))

    return put


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_fails_its_check(name: str, rowwise: Any) -> None:
    says, instead, check = MUTANTS[name]
    assert CODE.count(says) == 1
    rowwise(CODE)
    run_check(check, "rowwise")
    rowwise(CODE.replace(says, instead))
    with pytest.raises(AssertionError):
        run_check(check, "rowwise")


def test_the_mutants_reach_every_rule() -> None:
    rules = {c.name: c.rule for c in CHECKS}
    assert {rules[check] for _, _, check in MUTANTS.values()} >= set(RULES) - {8, 7, 10}


@pytest.mark.heavy
@pytest.mark.parametrize("name", [None, *MUTANTS])
def test_the_whole_kit_on_a_mutant(name: str | None, rowwise: Any) -> None:
    """The backend of the docs passes; a mutant fails the named check among others."""
    if name is None:
        rowwise(CODE)
        report = check_backend("rowwise", level="full")
        assert report.ok, str(report)
        return
    says, instead, check = MUTANTS[name]
    rowwise(CODE.replace(says, instead))
    report = check_backend("rowwise")
    failed = {c.name for c in report.checks if not c.ok}
    assert check in failed
    assert check in str(report)
    assert len(failed) < len(report.checks)


def test_the_docs_count_the_checks() -> None:
    told = re.findall(r"^\| (\d+) \| (\d+) \| (.*) \|$", DOCS.read_text(), re.MULTILINE)
    counts = [str(sum(c.rule == rule for c in CHECKS)) for rule in RULES]
    assert [row[1] for row in told] == counts
    assert [(int(row[0]), row[2]) for row in told] == list(RULES.items())
    small = sum(c.level == "small" for c in CHECKS)
    assert f"{small} of {small} checks passed" in DOCS.read_text()
    assert f"({len(CHECKS)} checks)" in DOCS.read_text()
