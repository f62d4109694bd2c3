"""Builds shards from clips, offline: rows -> decoded clips -> tars, each with an index and its rejected clips.

Reading order: __main__.py (the command), row_table.py (rows on disk, in shard order), decode/ (media -> frames and
waveform), decode_worker.py (a process that may crash), shards.py (one tar with its index), executors.py (which process
builds which shard), finalize.py (the root manifest).
"""
