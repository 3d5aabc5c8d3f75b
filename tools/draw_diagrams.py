"""Draw the pictures of docs/how-it-works.md: ``python tools/draw_diagrams.py``.

The numbers in them are computed here, for the vectors of the page's first code block;
nothing is drawn by hand. `tests/test_site.py` draws them again and compares.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from svg import Drawing, written

HERE = Path(__file__).resolve().parent.parent / "docs" / "pictures" / "how-it-works"

QUERY = np.array([[2.0, 0.0], [0.0, 2.0], [2.0, 1.0]])
KEY = np.array([[-1.0, 1.0], [0.0, 2.0], [1.0, 1.0], [2.0, 0.0]])
VALUE = np.array([[2.0, 4.0], [0.0, 6.0], [4.0, 2.0], [8.0, 0.0]])
SCORES = QUERY @ KEY.T
SCALED = SCORES / np.sqrt(2)
EXPONENTIALS = np.exp(SCALED - SCALED.max(axis=1, keepdims=True))
WEIGHTS = EXPONENTIALS / EXPONENTIALS.sum(axis=1, keepdims=True)
OUTPUT = WEIGHTS @ VALUE


def steps() -> Drawing:
    """From query, key and value to the output."""
    d = Drawing(820, 276, "Q times K transposed, softmax, times V")
    d.text(64, 20, "Q (n × d)")
    d.grid(20, 36, QUERY, "query", words=".0f")
    d.text(64, 150, "K (m × d)")
    d.grid(20, 166, KEY, "key", words=".0f", size=(44, 20))
    d.arrow(118, 110, 158, 110)
    d.text(250, 52, "scores Q Kᵀ / √d")
    d.grid(166, 68, SCALED, "score", words=".1f")
    d.text(254, 170, "dot product of query i", "small faint")
    d.text(254, 188, "and key j", "small faint")
    d.arrow(352, 110, 412, 110)
    d.text(382, 96, "softmax", "small")
    d.text(510, 52, "weights")
    d.grid(422, 68, WEIGHTS, "score", words=".2f")
    d.text(510, 170, "each row adds up to 1", "small faint")
    d.arrow(608, 110, 668, 110)
    d.text(638, 96, "times V", "small")
    d.text(656, 176, "V (m × d_v)")
    d.grid(612, 190, VALUE, "value", words=".0f", size=(44, 20))
    d.text(722, 52, "output")
    d.grid(678, 68, OUTPUT, "value", words=".1f")
    d.text(760, 170, "mixtures of", "small faint")
    d.text(760, 188, "the rows of V", "small faint")
    return d


def softmax() -> Drawing:
    """One row: scores, exponentials, weights."""
    d = Drawing(
        820, 236, "Bars of a row's scores, of their exponentials, of its weights"
    )
    rows = [
        ("scores of query 2", SCALED[2], "key", ".2f"),
        ("exp(score − largest)", EXPONENTIALS[2], "score", ".2f"),
        ("divided by their sum", WEIGHTS[2], "value", ".2f"),
    ]
    for part, (title, numbers, kind, form) in enumerate(rows):
        left, base, unit = 30 + 276 * part, 180, 120 / max(numbers)
        d.text(left + 104, 16, title)
        for j, number in enumerate(numbers):
            height = max(number * unit, 1)
            d.rect(left + 54 * j, base - height, 40, height, f"{kind} edge", 0.5)
            d.text(
                left + 54 * j + 20, base - height - 12, written(number, form), "small"
            )
            d.text(left + 54 * j + 20, base + 16, f"key {j}", "small faint")
        if part < 2:
            d.arrow(left + 226, 120, left + 256, 120)
    total = EXPONENTIALS[2].sum()
    d.text(410, 222, f"their sum: {total:.2f}", "small faint")
    d.text(686, 222, "their sum: 1", "small faint")
    return d


def online() -> Drawing:
    """The online softmax of one row, two keys at a time."""
    d = Drawing(
        820, 300, "Running maximum, sum and accumulator over two blocks of keys"
    )
    titles = ["row_max", "correction", "row_sum", "acc"]
    for k, title in enumerate(titles):
        d.text(360 + 118 * k, 20, title)
    top, total, acc = -np.inf, 0.0, np.zeros(2)
    for step, keys in enumerate((slice(0, 2), slice(2, 4))):
        y = 70 + 92 * step
        scores = SCALED[2, keys]
        d.text(
            20, y - 24, f"block {step}: keys {keys.start} and {keys.stop - 1}", "left"
        )
        d.grid(20, y - 10, [list(scores)], "score", words=".2f", size=(64, 30))
        d.text(166, y + 5, "scores", "left small faint")
        new = max(top, scores.max())
        correction, powers = np.exp(top - new), np.exp(scores - new)
        total = total * correction + powers.sum()
        acc = acc * correction + powers @ VALUE[keys]
        top = new
        d.arrow(216, y + 5, 290, y + 5)
        words = [f"{top:.2f}", f"{correction:.2f}", f"{total:.2f}"]
        for k, (word, kind) in enumerate(
            zip(words, ("key", "score", "score"), strict=True)
        ):
            d.rect(316 + 118 * k, y - 10, 88, 30, f"{kind} edge", 0.3)
            d.text(360 + 118 * k, y + 5, word)
        d.rect(670, y - 10, 120, 30, "value edge", 0.3)
        d.text(730, y + 5, f"({acc[0]:.2f}, {acc[1]:.2f})")
        if step == 0:
            for at in (360, 596, 730):
                d.arrow(at, y + 24, at, y + 76)
    result = acc / total
    assert np.allclose(result, OUTPUT[2])
    d.arrow(730, 184, 730, 230)
    d.text(570, 250, f"output = acc / row_sum = ({result[0]:.2f}, {result[1]:.2f})")
    d.text(570, 274, "the same as with all keys at once", "small faint")
    return d


def blocks() -> Drawing:
    """The score matrix in tiles, of which one exists at a time."""
    d = Drawing(
        760, 330, "Blocks of queries by blocks of keys; one tile exists at a time"
    )
    x, y, cell, rows, columns = 150, 70, 44, 5, 8
    now = (2, 4)
    d.text(x + cell * columns / 2, 18, "K and V: blocks of 128 keys")
    for j in range(columns):
        d.rect(x + j * cell, 34, cell, 20, "key edge", 0.5 if j == now[1] else 0.15)
    for i in range(rows):
        d.rect(
            x - 34, y + i * cell, 20, cell, "query edge", 0.5 if i == now[0] else 0.15
        )
        for j in range(columns):
            done = (i, j) < now
            d.rect(x + j * cell, y + i * cell, cell, cell, "score edge", 0.14 * done)
    d.rect(x + now[1] * cell, y + now[0] * cell, cell, cell, "score strong", 0.7)
    d.text(56, 162, "Q: blocks")
    d.text(56, 182, "of 48 rows")
    right = x + cell * columns
    d.arrow(x + now[1] * cell + cell + 4, y + 2.5 * cell, right - 6, y + 2.5 * cell)
    for k, (title, width) in enumerate((("row_max", 16), ("row_sum", 16), ("acc", 70))):
        left = right + 40 + (0, 62, 124)[k]
        d.rect(left, y + 2 * cell, width, cell, "value edge", 0.5)
        d.text(left + width / 2, y + 2 * cell - 14, title, "small")
    d.text(right + 124, y + 3 * cell + 22, "carried along the keys", "small faint")
    d.text(
        x,
        y + rows * cell + 26,
        "The framed tile is all of the scores that exists.",
        "left",
    )
    return d


def transposed() -> Drawing:
    """A tile of transposed scores: queries in the lanes."""
    d = Drawing(790, 350, "One number of a key times a vector of queries, lane by lane")
    cell, lanes, keys = 30, 8, 4
    x, y = 330, 150
    d.text(x + lanes * cell / 2, 20, "column c of Q: one number of each query")
    for i in range(lanes):
        d.rect(x + i * cell, 36, cell, 26, "query edge", 0.45)
        d.text(x + (i + 0.5) * cell, 49, f"q{i}", "small")
    d.text(x + lanes * cell + 14, 49, "one vector register", "left small faint")
    d.arrow(x + lanes * cell / 2, 66, x + lanes * cell / 2, y - 8)
    d.text(
        x + lanes * cell / 2 + 12,
        96,
        "× the number, + what is there: one FMA",
        "left small",
    )
    d.text(
        x + lanes * cell / 2 + 12,
        116,
        "makes a term of 16 scores (AVX-512)",
        "left small faint",
    )
    for j in range(keys):
        for i in range(lanes):
            dense = 0.5 if j == 1 else 0.14
            d.rect(x + i * cell, y + j * cell, cell, cell, "score edge", dense)
        d.rect(x - 110, y + j * cell, 26, cell, "key edge", 0.6 if j == 1 else 0.15)
        d.text(x - 97, y + (j + 0.5) * cell, f"k{j}", "small")
    d.arrow(x - 80, y + 1.5 * cell, x - 6, y + 1.5 * cell)
    d.text(x - 122, y + 1.5 * cell - 10, "column c of K,", "small right")
    d.text(x - 122, y + 1.5 * cell + 10, "a number at a time", "small right")
    right = x + lanes * cell + 14
    d.text(right, y + 1 * cell, "Sᵀ = K Qᵀ:", "left")
    d.text(
        right, y + 1 * cell + 22, "rows are keys, lanes are queries", "left small faint"
    )
    d.arrow(x + 0.5 * cell, y + keys * cell + 4, x + 0.5 * cell, y + keys * cell + 36)
    d.arrow(x + 6.5 * cell, y + keys * cell + 4, x + 6.5 * cell, y + keys * cell + 36)
    d.text(
        x + lanes * cell / 2,
        y + keys * cell + 54,
        "maximum and sum go down the lanes: no step across them",
    )
    return d


def decode() -> Drawing:
    """A few queries: parts of the keys, merged in order."""
    d = Drawing(
        790, 270, "Keys and values are read once, in parts, and the parts merged"
    )
    d.text(86, 20, "queries of all heads")
    d.text(86, 38, "that share the keys")
    for i in range(4):
        d.rect(46, 54 + 14 * i, 80, 12, "query edge", 0.45)
    x, width, parts = 190, 140, 4
    d.text(x + width * parts / 2, 20, "K and V, read once from memory")
    for part in range(parts):
        left = x + part * width
        d.rect(left + 4, 36, width - 8, 34, "key edge", 0.3)
        d.text(left + width / 2, 53, f"part {part}", "small")
        d.rect(left + 4, 70, width - 8, 34, "value edge", 0.3)
        d.arrow(left + width / 2, 108, left + width / 2, 142)
        d.rect(left + 14, 146, width - 28, 30, "score edge", 0.3)
        d.text(left + width / 2, 161, "max, sum, acc", "small")
        if part:
            d.arrow(left - 14 + 2, 161, left + 12, 161)
    d.arrow(x + (parts - 0.5) * width, 178, x + (parts - 0.5) * width, 212)
    d.text(x + (parts - 0.5) * width, 228, "output")
    d.text(
        x, 206, "any thread takes the next part; whoever ends last", "left small faint"
    )
    d.text(x, 224, "merges all of them, always in this order", "left small faint")
    return d


def tiles() -> Drawing:
    """What a mask says of each tile."""
    d = Drawing(760, 300, "Tiles of a causal window are empty, full or partial")
    size, block, window = 8, 8, 20
    i, j = np.mgrid[: size * block, : size * block]
    seen = (j <= i) & (j >= i - window)
    shares = seen.reshape(size, block, size, block).mean(axis=(1, 3))
    cell, x, y = 32, 40, 30

    def tile(left: float, top: float, share: float) -> None:
        d.rect(left, top, cell, cell, "score edge", 0.65 * (share == 1))
        if 0 < share < 1:
            corners = f"{left},{top} {left},{top + cell} {left + cell},{top + cell}"
            d.parts.append(
                f'<polygon points="{corners}" class="score" fill-opacity="0.4"/>'
            )

    for r, c in np.ndindex(size, size):
        tile(x + c * cell, y + r * cell, shares[r, c])
    d.text(x + cell * size / 2, 14, "keys →", "small faint")
    for k, (share, name, words) in enumerate(
        (
            (0.0, "empty", "not computed, keys not read"),
            (1.0, "full", "computed, nothing is masked"),
            (0.5, "partial", "computed, and masked score by score"),
        )
    ):
        top = 66 + 62 * k
        count = np.sum((shares > 0).astype(int) + (shares == 1) == (0, 2, 1)[k])
        tile(360, top, share)
        d.text(408, top + 6, f"{name}: {count} of {size * size} tiles", "left")
        d.text(408, top + 26, words, "left small faint")
    d.text(360, 262, f"masks.sliding_window({window}, 0)", "left small")
    d.text(360, 280, "64 × 64 scores in tiles of 8 × 8", "left small faint")
    return d


DRAWINGS = {
    "steps": steps,
    "softmax": softmax,
    "online": online,
    "blocks": blocks,
    "transposed": transposed,
    "decode": decode,
    "tiles": tiles,
}


def main(folder: Path = HERE) -> int:
    """Draw all of them into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in DRAWINGS.items():
        draw().save(folder / f"{name}.svg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
