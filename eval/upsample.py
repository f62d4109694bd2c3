"""Upsample the features of one image: `python -m eval.upsample image=dog.jpg checkpoint=toy out=DIR`

Writes features.png: the image, its features on the grid of the encoder, bilinearly upsampled, and upsampled by method=.
method=implicit fits FeatUp's network to the image and stores it in the same folder; read_upsampler_folder
of model.upsamplers.stored reads it. On a CPU, views=300 steps=200 gives a first picture.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from configs.cli import run
from configs.errors import UsageError
from configs.schema import UpsampleConfig

_PANEL_PX = 320  # smaller panels are enlarged

if TYPE_CHECKING:
    from torch import Tensor

    from eval.inference.frozen_encoder import FrozenEncoder


def main(config: UpsampleConfig) -> None:
    """Encode the image, upsample its features, write the folder."""
    _check_settings(config)
    from eval.inference.inputs import read_image
    from eval.inference.stream_maps import resize_frames, whole_patches
    from model.upsamplers.load import load_upsampler
    from model.upsamplers.maps import upsample_features

    picture = read_image(config.image)
    upsampler = None if config.method == "implicit" else load_upsampler(config.method, "method")
    encoder = _open_encoder(config)
    size = whole_patches(encoder.encoder.stride, config.side_px or encoder.side_px, *picture.shape[1:])
    frames = resize_frames([picture.permute(1, 2, 0).numpy()], size)
    features = encoder.encode(encoder.normalize(frames)).cpu()
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    if upsampler is None:
        upsampled = _fit(config, encoder, encoder.normalize(frames), out)
    else:
        upsampled = upsample_features(upsampler, features, frames, size)
    _draw(frames[0], features, upsampled, out / "features.png")
    print(f"{out / 'features.png'}: image, grid of the encoder, bilinear, {config.method}")


def _check_settings(config: UpsampleConfig) -> None:
    for key in ("image", "out"):
        if not getattr(config, key):
            raise UsageError(f"{key}= is missing")
    if not Path(config.image).is_file():
        raise UsageError(f"image={config.image}: no such file")
    if bool(config.encoder) == bool(config.checkpoint):
        raise UsageError(
            f"encoder={config.encoder} checkpoint={config.checkpoint}: give one of them, such as "
            "encoder=vit_small_patch16_224.dino or checkpoint=toy"
        )


def _open_encoder(config: UpsampleConfig) -> FrozenEncoder:
    from eval.inference.frozen_encoder import encoder_by_name, encoder_of_model
    from model.hub import load_pretrained

    if config.checkpoint:
        return encoder_of_model(load_pretrained(config.checkpoint).model)
    return encoder_by_name(config.encoder, config.weights, config.seed)


def _fit(config: UpsampleConfig, encoder: FrozenEncoder, image: Tensor, out: Path) -> Tensor:
    """Fit the implicit upsampler, store it, and return the features of every pixel."""
    import torch
    from tqdm import tqdm

    from model.upsamplers.implicit_fit import FitProgress, FitSettings, fit_implicit
    from model.upsamplers.stored import StoredUpsampler, save_upsampler

    settings = FitSettings(views=config.views, steps=config.steps, channels=config.channels)
    bars: dict[str, tqdm] = {}

    def show(progress: FitProgress) -> None:
        if progress.stage not in bars:
            bars[progress.stage] = tqdm(total=progress.total, desc=progress.stage, unit=progress.stage[:-1])
        bar = bars[progress.stage]
        bar.update(progress.done - bar.n)
        if progress.stage == "steps":
            bar.set_postfix_str(f"error {progress.error:.3g}", refresh=False)

    fitted = fit_implicit(image, encoder.encode, encoder.encoder.stride, settings, config.seed, show)
    for bar in bars.values():
        bar.close()
    if (steps := bars["steps"].n) < config.steps:
        print(f"the error has stopped falling: ended after {steps} of {config.steps} steps", file=sys.stderr)
    save_upsampler(StoredUpsampler("featup_implicit", fitted.settings, fitted), out)
    with torch.inference_mode():
        return fitted(image).cpu()


def _draw(frame: Tensor, features: Tensor, upsampled: Tensor, path: Path) -> None:
    """Write the image and its features, in colors of their joint principal components, side by side."""
    import numpy as np
    from PIL import Image
    from torch.nn import functional

    from configs.atomic_write import atomic_open
    from eval.render.pca import joint_colors
    from model.upsamplers.interpolation import InterpolationWeights

    size = (frame.shape[1], frame.shape[2])
    cells = functional.interpolate(features, size, mode="nearest")
    smooth, sharp = (InterpolationWeights(size).apply(part) for part in (features, upsampled))
    panels = [frame.numpy() / 255, *joint_colors([cells[0], smooth[0], sharp[0]])]
    gap = np.ones((3, size[0], 1 + size[1] // 50))
    row = np.concatenate([part for panel in panels for part in (panel.clip(0, 1), gap)][:-1], axis=2)
    factor = max(1, round(_PANEL_PX / size[0]))
    pixels = (row * 255).round().astype(np.uint8).transpose(1, 2, 0).repeat(factor, axis=0).repeat(factor, axis=1)
    with atomic_open(path) as file:
        Image.fromarray(pixels).save(file, "PNG")


if __name__ == "__main__":
    sys.exit(run(UpsampleConfig, __doc__, main))
