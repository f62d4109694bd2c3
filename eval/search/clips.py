"""Clips to index: of built shards, or of a folder of videos, sounds and pictures; decoded, not yet encoded.

A clip of shards has its middle frame and its audio. A file is cut into windows of the model's length (media.py); its
labels are those of a metadata.csv beside it (pipelines.sources.folder_metadata) or else the name of its folder.
"""

import hashlib
import os
import sys
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from configs.errors import UsageError
from eval.search.media import PICTURE_ENDINGS, SOUND_ENDINGS, Window, read_windows
from eval.search.store import ClipInfo
from model.inputs import InputSpec
from pipelines.sources.folder import ENDINGS as VIDEO_ENDINGS
from pipelines.sources.folder import safe_id
from pipelines.sources.folder_metadata import NAMES, Metadata, read_metadata
from pipelines.sources.linked_files import files_below
from pipelines.storage import LocalFolder, open_folder
from pipelines.stream.augment import pad_or_crop, resize_center_crop
from pipelines.stream.index import DatasetIndex
from pipelines.stream.reader import ClipReader, UnreadableClip

ENDINGS = (*VIDEO_ENDINGS, *SOUND_ENDINGS, *PICTURE_ENDINGS)
_NAMED_FILES = 5


class ModelInput(NamedTuple):
    """A clip in the sizes of the model's inputs.

    Attributes:
        info: what the index says about it.
        pixels: uint8 RGB, the short side resized and the center cropped; None without a picture.
        waveform: -1 to 1, cut or zero-padded; None without a sound.
        audio_mask: True = audio, False = padding.
    """

    info: ClipInfo
    pixels: UInt8[Tensor, "3 S_px S_px"] | None
    waveform: Float[np.ndarray, "S"] | None
    audio_mask: Bool[np.ndarray, "S"] | None


@runtime_checkable
class Clips(Protocol):
    """Clips to add to an index."""

    @property
    def total(self) -> int:
        """Number of clips, or of files."""

    @property
    def unit(self) -> str:
        """What `total` counts, for the progress bar."""

    def read(self, known: Collection[str]) -> Iterator[ModelInput | None]:
        """Decode the clips whose ids are not known; None after each that is known, unreadable or finished."""

    def report(self) -> str:
        """What could not be read, in one line; empty if everything could."""


def open_clips(address: str, inputs: InputSpec) -> Clips:
    """The clips of shards, if the folder has a manifest.json, or else of the media files below it.

    Raises:
        UsageError: neither, or shards that are damaged or have another sample rate.
    """
    folder = open_folder(address)
    if not isinstance(folder, LocalFolder) or (folder.path / "manifest.json").is_file():
        return ShardClips(address, inputs)
    return FileClips(folder.path, inputs)


class ShardClips:
    """Clips of built shards, in shard order, which is random.

    Raises:
        UsageError: not a complete data set, or one without waveforms at the model's rate.
    """

    unit = "clip"

    def __init__(self, address: str, inputs: InputSpec) -> None:
        self.index = DatasetIndex.open(address)
        self.reader = ClipReader(self.index, *inputs)
        self.reader.check_audio()
        self.address = address if "://" in address else os.path.abspath(address)  # noqa: PTH100 - keeps links
        self.total, self._unreadable = self.index.clips, Counter[str]()

    def read(self, known: Collection[str]) -> Iterator[ModelInput | None]:
        """See Clips."""
        for number in range(self.index.clips):
            try:
                meta = self.reader.metadata(number)
                id = f"{meta.get('source') or 'shards'}/{self.index.id(number)}"
                if id not in known:
                    yield self._decode(number, id, meta)
            except UnreadableClip as error:
                self._unreadable[error.reason] += 1
            yield None

    def report(self) -> str:
        """See Clips."""
        return ", ".join(f"{n} clips left out: {reason.replace('_', ' ')}" for reason, n in self._unreadable.items())

    def _decode(self, number: int, id: str, meta: dict[str, Any]) -> ModelInput:
        frame = len(self.reader.frame_names(number)) // 2
        spec = self.reader.spec
        waveform, mask = pad_or_crop(self.reader.waveform(number), spec.samples)
        pixels = resize_center_crop(self.reader.frame(number, frame), spec.image_size_px)
        start_s, end_s = (float(meta.get(key) or 0.0) for key in ("start_s", "end_s"))
        labels, text = tuple(map(str, meta.get("labels") or ())), str(meta.get("text") or "")
        source = str(meta.get("source") or "shards")
        info = ClipInfo(id, source, labels, text, self.address, number, frame, start_s, end_s)
        return ModelInput(info, pixels, waveform, mask)


