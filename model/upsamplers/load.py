"""An upsampler by its name: one without weights, a published one, or a folder or file of weights."""

from pathlib import Path, PurePosixPath
from typing import cast

import torch
from torch import nn

from configs.errors import UsageError
from model.convert import upsampler_file
from model.download import download_once, hub_folder
from model.hub import resolve_checkpoint
from model.published_upsamplers import ANYUP
from model.upsamplers import UPSAMPLERS, Upsampler
from model.upsamplers.published import FeatUpStack, ImplicitFeatures


def benchmark_upsampler(name: str) -> Upsampler | None:
    """The upsampler of `upsampler=`, on the accelerator if there is one; None for bilinear, which benchmarks do last.

    Raises:
        UsageError: as load_upsampler.
    """
    if name == "bilinear":
        return None
    upsampler = load_upsampler(name)
    if isinstance(upsampler, nn.Module):
        upsampler.to(torch.accelerator.current_accelerator(check_available=True) or "cpu")
    return upsampler


def load_upsampler(name: str, key: str = "upsampler") -> Upsampler:
    """Load an upsampler, in evaluation mode and without gradients.

    Args:
        name: bilinear, bicubic; anyup or anyup_multi_backbone (downloaded once); the folder of a trained upsampler, its
            run, or a published file.
        key: setting that named it, for messages.

    Raises:
        UsageError: no such upsampler, weights that do not fit, or an upsampler of a single image.
    """
    if name in UPSAMPLERS:
        return UPSAMPLERS[name]()
    if name in ANYUP:
        url = ANYUP[name]
        name = str(download_once(url, hub_folder() / PurePosixPath(url).name))
    if not Path(name).exists():
        raise UsageError(
            f"{key}={name}: allowed are {', '.join([*UPSAMPLERS, *ANYUP])}, or the folder or file of a trained one"
        )
    path = Path(name)
    module = upsampler_file.load_upsampler(str(resolve_checkpoint(path, key) if path.is_dir() else path)).module
    if isinstance(module, ImplicitFeatures):
        raise UsageError(f"{key}={name}: an implicit upsampler is fitted to one image and has no weights for others")
    return cast(Upsampler, (module.upsampler if isinstance(module, FeatUpStack) else module).requires_grad_(False))
