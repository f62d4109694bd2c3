"""Before the work: which media are missing, and what the whole will take. Folders are listed once; files are not opened, but for a dry run's sample."""

from __future__ import annotations

import os
import random
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from configs.errors import UsageError
from configs.schema import BuildConfig, SourceConfig
from pipelines.build.decode_worker import DecodingProcess
from pipelines.manifest import Clip, Rejected, RejectedClip, check

_SAMPLE = 24  # clips a dry run decodes
_SIZES = 1000  # files whose size it looks at


class MediaCheck:
    """Counts rows as they pass, and those whose media are not there. Memory: the names of the files in the folders of the media."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._names: dict[str, frozenset[str]] = {}
        self.rows = self.clips = self.missing = 0
        self.first_missing = ""

    def count(self, rows: Iterable[Clip | Rejected]) -> Iterator[Clip | Rejected]:
        """Pass rows on."""
        for row in rows:
            self.rows += 1
            if isinstance(row, Clip):
                self.clips += 1
                if not self._is_there(row.media) or (row.image and not self._is_there(row.image)):
                    self.missing += 1
                    self.first_missing = self.first_missing or (row.image if self._is_there(row.media) else row.media)
            yield row

    def print_missing(self, source: SourceConfig) -> None:
        """Say on stderr how many media are missing.

        Raises:
            UsageError: those of all clips are.
        """
        if self.missing:
            share = f"{self.missing} of {self.rows} rows ({100 * self.missing / self.rows:.1f} %) have no media file, the first is {self.first_missing!r}"
            if self.missing == self.clips:
                raise UsageError(
                    f"source.root={source.root}: {share}; is source.media={source.media!r} right? pipelines/sources/{source.kind}.py has the layout"
                )
            print(f"missing: {share}", file=sys.stderr)

    def _is_there(self, path: str) -> bool:
        folder, _, name = path.rpartition("/")
        names = self._names.get(folder)
        if names is None:
            names = self._names[folder] = self._list(folder)
        return name in names

    def _list(self, folder: str) -> frozenset[str]:
        if folder.startswith("/") or ".." in folder.split(
            "/"
        ):  # such rows are turned away; nothing outside the root is looked at
            return frozenset()
        try:
            return frozenset(os.listdir(f"{self._root}/{folder}"))  # noqa: PTH208 - names, not paths: millions of them
        except (OSError, ValueError):
            return frozenset()


def require_media(rows: Iterable[Clip | Rejected], root: Path) -> None:
    """See that a disk is there, by the first media file that is.

    Raises:
        UsageError: there is none.
    """
    if not any(isinstance(row, Clip) and (root / row.media).exists() for row in rows):
        raise UsageError(f"source.root={root}: no media file of any row is there; is the disk mounted on this machine?")


def print_dry_run(config: BuildConfig, media_check: MediaCheck, rows: Iterable[Clip | Rejected]) -> int:
    """Say what the build would read, write and cost, from a random sample of clips that is really decoded; nothing is written.

    Returns:
        The exit code.
    """
    draw = random.Random(config.seed)
    sampled: list[Clip] = []
    clips = 0
    for row in rows:
        if isinstance(row, Clip) and isinstance(check(row), Clip):
            clips += 1
            at = len(sampled) if len(sampled) < _SIZES else draw.randrange(clips)  # every row has the same chance
            if at < _SIZES:
                sampled[at : at + 1] = [row]
    if not sampled:
        raise UsageError(
            f"source.root={config.source.root!r} has no usable row among {media_check.rows} of split {config.source.split!r}"
        )
    draw.shuffle(sampled)
    root = Path(config.source.root)
    sizes = [sum(_size(root / name) for name in (clip.media, clip.image) if name) for clip in sampled]
    process = DecodingProcess(root, config.decode)
    written, out_bytes, tried, reasons = 0, 0, 0, Counter()
    with_media = [clip for clip, size in zip(sampled, sizes, strict=True) if size]
    process.warm_up()
    began_s = time.perf_counter()
    try:
        for clip in with_media[:_SAMPLE]:
            tried += 1
            try:
                out_bytes += sum(map(len, process.encode(clip).values()))
                written += 1
            except RejectedClip as error:
                reasons[error.reason] += 1
    finally:
        process.stop()
    seconds = time.perf_counter() - began_s
    why = f" ({', '.join(f'{n} {reason}' for reason, n in sorted(reasons.items()))})" if reasons else ""
    there = clips * len(with_media) / len(sampled)
    print(f"{'rows':<14}{media_check.rows:>12}")
    print(f"{'missing':<14}{media_check.missing:>12}   {100 * media_check.missing / media_check.rows:.1f} %")
    print(f"{'reads':<14}{_format_bytes(clips * sum(sizes) / len(sizes))}, about")
    if tried:
        print(
            f"{'writes':<14}{_format_bytes(there * out_bytes / tried)}, about, in {-(-media_check.rows // config.clips_per_shard)} shards"
        )
        print(
            f"{'clips':<14}{round(there * written / tried):>12}   about; of {tried} tried {written} could be used{why}"
        )
        print(
            f"{'core hours':<14}{there * seconds / tried / 3600:>12.3g}   about, with decode.mode={config.decode.mode}"
        )
    return 0


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:  # a name too long, a folder that may not be read
        return 0


def _format_bytes(size_bytes: float) -> str:
    return f"{size_bytes / 1e9:>12.1f}   GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:>12.3f}   MB"
