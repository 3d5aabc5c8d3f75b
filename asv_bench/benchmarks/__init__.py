"""The benchmarks of numbattn."""
