"""Writes the middle frame and the audio of downloaded clips, as the localization benchmarks read them."""

import sys
from collections.abc import Iterable
from pathlib import Path

from configs.atomic_write import atomic_open
from configs.schema import DecodeConfig
from pipelines.manifest import Clip, RejectedClip

# The frame in its full size; silent and static clips are rejected for training only.
_DECODE = DecodeConfig(frames_per_clip=1, short_side_px=8192, jpeg_quality=95, keep_static=True, max_duration_s=3600)


def write_frames_and_audio(root: Path, clips: Iterable[Clip]) -> int:
    """Write ROOT/frames/NAME.jpg and ROOT/audio/NAME.wav for each clip NAME that lacks one of them.

    Returns:
        The number of clips that cannot be decoded; the first is named on stderr.
    """
    for folder in ("frames", "audio"):
        (root / folder).mkdir(exist_ok=True)
    failed = 0
    for clip in clips:
        name = Path(clip.media).stem
        frame, audio = root / "frames" / f"{name}.jpg", root / "audio" / f"{name}.wav"
        if frame.exists() and audio.exists():
            continue
        try:
            _write(root, clip, frame, audio)
        except RejectedClip as error:
            failed += 1
            if failed == 1:
                print(f"no frame and audio of {clip.media}: {error.reason}, {error.detail}", file=sys.stderr)
    return failed


def _write(root: Path, clip: Clip, frame: Path, audio: Path) -> None:
    import soundfile
    from PIL import Image

    from pipelines.build.decode.clip import decode_clip

    decoded = decode_clip(Clip(id=clip.id, media=clip.media), root, _DECODE)
    with atomic_open(audio) as file:
        soundfile.write(file, decoded.waveform, decoded.sample_rate_hz, subtype="PCM_16", format="WAV")
    with atomic_open(frame) as file:
        Image.fromarray(decoded.frames[0]).save(file, "JPEG", quality=_DECODE.jpeg_quality)
