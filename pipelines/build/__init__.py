"""Clips into shards, offline. Reading order: __main__.py (the command), row_table.py (the rows on disk, their order), clip.py (media -> frames, waveform),
loader_worker.py (a process that may die), shards.py (one tar with its index and ledger), executors.py (who builds which shard)."""
