"""Prompted ADE20K: dataset.py, metrics.py, benchmark.py."""
