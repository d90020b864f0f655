"""Metrics, view-set benchmarks, plots."""
