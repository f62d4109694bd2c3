"""Heatmaps of a model and of the baselines it is compared with: items -> maps [B H W] of any size and range."""

import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from configs.errors import UsageError
from eval.benchmarks.io import read_waveform
from eval.benchmarks.localization.dataset import LocalizationExample, read_square_image
from eval.metrics.localization import SIDE_PX, min_max_normalize, resize_to_224
from model.denseav import DenseAV
from model.encoders.encoder import IMAGENET_MEAN, IMAGENET_STD, normalize
from model.encoders.pretrained import PRETRAINED, RANDOM, mismatched_weights_error, read_weights, summarize_error
from model.features import AudioFeatures, map_tensors
from model.inputs import InputSpec
from model.upsamplers import Upsampler
from pipelines.stream.augment import pad_or_crop

HeatmapSource = Callable[[Sequence[LocalizationExample]], Tensor]

# Standard deviation of the center prior, as a fraction of the side.
CENTER_STD = 0.25
# Weight of the model's own map in object_guided.
OWN_WEIGHT = 0.4
OBJECT_MODEL = "resnet18.tv_in1k"


class ModelMaps:
    """The heatmaps of a model: maximum over heads, mean over audio steps. Source: reference 1.6 and 2.

    Args:
        upsampler: brings maps to 224 x 224; None: maps have the size of the grid.
    """

    def __init__(self, model: DenseAV, upsampler: Upsampler | None = None) -> None:
        self.model, self.device, self.upsampler = model, next(model.parameters()).device, upsampler

    def __call__(self, items: Sequence[LocalizationExample], per_head: bool = False) -> Float[Tensor, "B *K H W"]:
        """Any range; `per_head`: one map for each head instead of the maximum over heads."""
        side_px = self.model.inputs.image_size_px
        frames = torch.stack([read_square_image(item.image, side_px) for item in items]).to(self.device)
        audio, steps = self._encode_audio(items)
        size = None if self.upsampler is None else (SIDE_PX, SIDE_PX)
        with torch.inference_mode():
            return self.model.heatmap(
                self.model.encode_image(frames), audio, size, per_head, steps, upsampler=self.upsampler, frames=frames
            )

    @torch.inference_mode()
    def _encode_audio(self, items: Sequence[LocalizationExample]) -> tuple[AudioFeatures, Bool[Tensor, "B T"]]:
        """Features of the audio of the items, and True at the steps that count."""
        inputs = self.model.inputs
        windows = [crop_audio(item, inputs) for item in items]
        # Frames of one video with the same audio window share its features.
        keys = [(item.audio, window.start_s) for item, window in zip(items, windows, strict=True)]
        distinct = dict(zip(keys, windows, strict=True))
        rows = torch.tensor([list(distinct).index(key) for key in keys])
        waveforms, masks, _ = zip(*distinct.values(), strict=True)
        waveform, mask = (torch.from_numpy(np.stack(column)).to(self.device) for column in (waveforms, masks))
        audio = map_tensors(self.model.encode_audio(waveform, mask), lambda tensor: tensor[rows])
        return audio, step_mask(items, [window.start_s for window in windows], audio.mask, inputs.clip_duration_s)


class AudioWindow(NamedTuple):
    """The part of an audio file that the model gets.

    Attributes:
        waveform: float32 [S], padded at the end with 0.
        mask: bool [S], True at samples of the file.
        start_s: where the window starts in the file.
    """

    waveform: np.ndarray
    mask: np.ndarray
    start_s: float


def crop_audio(item: LocalizationExample, inputs: InputSpec) -> AudioWindow:
    """Crop the audio around its middle, or around `second`, to `audio_window_s` or to as much as the model takes.

    Raises:
        UsageError: not an audio file, or one without samples.
    """
    rate_hz = inputs.sample_rate_hz
    waveform = read_waveform(item.audio, rate_hz)
    samples = round(min(item.audio_window_s, inputs.clip_duration_s) * rate_hz)
    middle = len(waveform) / 2 if item.second is None else (item.second + 0.5) * rate_hz
    start = int(min(max(middle - samples / 2, 0), max(len(waveform) - samples, 0)))
    return AudioWindow(*pad_or_crop(waveform[start : start + samples], inputs.samples), start / rate_hz)


