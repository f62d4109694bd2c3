"""Sound localization: one file for each data set, heatmap_sources.py (model and baselines), metrics.py, benchmark.py."""
