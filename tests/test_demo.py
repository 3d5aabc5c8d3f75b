"""The demo: its data are what the notice says, and what it prints is true."""

from __future__ import annotations

import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import numbattn
from numbattn.cli import main
from numbattn.cli.demo import compute, load_data, strongest_pairs


def test_the_data_are_one_layer_of_the_model() -> None:
    data = load_data()
    n = len(data.tokens)
    assert data.tokens[0] == "[CLS]"
    assert data.tokens[-1] == "[SEP]"
    for array in (data.query, data.key, data.value):
        assert array.shape == (12, n, 32)
        assert array.dtype == np.float32
        assert np.isfinite(array).all()
    folder = files("numbattn") / "data"
    assert len((folder / "minilm_layer5.npz").read_bytes()) < 300_000
    assert "Apache License" in (folder / "NOTICE").read_text()
    assert "Version 2.0" in (folder / "LICENSE-Apache-2.0.txt").read_text()


def test_the_weights_show_what_the_model_learned() -> None:
    # known of this layer: "it" looks at the animal, and verbs at their particles
    data = load_data()
    weights = numbattn.weights(data.query, data.key, backend="reference")
    pairs = strongest_pairs(weights, data.tokens)
    assert [(p.query, p.key) for p in pairs[9][:2]] == [("for", "it"), ("stood", "up")]
    assert ("it", "animal") in {(p.query, p.key) for p in pairs[3]}


def test_the_strongest_pairs_are_those_of_the_weights() -> None:
    tokens = ("[CLS]", "a", "b", ",", "a")
    weights = np.zeros((1, 5, 5))
    weights[0, 0, 1] = 0.9  # a special token
    weights[0, 1, 4] = 0.8  # the same word
    weights[0, 2, 3] = 0.7  # punctuation
    weights[0, 2, 1] = 0.6
    weights[0, 4, 2] = 0.5
    (found,) = strongest_pairs(weights, tokens, count=2)
    assert [tuple(pair) for pair in found] == [("b", "a", 0.6), ("a", "b", 0.5)]


def test_the_results_are_attention() -> None:
    data = load_data()
    found = compute(data, "reference")
    q, k, v = (x.astype(np.float64) for x in (data.query, data.key, data.value))
    scores = q @ k.transpose(0, 2, 1)
    weights = np.exp(scores / np.sqrt(32))
    weights /= weights.sum(-1, keepdims=True)
    np.testing.assert_allclose(found["scores"], scores, rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(found["weights"], weights, rtol=1e-5)
    np.testing.assert_allclose(found["attention"], weights @ v, rtol=1e-5, atol=1e-6)


@pytest.fixture
def printed(tmp_path: Path) -> str:
    target = str(tmp_path / "map.png")
    result = CliRunner().invoke(main, ["demo", "--no-timing", "-o", target])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_demo_prints_every_head_and_backend(printed: str) -> None:
    assert load_data().sentence in printed
    assert printed.count(" → ") >= 12 * 4
    for head in range(1, 13):
        assert f"  head {head:2}  " in printed
    assert "cuda        cannot run: " in printed
    for name, why in numbattn.list_backends().items():
        if why is None and name != "reference":
            (line,) = (x for x in printed.splitlines() if x.startswith(f"  {name} "))
            assert all(float(x) < 2e-5 for x in line.split()[1:])


def test_the_demo_writes_a_heat_map(printed: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert f"Heat map: {tmp_path / 'map.png'}" in printed
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")


def test_the_demo_says_how_to_get_the_heat_map(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.delitem(sys.modules, "numbattn.pictures", raising=False)
    monkeypatch.delattr(numbattn, "pictures", raising=False)
    monkeypatch.delitem(sys.modules, "numbattn.cli.heatmap", raising=False)
    target = str(tmp_path / "map.png")
    result = CliRunner().invoke(main, ["demo", "--no-timing", "-o", target])
    assert result.exit_code == 0, result.output
    assert 'pip install "numbattn[plot]"' in result.stdout
    assert not (tmp_path / "map.png").exists()


def test_the_demo_goes_on_where_the_heat_map_cannot_be_written(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for target in (tmp_path / "nowhere" / "map.png", tmp_path / "map.docx"):
        given = ["demo", "--no-timing", "-o", str(target)]
        result = CliRunner().invoke(main, given)
        assert result.exit_code == 0, result.output
        assert "No heat map: " in result.stdout


def test_the_demo_times_against_numpy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = ("scores", 64, 64, 16)
    monkeypatch.setattr("numbattn.cli.demo._SPEED", small)
    result = CliRunner().invoke(main, ["demo", "-o", str(tmp_path / "map.png")])
    assert result.exit_code == 0, result.output
    assert "scores 64×64 d 16 float32" in result.stdout
    assert " times as fast" in result.stdout