def step_mask(
    items: Sequence[LocalizationExample], starts_s: Sequence[float], mask: Bool[Tensor, "B T"], duration_s: float
) -> Bool[Tensor, "B T"]:
    """The audio steps that count for each map: valid ones whose middle lies in the item's second.

    All valid ones count if the item has no second, or if no step lies in it.

    Args:
        starts_s: where the first step of each item begins in its audio.
        mask: True = valid.
        duration_s: of all T steps.
    """
    middle_s = (torch.arange(mask.shape[1], device=mask.device) + 0.5) * (duration_s / mask.shape[1])
    first_s, last_s = (
        torch.tensor(
            [
                default if item.second is None else item.second + offset - start_s
                for item, start_s in zip(items, starts_s, strict=True)
            ],
            device=mask.device,
        )[:, None]
        for offset, default in ((0, -torch.inf), (1, torch.inf))
    )
    inside = mask & (middle_s >= first_s) & (middle_s < last_s)
    return torch.where(inside.any(dim=1, keepdim=True), inside, mask)


def center_prior(items: Sequence[object]) -> Float[Tensor, "B H W"]:
    """A Gaussian at the center of every image, where photographers put their subject."""
    position = (torch.arange(SIDE_PX) + 0.5) / SIDE_PX - 0.5
    gaussian = torch.exp(-(position**2) / (2 * CENTER_STD**2))
    return (gaussian[:, None] * gaussian).expand(len(items), -1, -1)


def random_maps(items: Sequence[LocalizationExample], rows: int, columns: int) -> Float[Tensor, "B H W"]:
    """Chance: uniform random numbers from 0 to 1 on a grid, always the same for the same item."""
    generators = (torch.Generator().manual_seed(zlib.crc32(item.id.encode())) for item in items)
    return torch.stack([torch.rand(rows, columns, generator=generator) for generator in generators])


class ObjectPrior:
    """Where objects are, whatever the audio: the channel mean of the last feature map (7 x 7) of an ImageNet ResNet-18.

    Args:
        weights: `pretrained` (by timm: from its cache or the network), `random`, or a file.

    Raises:
        UsageError: weights that do not exist or do not fit.

    Source: Mo and Morgado, Localizing Visual Sounds the Easy Way, ECCV 2022 (EZ-VSL).
    """

    def __init__(self, weights: str) -> None:
        import timm

        origin = f"object_prior={weights}"
        try:
            model = timm.create_model(OBJECT_MODEL, pretrained=weights == PRETRAINED, num_classes=0, global_pool="")
        except Exception as error:  # errors of the hub and of the network have no common base class
            raise UsageError(
                f"{origin}: the weights of {OBJECT_MODEL} are not in timm's cache and cannot be downloaded "
                f"({summarize_error(error)}); give a file, or {RANDOM}"
            ) from None
        if weights not in (PRETRAINED, RANDOM):
            try:
                model.load_state_dict(read_weights(weights, origin, ignore=("fc.",)))
            except RuntimeError as error:
                raise mismatched_weights_error(origin, error) from None
        self.device = default_device()
        self.model = model.eval().to(self.device)

    @torch.inference_mode()
    def __call__(self, items: Sequence[LocalizationExample]) -> Float[Tensor, "B H W"]:
        """0 or more."""
        frames = torch.stack([read_square_image(item.image, SIDE_PX) for item in items])
        features: Tensor = self.model(normalize(frames, IMAGENET_MEAN, IMAGENET_STD).to(self.device))
        return features.mean(dim=1)


def object_guided(
    items: Sequence[LocalizationExample], own: HeatmapSource, prior: HeatmapSource
) -> Float[Tensor, "B H_px W_px"]:
    """Object-guided localization: 0.4 of a model's maps and 0.6 of the object prior's, each map scaled to 0 to 1.

    Papers report it beside the model's own maps. Source: EZ-VSL, as ObjectPrior.
    """
    own_maps, prior_maps = (min_max_normalize(resize_to_224(source(items))).cpu() for source in (own, prior))
    return OWN_WEIGHT * own_maps + (1 - OWN_WEIGHT) * prior_maps


def default_device() -> torch.device:
    """The accelerator of this machine, or its CPU."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
