"""Stock webdataset pipelines over the shards of pipelines.build, for trainers that do not use our loader.

    from pipelines.modalities.modality import ExampleSpec
    from pipelines.stream.webdataset import collate, examples

    dataset = examples("s3://bucket/train", ExampleSpec(224, 160_000, 16_000), shuffle_clips=1000)
    loader = wds.WebLoader(dataset.batched(64, collation_fn=collate), batch_size=None, num_workers=8)

`samples` and `examples` return a `webdataset.WebDataset`, so every method of it applies: `.map`, `.select`, `.batched`,
`.with_epoch`. Shards are listed from manifest.json, read front to back, and split by node and by worker as webdataset
does. Local and remote folders are read through fsspec, without shell commands. No decoder here runs code from a shard:
members that may be pickles raise an error.

Limits, compared with `pipelines.stream.loader`: all members of a tar are read, each worker has its own shards, the
order depends on the number of processes and workers, and a run cannot be resumed in the middle of an epoch.
"""

import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np
import torch
import webdataset as wds

from configs.errors import CommandFailed, UsageError
from configs.schema import AugmentConfig
from pipelines.modalities import MODALITIES
from pipelines.modalities.modality import (
    ExampleSpec,
    Fields,
    MemberKeys,
    Modality,
    TrainingContext,
    UnreadableClip,
)
from pipelines.storage import LocalFolder, open_folder
from pipelines.stream import remote_retry
from pipelines.stream.batch import Example, collate
from pipelines.stream.dataset import NUM_MIX_CANDIDATES
from pipelines.stream.index import manifest_shards
from pipelines.stream.webdataset_sample import Sample, SampleClip, decode_sample, refuse_pickles

__all__ = ["collate", "decode_sample", "examples", "samples", "shard_urls"]

_SCHEME = "fsspec"
_AUDIO = ("waveform", "mel")
_Modalities = dict[str, Modality[Any]]
Handler = Callable[[Exception], bool]


def shard_urls(folder: str) -> list[str]:
    """URLs of the shards of a data set, in the order of its manifest; webdataset opens them where this is imported.

    Args:
        folder: local, or any address of fsspec.

    Raises:
        UsageError: the folder does not exist or is unfinished.
        CommandFailed: a remote folder does not answer.
    """
    opened = open_folder(folder)
    address = opened.path.absolute() if isinstance(opened, LocalFolder) else opened
    return [f"{_SCHEME}:{address}/{shard['name']}.tar" for shard in manifest_shards(opened) if shard["clips"]]


def samples(
    folder: str, *, shuffle_clips: int = 0, seed: int = 0, handler: Handler = wds.reraise_exception
) -> wds.WebDataset:
    """The clips of a data set as stock samples: `__key__`, `__url__`, and bytes by extension (`json`, `0.jpg`, `flac`).

    Args:
        folder: of the shards: local, or any address of fsspec.
        shuffle_clips: size of the buffer that clips are drawn from; above 0, shards are shuffled too.
        seed: of the shuffling. Each pass over the data gets another order; where workers end with each pass, it repeats
            (`persistent_workers=True` keeps them).
        handler: called with each exception; returns whether to skip the clip (or shard) and continue, as
            `webdataset.warn_and_continue` does.

    Raises:
        UsageError: the folder does not exist or is unfinished. While iterating, ValueError: a member may be a pickle,
            or a process has no shard because there are fewer shards than processes times workers.
        CommandFailed: a remote folder does not answer, or a shard is missing.
    """
    urls = shard_urls(folder)
    if not urls:
        raise UsageError(f"{folder} has no clips")
    dataset = wds.WebDataset(
        urls,
        shardshuffle=len(urls) if shuffle_clips else False,
        detshuffle=True,
        seed=seed,
        nodesplitter=wds.split_by_node,
        workersplitter=wds.split_by_worker,
        handler=handler,
    )
    if shuffle_clips:
        dataset = dataset.compose(wds.detshuffle(shuffle_clips, initial=shuffle_clips, seed=seed))
    return dataset.map(refuse_pickles, handler=handler)


