"""Random augmentations of a training clip, and the fixed transforms of evaluation.

Pure functions: randomness comes from the generator passed in. Waveforms are float32 numpy arrays of S samples with a
bool mask (True = valid); images are uint8 torch tensors [3, H_px, W_px].

Source: reference 1.4. Differs from the reference: where the other clip is shorter than the splice, the splice is as
long as the other clip.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from configs.schema import AugmentConfig


def pad_or_crop(waveform: np.ndarray, samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut a waveform to `samples` or pad it with zeros at the end: (waveform [S], mask [S], False in the padding)."""
    valid = min(len(waveform), samples)
    padded, mask = np.zeros(samples, dtype=np.float32), np.zeros(samples, dtype=bool)
    padded[:valid], mask[:valid] = waveform[:valid], True
    return padded, mask


def splice(
    waveform: np.ndarray,
    mask: np.ndarray,
    other: np.ndarray,
    rng: np.random.Generator,
    settings: AugmentConfig,
    sample_rate_hz: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Cross-fade a stretch of another clip into the waveform at a random offset.

    The stretch lasts audio_splice_min_s to audio_splice_max_s. At each end, a raised cosine of max(a quarter of it,
    audio_splice_fade_min_s), at most half of it.

    Args:
        waveform: [S]; its audio is its first mask.sum() samples.
        mask: [S] bool, True = valid.
        other: the other clip's audio, not padded, from which a random stretch is taken.
        rng: draws length and offsets.
        settings: range of the length, and the shortest fade.
        sample_rate_hz: of both waveforms.

    Returns:
        (waveform [S], positive weight [S]: 1 outside the stretch, fading to 0 inside, 1 in the padding). The waveform
        is unchanged, with weights of 1, where the stretch would not be shorter than the clip.

    Source: reference 1.4, negative audio.
    """
    weight = np.ones(len(waveform), dtype=np.float32)
    valid = int(mask.sum())
    length_s = rng.uniform(settings.audio_splice_min_s, settings.audio_splice_max_s)
    length = min(round(length_s * sample_rate_hz), len(other))
    if not 0 < length < valid:
        return waveform, weight
    offset, start = int(rng.integers(valid - length + 1)), int(rng.integers(len(other) - length + 1))
    fade = min(max(length // 4, round(settings.audio_splice_fade_min_s * sample_rate_hz)), length // 2)
    stretch = slice(offset, offset + length)
    weight[stretch] = _fade_out_and_in(length, fade)
    mixed = waveform.copy()
    mixed[stretch] = waveform[stretch] * weight[stretch] + other[start : start + length] * (1 - weight[stretch])
    return mixed, weight


def _fade_out_and_in(length: int, fade: int) -> np.ndarray:
    """`fade` samples from 1 to 0 along a cosine, zeros, and back, taken at the centers of the samples."""
    weight = np.zeros(length, dtype=np.float32)
    weight[:fade] = 0.5 + 0.5 * np.cos(np.pi * (np.arange(fade) + 0.5) / max(fade, 1))
    weight[length - fade :] = weight[:fade][::-1]
    return weight


def random_time_window(
    waveform: np.ndarray, mask: np.ndarray, rng: np.random.Generator, min_samples: int
) -> tuple[np.ndarray, np.ndarray]:
    """Zero and mask out all audio but one random window of random length, at least `min_samples`.

    Returns:
        (waveform [S], mask [S] bool, True = valid), unchanged where the audio has at most `min_samples`.

    Source: reference 1.4, extra masking.
    """
    valid = int(mask.sum())
    if valid <= min_samples:
        return waveform, mask
    length = int(rng.integers(min_samples, valid + 1))
    start = int(rng.integers(valid - length + 1))
    window = np.zeros_like(mask)
    window[start : start + length] = True
    return np.where(window, waveform, np.float32(0)), window


def quad_mixup(
    frame: torch.Tensor, others: Sequence[torch.Tensor], rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """A 2x2 grid of the clip's frame and three others at half size, in random order.

    Args:
        frame: uint8 [3, H_px, W_px].
        others: three of the same shape.
        rng: draws the order.

    Returns:
        (image uint8 [3, H_px, W_px], weight [H_px, W_px]: 1 on the quadrant of `frame`, 0 elsewhere).

    Source: reference 1.4, quad mixup.
    """
    height, width = frame.shape[-2:]
    grid, weight = torch.empty_like(frame), torch.zeros(height, width)
    for quadrant, image in zip(rng.permutation(4).tolist(), (frame, *others), strict=True):
        rows = slice(0, height // 2) if quadrant < 2 else slice(height // 2, height)
        columns = slice(0, width // 2) if quadrant % 2 == 0 else slice(width // 2, width)
        size = [rows.stop - rows.start, columns.stop - columns.start]
        grid[:, rows, columns] = functional.resize(image, size, antialias=True)
        if image is frame:
            weight[rows, columns] = 1.0
    return grid, weight


def resize_center_crop(image: torch.Tensor, size_px: int) -> torch.Tensor:
    """Resize the short side to `size_px` (bilinear, antialiased), then center crop: uint8 [3, size_px, size_px].

    Source: reference 1.4.
    """
    height, width = image.shape[-2:]
    if min(height, width) != size_px:
        image = functional.resize(image, [size_px], antialias=True)
    return functional.center_crop(image, [size_px, size_px]) if max(image.shape[-2:]) != size_px else image


class ImageAugmentation:
    """Random resized crop, flip, color jitter, grayscale: uint8 [3, any, any] to uint8 [3, size_px, size_px].

    A transform whose setting makes it the identity is omitted; crop_scale_min = 1 gives the evaluation crop.

    Source: reference 1.4.
    """

    def __init__(self, settings: AugmentConfig, size_px: int) -> None:
        jitter, crops = settings.color_jitter, settings.crop_scale_min < 1
        transforms = (
            (crops, v2.RandomResizedCrop(size_px, scale=(settings.crop_scale_min, 1.0), antialias=True)),
            (settings.flip_probability, v2.RandomHorizontalFlip(settings.flip_probability)),
            (jitter, v2.ColorJitter(jitter, jitter, jitter, jitter)),
            (settings.grayscale_probability, v2.RandomGrayscale(settings.grayscale_probability)),
        )
        steps = [transform for is_used, transform in transforms if is_used]
        self.size_px, self._crops, self._random = size_px, crops, v2.Compose(steps) if steps else None

    def __call__(self, image: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Augment one image; torchvision is seeded from `rng`; torch's default generator keeps its state."""
        if not self._crops:
            image = resize_center_crop(image, self.size_px)
        if self._random is None:
            return image
        # torch.manual_seed also queues a call with its stack trace for every GPU that is not initialized:
        # 0.4 of 2.5 ms an item, and a list that grows.
        generator = torch.default_generator
        state = generator.get_state()
        generator.manual_seed(int(rng.integers(2**63)))
        try:
            return self._random(image)
        finally:
            generator.set_state(state)
