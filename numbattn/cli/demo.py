"""`numbattn demo`: attention of a real model on a real sentence, and its speed."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

if TYPE_CHECKING:
    import numpy as np

OPERATIONS = ("scores", "weights", "attention")
_SPEED = ("scores", 2048, 2048, 64)  # what is timed: operation, n, m, d


@dataclass(frozen=True)
class DemoData:
    """One attention layer of all-MiniLM-L6-v2 for one sentence."""

    sentence: str
    tokens: tuple[str, ...]
    layer: int
    query: np.ndarray
    key: np.ndarray
    value: np.ndarray


class Pair(NamedTuple):
    """A query token that attends a key token, with its weight."""

    query: str
    key: str
    weight: float

    def __str__(self) -> str:
        return f"{self.query} → {self.key} {self.weight:.2f}"


def load_data() -> DemoData:
    """Read the arrays that come with the package."""
    import numpy as np

    with (
        (files("numbattn") / "data" / "minilm_layer5.npz").open("rb") as file,
        np.load(file, allow_pickle=False) as saved,
    ):
        return DemoData(
            sentence=str(saved["sentence"]),
            tokens=tuple(str(token) for token in saved["tokens"]),
            layer=int(saved["layer"]),
            query=saved["query"],
            key=saved["key"],
            value=saved["value"],
        )


def strongest_pairs(
    weights: np.ndarray, tokens: tuple[str, ...], count: int = 4
) -> list[list[Pair]]:
    """Return each head's strongest pairs of two different words.

    Parameters
    ----------
    weights : numpy.ndarray
        Softmax weights, (heads, n, n).
    tokens : tuple of str
        The n tokens.
    count : int, default: 4
        How many pairs a head.

    Returns
    -------
    list of list of Pair
        For each head, strongest first, a pair of words once. [CLS], [SEP], punctuation
        and a word's pair with itself are left out: they take most of the weight and
        say least.
    """
    import numpy as np

    word = np.array([token.isalpha() for token in tokens])
    same = np.array(tokens)[:, None] == np.array(tokens)
    shown = np.where(word[:, None] & word & ~same, weights, -1.0)
    result = []
    for head in shown:
        best: dict[tuple[str, str], Pair] = {}
        for flat in np.argsort(-head, axis=None, kind="stable"):
            i, j = divmod(int(flat), len(tokens))
            if len(best) == count or head[i, j] < 0:
                break
            pair = Pair(tokens[i], tokens[j], float(head[i, j]))
            best.setdefault(pair[:2], pair)
        result.append(list(best.values()))
    return result


def compute(data: DemoData, backend: str) -> dict[str, np.ndarray]:
    """Run the three operations on one backend."""
    import numbattn

    return {
        "scores": numbattn.scores(data.query, data.key, backend=backend),
        "weights": numbattn.weights(data.query, data.key, backend=backend),
        "attention": numbattn.attention(
            data.query, data.key, data.value, backend=backend
        ),
    }


@click.command()
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("numbattn-demo.png"),
    show_default=True,
    help="Where the heat map goes.",
)
@click.option("--no-timing", is_flag=True, help="Leave the comparison with NumPy out.")
def demo(output: Path, no_timing: bool) -> None:
    """Show attention of a real model on a real sentence.

    The query, key and value of one layer of all-MiniLM-L6-v2 come with the package.
    Every backend that can run here computes scores, weights and output; the demo
    prints each head's strongest pairs of words, how far the backends are from the
    reference, and the speed against NumPy, and draws a heat map.
    """
    from numbattn.checks import check
    from numbattn.selector import choose, list_backends

    data = load_data()
    heads, n, d = data.query.shape
    click.echo(
        f"Layer {data.layer} of all-MiniLM-L6-v2: {heads} heads, {n} tokens, d {d}\n"
        f"“{data.sentence}”\n"
    )
    backends = list_backends()
    results = {name: compute(data, name) for name, why in backends.items() if not why}
    chosen = choose(None, check("weights", data.query, data.key)).name
    weights = results[chosen]["weights"]
    pairs = strongest_pairs(weights, data.tokens)
    click.echo(f"Each head's strongest word pairs (query → key, backend {chosen}):")
    for head, row in enumerate(pairs, 1):
        click.echo(f"  head {head:2}  " + " | ".join(map(str, row)))
    _print_differences(results, backends)
    if not no_timing:
        _print_speed(chosen)
    _draw(weights, data, pairs, output)


def _print_differences(
    results: dict[str, dict[str, np.ndarray]], backends: dict[str, str | None]
) -> None:
    import numpy as np

    click.echo("\nLargest difference from the reference:")
    click.echo("  backend     " + "".join(f"{name:>12}" for name in OPERATIONS))
    for name, why in backends.items():
        if why:
            click.echo(f"  {name:<12}cannot run: {why}")
        elif name != "reference":
            differences = (
                np.abs(results[name][each] - results["reference"][each]).max()
                for each in OPERATIONS
            )
            click.echo(f"  {name:<12}" + "".join(f"{x:12.2g}" for x in differences))


def _print_speed(backend: str) -> None:
    from numbattn._peers import Case, start
    from numbattn._timing import WorkerError, compare

    case = Case(*_SPEED)
    try:
        with (
            start("numbattn", case, backend=backend) as ours,
            start("numpy", case) as x,
        ):
            result = compare(ours, x)
    except WorkerError as error:
        click.echo(f"\nSpeed: could not be measured ({error})")
        return
    click.echo(
        f"\nSpeed, {case}, each library in its own process, {result.pairs} times:\n"
        f"  numbattn {result.first * 1e3:.2f} ms "
        f"({case.flops / result.first / 1e9:.0f} GFLOP/s), "
        f"NumPy {result.second * 1e3:.2f} ms: {1 / result.ratio:.2f} times as fast"
    )


def _draw(
    weights: np.ndarray, data: DemoData, pairs: list[list[Pair]], output: Path
) -> None:
    try:
        from numbattn.cli.heatmap import draw
    except ImportError as error:
        click.echo(f"\nNo heat map: {error}")
        return
    try:
        draw(weights, data.tokens, [row[0] for row in pairs], output)
    except OSError as error:
        click.echo(f"\nNo heat map: {error}")
        return
    click.echo(f"\nHeat map: {output}")
