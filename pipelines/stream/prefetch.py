"""Prefetch: threads of the training process fetch the remote shards that a rank reads next, ahead of its workers.

Limits: replacements of unreadable clips may be in other shards, which are fetched when they are read.
"""

import contextlib
import os
import threading
from collections.abc import Sequence

from configs.errors import UsageError
from pipelines.stream.cache_eviction import PinnedShards
from pipelines.stream.joined_index import ClipIndex
from pipelines.stream.sampler import DeterministicSampler

_THREADS = 4
_SourceShard = tuple[int, int]  # number of the source, number of the shard in its data set


class Prefetcher:
    """Threads that fetch shards; started by the first `advance`, stopped by `close`. They are daemon threads.

    Args:
        indices: of the sources, in the order of the sampler; only remote ones are fetched.
        order: the sampler.
        rank, world_size: whose shards are fetched.
        steps_ahead: by how many steps the loader's workers are ahead of the training step.
    """

    def __init__(
        self, indices: Sequence[ClipIndex], order: DeterministicSampler, rank: int, world_size: int, steps_ahead: int
    ) -> None:
        self._copies = {
            (source, number): (cache, shard.name)
            for source, index in enumerate(indices)
            for number, (shard, cache) in enumerate(zip(index.shards, index.caches, strict=True))
            if cache
        }
        self._order, self._rank, self._world_size, self._steps_ahead = order, rank, world_size, steps_ahead
        self._required: list[_SourceShard] = []
        self._started, self._failed = set[_SourceShard](), set[_SourceShard]()
        self._pinned: PinnedShards | None = None
        self._changed, self._is_closed = threading.Condition(), False

    def check_space(self, step: int) -> None:
        """Check that the shards of the current windows of all ranks of this machine fit into the cache.

        Raises:
            UsageError: they do not; shards would be fetched again and again.
        """
        if not self._copies:
            return
        # accelerate launch and torchrun set these: the ranks of a machine are consecutive
        first = self._rank - int(os.environ.get("LOCAL_RANK", 0))
        ranks = range(first, first + int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
        shards = {shard for rank in ranks for shard in self._remote_ahead(step, step, rank, windows_after=0)}
        copies = [self._copies[shard] for shard in shards]
        required_bytes = sum(cache.size_bytes(name) for cache, name in copies)
        max_bytes = min((cache.max_bytes for cache, _ in copies), default=0)
        if required_bytes > max_bytes:
            raise UsageError(
                f"stream.cache_gb={max_bytes / 1e9:.3g} is too small: the shards that are read at one time have "
                f"{required_bytes / 1e9:.3g} GB; set it to twice that, or reduce stream.lanes or "
                "stream.shuffle_window_clips"
            )

    def advance(self, step: int) -> None:
        """Replace the requests by the shards of the batches from a step on, and of the windows after theirs."""
        if not self._copies:
            return
        required = self._remote_ahead(step, step + self._steps_ahead, self._rank, windows_after=1)
        if required == self._required:
            return
        with contextlib.suppress(OSError):  # a full disk: the worker that opens a shard reports it
            copies = [self._copies[shard] for shard in required]
            self._pinned = self._pinned or PinnedShards(next(iter(self._copies.values()))[0].folder)
            self._pinned.pin(cache.path(name) for cache, name in copies)
        with self._changed:
            if not self._required:
                for _ in range(_THREADS):
                    threading.Thread(target=self._work, daemon=True).start()
            self._required, self._started = required, (self._started - self._failed).intersection(required)
            self._failed.clear()
            self._changed.notify_all()

    def close(self) -> None:
        """Stop the threads after their current downloads."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        if self._pinned:
            self._pinned.close()

    def _remote_ahead(self, first_step: int, last_step: int, rank: int, windows_after: int) -> list[_SourceShard]:
        ahead = self._order.shards_ahead(first_step, last_step, rank, self._world_size, windows_after)
        return [shard for shard in ahead if shard in self._copies]

    def _work(self) -> None:
        while request := self._next():
            cache, name = self._copies[request]
            try:
                has_space = cache.prefetch(name)
            except Exception:  # the worker that opens the shard will meet the same error and report it
                self._postpone([request])
            else:
                if not has_space:
                    self._postpone(self._required)

    def _postpone(self, shards: list[_SourceShard]) -> None:
        """Do not try these shards again until the requests change."""
        with self._changed:
            self._started.update(shards)
            self._failed.update(shards)

    def _next(self) -> _SourceShard | None:
        """The first request that no thread has started; waits for one, None after `close`."""
        with self._changed:
            while not self._is_closed:
                for request in self._required:
                    if request not in self._started:
                        self._started.add(request)
                        return request
                self._changed.wait()
            return None
