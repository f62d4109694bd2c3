"""Download the media of a data set below source.root: its tables and archives, then the clips of its videos.

    python -m pipelines.download config=configs/download/audioset.yaml source.root=data/audioset source.split=eval

Needs the extra `download` (yt-dlp). Clips are cut exactly to their segments and stored where `pipelines.build` looks
for them with source.media_is_cut=true. Run the same command again after an interruption: finished files and clips are
kept, and ROOT/download.jsonl records which clips are gone or not available here. Several machines, each with an address
of its own, divide the clips with slice=I/N. A bot check, a rate limit, a missing JavaScript runtime or a full disk stop
the command and are never recorded as missing clips.

Exit code 0: everything is there, gone or not available here; 1: stopped, or something is left: run it again.
"""

import importlib.util
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path

from configs.cli import run
from configs.errors import CommandFailed, UsageError
from configs.schema import DownloadConfig
from pipelines.download.files import is_present, missing_by_hand, wanted_files
from pipelines.download.interrupt import Interrupted, Interrupts
from pipelines.download.javascript import require_javascript
from pipelines.download.ledger import STATUSES, Ledger, ledger_path, read_ledger
from pipelines.download.listing import Listing, Slice, adopt_into, check_url, parse_slice
from pipelines.download.lock import lock_file
from pipelines.download.rate_limit import RateLimit, format_duration


def main(config: DownloadConfig) -> int:
    """Download what is missing and print a summary; returns the exit code."""
    own = _validate(config)
    root = Path(config.source.root)
    if config.terms:
        print(f"terms: {' '.join(config.terms.split())}", flush=True)
    if config.dry_run:
        return _dry_run(config, own)
    root.mkdir(parents=True, exist_ok=True)
    path = ledger_path(root, *own)
    try:
        with Interrupts() as interrupts, lock_file(root / f".{path.stem}.lock"), Ledger(path) as ledger:
            return _download(config, own, ledger, interrupts)
    except Interrupted as error:
        if error.number == signal.SIGINT:
            raise KeyboardInterrupt from None
        raise CommandFailed(f"stopped by {error}; run the same command again") from None


def _download(config: DownloadConfig, own: Slice, ledger: Ledger, interrupts: Interrupts) -> int:
    root = Path(config.source.root)
    if wanted_files(config):
        from pipelines.download.file_downloads import FileDownloads

        with lock_file(root / ".download-files.lock", wait=True):
            files = FileDownloads(config, ledger).run()
        print(f"{root}: files complete: {len(wanted_files(config))}, new: {files}", flush=True)
    by_hand = _print_by_hand(config)
    if not config.url:
        return 1 if by_hand else 0
    listing = Listing(config, own, ledger.entries)
    listing.survey(adopt_into(ledger, root))
    left = 0
    if total := _print_survey(config, listing.counts):
        require_javascript(config.url)
        left = _download_clips(config, listing, ledger, interrupts, total)
    if config.frame_and_audio:
        _write_frames_and_audio(root, listing)
    return 1 if left or by_hand else 0


def _download_clips(
    config: DownloadConfig, listing: Listing, ledger: Ledger, interrupts: Interrupts, total: int
) -> int:
    """Download the clips that are missing; returns how many are to be tried again."""
    from pipelines.download.clip_download import MUXERS, ClipDownloader, scratch_folder
    from pipelines.download.clips import ClipRun
    from pipelines.download.ffmpeg_path import Ffmpeg

    root = Path(config.source.root)
    suffix = Path(next(listing.to_download()).media).suffix
    if suffix not in MUXERS:
        raise UsageError(f"source.media={config.source.media!r} must end in one of {', '.join(MUXERS)}")
    own = parse_slice(config.slice)
    with (
        tempfile.TemporaryDirectory() as tools,
        scratch_folder(root, f".download-{own.part}-of-{own.parts}") as scratch,
        ClipDownloader(config, scratch, MUXERS[suffix], Ffmpeg(Path(tools))) as downloader,
    ):
        clips = ClipRun(config, ledger, downloader, RateLimit(config.clips_per_hour), interrupts)
        try:
            clips.run(listing, total)
        finally:
            _print_summary(clips.counts, total)
    if left := clips.counts["retry"]:
        print(f"to be tried again: {left:,}; run the same command again", file=sys.stderr)
    return left


