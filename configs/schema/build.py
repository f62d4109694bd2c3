"""Settings of `python -m pipelines.build`."""

from dataclasses import dataclass
from typing import Literal

from configs.field import MAX_SEED, field


@dataclass
class SourceConfig:
    kind: Literal["folder", "audioset", "places_audio", "vggsound"] = field("folder", "layout of the raw data")
    root: str = field("", "folder that holds the raw data set")
    split: str = field("train", "split to build; shards are named after it")
    segments: str = field("", "table of clips below root; empty: the published name for this layout and split")
    media: str = field(
        "",
        "template of a media path below root, with {ytid} {start_s} {end_s} {start_ms} {end_ms} {id}, and alternatives "
        "such as {mp4,mkv,webm}, of which the first that exists is taken; empty: the layout's default",
    )
    media_is_cut: bool = field(False, "media files are already cut to their segment, so that each clip starts at 0")
    window_s: float = field(
        0.0, "with kind=folder: cut each file into clips of this length; 0: one clip, the start of the file", "s", min=0
    )
    stride_s: float = field(0.0, "from the start of one of these clips to that of the next; 0: window_s", "s", min=0)
    labels_from_folders: bool = field(
        False, "with kind=folder: the name of the folder of a file is its label, unless a metadata.csv has one"
    )


@dataclass
class DecodeConfig:
    frames_per_clip: int = field(
        10, "frames stored for each video clip, evenly spaced by presentation time", "frames", min=1, max=1000
    )
    mode: Literal["exact", "fast", "keyframes"] = field(
        "exact", "frame selection; fast: within 0.1 s of the exact frames; keyframes: the nearest key frames"
    )
    decoder: Literal["pyav", "decord"] = field(
        "pyav",
        "video decoder; pyav measured faster in every mode; decord supports exact and keyframes only, "
        "and leaves files of which it would return other frames to pyav",
    )
    short_side_px: int = field(
        256, "short side of a stored frame; larger frames are scaled down, smaller ones kept", "px", min=1, max=8192
    )
    jpeg_quality: int = field(90, "JPEG quality of stored frames, 1 to 100", min=1, max=100)
    sample_rate_hz: int = field(16000, "sample rate of the stored mono waveform", "Hz", min=1000, max=192000)
    channel: Literal["auto", "first", "mix", "loudest"] = field(
        "auto",
        "channel that is stored; first: as in the reference; mix: the mean of all; "
        "auto: loudest for source.kind=folder and vggsound, first for the others",
    )
    audio: Literal["waveform", "log_mel"] = field(
        "waveform", "stored audio; log_mel: only KEY.mel.npy, for mel encoders with stream.audio=log_mel"
    )
    audio_format: Literal["flac", "wav"] = field(
        "flac", "flac: lossless, small; wav: 16-bit PCM, larger, no decoding needed"
    )
    log_mel: bool = field(
        False,
        "store KEY.mel.npy beside the waveform: log-mel of 128 bins, 100 frames a second, float16",
    )
    min_duration_s: float = field(0.5, "minimum duration; shorter clips are rejected", "s", min=0.1, max=3600)
    max_duration_s: float = field(30.0, "maximum duration; longer clips are cut at this time", "s", min=0.1, max=3600)
    keep_static: bool = field(False, "keep videos without motion, which are rejected otherwise")
    cpu_limit_s: float = field(
        120.0, "CPU time limit of one clip, which is rejected beyond it", "s", min=0.01, max=86400
    )


@dataclass
class BuildConfig:
    source: SourceConfig = field(SourceConfig, "raw data")
    decode: DecodeConfig = field(DecodeConfig, "decoding of media to frames and waveform")
    out: str = field("", "output folder of the shards, or a URL such as s3://bucket/train")
    clips_per_shard: int = field(1000, "rows assigned to each shard", "clips", min=1)
    seed: int = field(0, "seed of the row order", min=0, max=MAX_SEED)
    exclude: list[str] = field(
        list,
        "lists of clips or videos to leave out, such as of evaluation sets, in any published form (lines, CSV, JSON); "
        "a list of which nothing matches is an error",
    )
    labels: list[str] = field(list, "keep only clips with one of these labels; empty: all")
    executor: Literal["local", "ray", "slice"] = field(
        "local",
        "where shards are built; local: processes of this machine; ray: a Ray cluster; slice: one part of a job array",
    )
    processes: int = field(
        0, "decoding processes of this machine or, with executor=ray, of the whole cluster; 0: one per core", min=0
    )
    slice: str = field(
        "", "with executor=slice: I/N, part I of N, counted from 0 or from 1; or finish, after all parts are done"
    )
    retry_rejected: bool = field(False, "decode rejected clips again if their media changed")
    append: bool = field(
        False,
        "add the new rows of the source to the finished data set in out, as new shards; the others stay as they are",
    )
    dry_run: bool = field(False, "only estimate the number of clips, bytes and core hours")
