"""The headline figures of the history, and the rows and columns of the comparison."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One benchmark of the history, and how a reader is told of it."""

    name: str  # of the benchmark, in asv_bench/benchmarks/history.py
    title: str
    unit: str
    peer: str | None = None  # whose time is 1, where the figure is a ratio

    @property
    def benchmark(self) -> str:
        """Its name in the results."""
        return f"history.{self.name}"


@dataclass(frozen=True)
class Operation:
    """A benchmark that compares with each peer, by problem and peer."""

    title: str
    about: str  # what the names of its problems leave out
    pictured: dict[str, str]  # the problems of the README's picture, in words

    @property
    def benchmark(self) -> str:
        """Its name in the results."""
        return f"{self.title.lower()}.AgainstPeers.track_ratio"


def _ratio(name: str, title: str, peer: str) -> Figure:
    return Figure(name, title, f"our time / {peer}'s", peer)


def in_digits(value: float) -> str:
    """Return a value with three digits, all that a measurement has."""
    return f"{value:#.3g}".removesuffix(".")


FIGURES = (
    _ratio("track_scores_2048_over_numpy", "Scores, 2048 × 2048, d 64", "NumPy"),
    _ratio("track_scores_ragged_over_numpy", "Scores, 1000 × 3001, d 96", "NumPy"),
    _ratio("track_weights_over_numpy", "Weights, 8 heads of 1024 × 1024", "NumPy"),
    _ratio(
        "track_attention_2048_over_torch",
        "Attention, 8 heads of 2048 × 2048",
        "PyTorch",
    ),
    _ratio(
        "track_attention_causal_over_torch", "Causal, 8 heads of 2048 × 2048", "PyTorch"
    ),
    _ratio(
        "track_attention_512_over_onnxruntime",
        "Attention, 8 heads of 512 × 512",
        "ONNX Runtime",
    ),
    _ratio("track_decode_over_numpy", "Decoding, 1 × 8192, 32 of 8 heads", "NumPy"),
    Figure(
        "track_fma_peak_lost", "FMA peak not reached by scores", "1 − share of the peak"
    ),
    Figure("track_first_call_cold", "First call, nothing compiled", "seconds"),
    Figure("track_first_call_cached", "First call, kernels in the cache", "seconds"),
    Figure("track_import_over_numpy", "Import", "our time / import of NumPy", "NumPy"),
    Figure("track_max_error", "Largest error (16 is the bound)", "C of the bound"),
)

PEERS = {
    "numpy": "NumPy",
    "torch": "PyTorch",
    "onnxruntime": "ONNX Runtime",
    "jax": "JAX",
}
"""The columns of the comparison, by the name of the benchmarks' parameter."""

OPERATIONS = (
    Operation(
        "Scores",
        "n × m, d: keys and queries of width d, float32 unless said",
        {"2048x2048 d64": "2048 × 2048, d 64"},
    ),
    Operation(
        "Weights",
        "heads × n × m, d; float32 unless said",
        {"8x1024x1024 d64": "8 heads of 1024 × 1024, d 64"},
    ),
    Operation(
        "Attention",
        "8 heads of 2048 × 2048, d 64, float32, but for what the name says",
        {
            "8 heads 2048": "8 heads of 2048 × 2048, d 64",
            "causal": "8 heads of 2048 × 2048, d 64, causal",
        },
    ),
    Operation(
        "Decode",
        "1 × 8192, d 128, but for what the name says; 32 of 8: query and key heads",
        {"decode 32 of 8": "32 heads, 8192 keys of 8 heads, d 128"},
    ),
)
"""What is compared, in the order of the table."""
