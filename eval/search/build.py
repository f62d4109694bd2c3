"""Adds clips of shards or files to an index.

Batches are added whole, and clips whose ids the index has are skipped, so that an interrupted build continues where it
was. The codebook of the first stage is fitted on the first clips; at the end it is fitted anew, and the vectors of all
clips computed from their stored features, if the sounds of one source are much less like its words than the fitted ones
(see _needs_new_codebook).
"""

import contextlib
import itertools
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from tqdm import tqdm

from configs.atomic_write import folder_lock
from configs.errors import UsageError
from eval.search.clips import Clips, ModelInput, open_clips
from eval.search.codebook import WORDS, Codebook, FirstStage, audio_steps, fit_codebook, strong_cells
from eval.search.compression import Layout, restore_audio, restore_image
from eval.search.encode import add_vectors, encode_clips, hash_model, layout_of
from eval.search.lance_store import LanceStore, read_settings
from eval.search.store import IndexedClip, IndexSettings
from model.denseav import DenseAV

# About 25 MB of dense features for the published architecture.
COMMIT_CLIPS = 256
# Clips of each source that a codebook is checked with and fitted on.
SAMPLED_CLIPS = 1000
# A codebook is fitted anew when the mean cosine with the nearest word is this much lower than when it was fitted.
COVERAGE_LOSS = 0.02
T = TypeVar("T")


def build_index(address: str, data: str, checkpoint: str, model: DenseAV, batch_size: int) -> tuple[int, int]:
    """Add the clips of shards or of a folder of files to an index, which is created if there is none.

    Returns:
        Number of clips added, and of all clips in the index.

    Raises:
        UsageError: nothing to add, another model than that of the index, or another process writes the index.
        CommandFailed: the storage fails.
    """
    with lock_index(address):
        settings = read_settings(address)
        if settings is not None:
            check_model(settings, model, address, checkpoint)
        clips = open_clips(data, model.inputs)
        builder = _Builder(address, settings, model, checkpoint)
        known = set(builder.store.describe().sources) if builder.store else set[str]()
        with tqdm(total=clips.total, desc="indexing", unit=clips.unit, dynamic_ncols=True) as bar:
            for batch in _batches(_decoded(clips, known, bar), batch_size):
                builder.add(batch)
        added = builder.finish()
        if report := clips.report():
            print(f"warning: {report}", file=sys.stderr)
        if builder.store is None:
            raise UsageError(f"build={data}: none of its {clips.total} {clips.unit}s can be read, so there is no index")
        return added, len(builder.store.describe().sources)


def check_model(settings: IndexSettings, model: DenseAV, address: str, checkpoint: str) -> None:
    """Raises UsageError: the index was built with another model or for other input sizes."""
    if settings.inputs != tuple(model.inputs):
        raise UsageError(
            f"checkpoint={checkpoint} takes inputs of (px, s, Hz) {tuple(model.inputs)}, but index={address} was built "
            f"with {settings.inputs}; use checkpoint={settings.checkpoint} or another index"
        )
    if settings.model_hash != hash_model(model):
        raise UsageError(
            f"checkpoint={checkpoint} is not the model that index={address} was built with "
            f"(checkpoint={settings.checkpoint} at that time); use that one or another index"
        )


@contextlib.contextmanager
def lock_index(address: str) -> Iterator[None]:
    """Create a local folder if needed and hold its lock; object stores have none.

    Raises:
        UsageError: another process writes the index.
    """
    if "://" in address:
        yield
        return
    folder = Path(address)
    read_settings(address)  # a folder of something else is refused before anything is written
    folder.mkdir(parents=True, exist_ok=True)
    with folder_lock(folder, key="index"):
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                folder.rmdir()  # still empty