def _write_frames_and_audio(root: Path, listing: Listing) -> None:
    from tqdm import tqdm

    from pipelines.download.frame_and_audio import write_frames_and_audio

    failed = write_frames_and_audio(root, tqdm(listing.present(), desc="frames and audio", unit="clip", delay=1))
    if failed:
        print(f"clips without a usable frame or audio: {failed:,}", file=sys.stderr)


def _print_by_hand(config: DownloadConfig) -> int:
    """Print what has to be fetched by hand, and return its number."""
    lines = missing_by_hand(config)
    for line in lines:
        print(line, file=sys.stderr)
    return len(lines)


def _print_survey(config: DownloadConfig, counts: Counter[str]) -> int:
    """Print what is there and what is left, and how long it takes; returns the number of clips to download."""
    to_download = counts["new"] + counts["retry"]
    listed = sum(counts[state] for state in ("present", "gone", "not_here", "retry", "new"))
    print(
        f"clips listed: {listed:,}; present: {counts['present']:,}; gone: {counts['gone']:,}; "
        f"not available here: {counts['not_here']:,}; to download: {to_download:,} ({counts['retry']:,} tried before)",
        flush=True,  # a log must show it before the work begins
    )
    for key, what in (("bad_row", "invalid rows, skipped"), ("not_listed", "ids of include= without a row")):
        if counts[key]:
            print(f"{what}: {counts[key]:,}", file=sys.stderr)
    if to_download and config.clips_per_hour:
        print(
            f"{to_download:,} clips at {config.clips_per_hour:g} an hour: "
            f"{format_duration(to_download, config.clips_per_hour)}; slice=I/N on N machines with addresses of their "
            "own divides it",
            flush=True,
        )
    return to_download


def _print_summary(counts: Counter[str], total: int) -> None:
    for status in STATUSES:
        print(f"{status:<10}{counts[status]:>10,}")
    if left := total - counts.total():
        print(f"{'not tried':<10}{left:>10,}")


def _dry_run(config: DownloadConfig, own: Slice) -> int:
    root = Path(config.source.root)
    entries = read_ledger(root)
    for file, path in wanted_files(config):
        state = "present" if is_present(root, file, path, entries) else f"to download from {file.url}"
        print(f"{root / path}: {state}")
    _print_by_hand(config)
    tables = [path for _, path in wanted_files(config) if not (root / path).exists()]
    if config.url and tables:
        print(f"the clips are counted when {', '.join(tables)} {'is' if len(tables) == 1 else 'are'} there")
    elif config.url:
        listing = Listing(config, own, entries)
        listing.survey(lambda _, __: None)
        _print_survey(config, listing.counts)
    return 0


def _validate(config: DownloadConfig) -> Slice:
    """Check the settings; returns the slice."""
    if not config.source.root:
        raise UsageError("source.root= is empty: set the folder of the data set, for example source.root=data/audioset")
    if not (config.files or config.by_hand or config.url):
        raise UsageError("nothing to download: set config=configs/download/NAME.yaml, or files= or url=")
    wanted_files(config)
    if config.proxy and not config.proxy.startswith(("http://", "https://")):
        raise UsageError(f"proxy={config.proxy!r} must start with http:// or https://; ffmpeg reads no others")
    if config.cookies and not _is_cookie_file(Path(config.cookies)):
        raise UsageError(
            f"cookies={config.cookies!r} is not a file of cookies in Netscape format; export one from your browser"
        )
    own = parse_slice(config.slice)
    if config.url:
        check_url(config.url)
        if config.source.kind not in ("audioset", "vggsound"):
            raise UsageError(
                f"url= needs a table of segments: source.kind=audioset or vggsound, not {config.source.kind}"
            )
    for package, is_needed in (("requests", config.files), ("yt_dlp", config.url)):
        if is_needed and not config.dry_run and importlib.util.find_spec(package) is None:
            raise UsageError(f"{package} is not installed: pip install '.[download]'")
    return own


def _is_cookie_file(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return b"HTTP Cookie File" in file.readline(100)


if __name__ == "__main__":
    sys.exit(run(DownloadConfig, __doc__, main))
