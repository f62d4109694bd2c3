"""Settings of the training data stream: sources, shuffling, cache and augmentation (`stream.*` of `train.py`)."""

from dataclasses import dataclass
from typing import Literal

from configs.field import field


@dataclass
class StreamSourceConfig:
    name: str = field("", "short name of the source, shown in logs")
    shards: list[str] = field(
        list,
        "folder that holds shards and their manifest.json; any fsspec URL, such as s3://bucket/train. "
        "Several, [DIR1,DIR2], are one data set, whose clips are drawn equally often",
    )
    weight: float = field(1.0, "sampling weight of this source, relative to the others")
    exclude: list[str] = field(
        list,
        "lists of clips or videos to leave out, as in pipelines.build; a list of which nothing matches is an error",
    )
    labels: list[str] = field(list, "keep only clips with one of these labels; empty: all")
    image_key: str = field(
        "",
        "extension of the images in third-party shards, such as rgb.png, or jpg for KEY.jpg and KEY.0.jpg ...; "
        "empty: every .jpg and .png, in order",
    )
    audio_key: str = field(
        "", "extension of the audio in third-party shards; empty: the first of flac, wav, opus that exists"
    )


@dataclass
class AugmentConfig:
    crop_scale_min: float = field(
        0.08, "minimum area of a random resized crop, as a fraction of the image; 1.0: center crop only", min=0, max=1
    )
    flip_probability: float = field(0.5, "probability of a horizontal flip", min=0, max=1)
    color_jitter: float = field(
        0.2, "strength of brightness, contrast, saturation and hue jitter; 0: none", min=0, max=0.5
    )
    grayscale_probability: float = field(0.1, "probability of a grayscale image", min=0, max=1)
    quad_mixup_probability: float = field(
        0.1, "probability of a quad mixup: a 2x2 grid of the image and three others", min=0, max=1
    )
    audio_splice_min_s: float = field(1.0, "minimum length of audio spliced in from another clip", "s")
    audio_splice_max_s: float = field(4.0, "maximum length of spliced audio; 0: no splicing", "s", min=0)
    audio_splice_fade_min_s: float = field(
        0.5,
        "minimum cross-fade of a splice; the cross-fade is a quarter of the splice if that is longer, half at most",
        "s",
        min=0,
    )
    time_mask_probability: float = field(
        0.5, "probability of keeping only one random window of the waveform", min=0, max=1
    )
    time_mask_min_s: float = field(0.5, "minimum length of that window", "s", min=0)


@dataclass
class StreamConfig:
    sources: list[StreamSourceConfig] = field(list, "data sets mixed into one stream")
    image_size_px: int = field(224, "side of the square training image", "px", min=1, max=4096)
    clip_duration_s: float = field(10.2625, "duration to which waveforms are cut or padded", "s", min=0.05, max=600)
    sample_rate_hz: int = field(16000, "required sample rate of the shards", "Hz", min=1000, max=192000)
    audio: Literal["waveform", "log_mel"] = field(
        "waveform", "audio that is read; log_mel: the stored KEY.mel.npy, for model.audio_encoder=mel:..."
    )
    lanes: int = field(64, "parallel sequences of shards (lanes); fewer if there are few shards", min=1)
    shuffle_window_clips: int = field(2000, "clips of a lane shuffled together", "clips", min=1)
    num_workers: int = field(2, "loader processes of each rank; 0: load in the training process", min=0, max=256)
    prefetch_factor: int = field(4, "batches loaded in advance by each worker", "batches", min=1)
    cache_dir: str = field(
        "~/.cache/denseav", "folder for copies of remote shards, shared by all processes of a machine"
    )
    cache_gb: float = field(
        200.0,
        "maximum size of cache_dir; a machine needs about lanes x (shuffle_window_clips / clips per shard + 2) shards",
        "GB",
        min=0,
    )
    max_error_rate: float = field(0.01, "fraction of unreadable clips above which the run stops", min=0, max=1)
    augment: AugmentConfig = field(AugmentConfig, "data augmentation in training")
