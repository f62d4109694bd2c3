"""The data sets of a run and the order of their clips. Needs no torch: a finished run is recognized by it without."""

from collections.abc import Sequence
from functools import partial
from pathlib import PurePath
from typing import Any, NamedTuple

from configs.errors import UsageError
from configs.schema import StreamConfig, StreamSourceConfig
from pipelines.stream.clip_filter import select_clips
from pipelines.stream.index import DatasetIndex
from pipelines.stream.joined_index import ClipIndex, JoinedIndex
from pipelines.stream.lanes import OrderSource
from pipelines.stream.sampler import DeterministicSampler


class Order(NamedTuple):
    """The data sets of a run, in the order of `stream.sources`, and which of their clips is at which position.

    Attributes:
        fingerprint: everything the order depends on; stored in checkpoints.
    """

    indexes: list[ClipIndex]
    sampler: DeterministicSampler
    fingerprint: dict[str, Any]


def open_order(config: StreamConfig, seed: int, batch_size: int) -> Order:
    """Open the indexes of a run's data sets and fix the order of their clips.

    Args:
        config: the `stream` settings.
        seed: of the order.
        batch_size: global.

    Raises:
        UsageError: no source, one that is named or listed twice, or one that is not a complete data set.
        CommandFailed: a remote source does not answer.
    """
    if not config.sources:
        raise UsageError(
            "stream.sources is empty: set at least one source, such as stream.sources=[{name: a, shards: DIR}]"
        )
    for number, source in enumerate(config.sources):
        if not source.shards:
            raise UsageError(
                f"stream.sources.{number} ({source.name or 'unnamed'}) has no shards: set "
                f"stream.sources.{source.name or number}.shards=DIR"
            )
    parts = [_open_folders(source, config) for source in config.sources]
    names = [source.name or PurePath(source.shards[0]).name for source in config.sources]
    for number, name in enumerate(names):
        if name in names[:number]:
            raise UsageError(
                f"stream.sources.{number} ({name}): the same name as stream.sources.{names.index(name)}; "
                "give each source a name of its own"
            )
    _check_distinct(config.sources, names, parts)
    indexes = [opened[0] if len(opened) == 1 else JoinedIndex(opened) for opened in parts]
    sources = [
        OrderSource(name, index.fingerprint, source.weight, tuple(shard.clips for shard in index.shards))
        for name, index, source in zip(names, indexes, config.sources, strict=True)
    ]
    sampler = DeterministicSampler(sources, seed, config.lanes, config.shuffle_window_clips, batch_size)
    fingerprint = {
        "seed": seed,
        "batch_size": batch_size,
        "lanes": sampler.lanes,
        "window_clips": config.shuffle_window_clips,
        "sources": {
            source.name: {"number": number, "weight": weight, "data_set": source.fingerprint}
            for number, (source, weight) in enumerate(zip(sources, sampler.weights, strict=True))
        },
    }
    return Order(indexes, sampler, fingerprint)


def _open_folders(source: StreamSourceConfig, config: StreamConfig) -> list[DatasetIndex]:
    select = partial(select_clips, exclude=source.exclude, labels=source.labels)
    return [
        DatasetIndex.open(
            folder,
            select if source.exclude or source.labels else None,
            config.cache_dir,
            int(config.cache_gb * 1e9),
        )
        for folder in source.shards
    ]


def _check_distinct(
    sources: Sequence[StreamSourceConfig], names: Sequence[str], parts: Sequence[Sequence[DatasetIndex]]
) -> None:
    """Raise UsageError if two folders, of one source or of two, are the same data set with the same selection."""
    seen: dict[str, str] = {}
    for number, (source, name, opened) in enumerate(zip(sources, names, parts, strict=True)):
        for folder, part in zip(source.shards, opened, strict=True):
            if part.fingerprint in seen:
                raise UsageError(
                    f"stream.sources.{number} ({name}): {folder} is the same data set as {seen[part.fingerprint]}; "
                    "set weight= to draw more of it"
                )
            seen[part.fingerprint] = f"{folder} of stream.sources.{number}"
