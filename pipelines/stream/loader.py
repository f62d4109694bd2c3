"""The stream of a training run: data sets, order, dataset and worker processes put together. Its state is one integer, the step."""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import signal
import threading
from collections import Counter, deque
from collections.abc import Iterator
from multiprocessing import forkserver, resource_tracker
from typing import Any

import torch
from torch.utils.data import DataLoader

from configs.errors import CommandFailed, UsageError
from configs.schema import StreamConfig
from pipelines.stream.batch import Batch
from pipelines.stream.dataset import ClipDataset
from pipelines.stream.loader_worker import end_with_the_run
from pipelines.stream.order import open_order
from pipelines.stream.prefetch import Prefetcher
from pipelines.stream.reader import ClipReader, MemberKeys, UnreadableClip
from pipelines.stream.sampler import DeterministicSampler

# The share of clips that cannot be read is taken over at least this many.
WATCHED_CLIPS = 1000

# Held while a loader starts its workers, in whatever thread.
_starting = threading.Lock()


class Stream:
    """The batches of a run, from any step on, for any rank of any number of ranks. Made by `open_stream`.

    Attributes:
        order: which clip is at which position.
        fingerprint: all the order depends on; goes into checkpoints. Another one gives other batches at the same step.
    """

    def __init__(self, dataset: ClipDataset, config: StreamConfig, fingerprint: dict[str, Any]) -> None:
        self.dataset, self.order, self.fingerprint = dataset, dataset.order, fingerprint
        self._config = config

    def batches(self, rank: int = 0, world_size: int = 1, start_step: int = 0) -> Iterator[Batch]:
        """One rank's part of global batch `start_step`, of the next, and so on without end; the same bits for any number of workers.

        Raises:
            UsageError: more than max_error_rate of the last clips could not be read, stream.cache_gb is too little, or what the dataset raises.
            CommandFailed: a remote shard cannot be fetched.
        """
        if self.order.batch_size % world_size:
            raise UsageError(
                f"global_batch_size={self.order.batch_size} (global) must be a multiple of the {world_size} processes launched"
            )
        watch = _ErrorRateGuard(self._config.max_error_rate)
        steps_ahead = self._config.num_workers * self._config.prefetch_factor
        prefetcher = Prefetcher(
            [reader.index for reader in self.dataset.readers], self.order, rank, world_size, steps_ahead
        )
        prefetcher.check_room(start_step)
        try:
            prefetcher.advance(start_step)
            for step, batch in enumerate(_started(self._loader(rank, world_size, start_step)), start_step):
                if isinstance(batch, (UsageError, CommandFailed)):
                    raise batch
                watch.add(len(batch), batch.rejected)
                yield batch
                prefetcher.advance(step + 1)
        finally:
            prefetcher.close()

    def _loader(self, rank: int, world_size: int, start_step: int) -> DataLoader:
        own_random_numbers = (
            torch.Generator()
        )  # a loader draws one number as it starts, by default from torch's own generator
        steps = _Steps(self.order, rank, world_size, start_step)
        if not self._config.num_workers:
            return DataLoader(self.dataset, batch_sampler=steps, collate_fn=_identity, generator=own_random_numbers)
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["pipelines.stream.dataset"])
        _start_fork_server()
        return DataLoader(
            self.dataset,
            batch_sampler=steps,
            collate_fn=_identity,
            generator=own_random_numbers,
            num_workers=self._config.num_workers,
            prefetch_factor=self._config.prefetch_factor,
            multiprocessing_context=context,
            worker_init_fn=end_with_the_run,
        )


def open_stream(config: StreamConfig, seed: int, batch_size: int) -> Stream:
    """Open the data sets of a run and fix their order.

    Args:
        config: the `stream` settings.
        seed: of order and augmentation.
        batch_size: global.

    Raises:
        UsageError: no source, one that is named or listed twice, one that is not a whole data set or has another sample rate, a splice out of range.
        CommandFailed: a remote source does not answer.
    """
    augment = config.augment
    if augment.audio_splice_max_s and not 0 < augment.audio_splice_min_s <= augment.audio_splice_max_s:
        raise UsageError(
            f"stream.augment.audio_splice_min_s={augment.audio_splice_min_s}: must be above 0 and at most audio_splice_max_s={augment.audio_splice_max_s}"
        )
    order = open_order(config, seed, batch_size)
    readers = [
        ClipReader(
            index,
            config.image_size_px,
            config.clip_duration_s,
            config.sample_rate_hz,
            number,
            MemberKeys(source.image_key, source.audio_key),
        )
        for number, (index, source) in enumerate(zip(order.indexes, config.sources, strict=True))
    ]
    for reader in readers:
        reader.check_fields()
        _check_sample_rate(reader)
    return Stream(ClipDataset(readers, order.sampler, config.augment, seed), config, order.fingerprint)


def _check_sample_rate(reader: ClipReader) -> None:
    """Meet a wrong sample rate before the first batch: by the first clip, unless it cannot be read."""
    with contextlib.suppress(UnreadableClip):
        reader.waveform(0)


class _Steps:
    """The positions of one rank, step by step without end."""

    def __init__(self, order: DeterministicSampler, rank: int, world_size: int, start_step: int) -> None:
        self.order, self.rank, self.world_size, self.start_step = order, rank, world_size, start_step

    def __iter__(self) -> Iterator[list[int]]:
        step = self.start_step
        while True:
            yield self.order.positions(step, self.rank, self.world_size)
            step += 1


class _ErrorRateGuard:
    """Stops the run when too many of the last clips could not be read."""

    def __init__(self, most: float) -> None:
        self._most, self._batches = most, deque[tuple[int, Counter[str]]]()

    def add(self, clips: int, rejected: Counter[str]) -> None:
        unreadable = Counter({reason: count for reason, count in rejected.items() if reason in UnreadableClip.REASONS})
        self._batches.append((clips + unreadable.total(), unreadable))
        while sum(tried for tried, _ in self._batches) - self._batches[0][0] >= WATCHED_CLIPS:
            self._batches.popleft()
        tried, found = sum(tried for tried, _ in self._batches), sum((counts for _, counts in self._batches), Counter())
        if found.total() > self._most * max(tried, WATCHED_CLIPS):
            listed = ", ".join(f"{reason} {count}" for reason, count in found.most_common())
            raise UsageError(
                f"{found.total()} of the last {tried} clips could not be read ({listed}), more than stream.max_error_rate={self._most}: "
                "look at the shards with python -m pipelines.verify DIR, or allow more"
            )


def _start_fork_server() -> None:
    """Start the process that all workers come from. It and they are deaf from their first moment on to what may reach all processes of a run at once: Ctrl-C,
    and the signals of a cluster that wants its machine back. The run decides, and needs its data until then."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    try:
        resource_tracker.ensure_running()  # would lift the block of the other two
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    atexit.unregister(_end_workers)  # once is enough, however many loaders there were
    atexit.register(_end_workers)


def _started(loader: DataLoader) -> Iterator[Batch | Exception]:
    """A loader whose workers are there."""
    with _starting:
        return iter(loader)


def _end_workers() -> None:
    """End the workers that are left when the process ends: multiprocessing would ask them by a signal they do not hear, and wait.

    Those being started are waited for: with the run gone they would find nothing of what they were given, and say so at length.
    """
    if _starting.acquire(timeout=20):
        _starting.release()
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()


def _identity(batch: Batch | Exception) -> Batch | Exception:
    return batch
