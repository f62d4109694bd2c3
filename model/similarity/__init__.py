"""Audio-visual similarity: dense.py (exact), fused/ (same values, little memory), global_pooling.py and simpool.py (baselines)."""
