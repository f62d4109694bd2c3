"""Encodes a decoded clip as shard members: KEY.json, then each modality (KEY.0.jpg, KEY.flac, ...)."""

import json
import math

from configs.schema import DecodeConfig
from pipelines.manifest import Clip
from pipelines.modalities import MODALITIES
from pipelines.modalities.modality import DecodedClip


def encode_clip(clip: Clip, decoded: DecodedClip, settings: DecodeConfig) -> dict[str, bytes]:
    """Members of a clip by extension, in the order in which they are stored; the same input gives the same bytes.

    KEY.json has `full_duration_s` only if the clip was cut to decode.max_duration_s; null if it is not known.
    """
    metadata = {
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
    if decoded.full_duration_s:
        metadata["full_duration_s"] = (
            round(decoded.full_duration_s, 6) if math.isfinite(decoded.full_duration_s) else None
        )
    if clip.words:
        metadata["words"] = [{"word": word, "start_s": start_s, "end_s": end_s} for word, start_s, end_s in clip.words]
    members = {"json": json.dumps(metadata).encode()}
    for modality in MODALITIES:
        members |= modality.encode(decoded, settings)
    return members
