"""A decoded clip as the members of a shard: KEY.json, KEY.0.jpg, KEY.1.jpg, ..., KEY.flac or KEY.wav, and KEY.mel.npy where that is wanted."""

from __future__ import annotations

import io
import json

import numpy as np

from configs.schema import DecodeConfig
from pipelines.build.decode.clip import DecodedClip
from pipelines.build.log_mel import log_mel
from pipelines.manifest import Clip


def encode_clip(clip: Clip, decoded: DecodedClip, settings: DecodeConfig) -> dict[str, bytes]:
    """Members of a clip by extension, in the order in which they are stored; the same input gives the same bytes."""
    import simplejpeg
    import soundfile

    described = {
        "id": clip.id,
        "source": clip.source,
        "split": clip.split,
        "media": clip.media,
        "image": clip.image,
        "start_s": decoded.start_s,
        "end_s": round(decoded.end_s, 6),
        "labels": list(clip.labels),
        "text": clip.text,
        "fps": decoded.fps,
        "frame_times_s": [round(time_s, 6) for time_s in decoded.frame_times_s],
        "sample_rate_hz": decoded.sample_rate_hz,
        "samples": len(decoded.waveform),
        "decoder": decoded.decoder,
        "decoder_version": decoded.decoder_version,
    }
    if clip.words:
        described["words"] = [{"word": word, "start_s": start_s, "end_s": end_s} for word, start_s, end_s in clip.words]
    members = {"json": json.dumps(described).encode()}
    for number, frame in enumerate(decoded.frames):
        members[f"{number}.jpg"] = simplejpeg.encode_jpeg(frame, quality=settings.jpeg_quality)
    samples = np.clip(np.round(decoded.waveform * 32768.0), -32768, 32767).astype(np.int16)
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, decoded.sample_rate_hz, format=settings.audio_format.upper(), subtype="PCM_16")
    members[settings.audio_format] = buffer.getvalue()
    if settings.log_mel:
        array = io.BytesIO()
        np.save(
            array,
            log_mel(samples.astype(np.float32) / 32768.0, decoded.sample_rate_hz).astype(np.float16),
            allow_pickle=False,
        )
        members["mel.npy"] = array.getvalue()
    return members
