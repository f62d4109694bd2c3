"""The training stream: data sets, sampler, dataset and worker processes. Its state is one integer, the step."""

import itertools
from collections import Counter, deque
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from configs.errors import UsageError
from configs.schema import StreamConfig
from pipelines.stream.batch import HostBatch
from pipelines.stream.dataset import ClipDataset
from pipelines.stream.length_check import length_warning
from pipelines.stream.loader_processes import iterate, start_fork_server
from pipelines.stream.loader_worker import exit_with_parent
from pipelines.stream.open_order import open_order
from pipelines.stream.prefetch import Prefetcher
from pipelines.stream.reader import ClipReader, MemberKeys, UnreadableClip
from pipelines.stream.shared_batch import share_batch
from pipelines.worker_processes import forkserver_context

# The error rate is measured over at least this many of the last clips.
ERROR_RATE_CLIPS = 1000


class Stream:
    """The batches of a run, from any step on, for any rank of any number of ranks. Created by `open_stream`.

    Attributes:
        order: the sampler.
        fingerprint: everything that the order depends on; stored in checkpoints. Another one gives other batches at the
            same step.
    """

    def __init__(self, dataset: ClipDataset, config: StreamConfig, fingerprint: dict[str, Any]) -> None:
        self.dataset, self.order, self.fingerprint = dataset, dataset.order, fingerprint
        self._config = config

    def warnings(self) -> list[str]:
        """What is unusual about the data of the run."""
        names = self.fingerprint["sources"]  # in the order of the readers
        return [text for text in map(length_warning, self.dataset.readers, names) if text]

    def batches(self, rank: int = 0, world_size: int = 1, start_step: int = 0) -> Iterator[HostBatch]:
        """One rank's part of global batch `start_step` and all later ones; the same bits for any number of workers.

        `HostBatch.to(device)` augments them on the device of training.

        Raises:
            UsageError: more than max_error_rate of the last clips are unreadable, stream.cache_gb is too small, or what
                the dataset raises.
            CommandFailed: a remote shard cannot be fetched, or a worker was killed.
        """
        if self.order.batch_size % world_size:
            raise UsageError(
                f"global_batch_size={self.order.batch_size} must be a multiple of the number of processes, {world_size}"
            )
        guard = _ErrorRateGuard(self._config.max_error_rate)
        steps_ahead = self._config.num_workers * self._config.prefetch_factor
        indices = [reader.index for reader in self.dataset.readers]
        prefetcher = Prefetcher(indices, self.order, rank, world_size, steps_ahead)
        prefetcher.check_space(start_step)
        try:
            prefetcher.advance(start_step)
            for step, batch in enumerate(iterate(self._loader(rank, world_size, start_step)), start_step):
                guard.add(len(batch), batch.rejected)
                yield batch
                prefetcher.advance(step + 1)
        finally:
            prefetcher.close()

    def _loader(self, rank: int, world_size: int, start_step: int) -> DataLoader[HostBatch]:
        steps = (self.order.positions(step, rank, world_size) for step in itertools.count(start_step))
        # A DataLoader draws one number as it starts, by default from torch's default generator.
        generator = torch.Generator()
        if not self._config.num_workers:
            return DataLoader(self.dataset, batch_sampler=steps, collate_fn=_identity, generator=generator)
        context = forkserver_context(["pipelines.stream.dataset"])
        start_fork_server()
        return DataLoader(
            self.dataset,
            batch_sampler=steps,
            collate_fn=share_batch,
            generator=generator,
            num_workers=self._config.num_workers,
            prefetch_factor=self._config.prefetch_factor,
            multiprocessing_context=context,
            worker_init_fn=exit_with_parent,
        )


def open_stream(config: StreamConfig, seed: int, batch_size: int) -> Stream:
    """Open the data sets of a run and fix their order.

    Args:
        config: the `stream` settings.
        seed: of order and augmentation.
        batch_size: global.

    Raises:
        UsageError: there is no source, a name or a data set is listed twice, a data set is incomplete or has another
            sample rate, or the range of the splice is empty.
        CommandFailed: a remote source does not answer.
    """
    augment = config.augment
    if augment.audio_splice_max_s and not 0 < augment.audio_splice_min_s <= augment.audio_splice_max_s:
        raise UsageError(
            f"stream.augment.audio_splice_min_s={augment.audio_splice_min_s}: must be above 0 and at most "
            f"audio_splice_max_s={augment.audio_splice_max_s}"
        )
    order = open_order(config, seed, batch_size)
    sizes = config.image_size_px, config.clip_duration_s, config.sample_rate_hz
    readers = [
        ClipReader(index, *sizes, number, MemberKeys(source.image_key, source.audio_key), config.audio)
        for number, (index, source) in enumerate(zip(order.indexes, config.sources, strict=True))
    ]
    for reader in readers:
        reader.check_keys()
    return Stream(ClipDataset(readers, order.sampler, config.augment, seed), config, order.fingerprint)


class _ErrorRateGuard:
    """Stops the run when too many of the last clips are unreadable."""

    def __init__(self, max_error_rate: float) -> None:
        self._max_error_rate, self._batches = max_error_rate, deque[tuple[int, Counter[str]]]()

    def add(self, clips: int, rejected: Counter[str]) -> None:
        unreadable = Counter({reason: count for reason, count in rejected.items() if reason in UnreadableClip.REASONS})
        self._batches.append((clips + unreadable.total(), unreadable))
        while sum(tried for tried, _ in self._batches) - self._batches[0][0] >= ERROR_RATE_CLIPS:
            self._batches.popleft()
        tried = sum(tried for tried, _ in self._batches)
        errors = sum((counts for _, counts in self._batches), Counter[str]())
        if errors.total() > self._max_error_rate * max(tried, ERROR_RATE_CLIPS):
            reasons = ", ".join(f"{reason} {count}" for reason, count in errors.most_common())
            raise UsageError(
                f"{errors.total()} of the last {tried} clips are unreadable ({reasons}), more than "
                f"stream.max_error_rate={self._max_error_rate}: check the shards with python -m pipelines.verify DIR, "
                "or raise the limit"
            )


def _identity(batch: Any) -> Any:
    return batch
