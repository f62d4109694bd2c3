"""Show the clips of a shard as a table or an HTML page.

Reading order: __main__.py (command), clip_preview.py (decode one clip), page.py (HTML).
"""
