"""Puts an ffmpeg where yt-dlp and its subprocesses find it, and reads what it reports."""

import os
import re
import shutil
import subprocess
from pathlib import Path

from configs.errors import CommandFailed
from pipelines.build.decode.ffmpeg_fallback import ffmpeg_program

_REPORT_LEVEL = 16  # errors
_ENCODER = "libx264"


class Ffmpeg:
    """The ffmpeg that yt-dlp runs: the one on PATH, or else that of imageio-ffmpeg; it must have an H.264 encoder.

    yt-dlp looks for a program called `ffmpeg` on PATH, and hides what it prints. The ffmpeg of imageio-ffmpeg has
    another name, and is linked under the right one. FFREPORT makes ffmpeg write its messages to a file as well.

    Args:
        folder: an empty folder for the link and the report.

    Raises:
        CommandFailed: there is no ffmpeg that encodes H.264.
    """

    def __init__(self, folder: Path) -> None:
        path = os.environ.get("PATH", "")
        if not _encodes_h264(shutil.which("ffmpeg")):
            os.environ["PATH"] = ""  # ffmpeg_program() prefers the one on PATH
            program = ffmpeg_program()
            os.environ["PATH"] = f"{folder}{os.pathsep}{path}"
            if program is None or not _encodes_h264(program):
                raise CommandFailed(f"no ffmpeg with the encoder {_ENCODER} was found: install imageio-ffmpeg")
            (folder / "ffmpeg").symlink_to(program)
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


def _encodes_h264(program: str | None) -> bool:
    if not program:
        return False
    try:
        listed = subprocess.run([program, "-hide_banner", "-encoders"], capture_output=True, text=True, check=False)
    except OSError:
        return False
    return _ENCODER in listed.stdout
