"""The web page: __main__.py (command), page.py, worker.py and pool.py (jobs in processes with limits), guard.py (HTTP)."""
