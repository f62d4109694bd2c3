"""Downloads one clip with yt-dlp: a format of a limited size, cut by ffmpeg exactly to the segment.

ffmpeg seeks in the video over HTTP and encodes the segment again, so that it begins and ends at its times and only its
part of the video is transferred.
"""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

import yt_dlp

from configs.schema import DownloadConfig
from pipelines.download.cut_check import CutDurations, is_complete, read_durations
from pipelines.download.ffmpeg_path import Ffmpeg
from pipelines.download.interrupt import ClipTimedOut, time_limit
from pipelines.download.media_probe import media_formats, probe_error, source_ends
from pipelines.download.outcomes import Verdict, classify, shorten

MUXERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
_LIMIT_FACTOR = 10  # a clip may take this many times `timeout_s`
_ENCODER = (
    "-c:v",
    "libx264",
    "-preset",
    "veryfast",
    "-crf",
    "18",
    "-pix_fmt",
    "yuv420p",
    "-c:a",
    "aac",
    "-b:a",
    "160k",
)
_LIVE = {"is_live": "is live", "is_upcoming": "live event will begin later", "post_live": "is live until a moment ago"}


class Cut(NamedTuple):
    """The result of a download: a complete file, or the reason why there is none.

    Attributes:
        verdict: None if the file is complete.
        path: the file, in the scratch folder.
        warning: a reason to stop after this clip, although its file is complete.
    """

    verdict: Verdict | None
    path: Path | None = None
    warning: Verdict | None = None


