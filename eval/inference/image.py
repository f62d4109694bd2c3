"""Localize a sound in one image."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from eval.benchmarks.io import resample_waveform
from eval.inference.encode import encode_image, encode_sound, score_pairs, step_moments, whole_sound_maps
from eval.inference.localization import Localization
from eval.inference.map_upsampler import MapUpsampler
from eval.render.drawing import View


@torch.no_grad()
def localize_image(
    upsample: MapUpsampler,
    image: UInt8[Tensor, "3 H_px W_px"],
    sound: tuple[Float[np.ndarray, "S"], int],
    precision: Callable[[], AbstractContextManager[object]],
) -> Localization:
    """The maps of a sound in an image; errors as Localizer.localize.

    Args:
        upsample: with the model, in evaluation mode.
        image: RGB.
        sound: samples in -1 to 1 and their rate in Hz.
        precision: context in which the encoders run.
    """
    model = upsample.model
    waveform, rate_hz = sound
    samples = resample_waveform(waveform, rate_hz, model.inputs.sample_rate_hz)  # in float32
    with precision():
        features, audio = encode_image(model, image), encode_sound(model, samples)
    maps, by_head = whole_sound_maps(model, features, audio)
    moments = step_moments(model, features, audio, len(waveform) / rate_hz)
    return Localization(
        image[None],
        np.zeros(1),
        moments.middles_s,
        float(score_pairs(model, features, audio)),
        maps,
        by_head,
        moments,
        upsample,
        partial(_render, upsample, image, sound),
    )


def _render(
    upsample: MapUpsampler,
    image: UInt8[Tensor, "3 H_px W_px"],
    sound: tuple[np.ndarray, int],
    out: Path,
    view: View,
    head: int | None,
) -> None:
    from eval.render.render import render_image

    pixels = image.permute(1, 2, 0).contiguous().numpy()
    render_image(upsample.model, pixels, sound, out, view=view, head=head, upsampler=upsample.upsampler)
