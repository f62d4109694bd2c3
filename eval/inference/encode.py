"""Encode images and sounds of users for a model: images keep their aspect ratio, sounds are cut into windows."""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from eval.benchmarks.io import resample_waveform
from eval.inference.localization import Moments
from eval.inference.stream_maps import input_size
from model.denseav import DenseAV
from model.features import AudioFeatures, Features, ImageFeatures, concat_features, map_tensors
from pipelines.stream.augment import pad_or_crop

WINDOWS_PER_BATCH = 8
STEPS_PER_BATCH = 64


def encode_image(model: DenseAV, image: UInt8[Tensor, "3 H_px W_px"]) -> ImageFeatures:
    """Features of one image, float32; see resize_for_model."""
    frames = resize_for_model(image, model)[None].to(next(model.parameters()).device)
    return in_float32(model.encode_image(frames))


def in_float32(features: Features) -> Features:
    """Features in float32, masks as they are."""
    return map_tensors(features, lambda tensor: tensor.float() if tensor.is_floating_point() else tensor)


def resize_for_model(image: UInt8[Tensor, "3 H_px W_px"], model: DenseAV) -> UInt8[Tensor, "3 H_in W_in"]:
    """Resize an image without cropping (bicubic) to stream_maps.input_size.

    A square image gets the pixels that the localization benchmarks give to the model (read_square_image).
    """
    height_in, width_in = input_size(model, *image.shape[1:])
    pixels = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    resized = pixels.resize((width_in, height_in), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)


def encode_sound(model: DenseAV, waveform: Float[np.ndarray, "S"], rate_hz: int) -> AudioFeatures:
    """Features of consecutive windows of the model's input length, float32, one row each; the last window is padded.

    Args:
        waveform: -1 to 1, at least one sample.
        rate_hz: its sample rate.
    """
    inputs, device = model.inputs, next(model.parameters()).device
    waveform = resample_waveform(waveform, rate_hz, inputs.sample_rate_hz)
    starts = range(0, max(1, len(waveform)), inputs.samples)
    windows = [pad_or_crop(waveform[start : start + inputs.samples], inputs.samples) for start in starts]
    parts = []
    for first in range(0, len(windows), WINDOWS_PER_BATCH):
        columns = zip(*windows[first : first + WINDOWS_PER_BATCH], strict=True)
        parts.append(model.encode_audio(*(torch.from_numpy(np.stack(column)).to(device) for column in columns)))
    return in_float32(concat_features(parts))


def window_weights(audio: AudioFeatures) -> Float[Tensor, "W"]:
    """The weight of each window in means over the whole sound: its share of the valid audio steps; on the CPU."""
    return (audio.mask.sum(dim=1) / audio.mask.sum()).cpu()


def whole_sound_maps(
    model: DenseAV, image: ImageFeatures, audio: AudioFeatures
) -> tuple[Float[Tensor, "1 H W"], Float[Tensor, "1 K H W"]]:
    """The map of a whole sound in one image, maximum over heads and for each head; on the CPU."""
    repeated = expand_rows(image, len(audio.mask))
    maps, by_head = (model.heatmap(repeated, audio, per_head=per_head).cpu() for per_head in (False, True))
    weight = window_weights(audio)
    return torch.einsum("w,whv->hv", weight, maps)[None], torch.einsum("w,wkhv->khv", weight, by_head)[None]


def score_pairs(model: DenseAV, image: ImageFeatures, audio: AudioFeatures) -> Float[Tensor, "V"]:
    """Scores of one sound against V images, per-head scores summed over heads, mean over windows; on the CPU."""
    scores = model.similarity_per_head(image, audio).float().cpu()
    return torch.einsum("w,wvk->v", window_weights(audio), scores)


def step_moments(model: DenseAV, image: ImageFeatures, audio: AudioFeatures, duration_s: float) -> Moments:
    """The map of each valid audio step of a sound of `duration_s`, in one image."""
    window, step = audio.mask.nonzero(as_tuple=True)
    parts = []
    for w, t in zip(window.split(STEPS_PER_BATCH), step.split(STEPS_PER_BATCH), strict=True):
        rows = AudioFeatures(
            audio.dense[w, :, :, t][..., None],
            torch.ones(len(w), 1, dtype=torch.bool, device=w.device),
            None if audio.cls is None else audio.cls[w],
        )
        parts.append(model.heatmap(expand_rows(image, len(w)), rows, per_head=True).cpu())
    step_s = model.inputs.clip_duration_s / audio.mask.shape[1]
    starts_s = (window.cpu().numpy() * audio.mask.shape[1] + step.cpu().numpy()) * step_s
    frames = np.zeros(len(starts_s), dtype=np.int64)
    return Moments(starts_s, starts_s + step_s / 2, max(duration_s, starts_s[-1]), torch.cat(parts), frames)


def expand_rows(image: ImageFeatures, rows: int) -> ImageFeatures:
    """The features of one image, repeated in `rows` rows without a copy."""
    return map_tensors(image, lambda tensor: tensor.expand(rows, *tensor.shape[1:]))
