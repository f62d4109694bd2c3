"""An upsampler by its name: one without weights, a published one, or a folder or file of weights."""

from pathlib import Path, PurePosixPath

import torch
from torch import nn

from configs.errors import UsageError
from model.convert.upsampler_file import read_upsampler
from model.download import download_once, hub_folder
from model.hub import resolve_checkpoint
from model.published_upsamplers import ANYUP
from model.upsamplers import UPSAMPLERS, Upsampler


def load_upsampler(name: str, key: str = "upsampler", device: torch.device | str = "cpu") -> Upsampler:
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
    path = Path(name)
    if url := ANYUP.get(name):
        path = download_once(url, hub_folder() / PurePosixPath(url).name)
    if not path.exists():
        raise UsageError(
            f"{key}={name}: allowed are {', '.join([*UPSAMPLERS, *ANYUP])}, or the folder or file of a trained one"
        )
    module: nn.Module = read_upsampler(str(resolve_checkpoint(path, key) if path.is_dir() else path)).module
    if not isinstance(module, Upsampler):
        raise UsageError(f"{key}={name}: an implicit upsampler is fitted to one image and has no weights for others")
    module.requires_grad_(False).to(device)
    return module
