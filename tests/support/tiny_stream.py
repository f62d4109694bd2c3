"""Settings of small streams with every augmentation, and the comparison of batches."""

import torch

from configs.schema import AugmentConfig, StreamConfig, StreamSourceConfig
from pipelines.stream.batch import Batch

SHORT_AUGMENT = {
    "audio_splice_min_s": 0.1,
    "audio_splice_max_s": 0.3,
    "audio_splice_fade_min_s": 0.05,
    "time_mask_min_s": 0.2,
}


def stream_config(sources: dict[str, object], **settings) -> StreamConfig:
    """Settings of a small stream without workers.

    Args:
        sources: name -> folder or address of each source.
        settings: replace the defaults.
    """
    defaults = {
        "image_size_px": 24,
        "clip_duration_s": 0.6,
        "num_workers": 0,
        "shuffle_window_clips": 8,
        "max_error_rate": 1.0,
        "augment": AugmentConfig(**SHORT_AUGMENT),
    }
    listed = [StreamSourceConfig(name=name, shards=[str(address)]) for name, address in sources.items()]
    return StreamConfig(sources=listed, **(defaults | settings))


def assert_same_bits(batch: Batch, other: Batch) -> None:
    """Every field of two batches is equal."""
    for name, value in vars(batch).items():
        expected = getattr(other, name)
        assert torch.equal(value, expected) if isinstance(value, torch.Tensor) else value == expected, name
