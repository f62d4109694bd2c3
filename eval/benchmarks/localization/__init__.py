"""Sound source localization: benchmark.py, metrics.py, heatmap_sources.py, and one file for each data set."""
