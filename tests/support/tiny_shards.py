"""Small data sets in the format of `pipelines.build`: tars with JPEG, FLAC and WAV, indices and the root manifest."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import simplejpeg
import soundfile

RATE_HZ = 16000


def tone(clip: int, duration_s: float = 0.5, rate_hz: int = RATE_HZ) -> np.ndarray:
    """A sine whose frequency identifies the clip."""
    return 0.5 * np.sin(2 * np.pi * (200 + 10 * clip) * np.arange(round(duration_s * rate_hz)) / rate_hz).astype(
        np.float32
    )


def jpeg(value: int, height_px: int = 32, width_px: int = 32) -> bytes:
    return simplejpeg.encode_jpeg(np.full((height_px, width_px, 3), value % 256, dtype=np.uint8), quality=95)


def encode_audio(waveform: np.ndarray, kind: str = "flac", rate_hz: int = RATE_HZ) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, rate_hz, format=kind.upper(), subtype="PCM_16")
    return buffer.getvalue()


def clip_members(
    clip: int, frames: int = 2, duration_s: float = 0.5, rate_hz: int = RATE_HZ, audio: str = "flac"
) -> dict[str, bytes]:
    """The members of one clip, by extension. Frame n of clip c is uniformly gray, of value 3 * c + 100 * n."""
    described = {"id": f"clip{clip:04d}", "labels": [f"label{clip % 3}"], "text": "", "sample_rate_hz": rate_hz}
    images = {f"{number}.jpg": jpeg(3 * clip + 100 * number) for number in range(frames)}
    return {
        "json": json.dumps(described).encode(),
        **images,
        audio: encode_audio(tone(clip, duration_s, rate_hz), audio, rate_hz),
    }


def write_data_set(
    folder: Path,
    shard_clips: list[int],
    changes: dict[int, dict[str, bytes | None]] | None = None,
    prefix: str = "clip",
    **clip,
) -> Path:
    """Write a complete data set.

    Args:
        shard_clips: clips in each shard.
        changes: clip number -> bytes of members to replace or add, or None to omit a member.
        prefix: start of every id.
        clip: passed to clip_members.
    """
    folder.mkdir(parents=True)
    shards, number = [], 0
    for shard, count in enumerate(shard_clips):
        name = f"train-{shard:06d}"
        listed = []
        with tarfile.open(folder / f"{name}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for _ in range(count):
                key, files = f"{prefix}{number:04d}", {}
                for extension, data in (clip_members(number, **clip) | (changes or {}).get(number, {})).items():
                    if data is not None:
                        member = tarfile.TarInfo(f"{key}.{extension}")
                        member.size = len(data)
                        files[extension] = [tar.offset + tarfile.BLOCKSIZE, len(data)]
                        tar.addfile(member, io.BytesIO(data))
                listed.append({"id": key, "files": files})
                number += 1
        data = (folder / f"{name}.tar").read_bytes()
        entry = {"name": name, "clips": count, "size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        (folder / f"{name}.json").write_text(json.dumps(entry | {"members": listed, "rejected": []}))
        shards.append(entry)
    manifest = {
        "format": 1,
        "fingerprint": "x",
        "split": "train",
        "rows": number,
        "written": number,
        "rejected": 0,
        "shards": shards,
        "settings": {},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "rejected.jsonl").write_text("")
    return folder