class _Builder:
    """Encodes clips and adds them in batches of COMMIT_CLIPS; creates the index with the first batch."""

    def __init__(self, address: str, settings: IndexSettings | None, model: DenseAV, checkpoint: str) -> None:
        self.address, self.model, self.checkpoint = address, model, checkpoint
        self.store = None if settings is None else LanceStore(address, settings)
        self._layout = layout_of(model) if settings is None else settings.layout
        self._pending: list[IndexedClip] = []
        self._added = 0

    def add(self, clips: Sequence[ModelInput]) -> None:
        """Encode clips and write them when there are enough."""
        self._pending += encode_clips(self.model, clips, self._layout)
        if len(self._pending) >= COMMIT_CLIPS:
            self._write()

    def finish(self) -> int:
        """Write the remaining clips, fit the codebook anew if needed, and return the number of added clips."""
        self._write()
        if self.store is not None and self._added:
            if _needs_new_codebook(self.store):
                self.store = fit_anew(self.store, self.model)
            self.store.optimize()
        return self._added

    def _write(self) -> None:
        if not self._pending:
            return
        if self.store is None:
            codebook = _fit(self._pending, self._layout)
            self.store = LanceStore.create(self.address, self._settings(codebook))
        stage = first_stage(self.store.settings, self.model)
        self.store.add(add_vectors(self._pending, stage, self._layout))
        self._added += len(self._pending)
        self._pending = []

    def _settings(self, codebook: Codebook) -> IndexSettings:
        is_path = Path(self.checkpoint).exists()  # else a published name
        checkpoint = str(Path(self.checkpoint).absolute()) if is_path else self.checkpoint
        return IndexSettings(
            hash_model(self.model), checkpoint, tuple(self.model.inputs), self._layout,
            codebook.words.numpy(), codebook.coverage,
        )  # fmt: skip


def first_stage(settings: IndexSettings, model: DenseAV) -> FirstStage:
    """The first stage of an index."""
    codebook = Codebook(torch.from_numpy(settings.words.copy()), settings.coverage)
    return FirstStage(codebook, model.similarity_config)


def fit_anew(store: LanceStore, model: DenseAV) -> LanceStore:
    """Fit the codebook on a sample of all clips and compute the vectors of all clips from their stored features."""
    settings = store.settings
    sample = [clip for clips in _samples(store).values() for clip in clips]
    codebook = _fit(sample, settings.layout)
    new = replace(
        settings, words=codebook.words.numpy(), coverage=codebook.coverage, generation=settings.generation + 1
    )
    target, stage = LanceStore(store.address, new), first_stage(new, model)
    ids = list(store.describe().sources)
    with tqdm(total=len(ids), desc="fitting the first stage anew", unit="clip", dynamic_ncols=True) as bar:
        for batch in _batches(ids, COMMIT_CLIPS):
            target.add(add_vectors(store.dense(batch), stage, settings.layout))
            bar.update(len(batch))
    return target.activate(new)


def _needs_new_codebook(store: LanceStore) -> bool:
    """Whether the sounds of one source are less like the words than those that the codebook was fitted on."""
    codebook = Codebook(torch.from_numpy(store.settings.words.copy()), store.settings.coverage)
    for clips in _samples(store).values():
        audio = restore_audio([clip.audio for clip in clips if clip.audio], store.settings.layout)
        if codebook.measure_coverage(audio_steps(audio)) < codebook.coverage - COVERAGE_LOSS:
            return True
    return False


def _samples(store: LanceStore) -> dict[str, list[IndexedClip]]:
    """Some clips of each source, by source: at most SAMPLED_CLIPS, fewer of many sources."""
    by_source = defaultdict[str, list[str]](list)
    for id, source in store.describe().sources.items():
        by_source[source].append(id)
    random, size = np.random.default_rng(0), max(50, min(SAMPLED_CLIPS, 4 * SAMPLED_CLIPS // max(1, len(by_source))))
    return {
        source: store.dense([ids[n] for n in random.permutation(len(ids))[:size]]) for source, ids in by_source.items()
    }


def _fit(clips: Sequence[IndexedClip], layout: Layout) -> Codebook:
    """A codebook of the sounds of clips or, if they have none, of their strongest image cells.

    Words that few vectors leave unused are 0, so that every codebook of an index has the same size.
    """
    sounds, pictures = [clip.audio for clip in clips if clip.audio], [clip.image for clip in clips if clip.image]
    codebook = fit_codebook(
        audio_steps(restore_audio(sounds, layout))
        if sounds
        else strong_cells(restore_image(pictures[:SAMPLED_CLIPS], layout))
    )
    missing = WORDS - len(codebook.words)
    codebook.words = torch.cat([codebook.words, codebook.words.new_zeros(missing, *codebook.words.shape[1:])])
    return codebook


def _decoded(clips: Clips, known: set[str], bar: tqdm) -> Iterator[ModelInput]:
    """The clips that are to be added; the bar counts the others too."""
    for clip in clips.read(known):
        if clip is None:
            bar.update()
        else:
            yield clip


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch
