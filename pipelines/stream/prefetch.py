"""Fetches the remote shards that a rank will need next, in threads beside the training process, so that no worker waits for the network.

Limits: clips that stand in for unreadable ones may lie in other shards, which are fetched when they are wanted.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Sequence

from configs.errors import UsageError
from pipelines.stream.cache_eviction import PinnedShards
from pipelines.stream.index import DatasetIndex
from pipelines.stream.sampler import DeterministicSampler

_THREADS = 4


class Prefetcher:
    """Threads that fetch shards; started by the first `advance`, stopped by `close`. They end with the process.

    Args:
        indices: of the sources, in the order's numbers; only remote ones are fetched.
        order: which clip is where.
        rank, world_size: whose lanes.
        steps_ahead: how many steps the loader's workers are ahead of the run.
    """

    def __init__(
        self, indices: Sequence[DatasetIndex], order: DeterministicSampler, rank: int, world_size: int, steps_ahead: int
    ) -> None:
        self._caches = {number: index.cache for number, index in enumerate(indices) if index.cache}
        self._names = [[shard.name for shard in index.shards] for index in indices]
        self._order, self._rank, self._world_size, self._steps_ahead = order, rank, world_size, steps_ahead
        self._ahead: list[tuple[int, int]] = []
        self._taken, self._failed = set[tuple[int, int]](), set[tuple[int, int]]()
        self._needed: PinnedShards | None = None
        self._changed, self._is_closed = threading.Condition(), False

    def check_room(self, step: int) -> None:
        """See to it that the shards of the current windows fit into the cache, for all ranks of the machine.

        Raises:
            UsageError: they do not; shards would be fetched again and again.
        """
        if not self._caches:
            return
        first = self._rank - int(
            os.environ.get("LOCAL_RANK", 0)
        )  # accelerate launch and torchrun say which ranks a machine has
        ranks = range(first, first + int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
        needed_bytes = sum(
            self._size_bytes(*shard)
            for shard in {shard for rank in ranks for shard in self._remote_ahead(step, step, rank, windows_after=0)}
        )
        max_bytes = min(cache.max_bytes for cache in self._caches.values())
        if needed_bytes > max_bytes:
            raise UsageError(
                f"stream.cache_gb={max_bytes / 1e9:.3g} is too little: the shards that are read at one time have {needed_bytes / 1e9:.3g} GB; "
                "give twice that, or make stream.lanes or stream.shuffle_window_clips smaller"
            )

    def advance(self, step: int) -> None:
        """Ask for what the batches from a step on need, and the windows after theirs; what was asked for and is not needed any more is forgotten."""
        if not self._caches:
            return
        ahead = self._remote_ahead(step, step + self._steps_ahead, self._rank, windows_after=1)
        if ahead == self._ahead:
            return
        with contextlib.suppress(OSError):  # a full disk: who needs a shard will say so
            self._needed = self._needed or PinnedShards(next(iter(self._caches.values())).folder)
            self._needed.state(self._caches[source].path(self._names[source][shard]) for source, shard in ahead)
        with self._changed:
            if not self._ahead:
                for _ in range(_THREADS):
                    threading.Thread(target=self._work, daemon=True).start()
            self._ahead, self._taken = ahead, (self._taken - self._failed).intersection(ahead)
            self._failed.clear()
            self._changed.notify_all()

    def close(self) -> None:
        """Let the threads end after what they are fetching."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        if self._needed:
            self._needed.close()

    def _remote_ahead(self, first_step: int, last_step: int, rank: int, windows_after: int) -> list[tuple[int, int]]:
        ahead = self._order.shards_ahead(first_step, last_step, rank, self._world_size, windows_after)
        return [(source, shard) for source, shard in ahead if source in self._caches]

    def _size_bytes(self, source: int, shard: int) -> int:
        return self._caches[source].size_bytes(self._names[source][shard])

    def _work(self) -> None:
        while wanted := self._next():
            source, shard = wanted
            try:
                has_room = self._caches[source].fetch_ahead(self._names[source][shard])
            except Exception:  # whatever it is, the worker that needs the shard will meet it, and say so
                self._put_off([wanted])
            else:
                if not has_room:
                    self._put_off(self._ahead)

    def _put_off(self, shards: list[tuple[int, int]]) -> None:
        """Leave shards alone until others are needed."""
        with self._changed:
            self._taken.update(shards)
            self._failed.update(shards)

    def _next(self) -> tuple[int, int] | None:
        """The first shard that nobody has asked for; waits until there is one, None at the end."""
        with self._changed:
            while not self._is_closed:
                for wanted in self._ahead:
                    if wanted not in self._taken:
                        self._taken.add(wanted)
                        return wanted
                self._changed.wait()
            return None
