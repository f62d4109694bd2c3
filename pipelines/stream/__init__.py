"""Shards into batches, for a run that can go on from any step. Reading order: member_index.py and index.py (where every member lies), clip_filter.py, sampler.py (which
clip is at which position), reader.py, augment.py, batch.py, dataset.py (positions -> a batch), loader_worker.py, loader.py (all of it together); for remote
shards retry.py, cache_eviction.py, cache.py, prefetch.py; index_foreign.py for shards of others."""
