"""Loss terms: contrastive.py, regularizers.py, and objective.py, which puts them together over the global batch."""
