"""Retrieval and head disentanglement: gallery.py, feature_cache.py, benchmark.py, disentanglement.py."""
