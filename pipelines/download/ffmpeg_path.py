"""Puts an ffmpeg where yt-dlp and its subprocesses find it, and reads what it reports."""

import os
import re
import shutil
from pathlib import Path

from configs.errors import CommandFailed
from pipelines.build.decode.ffmpeg_fallback import ffmpeg_program

_REPORT_LEVEL = 16  # errors


class Ffmpeg:
    """The ffmpeg that yt-dlp runs.

    yt-dlp looks for a program called `ffmpeg` on PATH, and hides what it prints. The ffmpeg of imageio-ffmpeg has
    another name, and is linked under the right one. FFREPORT makes ffmpeg write its messages to a file as well.

    Args:
        folder: an empty folder for the link and the report.

    Raises:
        CommandFailed: there is no ffmpeg.
    """

    def __init__(self, folder: Path) -> None:
        if not (program := ffmpeg_program()):
            raise CommandFailed("no ffmpeg was found: install it, or the package imageio-ffmpeg")
        if not shutil.which("ffmpeg"):
            (folder / "ffmpeg").symlink_to(program)
            os.environ["PATH"] = f"{folder}{os.pathsep}{os.environ.get('PATH', '')}"
        self._report = folder / "report.txt"
        escaped = str(self._report).replace("\\", "\\\\").replace(":", "\\:").replace("%", "%%")
        os.environ["FFREPORT"] = f"file={escaped}:level={_REPORT_LEVEL}"

    def take_report(self) -> str:
        """The messages of the last run, which are removed; "" if there are none."""
        try:
            text = self._report.read_text(errors="replace")
            self._report.unlink()
        except FileNotFoundError:
            return ""
        # The other lines are the date, the command, and what ffmpeg knows about the streams.
        messages = (re.fullmatch(r"\[[^\]]*\] *(.*)", line) for line in text.splitlines())
        return "\n".join(match[1] for match in messages if match)[-4000:]
