"""Reports of evaluations.

content.py (what they show), html.py and markdown.py with the templates report.html.j2 and report.md.j2 (how), write.py
(the files), figures.py (images and charts), compare.py and seed_stats.py (several evaluations), published_results.py.
"""