class ClipDownloader:
    """Downloads clips one after the other; a context manager.

    Args:
        config: settings of the download.
        scratch: an empty folder on the file system of the clips.
        muxer: container of the clips, a value of MUXERS.
        ffmpeg: the ffmpeg that yt-dlp runs.
    """

    def __init__(self, config: DownloadConfig, scratch: Path, muxer: str, ffmpeg: Ffmpeg) -> None:
        self._timeout_s, self._proxy, self._scratch, self._ffmpeg = config.timeout_s, config.proxy, scratch, ffmpeg
        self._segment, self._info = (0.0, 0.0), dict[str, Any]()
        self._skip: Verdict | None = None
        self._log = _Log()
        self._ydl = yt_dlp.YoutubeDL(self._parameters(config, muxer))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ydl.close()

    def download(self, url: str, start_s: float, end_s: float) -> Cut:
        """Download a segment of a video once, without retries.

        Raises:
            OSError: the file system failed.
        """
        self._segment, self._info, self._skip = (start_s, end_s), {}, None
        self._log.warnings.clear()
        for left in self._scratch.iterdir():
            left.unlink()
        self._ffmpeg.take_report()
        cut, warning = self._attempt(url), self._warning()
        return Cut(warning) if warning and not cut.path else cut._replace(warning=warning)

    def _attempt(self, url: str) -> Cut:
        try:
            with time_limit(_LIMIT_FACTOR * self._timeout_s):
                self._ydl.extract_info(url)
                return self._checked()
        except ClipTimedOut:
            limit_s = _LIMIT_FACTOR * self._timeout_s
            return Cut(
                Verdict("retry", f"the download took longer than {limit_s:g} s, {_LIMIT_FACTOR} times timeout_s")
            )
        except yt_dlp.utils.DownloadError as error:
            return Cut(self._cause(str(error)))
        except OSError as error:
            if error.errno is not None and isinstance(error.filename, str):
                raise
            return Cut(classify(str(error)))
        except Exception as error:  # a bug of an extractor concerns this clip only
            return Cut(classify(f"{type(error).__name__}: {error}"))

    def _checked(self) -> Cut:
        """The file that yt-dlp wrote, if it is complete."""
        if self._skip:
            return Cut(self._skip)
        files = list(self._scratch.iterdir())
        if len(files) != 1:
            return Cut(Verdict("retry", f"yt-dlp wrote {len(files)} files, expected one"))
        start_s, end_s = self._segment
        try:
            cut = read_durations(files[0])
        except ValueError as error:
            return Cut(self._cause(f"ffmpeg wrote an incomplete file: {error}"))
        wanted_s = min(end_s, self._info.get("duration") or end_s) - start_s
        if not is_complete(cut, CutDurations(wanted_s, wanted_s)):
            ends = source_ends(media_formats(self._info), self._timeout_s, self._proxy)
            expected = CutDurations(*(max(0.0, min(end_s, s) - start_s) for s in ends)) if ends else None
            if not expected or not is_complete(cut, expected):
                return Cut(self._cause(f"the video broke off after {cut.video_s:.1f} of {wanted_s:.1f} s"))
        return Cut(None, files[0])

    def _cause(self, error: str) -> Verdict:
        """The meaning of an error, from what ffmpeg reported, or else from another request for the media."""
        if "ffmpeg" not in error and "broke off" not in error:
            return classify(error)
        reported = self._ffmpeg.take_report()
        if (verdict := classify(f"{error}\n{reported}")).status == "stop":
            return verdict
        if probed := probe_error(self._ydl, media_formats(self._info)):
            found = classify(probed)
            # The media addresses of YouTube expire and move; a video that is gone fails earlier.
            if found.status == "gone" and self._info.get("extractor_key") == "Youtube":
                return found._replace(status="retry")
            return found
        ends = source_ends(media_formats(self._info), self._timeout_s, self._proxy)
        if ends and ends[0] <= self._segment[0]:
            return _after_the_end(ends[0])
        return Verdict("retry", shorten(": ".join(filter(None, [error, *reported.splitlines()[-1:]]))))

    def _warning(self) -> Verdict | None:
        """A warning that concerns all clips, such as that of a missing JavaScript runtime."""
        found = (classify(text) for text in self._log.warnings)
        return next((verdict for verdict in found if verdict.status == "stop"), None)

    def _filter(self, info: dict[str, Any], *, incomplete: bool | set[str]) -> str | None:
        """What yt-dlp asks before it downloads a video; the reason to skip it."""
        if incomplete:
            return None
        self._info = info
        start_s, duration_s = self._segment[0], info.get("duration")
        if status := _LIVE.get(info.get("live_status") or ""):
            self._skip = Verdict("retry", f"the video {status}")
        elif duration_s and start_s >= duration_s:
            self._skip = _after_the_end(duration_s)
        return self._skip.detail if self._skip else None

    def _ranges(self, *_: object) -> Iterator[dict[str, float]]:
        yield {"start_time": self._segment[0], "end_time": self._segment[1]}

    def _parameters(self, config: DownloadConfig, muxer: str) -> dict[str, Any]:
        side = config.max_height_px
        # For a video that has larger formats only, and for formats of unknown size.
        scale = f"scale=w='if(gt(iw,ih),-2,min(iw,{side}))':h='if(gt(iw,ih),min(ih,{side}),-2)'"
        even = "crop=trunc(iw/2)*2:trunc(ih/2)*2"
        output = ["-vf", f"{scale},{even}", *_ENCODER, "-movflags", "+faststart", "-map_metadata", "-1", "-f", muxer]
        if muxer == "matroska":
            del output[output.index("-movflags") : output.index("-movflags") + 2]
        parameters: dict[str, Any] = {
            "logger": self._log,
            "quiet": True,
            "noprogress": True,
            # The largest format of at most this size, or else the smallest one; `res` is the shorter side.
            "format": "bv*+ba/b/bv*",
            "format_sort": [f"res:{side}"],
            "outtmpl": str(self._scratch / "cut.mp4").replace("%", "%%"),
            "download_ranges": self._ranges,
            "force_keyframes_at_cuts": True,
            "match_filter": self._filter,
            "noplaylist": True,
            "extract_flat": "in_playlist",
            "fixup": "never",
            "nopart": True,
            "overwrites": True,
            "retries": 0,
            "extractor_retries": 0,
            "socket_timeout": config.timeout_s,
            "proxy": config.proxy or None,
            "cookiefile": config.cookies or None,
            "js_runtimes": {name: {} for name in yt_dlp.globals.supported_js_runtimes.value},
            "external_downloader_args": {
                "ffmpeg_i": ["-rw_timeout", str(round(config.timeout_s * 1e6))],
                "ffmpeg_o": output,
            },
        }
        return parameters


def _after_the_end(end_s: float) -> Verdict:
    return Verdict("gone", f"the video ends at {end_s:.1f} s, before the segment begins")


class _Log:
    """Collects the warnings of yt-dlp in place of printing them."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def debug(self, _: str) -> None:
        pass

    def warning(self, message: str) -> None:
        self.warnings.append(message)

    def error(self, _: str) -> None:
        """Errors are raised, too."""


@contextlib.contextmanager
def scratch_folder(root: Path, name: str) -> Iterator[Path]:
    """A hidden folder `NAME.RANDOM` below root; those that killed processes left are removed first.

    The name differs each time because the ffmpeg of a killed process may still be about to write its file.
    """
    for left in root.glob(f"{name}.*/"):
        shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{name}.", dir=root))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
