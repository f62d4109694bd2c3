"""Finds out why ffmpeg failed, with another request for the media, and where the streams of a video end."""

import contextlib
import math
from collections.abc import Sequence
from typing import Any

import yt_dlp
from yt_dlp.networking.exceptions import HTTPError, RequestError


def media_formats(info: dict[str, Any]) -> list[dict[str, Any]]:
    """The formats that yt-dlp selected, each with `url` and `http_headers`: one, or the video and the audio."""
    return [f for f in info.get("requested_formats") or [info] if f.get("url")]


def probe_error(ydl: yt_dlp.YoutubeDL, formats: Sequence[dict[str, Any]]) -> str | None:
    """Request the first byte of each format; the error of the first one that fails, None if all answer with media."""
    for media in formats:
        request = yt_dlp.networking.Request(
            media["url"], headers={**(media.get("http_headers") or {}), "Range": "bytes=0-0"}
        )
        try:
            with contextlib.closing(ydl.urlopen(request)) as answer:
                kind = answer.headers.get("Content-Type") or ""
                if kind.startswith("text/html") or answer.read(512).lstrip()[:5].lower() in (b"<html", b"<!doc"):
                    return "the media address answered a web page in place of the video"
        except HTTPError as error:
            return f"the media address answered HTTP Error {error.status}: {error.reason}"
        except RequestError as error:
            return f"the media address cannot be read: {error}"
    return None


def source_ends(formats: Sequence[dict[str, Any]], timeout_s: float, proxy: str) -> tuple[float, float] | None:
    """Where the video and the audio of the formats end, in seconds; None if a format does not state it.

    The audio of formats without audio ends at 0.
    """
    import av

    ends = {"video": 0.0, "audio": 0.0}
    for media in formats:
        headers = "".join(f"{key}: {value}\r\n" for key, value in (media.get("http_headers") or {}).items())
        options = {"rw_timeout": str(round(timeout_s * 1e6)), "headers": headers}
        options |= {"http_proxy": proxy} if proxy else {}
        try:
            with av.open(media["url"], options=options, timeout=timeout_s) as container:
                whole_s = container.duration / av.time_base if container.duration else math.nan
                for stream in (*container.streams.video[:1], *container.streams.audio[:1]):
                    own_s = (
                        float(stream.duration * stream.time_base) if stream.duration and stream.time_base else whole_s
                    )
                    ends[stream.type] = max(ends[stream.type], own_s)
        except (av.FFmpegError, OSError):
            return None
    return (ends["video"], ends["audio"]) if all(map(math.isfinite, ends.values())) else None