def examples(
    folder: str,
    spec: ExampleSpec,
    *,
    augment: AugmentConfig | None = None,
    modalities: Sequence[str] = ("frames", "waveform"),
    keys: MemberKeys | None = None,
    shuffle_clips: int = 0,
    seed: int = 0,
    handler: Handler = wds.reraise_exception,
) -> wds.WebDataset:
    """The clips of a data set as `Example`s; `.batched(size, collation_fn=collate)` stacks them into `HostBatch`es.

    Args:
        folder: of the shards: local, or any address of fsspec.
        spec: image size, number of audio samples, sample rate.
        augment: None: the transform of evaluation, on the middle frame of each clip. Settings: the augmentations of
            training, on a random frame; audio is spliced and images are mixed with earlier clips of the same worker.
            Random numbers come from torch's default generator, which DataLoader seeds in each worker.
        modalities: names of the stored modalities to read: `frames`, `waveform` or `mel` (log-mel in its place), and
            further ones.
        keys: extensions of image and audio members, for third-party shards.
        shuffle_clips, seed, handler: as in `samples`. The handler also gets UnreadableClip.

    Raises:
        UsageError, CommandFailed: as in `samples`. While iterating, UnreadableClip: a clip is damaged or too short.
    """
    known: dict[str, type[Modality[Any]]] = {modality.name: modality for modality in MODALITIES}
    if unknown := {*modalities} - known.keys():
        raise UsageError(f"modalities={sorted(unknown)}: allowed are {', '.join(known)}")
    if "frames" not in modalities or len({*_AUDIO} & {*modalities}) != 1:
        raise UsageError(f"modalities={list(modalities)}: must have frames, and either waveform or mel")
    read = {name: known[name](spec, augment) for name in known if name in modalities}
    dataset = samples(folder, shuffle_clips=shuffle_clips, seed=seed, handler=handler)
    if augment is None:
        return dataset.map(_EvaluationExample(read, keys), handler)
    return dataset.compose(_TrainingExamples(read, keys, handler))


class _EvaluationExample:
    """Makes an example of a sample without randomness: its middle frame and its audio."""

    def __init__(self, modalities: _Modalities, keys: MemberKeys | None) -> None:
        self._modalities, self._keys = modalities, keys

    def __call__(self, sample: Sample) -> Example:
        clip = SampleClip(sample, self._keys)
        values = {name: modality.decode(clip) for name, modality in self._modalities.items()}
        middle = len(values["frames"]) // 2
        return _example(clip, {name: self._modalities[name].evaluate(value, middle) for name, value in values.items()})


class _TrainingExamples:
    """A pipeline stage that augments; it mixes in some of the last clips, in random order."""

    def __init__(self, modalities: _Modalities, keys: MemberKeys | None, handler: Handler) -> None:
        self._modalities, self._keys, self._handler = modalities, keys, handler

    def __call__(self, samples: Iterable[Sample]) -> Iterator[Example]:
        rank, _, worker, _ = wds.utils.pytorch_worker_info()
        rng = np.random.default_rng([int(torch.randint(2**63 - 1, ())), rank, worker])
        earlier: deque[SampleClip] = deque(maxlen=NUM_MIX_CANDIDATES)
        for sample in samples:
            clip = SampleClip(sample, self._keys)
            try:
                yield self._example(clip, [earlier[number] for number in rng.permutation(len(earlier))], rng)
            except UnreadableClip as error:
                if not self._handler(error):
                    return
            else:
                earlier.append(clip)

    def _example(self, clip: SampleClip, partners: Sequence[SampleClip], rng: np.random.Generator) -> Example:
        values = {name: modality.decode(clip) for name, modality in self._modalities.items()}
        for name, value in values.items():
            self._modalities[name].check(value, clip)
        context = TrainingContext(rng, iter(partners), Counter())
        return _example(clip, {name: self._modalities[name].train(value, context) for name, value in values.items()})


def _example(clip: SampleClip, fields: dict[str, Fields]) -> Example:
    return Example(fields, 0, clip.id)


class _ClosingReader:
    """A file that is closed with its last reference, because webdataset does not close what it has read."""

    def __init__(self, file: BinaryIO) -> None:
        self.read = file.read
        weakref.finalize(self, file.close)


def _open_shard(url: str, _mode: str = "rb", _bufsize: int = 0) -> _ClosingReader:
    """Open a URL of `shard_urls`; webdataset calls it for its scheme."""
    address, _, name = url.removeprefix(f"{_SCHEME}:").rpartition("/")
    folder = open_folder(address)

    def attempt() -> BinaryIO:
        try:
            return folder.open(name)
        except FileNotFoundError:  # fsspec also raises it for other answers of web servers
            raise CommandFailed(f"{address}/{name}: the shard does not exist, or the server failed") from None

    is_local = isinstance(folder, LocalFolder)
    return _ClosingReader(attempt() if is_local else remote_retry.retried(attempt, remote_retry.SHORT_RETRY))


wds.gopen_schemes[_SCHEME] = _open_shard
