"""Shards into batches, online. Reading order: index.py (where a member lies), order.py (which clip at which position), reader.py (a clip's members as
arrays), augment.py (random changes), batch.py (what the model gets), dataset.py (positions -> batch), loader.py (in worker processes), worker.py."""
