"""Where maps come from: a model, or what a model must beat. Each takes items and gives maps of any size and range, [B H W]."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from configs.errors import UsageError
from eval.benchmarks.localization.dataset import LocalizationExample, read_picture
from eval.benchmarks.sounds import read_waveform
from eval.metrics.localization import SIDE_PX, min_max_normalize, resize_to_224
from model.denseav import DenseAV
from model.encoders.encoder import IMAGENET_MEAN, IMAGENET_STD, normalize
from model.encoders.pretrained import PRETRAINED, RANDOM, mismatched_weights_error, read_weights, summarize_error
from model.features import AudioFeatures, ImageFeatures, map_tensors
from model.inputs import InputSpec
from pipelines.stream.augment import pad_or_crop

MapSource = Callable[[Sequence[LocalizationExample]], Tensor]

# Standard deviation of the centre prior's bump, as a share of the side.
CENTER_SPREAD = 0.25
# Share of the own map in the mixture with the object prior.
OWN_SHARE = 0.4
OBJECT_MODEL = "resnet18.tv_in1k"


class ModelMaps:
    """The maps of a model: maximum over heads of the similarities, mean over the steps that count. Source: reference 1.6 and 2."""

    def __init__(self, model: DenseAV) -> None:
        self.model, self.device = model, next(model.parameters()).device

    def __call__(self, items: Sequence[LocalizationExample]) -> Float[Tensor, "B H W"]:
        """Any range."""
        image, audio, steps = self._encode(items)
        return self.model.heatmap(image, audio, step_weight=steps)

    def by_head(self, items: Sequence[LocalizationExample]) -> Float[Tensor, "B K H W"]:
        """Each head alone."""
        image, audio, steps = self._encode(items)
        return self.model.heatmap(image, audio, per_head=True, step_weight=steps)

    @torch.inference_mode()
    def _encode(self, items: Sequence[LocalizationExample]) -> tuple[ImageFeatures, AudioFeatures, Bool[Tensor, "B T"]]:
        """Features of the items, and True at the audio steps that count."""
        inputs = self.model.inputs
        heard = [crop_audio(item, inputs) for item in items]
        # Frames of one video that hear the same stretch share its features.
        keys = [(item.sound, sound.start_s) for item, sound in zip(items, heard, strict=True)]
        distinct = dict(zip(keys, heard, strict=True))
        rows = torch.tensor([list(distinct).index(key) for key in keys])
        waveform, mask = (
            torch.from_numpy(np.stack(column)).to(self.device)
            for column in list(zip(*distinct.values(), strict=True))[:2]
        )
        audio = self.model.encode_audio(waveform, mask)
        audio = map_tensors(audio, lambda tensor: tensor[rows])
        pictures = torch.stack([read_picture(item.picture, inputs.image_size_px) for item in items])
        steps = frame_mask(items, [sound.start_s for sound in heard], audio.mask, inputs.clip_duration_s)
        return self.model.encode_image(pictures.to(self.device)), audio, steps


class AudioWindow(NamedTuple):
    """What the model hears: waveform float32 [S], True where it is sound, and where in the file it starts."""

    waveform: np.ndarray
    mask: np.ndarray
    start_s: float


def crop_audio(item: LocalizationExample, inputs: InputSpec) -> AudioWindow:
    """The stretch around the middle of the item's sound, or around its second, of `audio_window_s` or as much of that as the model takes; padded at the end.

    Raises:
        UsageError: not a sound file, or an empty one.
    """
    rate_hz = inputs.sample_rate_hz
    waveform = read_waveform(item.sound, rate_hz)
    samples = round(min(item.audio_window_s, inputs.clip_duration_s) * rate_hz)
    middle = len(waveform) / 2 if item.second is None else (item.second + 0.5) * rate_hz
    start = int(min(max(middle - samples / 2, 0), max(len(waveform) - samples, 0)))
    return AudioWindow(
        *pad_or_crop(waveform[start : start + samples], round(inputs.clip_duration_s * rate_hz)), start / rate_hz
    )


def frame_mask(
    items: Sequence[LocalizationExample], starts_s: Sequence[float], mask: Bool[Tensor, "B T"], duration_s: float
) -> Bool[Tensor, "B T"]:
    """The valid steps whose middle lies in the item's second; all valid ones where it names none, or none lies there.

    Args:
        starts_s: where in its sound each item's first step begins.
        duration_s: of all steps together.
    """
    middle_s = (torch.arange(mask.shape[1], device=mask.device) + 0.5) * (duration_s / mask.shape[1])
    first_s = torch.tensor(
        [
            -torch.inf if item.second is None else item.second - start_s
            for item, start_s in zip(items, starts_s, strict=True)
        ]
    )
    last_s = torch.tensor(
        [
            torch.inf if item.second is None else item.second + 1 - start_s
            for item, start_s in zip(items, starts_s, strict=True)
        ]
    )
    inside = mask & (middle_s >= first_s[:, None].to(mask.device)) & (middle_s < last_s[:, None].to(mask.device))
    return torch.where(inside.any(dim=1, keepdim=True), inside, mask)


def center_prior(items: Sequence[object]) -> Float[Tensor, "B H W"]:
    """A bump in the middle of every picture: photographers point at what they mean."""
    place = (torch.arange(SIDE_PX) + 0.5) / SIDE_PX - 0.5
    bump = torch.exp(-(place**2) / (2 * CENTER_SPREAD**2))
    return (bump[:, None] * bump).expand(len(items), -1, -1)


class RandomMaps:
    """Chance: even random numbers on a grid, for each item the same at any time."""

    def __init__(self, rows: int, columns: int) -> None:
        self.rows, self.columns = rows, columns

    def __call__(self, items: Sequence[LocalizationExample]) -> Float[Tensor, "B H W"]:
        """0 to 1."""
        return torch.stack(
            [
                torch.rand(
                    self.rows, self.columns, generator=torch.Generator().manual_seed(zlib.crc32(item.id.encode()))
                )
                for item in items
            ]
        )


class ObjectPrior:
    """Where things are, whatever sounds: the mean over channels of the last feature map (7 x 7) of an ImageNet classifier, ResNet-18.

    Args:
        weights: `pretrained` (timm's own loader: its cache, or the network), `random`, or a file.

    Raises:
        UsageError: weights that are not there or do not fit.

    Source: Mo and Morgado, Localizing Visual Sounds the Easy Way, ECCV 2022 (EZ-VSL).
    """

    def __init__(self, weights: str) -> None:
        import timm

        origin = f"object_prior={weights}"
        try:
            model = timm.create_model(OBJECT_MODEL, pretrained=weights == PRETRAINED, num_classes=0)
        except Exception as error:  # the hub's and the network's errors have no common base
            raise UsageError(
                f"{origin}: the weights of {OBJECT_MODEL} are not in timm's cache and cannot be fetched ({summarize_error(error)}); give a file, or {RANDOM}"
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
        pictures = torch.stack([read_picture(item.picture, SIDE_PX) for item in items])
        return self.model.forward_features(normalize(pictures, IMAGENET_MEAN, IMAGENET_STD).to(self.device)).mean(dim=1)


class ObjectGuided:
    """0.4 of one's own maps and 0.6 of the object prior's, each first scaled to 0 to 1: what this field reports beside its models' own maps.

    Source: EZ-VSL, as ObjectPrior.
    """

    def __init__(self, own: MapSource, prior: MapSource) -> None:
        self.own, self.prior = own, prior

    def __call__(self, items: Sequence[LocalizationExample]) -> Float[Tensor, "B H_px W_px"]:
        """0 to 1."""
        own, prior = (min_max_normalize(resize_to_224(maps(items))).cpu() for maps in (self.own, self.prior))
        return OWN_SHARE * own + (1 - OWN_SHARE) * prior


def default_device() -> torch.device:
    """The machine's accelerator where there is one."""
    return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
