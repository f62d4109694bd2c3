"""Benchmarks of published data sets, and of your own in the same layouts.

Reading order: benchmark.py (the interface), registry.py (names), io.py, examples.py, then prompted_ade20k/, retrieval/
and localization/. A new benchmark is a file here and a line in registry.py.
"""
