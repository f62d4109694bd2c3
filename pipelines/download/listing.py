"""Which clips are listed, which are there, and which are still to be downloaded."""

import dataclasses
import os
import string
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from configs.errors import UsageError
from configs.schema import DownloadConfig
from pipelines.download.ledger import Entry, Ledger, sha256_of
from pipelines.manifest import Clip, check
from pipelines.sources.filters import filtered
from pipelines.sources.registry import SOURCES

# Above this number, files that no ledger lists are taken over without their SHA-256, which would take hours.
_HASHED_FILES = 1000


class Slice(NamedTuple):
    """Part `part` of `parts`, counted from 0."""

    part: int
    parts: int

    def contains(self, row_id: str) -> bool:
        """Whether a clip belongs to this part: a function of its id, so that other filters change nothing."""
        return self.parts == 1 or zlib.crc32(row_id.encode()) % self.parts == self.part


def parse_slice(text: str) -> Slice:
    """The slice `I/N`, I counted from 0 or from 1; "" is everything.

    Raises:
        UsageError: not a slice.
    """
    if not text:
        return Slice(0, 1)
    part, _, parts = text.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 0 <= int(part) <= int(parts) > 0):
        raise UsageError(f"slice={text!r} must be I/N, for example 2/8 (I from 0 to N-1, or from 1 to N)")
    return Slice(int(part) % int(parts), int(parts))


def clip_url(template: str, clip_id: str) -> str:
    """The address of the video of a clip."""
    return template.format(ytid=clip_id.rpartition("_")[0], id=clip_id)


def check_url(template: str) -> None:
    """Raise UsageError if clips cannot have addresses of this template."""
    try:
        fields = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
    except ValueError:
        fields = {"?"}
    if not fields or not fields <= {"ytid", "id"} or not template.startswith(("http://", "https://")):
        raise UsageError(
            f"url={template!r} must be an address with {{ytid}} or {{id}}, for example "
            "https://www.youtube.com/watch?v={ytid}"
        )


class Listing:
    """The clips of a table that belong to this process, in the order of the table.

    Args:
        config: settings of the download.
        own: the part of the clips that belongs to this process.
        entries: those of all ledgers, updated while clips are downloaded.

    Attributes:
        counts: after `survey`: number of clips by `present`, gone, not_here, retry (tried before and to be tried
            again), new, and of rows by `bad_row`.
    """

    def __init__(self, config: DownloadConfig, own: Slice, entries: dict[str, Entry]) -> None:
        self._config, self._own, self._entries = config, own, entries
        self._root = Path(config.source.root)
        self._include = self._read_include()
        self._files: dict[str, set[str]] = {}
        self.counts: Counter[str] = Counter()

    def survey(self, adopt: Callable[[Clip, int], None]) -> None:
        """Count all clips by state.

        Args:
            adopt: called with each clip that is there without an entry in a ledger, and the size of its file.

        Raises:
            UsageError: no clip is listed, or two clips would be stored in the same file.
        """
        from tqdm import tqdm

        stored, found = set[int](), Counter[str]()
        self.counts.clear()
        for clip in tqdm(self._clips(self.counts, found), desc="clips listed", unit="clip", delay=1):
            if (name := hash(clip.media)) in stored:
                raise UsageError(
                    f"source.media={self._config.source.media!r} stores two clips in {clip.media!r}, the second is "
                    f"{clip.id}; add {{start_ms}} to the template"
                )
            stored.add(name)
            state, size_bytes = self._state(clip)
            if state == "adopt":
                adopt(clip, size_bytes)
                state = "present"
            self.counts[state] += 1
        if missing := len(self._include) - len(found):
            self.counts["not_listed"] = missing
        if not self.counts.total() - self.counts["bad_row"] - self.counts["not_listed"] and self._own.parts == 1:
            raise UsageError(
                f"source.root={self._config.source.root!r}: no clip of split {self._config.source.split!r} is listed "
                f"({self.counts['bad_row']} rows are invalid, {self.counts['not_listed']} ids of include have no row); "
                f"is the table that of source.kind={self._config.source.kind}?"
            )

    def to_download(self) -> Iterator[Clip]:
        """The clips that are neither there nor final: new ones, then those tried before, the least recent first.

        In this order, clips that always fail never keep a run from the others. The table is read again, so that new
        clips need no memory.
        """
        tried: list[tuple[str, Clip]] = []
        for clip in self._clips(Counter(), Counter()):
            state, _ = self._state(clip)
            if state == "new":
                yield clip
            elif state == "retry":
                tried.append((self._entries[clip.id].time, clip))
        yield from (clip for _, clip in sorted(tried, key=lambda pair: pair[0]))

    def present(self) -> Iterator[Clip]:
        """The clips whose files are there."""
        for clip in self._clips(Counter(), Counter()):
            if self._state(clip)[0] == "present":
                yield clip

    def _clips(self, counts: Counter[str], found: Counter[str]) -> Iterator[Clip]:
        # The times are those of the whole video, whatever the build makes of the files.
        source = dataclasses.replace(self._config.source, media_is_cut=False)
        self._files.clear()
        seen = set[int]()
        for row in filtered(SOURCES[source.kind](source), self._config.exclude, self._config.labels):
            clip = check(row) if isinstance(row, Clip) else row
            if not isinstance(clip, Clip):
                counts["bad_row"] += 1
                continue
            if self._include:
                names = self._include.intersection((clip.id, clip.id.rpartition("_")[0], Path(clip.media).stem))
                found.update(names)
                if not names:
                    continue
            key = hash(clip.id)
            if self._own.contains(clip.id) and key not in seen:
                seen.add(key)
                yield clip

    def _state(self, clip: Clip) -> tuple[str, int]:
        """present, adopt, gone, not_here, retry or new; and the size of the file."""
        entry, size_bytes = self._entries.get(clip.id), self._size(clip.media)
        if entry is None or entry.status != "done":
            if size_bytes > 0:
                return "adopt", size_bytes
            if entry is None:
                return "new", 0
            return "retry" if self._config.retry_gone else entry.status, 0
        return ("present" if size_bytes == entry.size_bytes else "new"), size_bytes

    def _size(self, media: str) -> int:
        """Size of a file, -1 if it does not exist; each folder is listed once in a pass."""
        folder, _, name = media.rpartition("/")
        if folder not in self._files:
            path = self._root / folder
            self._files[folder] = {*os.listdir(path)} if path.is_dir() else set()  # noqa: PTH208 - millions of names
        if name not in self._files[folder]:
            return -1
        try:
            return (self._root / media).stat().st_size
        except OSError:
            return -1

    def _read_include(self) -> frozenset[str]:
        names = set[str]()
        for file in self._config.include:
            try:
                lines = (self._root / file).read_text(encoding="utf-8-sig").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise UsageError(f"include={file}: cannot be read below {self._root} ({error})") from None
            names.update(line.partition(",")[0].strip(' "') for line in lines if not line.startswith("#"))
        return frozenset(name.removesuffix(".mp4") for name in names - {""})


def adopt_into(ledger: Ledger, root: Path) -> Callable[[Clip, int], None]:
    """Writes entries for clips that a killed process, or another program, finished without one."""
    adopted = 0

    def adopt(clip: Clip, size_bytes: int) -> None:
        nonlocal adopted
        adopted += 1
        sha256 = sha256_of(root / clip.media) if adopted <= _HASHED_FILES else ""
        ledger.add(clip.id, "done", "the file was there", size_bytes, sha256)

    return adopt
