"""What a shard holds, as a table or an HTML page: __main__.py (command), clip_preview.py (one clip, read safely), page.py."""
