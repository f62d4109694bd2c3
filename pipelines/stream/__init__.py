"""Streaming: from shards to batches, resumable at any step.

Reading order: member_index.py and index.py (offsets of all members), clip_filter.py, sampler.py with lanes.py and
epochs.py (the clip at each position), reader.py, augment.py, batch.py, dataset.py (from positions to a batch),
open_order.py (the data sets of a run), loader_worker.py, loader.py (all of it together); for remote shards
remote_retry.py, cache_eviction.py, cache.py, prefetch.py; for third-party shards foreign_tar.py, index_foreign.py.
"""
