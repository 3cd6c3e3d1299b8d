"""Measurements behind BENCHMARKS.md."""
