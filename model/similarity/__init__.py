"""Similarity: dense.py (exact), fused/ (same values, less memory), global_pooling.py and simpool.py (baselines)."""
