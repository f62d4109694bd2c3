"""Small evaluation data with settings, and a reader for the files that W&B writes offline."""

import json
import struct
from pathlib import Path

from tiny_media import write_video
from tiny_prompted import write_prompted
from tiny_shards import write_data_set

BENCHMARKS = "[ade20k_speech, ade20k_sound, places_retrieval, audioset_retrieval, disentanglement]"
RECORD_KINDS = {"full": 1, "first": 2, "middle": 3, "last": 4}


def write_evaluation(
    root: Path,
    video: bool = True,
    benchmarks: str = BENCHMARKS,
    baselines: str = "[chance, untrained, shuffled_prompts]",
) -> Path:
    """Write prompted images, two evaluation splits (one with an unreadable clip) and a video.

    Returns:
        The YAML file with their settings.
    """
    write_prompted(root / "prompted")
    write_data_set(root / "places", [6, 5], duration_s=0.8, frames=1)
    write_data_set(
        root / "audioset", [12], duration_s=1.0, prefix="video", changes={3: {"flac": b"no sound at all" * 9}}
    )
    if video:
        write_video(root / "a.mp4", 1.0)
    lines = [
        f"benchmarks: {benchmarks}",
        f"baselines: {baselines}",
        "data:",
        f"  prompted_ade20k: {{root: {root}/prompted}}",
        f"  places_audio: {{root: {root}/places}}",
        f"  audioset: {{root: {root}/audioset}}",
    ]
    lines += ["gallery_size: 9", "batch_size: 2", *([f"video: {root}/a.mp4"] if video else [])]
    (root / "eval.yaml").write_text("\n".join(lines) + "\n")
    return root / "eval.yaml"


def wandb_records(file: Path):
    """The records of a .wandb file: protocol buffers in LevelDB's log format.

    That is blocks of 32 KiB, with checksum, length and kind before each piece.
    """
    from wandb.proto import wandb_internal_pb2

    data, offset, pieces = file.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while offset + 7 <= len(data):
        left = 32768 - offset % 32768
        if left < 7:
            offset += left
            continue
        _, length, kind = struct.unpack("<IHB", data[offset : offset + 7])
        assert kind in RECORD_KINDS.values()
        pieces += data[offset + 7 : offset + 7 + length]
        offset += 7 + length
        if kind in (RECORD_KINDS["full"], RECORD_KINDS["last"]):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(pieces)
            yield record
            pieces = b""


def wandb_history(file: Path) -> list[dict]:
    """The logged steps: key -> value; an image or a table is a nested dict."""
    lines = []
    for record in wandb_records(file):
        if record.WhichOneof("record_type") == "history":
            line = {}
            for item in record.history.item:
                *path, last = [item.key] if item.key else list(item.nested_key)
                node = line
                for part in path:
                    node = node.setdefault(part, {})
                node[last] = json.loads(item.value_json)
            lines.append(line)
    return lines
