"""Transcodes media that PyAV does not open, losslessly, with the ffmpeg program; the result is decoded as usual.

An ffmpeg on PATH may have additional decoders; the one in the imageio-ffmpeg wheel has AVS2 and AVS3 beside the usual
ones. Limits: a truncated file is not detected; the CPU time of ffmpeg is limited like that of a clip, but counted
separately.
"""

import math
import shutil
import subprocess
from pathlib import Path

from configs.schema import DecodeConfig
from pipelines.build.decode.container import CONTAINERS
from pipelines.manifest import Clip, RejectedClip


def ffmpeg_program() -> str | None:
    """The ffmpeg on PATH, else the one in the imageio-ffmpeg wheel, else None."""
    if found := shutil.which("ffmpeg"):
        return found
    try:
        import imageio_ffmpeg

        return imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError):
        return None


def transcode(media: Path, clip: Clip, settings: DecodeConfig, output: Path) -> str:
    """Transcode the segment of a clip to a Matroska file with FFV1 and PCM, its short side reduced to `short_side_px`.

    Returns:
        The version of ffmpeg.

    Raises:
        RejectedClip: ffmpeg cannot decode it either, or is not installed.
    """
    import ffmpeg

    program = ffmpeg_program()
    if program is None:
        raise RejectedClip("unreadable", f"{clip.media}: PyAV does not open it, and ffmpeg is not installed")
    duration_s = min((clip.end_s or math.inf) - clip.start_s, settings.max_duration_s)
    source = ffmpeg.input(
        f"file:{media}", ss=clip.start_s, t=duration_s, protocol_whitelist="file", format_whitelist=CONTAINERS
    )
    streams = [source["a:0"]]
    if not clip.image:
        side = settings.short_side_px
        size = {"w": f"if(gt(iw,ih),-2,min({side},iw))", "h": f"if(gt(iw,ih),min({side},ih),-2)"}
        streams.insert(0, source["V:0"].filter("scale", **size, flags="bicubic+full_chroma_int+accurate_rnd+bitexact"))
    # One thread, and a limit that the kernel enforces, because the caller may be killed meanwhile.
    options = {
        "vcodec": "ffv1",
        "acodec": "pcm_s16le",
        "f": "matroska",
        "threads": 1,
        "timelimit": math.ceil(settings.cpu_limit_s),
    }
    command = (
        ffmpeg.output(*streams, f"file:{output}", **options)
        .global_args("-v", "error", "-nostdin")
        .overwrite_output()
        .compile(cmd=program)
    )
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False
    )
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        message = lines[-1][-200:] if lines else f"ffmpeg exited with {done.returncode}"
        raise RejectedClip("unreadable", f"{clip.media}: {message}")
    version = subprocess.run(
        [program, "-version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    return " ".join(version.stdout.split()[2:3])
