"""Downloads the clips that are missing, one after the other, and records what became of each."""

import os
from collections import Counter
from pathlib import Path

from tqdm import tqdm

from configs.errors import CommandFailed, UsageError
from configs.schema import DownloadConfig
from pipelines.download.clip_download import ClipDownloader, Cut
from pipelines.download.interrupt import Interrupts
from pipelines.download.ledger import Ledger, sha256_of
from pipelines.download.listing import Listing, clip_url
from pipelines.download.outcomes import Verdict
from pipelines.download.rate_limit import RateLimit
from pipelines.manifest import Clip

MAX_FAILURES_IN_A_ROW = 20
# A site that blocks an address may call every video unavailable. By chance, 50 clips in a row are not gone.
MAX_GONE_IN_A_ROW = 50


class ClipRun:
    """One pass over the clips that are missing.

    Attributes:
        counts: number of clips by status so far.
    """

    def __init__(
        self,
        config: DownloadConfig,
        ledger: Ledger,
        downloader: ClipDownloader,
        rate: RateLimit,
        interrupts: Interrupts,
    ) -> None:
        self._config, self._ledger = config, ledger
        self._downloader, self._rate, self._interrupts = downloader, rate, interrupts
        self._root = Path(config.source.root)
        self._failed_in_a_row = self._gone_in_a_row = 0
        self.counts: Counter[str] = Counter()

    def run(self, listing: Listing, total: int) -> None:
        """Download all clips of a listing.

        Raises:
            CommandFailed: the site or this machine cannot be used now; the clip in question has no entry.
            UsageError: the address of the first clip is not that of a video site.
        """
        with tqdm(total=total, desc="clips", unit="clip", smoothing=0.05) as bar:
            for clip in listing.to_download():
                try:
                    self._one(clip)
                except OSError as error:
                    raise CommandFailed(
                        f"{error.strerror or error}: {error.filename or self._root}; the clips so far are complete: "
                        "free some space or choose another source.root, then run the same command again"
                    ) from None
                bar.update()
                bar.set_postfix(dict(self.counts), refresh=False)

    def _one(self, clip: Clip) -> None:
        url = clip_url(self._config.url, clip.id)
        cut = self._attempts(clip, url)
        if cut.path:
            self._store(clip, cut.path)
            self._failed_in_a_row = self._gone_in_a_row = 0
        elif cut.verdict:
            if cut.verdict.status == "stop":
                self._stop(clip, url, cut.verdict)
            self._record(clip, cut.verdict)
        if cut.warning:
            self._stop(clip, url, cut.warning)

    def _attempts(self, clip: Clip, url: str) -> Cut:
        """Try a clip until it is there, final, or has failed too often."""
        for attempt in range(1, self._config.retries + 1):
            self._rate.wait()
            cut = self._downloader.download(url, clip.start_s, clip.end_s)
            if cut.path or (cut.verdict and cut.verdict.status != "retry"):
                break
            if attempt < self._config.retries and not self._config.clips_per_hour:
                self._rate.pause(min(2.0**attempt / 4, 30.0))
        return cut

    def _store(self, clip: Clip, scratch_file: Path) -> None:
        """Move a finished clip to its place, then record it: a kill in between is repaired at the next start."""
        target = self._root / clip.media
        target.parent.mkdir(parents=True, exist_ok=True)
        size_bytes, sha256 = scratch_file.stat().st_size, sha256_of(scratch_file)
        with scratch_file.open("rb+") as file:
            os.fsync(file.fileno())
        with self._interrupts.delayed():
            scratch_file.replace(target)
            self._ledger.add(clip.id, "done", "", size_bytes, sha256)
            self.counts["done"] += 1

    def _record(self, clip: Clip, verdict: Verdict) -> None:
        with self._interrupts.delayed():
            self._ledger.add(clip.id, verdict.status, verdict.detail)
            self.counts[verdict.status] += 1
        is_final = verdict.status != "retry"
        self._gone_in_a_row = self._gone_in_a_row + 1 if is_final else 0
        self._failed_in_a_row = 0 if is_final else self._failed_in_a_row + 1
        if self._failed_in_a_row >= MAX_FAILURES_IN_A_ROW:
            raise CommandFailed(
                f"{self._failed_in_a_row} clips in a row failed, the last: {clip.id}: {verdict.detail}; check the "
                "network and update yt-dlp (pip install -U 'yt-dlp[default]'), then run the same command again"
            )
        if self._gone_in_a_row >= MAX_GONE_IN_A_ROW and not self._config.retry_gone:
            raise CommandFailed(
                f"{self._gone_in_a_row} clips in a row are gone or not available here, the last: {clip.id}: "
                f"{verdict.detail}; if they play in a browser, this address is blocked: run the same command again "
                "later with retry_gone=true, otherwise run it again as it is"
            )

    def _stop(self, clip: Clip, url: str, verdict: Verdict) -> None:
        text = f"stopped at {clip.id}: {verdict.detail}; {verdict.advice}"
        if verdict.detail.startswith("Unsupported URL") and not self.counts:
            raise UsageError(f"url={self._config.url!r}: {url} is not a video: {verdict.advice}")
        raise CommandFailed(f"{text}, then run the same command again")
