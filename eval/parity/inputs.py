"""Golden cases of model inputs: audio masks at feature rate, log-mel spectrograms."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from model.audio_mask import downsample_mask, downsample_weight
from pipelines.modalities.log_mel import HOP_MS, MEL_BINS, log_mel

SAMPLES = 164_200


def audio_mask(params: dict[str, Any], tensors: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """A mask of samples reduced to audio frames; bool, or the valid fraction of each frame."""
    position = torch.arange(SAMPLES)
    mask = (position >= tensors["mask_end"][:, :1]) & (position < tensors["mask_end"][:, 1:])
    steps = params["target_length"]
    yield {"mask": downsample_mask(mask, steps) if params["discrete"] else downsample_weight(mask.float(), steps)}


def mel(params: dict[str, Any], tensors: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """The normalized log-mel spectrogram of a padded waveform."""
    settings = tuple(params[key] for key in ("num_mel_bins", "frame_shift_ms", "window", "dither"))
    if settings != (MEL_BINS, HOP_MS, "hanning", 0):
        raise ValueError(f"log-mel settings {settings}, implemented are {(MEL_BINS, HOP_MS, 'hanning', 0)}")
    waveform = tensors["waveform"][: params["target_samples"]]
    padded = functional.pad(waveform, (0, params["target_samples"] - len(waveform)))
    yield {
        "spectrogram": (torch.from_numpy(log_mel(padded.numpy(), 16_000)) - params["mean"]) / params["std"],
        "audio_length": torch.tensor(len(waveform)),
        "waveform_padded_length": torch.tensor(len(padded)),
    }
