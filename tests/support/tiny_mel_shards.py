"""Small data sets that store log-mel beside the waveform or in its place, and a model that reads either."""

from pathlib import Path

import numpy as np
import torch
from tiny_shards import encode_audio, write_data_set
from tiny_training import tiny_config

from configs.schema import DecodeConfig
from model.build import build_denseav
from model.denseav import DenseAV
from model.inputs import InputSpec
from pipelines.modalities.log_mel import LogMel
from pipelines.modalities.modality import DecodedClip

RATE_HZ = 16_000
MEL_MODEL = (
    "model.audio_encoder=mel:vit_tiny_patch16_224",
    "model.audio_weights=random",
    "model.image_encoder=tiny",
    "model.num_heads=2",
)


def audio(clip: int, duration_s: float) -> np.ndarray:
    """Noise whose level and color differ from clip to clip and change over time."""
    samples = round(duration_s * RATE_HZ)
    noise = np.random.default_rng(clip).normal(0, 0.05 + 0.02 * (clip % 5), samples)
    colored = np.convolve(noise, np.ones(1 + clip % 4), mode="same")
    return (colored * (1 + np.sin(np.arange(samples) / (2000 + 300 * clip))) / 3).astype(np.float32)


def mel_npy(waveform: np.ndarray) -> bytes:
    """KEY.mel.npy as the build pipeline stores it."""
    frames = [np.zeros((8, 8, 3), np.uint8)]
    decoded = DecodedClip(frames, [0.0], waveform, RATE_HZ, 0.0, len(waveform) / RATE_HZ, 0.0, "", "")
    return LogMel.encode(decoded, DecodeConfig(audio="log_mel"))["mel.npy"]


def write_mel_shards(folder: Path, shard_clips: list[int], with_waveform: bool = True, duration_s: float = 1.9) -> str:
    """Write a data set; clips last `duration_s` or a third of it."""
    changes = {}
    for clip in range(sum(shard_clips)):
        waveform = audio(clip, duration_s / (3 if clip % 4 == 3 else 1))
        changes[clip] = {"flac": encode_audio(waveform) if with_waveform else None, "mel.npy": mel_npy(waveform)}
    return str(write_data_set(folder, shard_clips, changes=changes))


def mel_model(inputs: InputSpec) -> DenseAV:
    torch.manual_seed(0)
    return build_denseav(tiny_config(*MEL_MODEL).model, inputs)
