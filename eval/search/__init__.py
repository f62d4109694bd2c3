"""Search of clips by sound, picture or video: `python -m eval.search`.

store.py (interface) and lance_store.py (LanceDB) hold the clips, compression.py their dense features, codebook.py the
vectors of the first stage; build.py fills an index from shards or files (clips.py), searcher.py answers queries
(query.py), page.py writes results as HTML.
"""
