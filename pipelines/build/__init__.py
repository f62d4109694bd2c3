"""Clips into shards, offline. Reading order: __main__.py (the command), rows.py (the rows on disk, their order), decode.py (media -> frames, waveform),
worker.py (a process that may die), shards.py (one tar with its index and ledger), executors.py (who builds which shard)."""
