"""Settings of `python -m pipelines.toy_world`."""

from dataclasses import dataclass

from configs.field import MAX_SEED, field


@dataclass
class ToyWorldConfig:
    out: str = field("data/toy", "output folder of the raw media")
    seed: int = field(0, "seed of everything in the toy world", min=0, max=MAX_SEED)
    audioset_train: int = field(1500, "videos of the AudioSet-like training split", "clips", min=1)
    audioset_eval: int = field(200, "videos of the AudioSet-like evaluation split", "clips", min=1)
    places_train: int = field(1500, "spoken captions of the Places-Audio-like training split", "clips", min=1)
    places_val: int = field(200, "spoken captions of the Places-Audio-like validation split", "clips", min=1)
    prompts: int = field(
        192, "items of the prompted-ADE20K-like evaluation set, assigned to the 24 classes in turn", "items", min=1
    )
    image_size_px: int = field(128, "side of every image; must be even", "px", min=32)
    clip_duration_s: float = field(2.0, "duration of videos and sound prompts", "s", min=0.5)
    max_caption_s: float = field(2.3, "maximum duration of speech; longer captions are spoken faster", "s", min=2.0)
    fps: int = field(10, "frame rate of the videos", "Hz", min=1)
    damaged_share: float = field(
        0.01, "fraction of the training videos to corrupt: missing, truncated or without audio", min=0, max=1
    )
    processes: int = field(0, "worker processes; 0: one per core", min=0)
