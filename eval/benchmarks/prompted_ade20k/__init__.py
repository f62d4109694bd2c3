"""Prompted segmentation of ADE20K: dataset.py, metrics.py, benchmark.py."""