class FileClips:
    """Windows of the media files below a folder, in a seeded random order.

    The id of a window is that of its file, with `@2of5` for the second of five. A file that changes keeps its id:
    delete its clips first to read it again.

    Raises:
        UsageError: there is no such folder, or none.
    """

    unit = "file"

    def __init__(self, root: Path, inputs: InputSpec) -> None:
        if not root.is_dir():
            raise UsageError(
                f"build={root}: no such folder; give built shards, or a folder of videos, sounds, pictures"
            )
        self.root, self.inputs = root.absolute(), inputs
        self._files: list[tuple[str, Metadata]] = []
        for prefix, names in files_below(root, ENDINGS, Counter()):
            listed: dict[str, Metadata] = {}
            for table in (root / prefix / name for name in NAMES if name in names):
                listed |= {prefix + name: metadata for name, metadata in read_metadata(table).items()}
            media = [prefix + name for name in names if name.lower().endswith(ENDINGS)]
            self._files += [(one, listed.get(one, Metadata((), ""))) for one in media]
        if not self._files:
            raise UsageError(f"build={root}: no shards (manifest.json) and no videos, sounds or pictures below it")
        order = np.random.default_rng(0).permutation(len(self._files))
        self._files = [self._files[n] for n in order]
        self.total, self._damaged = len(self._files), list[str]()

    def read(self, known: Collection[str]) -> Iterator[ModelInput | None]:
        """See Clips."""
        complete = _complete_files(known)
        for name, metadata in self._files:
            id = file_id(self.root, name)
            if id not in complete:
                try:
                    yield from self._decode(name, id, metadata, known)
                except UsageError as error:
                    self._damaged.append(str(error))
            yield None

    def report(self) -> str:
        """See Clips."""
        if not self._damaged:
            return ""
        more = f"; and {len(self._damaged) - _NAMED_FILES} more" if len(self._damaged) > _NAMED_FILES else ""
        return f"{len(self._damaged)} files left out: {'; '.join(self._damaged[:_NAMED_FILES])}{more}"

    def _decode(self, name: str, id: str, metadata: Metadata, known: Collection[str]) -> Iterator[ModelInput]:
        path = self.root / name
        folder = name.rpartition("/")[0].rpartition("/")[2]
        labels = metadata.labels or ((folder,) if folder else ())
        for window in read_windows(path, self.inputs):
            window_id = id if window.num_windows == 1 else f"{id}@{window.number + 1}of{window.num_windows}"
            if window_id in known or (window.frame is None and window.waveform is None):
                continue
            pixels = None
            if window.frame is not None:
                pixels = resize_center_crop(window.frame, self.inputs.image_size_px)
            waveform, mask = _padded(window, self.inputs)
            info = ClipInfo(
                window_id, self.root.name, labels, metadata.text, str(path), -1, round(1000 * window.frame_s),
                window.start_s, window.end_s,
            )  # fmt: skip
            yield ModelInput(info, pixels, waveform, mask)


def _complete_files(known: Collection[str]) -> set[str]:
    """Ids of the files of which every window is known."""
    found = Counter(id.rpartition("@")[0] + "@" + id.rpartition("of")[2] for id in known if "@" in id)
    files = {key.rpartition("@")[0] for key, n in found.items() if key.rpartition("@")[2] == str(n)}
    return files | {id for id in known if "@" not in id}


def file_id(root: Path, name: str) -> str:
    """Id of a file: its path below the root, and a hash of its full path."""
    digest = hashlib.sha256(os.fsencode(root / name)).hexdigest()[:8]
    return f"{safe_id(name).rpartition('-')[0]}-{digest}"


def _padded(window: Window, inputs: InputSpec) -> tuple[Float[np.ndarray, "S"] | None, Bool[np.ndarray, "S"] | None]:
    return (None, None) if window.waveform is None else pad_or_crop(window.waveform, inputs.samples)


def print_report(clips: Clips) -> None:
    """Print what could not be read."""
    if text := clips.report():
        print(text, file=sys.stderr)
