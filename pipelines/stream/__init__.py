"""Shards into batches, for a run that can go on from any step. Reading order: table.py and index.py (where every member lies), selection.py, order.py (which
clip is at which position), reader.py, augment.py, batch.py, dataset.py (positions -> a batch), worker.py, loader.py (all of it together); for remote
shards retry.py, room.py, cache.py, prefetch.py; adopt.py for shards of others."""
