"""The web page: __main__.py (command), page.py, worker.py and pool.py (jobs under limits), guard.py (HTTP rules)."""
