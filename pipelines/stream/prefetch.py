"""Fetches the remote shards that a rank will need next, in threads beside the training process, so that no worker waits for the network."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence

from configs.command import RunFailed
from pipelines.stream.index import DatasetIndex
from pipelines.stream.order import ClipOrder

_THREADS = 4
_WINDOWS = 2  # the current one and the one after it


class Prefetcher:
    """Threads that fetch shards; started by the first `advance`, stopped by `close`.

    Args:
        indices: of the sources, in the order's numbers; only remote ones are fetched.
        order: which clip is where.
        rank, world_size: whose lanes.
    """

    def __init__(self, indices: Sequence[DatasetIndex], order: ClipOrder, rank: int, world_size: int) -> None:
        self._indices, self._order, self._rank, self._world_size = indices, order, rank, world_size
        self._asked: set[tuple[int, int]] = set()
        self._wanted: queue.SimpleQueue[tuple[int, int] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []

    def advance(self, step: int) -> None:
        """Ask for what the batches from a step on need that was not asked for before."""
        if not any(index.is_remote for index in self._indices):
            return
        if not self._threads:
            self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(_THREADS)]
            for thread in self._threads:
                thread.start()
        needed = set()
        for source, shard in self._order.shards_ahead(step, self._rank, self._world_size, _WINDOWS):
            if self._indices[source].is_remote:
                needed.add((source, shard))
                if (source, shard) not in self._asked:
                    self._wanted.put((source, shard))
        self._asked = needed  # a shard that comes back in a later pass is asked for again

    def close(self) -> None:
        """Let the threads end after what they are fetching."""
        for _ in self._threads:
            self._wanted.put(None)

    def _work(self) -> None:
        while (wanted := self._wanted.get()) is not None:
            source, shard = wanted
            try:
                self._indices[source].fetch(shard)
            except (RunFailed, OSError):
                continue  # the worker that needs it will meet the same, and say so
