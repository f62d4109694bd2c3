"""Settings of `python -m pipelines.download`."""

from dataclasses import dataclass

from configs.field import field
from configs.schema.build import SourceConfig


@dataclass
class DownloadFileConfig:
    url: str = field("", "address of a file: a table or an archive")
    path: str = field("", "where the file is stored below source.root; empty: the last part of the URL")
    unpack: bool = field(False, "unpack the archive (zip or tar) into the folder of the file")
    sha256: str = field("", "expected SHA-256; empty: that of the first complete download")
    split: str = field("", "download the file for this source.split only; empty: for all")


@dataclass
class ByHandConfig:
    path: str = field("", "file or folder below source.root that has to be fetched by hand")
    text: str = field("", "where it comes from and how it is stored")


@dataclass
class DownloadConfig:
    source: SourceConfig = field(SourceConfig, "table of clips, and where they are stored")
    terms: str = field("", "terms of the data set, printed before the download")
    files: list[DownloadFileConfig] = field(list, "plain files, downloaded first: tables and archives")
    by_hand: list[ByHandConfig] = field(list, "what cannot be downloaded automatically")
    url: str = field("", "address of the video of a clip, with {ytid} or {id}; empty: plain files only")
    include: list[str] = field(
        list, "files of ids below source.root, one a line; only these clips: ids, video ids or names of media files"
    )
    exclude: list[str] = field(list, "files of ids to leave out, as in pipelines.build")
    labels: list[str] = field(list, "only clips with one of these labels; empty: all")
    frame_and_audio: bool = field(
        False, "also write frames/NAME.jpg (the middle frame) and audio/NAME.wav (16 kHz) of each clip NAME.mp4"
    )
    max_height_px: int = field(
        360, "maximum height of the video, or width of an upright one; a format of at most this size", "px", min=16
    )
    clips_per_hour: float = field(
        300.0,
        "maximum number of clips that are begun in an hour; 300 is the rate that yt-dlp documents for YouTube without "
        "an account; 0: no limit",
        "clips",
        min=0,
    )
    cookies: str = field("", "file of cookies in Netscape format, as yt-dlp reads and updates it")
    proxy: str = field("", "HTTP proxy, for example http://HOST:3128")
    slice: str = field("", "I/N: part I of N, counted from 0 or from 1, for several machines with own addresses")
    retries: int = field(
        3, "attempts for a clip, or for a file without progress, before it is left for the next run", min=1
    )
    timeout_s: float = field(30.0, "a connection without data for this long has failed", "s", min=0.5, max=3600)
    retry_gone: bool = field(False, "try clips again that an earlier run found gone or not available here")
    dry_run: bool = field(False, "only print what would be downloaded, and how long it takes")
