"""Checks what yt-dlp needs for YouTube: a JavaScript runtime and its challenge solver."""

import importlib.util
import urllib.parse

from configs.errors import CommandFailed

_HOSTS = ("youtube.com", "youtu.be", "youtube-nocookie.com")


def require_javascript(url: str) -> None:
    """Check that yt-dlp can solve the challenges of YouTube; other sites need nothing.

    Raises:
        CommandFailed: there is no runtime that yt-dlp supports, or the package yt-dlp-ejs is missing.
    """
    host = urllib.parse.urlsplit(url).hostname or ""
    if not any(host == known or host.endswith(f".{known}") for known in _HOSTS):
        return
    import yt_dlp

    found = [kind().info for kind in yt_dlp.globals.supported_js_runtimes.value.values()]
    if not any(info and info.supported for info in found):
        old = ", ".join(f"{info.name} {info.version} is too old" for info in found if info) or "none was found"
        names = ", ".join(sorted(yt_dlp.globals.supported_js_runtimes.value))
        raise CommandFailed(
            f"YouTube needs a JavaScript runtime that yt-dlp supports ({names}), and {old}: install deno "
            "(pip install deno), then run the same command again"
        )
    if importlib.util.find_spec("yt_dlp_ejs") is None:
        raise CommandFailed(
            "YouTube needs the package yt-dlp-ejs beside yt-dlp: pip install 'yt-dlp[default]', then run the same "
            "command again"
        )
