"""Retrieval and head disentanglement on a gallery of clips: gallery.py, feature_cache.py, benchmark.py, disentanglement.py."""
