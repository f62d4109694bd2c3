"""Checks before a build: missing media, and a dry run that estimates size and cost. Only a dry run opens media."""

import functools
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
from pipelines.build.duration_check import warn_of_durations
from pipelines.download.ledger import has_ledger, read_missing
from pipelines.manifest import Clip, Rejected, RejectedClip, check, with_existing_media

_DECODED_CLIPS = 24  # clips that a dry run decodes
_SAMPLED_CLIPS = 1000  # clips whose file sizes it reads


class MediaCheck:
    """Counts rows, and clips whose media are missing. Lists each folder once and holds its file names in memory.

    Attributes:
        rows, clips: number of all rows, and of those that are clips.
        missing: number of clips without their media or image file.
        first_missing: path of the first missing file.
        missing_by_status: number of missing clips by their status in the ledgers of pipelines.download, or never_tried;
            empty without a ledger.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._names = functools.cache(self._list)
        self.rows = self.clips = self.missing = 0
        self.first_missing = ""
        self.missing_by_status: Counter[str] = Counter()

    def count(self, rows: Iterable[Clip | Rejected]) -> Iterator[Clip | Rejected]:
        """Yield rows unchanged while counting them."""
        ledger = read_missing(self._root) if has_ledger(self._root) else None
        for row in rows:
            self.rows += 1
            if isinstance(row, Clip):
                self.clips += 1
                has_media = self._exists(row.media) or any(map(self._exists, row.alternatives))
                if not has_media or (row.image and not self._exists(row.image)):
                    self.missing += 1
                    if ledger is not None:
                        self.missing_by_status[ledger.get(row.id, "never_tried")] += 1
                    self.first_missing = self.first_missing or (row.image if has_media else row.media)
            yield row

    def print_missing(self, source: SourceConfig) -> None:
        """Print the number of missing media to stderr.

        Raises:
            UsageError: the media of all clips are missing.
        """
        if self.missing:
            count = (
                f"{self.missing} of {self.rows} rows ({100 * self.missing / self.rows:.1f} %) have no media file, "
                f"the first is {self.first_missing!r}"
            )
            if self.missing == self.clips:
                raise UsageError(
                    f"source.root={source.root}: {count}; is source.media={source.media!r} correct? "
                    f"pipelines/sources/{source.kind}.py describes the layout{self._downloads(source)}"
                )
            print(f"missing: {count}{self._downloads(source)}", file=sys.stderr)

    def _downloads(self, source: SourceConfig) -> str:
        """What the ledger says about the missing clips; "" without one."""
        if not (found := self.missing_by_status):
            return ""
        left = found["retry"] + found["never_tried"]
        command = (
            f"; to download them: python -m pipelines.download config=configs/download/{source.kind}.yaml "
            f"source.root={source.root} source.split={source.split}"
        )
        return (
            f"; {found['gone']} of them are gone, {found['not_here']} not available here, {found['retry']} to be "
            f"tried again, {found['never_tried']} were never tried{command if left else ''}"
        )

    def _exists(self, path: str) -> bool:
        folder, _, name = path.rpartition("/")
        return name in self._names(folder)

    def _list(self, folder: str) -> frozenset[str]:
        if folder.startswith("/") or ".." in folder.split("/"):  # such rows are rejected; never list outside the root
            return frozenset()
        try:
            return frozenset(os.listdir(f"{self._root}/{folder}"))  # noqa: PTH208 - names, not paths: millions of them
        except (OSError, ValueError):
            return frozenset()


def print_idle_processes(config: BuildConfig, rows: int, shards: int) -> None:
    """Print to stderr if there are fewer shards than processes, each of which builds one shard at a time.

    Args:
        config: settings of the build; `processes` on a Ray cluster is known only if it is set.
        rows: number of rows.
        shards: number of shards.
    """
    is_slice = config.executor == "slice"
    workers, what = config.processes, "processes"
    if is_slice:
        workers, what = int(config.slice.rpartition("/")[2]), "slices"
    elif config.executor == "local":
        workers = workers or len(os.sched_getaffinity(0))
    if shards < min(workers, rows):
        print(
            f"{what}: only {shards} of {workers} have work, because clips_per_shard={config.clips_per_shard} divides "
            f"{rows} rows into {shards} shards; clips_per_shard={-(-rows // workers)} would use all",
            file=sys.stderr,
        )


def require_media(rows: Iterable[Clip | Rejected], root: Path) -> None:
    """Check that the disk is mounted: at least one media file exists.

    Raises:
        UsageError: no media file exists.
    """
    if not any(isinstance(row, Clip) and (root / with_existing_media(row, root).media).exists() for row in rows):
        raise UsageError(f"source.root={root}: no media file of any row exists; is the disk mounted on this machine?")


def print_dry_run(config: BuildConfig, media_check: MediaCheck, rows: Iterable[Clip | Rejected]) -> int:
    """Estimate what the build would read, write and cost by decoding a random sample of clips; writes nothing.

    Returns:
        The exit code.
    """
    rng = random.Random(config.seed)
    sampled: list[Clip] = []
    clips = 0
    for row in rows:
        if isinstance(row, Clip) and isinstance(check(row), Clip):
            clips += 1
            at = len(sampled) if len(sampled) < _SAMPLED_CLIPS else rng.randrange(clips)  # reservoir sampling
            if at < _SAMPLED_CLIPS:
                sampled[at : at + 1] = [row]
    if not sampled:
        raise UsageError(
            f"source.root={config.source.root!r} has no usable row "
            f"among {media_check.rows} of split {config.source.split!r}"
        )
    rng.shuffle(sampled)
    warn_of_durations(config, sampled)
    root = Path(config.source.root)
    sampled = [with_existing_media(clip, root) for clip in sampled]
    sizes = [sum(_size(root / name) for name in (clip.media, clip.image) if name) for clip in sampled]
    process = DecodingProcess(root, config.decode)
    written = out_bytes = 0
    reasons = Counter[str]()
    with_media = [clip for clip, size in zip(sampled, sizes, strict=True) if size]
    process.start()
    began_s = time.perf_counter()
    try:
        for clip in with_media[:_DECODED_CLIPS]:
            try:
                out_bytes += sum(map(len, process.encode(clip).values()))
                written += 1
            except RejectedClip as error:
                reasons[error.reason] += 1
    finally:
        process.stop()
    seconds = time.perf_counter() - began_s
    rejected = f" ({', '.join(f'{n} {reason}' for reason, n in sorted(reasons.items()))})" if reasons else ""
    decoded = written + reasons.total()
    shards = -(-media_check.rows // config.clips_per_shard)
    print(f"{'rows':<14}{media_check.rows:>12}")
    print(f"{'missing':<14}{media_check.missing:>12}   {100 * media_check.missing / media_check.rows:.1f} %")
    print(f"{'reads':<14}{_format_bytes(clips * sum(sizes) / len(sizes))} (estimate)")
    if decoded:
        per_clip = clips * len(with_media) / len(sampled) / decoded
        print(f"{'writes':<14}{_format_bytes(per_clip * out_bytes)} (estimate), in {shards} shards")
        print(f"{'clips':<14}{round(per_clip * written):>12}   (estimate): {written} of {decoded} decoded{rejected}")
        print(f"{'core hours':<14}{per_clip * seconds / 3600:>12.3g}   (estimate), decode.mode={config.decode.mode}")
    return 0


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:  # the name is too long, or the folder may not be read
        return 0


def _format_bytes(size_bytes: float) -> str:
    return f"{size_bytes / 1e9:>12.1f}   GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:>12.3f}   MB"
