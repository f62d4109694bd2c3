"""Reports: content.py (what is shown), html.py and markdown.py (how), compare.py and seed_stats.py (several evaluations), figures.py."""
