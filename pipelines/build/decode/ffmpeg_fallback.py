"""Reads the media of a clip with PyAV, and those that PyAV does not open after transcoding them losslessly.

The ffmpeg program transcodes; libsndfile does where a clip needs only audio that ffmpeg does not open either, such as
AIFF and W64 written into a pipe. An ffmpeg on PATH may have additional decoders; the one in the imageio-ffmpeg wheel
has AVS2 and AVS3 beside the usual ones. Limits: a truncated file is not detected; the CPU time of ffmpeg is limited
like that of a clip, but counted separately.
"""

import dataclasses
import importlib
import math
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import av
from av.container import InputContainer

from configs.schema import DecodeConfig
from pipelines.build.decode.container import (
    CONTAINERS,
    STORAGE_ERRORS,
    UNSUPPORTED,
    UnsupportedMedia,
    open_media,
    regular_file,
)
from pipelines.manifest import Clip, RejectedClip, StorageError
from pipelines.stated_size import missing_bytes

T = TypeVar("T")
_TOLERATED_BYTES = 4096  # 0.13 s of 16 kHz PCM; writers that forget to pad a chunk are off by one


def read_media(
    clip: Clip, root: Path, settings: DecodeConfig, read: Callable[[InputContainer, Path, Clip], T]
) -> tuple[T, tuple[str, str] | None]:
    """Read the media of a clip.

    Args:
        clip: the clip; media of one with an image need no video.
        root: the folder its paths start from.
        settings: for transcoding.
        read: called with the open container, its file, and the clip, which starts at 0 in a transcoded file.

    Returns:
        What `read` returned, and name and version of the program that transcoded the media; None if none did.

    Raises:
        RejectedClip: the media are missing, truncated or do not decode.
        StorageError: the root does not exist, or its file system does not answer.
    """
    media = regular_file(root, clip.media)
    missing = missing_bytes(media)
    if (missing or 0) > _TOLERATED_BYTES:
        raise RejectedClip("unreadable", f"truncated: {clip.media} is {missing} bytes shorter than its header states")
    try:
        with open_media(media, has_stated_size=missing is not None) as container:
            return read(container, media, clip), None
    except UnsupportedMedia:
        with tempfile.TemporaryDirectory() as scratch:
            transcoded = Path(scratch) / "transcoded.mkv"
            program = transcode(media, clip, settings, transcoded)
            with open_media(transcoded) as container:
                return read(container, transcoded, dataclasses.replace(clip, start_s=0.0, end_s=0.0)), program
    except av.error.FFmpegError as error:
        if error.errno in STORAGE_ERRORS:
            raise StorageError(f"{clip.media}: {error.strerror}") from None
        raise RejectedClip("unreadable", f"{clip.media}: {error.strerror}") from None


def ffmpeg_program() -> str | None:
    """The ffmpeg on PATH, else the one in the imageio-ffmpeg wheel, else None."""
    if found := shutil.which("ffmpeg"):
        return found
    try:
        import imageio_ffmpeg

        return imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError):
        return None


def transcode(media: Path, clip: Clip, settings: DecodeConfig, output: Path) -> tuple[str, str]:
    """Transcode the segment of a clip to a Matroska file with FFV1 and PCM, its short side reduced to `short_side_px`.

    Returns:
        Name and version of the program that read it.

    Raises:
        RejectedClip: ffmpeg cannot decode it either, or is not installed.
    """
    import ffmpeg

    program = ffmpeg_program()
    if program is None:
        raise RejectedClip("unreadable", f"{clip.media}: PyAV does not open it, and ffmpeg is not installed")
    duration_s = min((clip.end_s or math.inf) - clip.start_s, settings.max_duration_s)
    name = "MEDIA"  # replaced below, because ffmpeg-python fails on names that are not UTF-8
    source = ffmpeg.input(name, ss=clip.start_s, t=duration_s, protocol_whitelist="file", format_whitelist=CONTAINERS)
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
    command = [f"file:{media}" if argument == name else argument for argument in command]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False
    )
    if done.returncode:
        if clip.image and _rewrite_audio(media, clip.start_s, duration_s, output):
            return "libsndfile", importlib.import_module("soundfile").__libsndfile_version__
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        message = lines[-1][-200:] if lines else f"ffmpeg exited with {done.returncode}"
        if b"not on whitelist" in done.stderr:
            message = UNSUPPORTED
        raise RejectedClip("unreadable", f"{clip.media}: {message}")
    version = subprocess.run(
        [program, "-version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    return "ffmpeg", " ".join(version.stdout.split()[2:3])


def _rewrite_audio(media: Path, start_s: float, duration_s: float, output: Path) -> bool:
    """Rewrite the segment as a WAV file of floats; returns whether libsndfile can read it."""
    import soundfile

    try:
        with soundfile.SoundFile(os.fsencode(media)) as file:
            rate_hz = file.samplerate
            file.seek(round(start_s * rate_hz))
            samples = file.read(round(duration_s * rate_hz), dtype="float32", always_2d=True)[:, :1]
        soundfile.write(output, samples, rate_hz, format="WAV", subtype="FLOAT")
    except (soundfile.LibsndfileError, ValueError):
        return False
    return True
