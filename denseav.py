"""The public Python API: load a DenseAV, localize sounds in images and videos, score and embed them.

    import denseav

    model = denseav.load("toy")
    result = model.localize("dog.jpg", "bark.wav")
    result.save("where.png")

See docs/using.md.
"""

import importlib.metadata
import os
from pathlib import Path

import torch

from eval.inference.localization import Localization
from eval.inference.localizer import Localizer
from model.published import PACKAGED

__all__ = ["Localization", "Localizer", "__version__", "example_clips", "load"]

try:
    __version__ = importlib.metadata.version("denseav-trainer")
except importlib.metadata.PackageNotFoundError:  # a copy of the repository that is not installed
    __version__ = "0+not.installed"


def load(
    name_or_path: str | Path,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> Localizer:
    """Load a model.

    Args:
        name_or_path: a run folder (its newest checkpoint), a step folder, an exported folder, a released checkpoint
            (.ckpt, converted on loading), an id of the Hugging Face Hub (`user/name`), or a name: `toy`, the small
            model of this package; `sound`, `language`, `sound_and_language`, the published models, downloaded once.
        device: None: the accelerator of this machine (CUDA, MPS), otherwise the CPU.
        dtype: of the encoders: torch.float32 (None), torch.bfloat16 or torch.float16.
        revision: branch, tag or commit of a repository of the Hugging Face Hub.
        cache_dir: folder of downloads; None: that of the Hugging Face Hub, or of torch.hub for published names.
        token: of the Hugging Face Hub, for private repositories.
        local_files_only: do not download.

    Raises:
        ValueError: no such model, it cannot be downloaded, its weights do not fit, or no such device or dtype.
    """
    return Localizer.from_pretrained(
        name_or_path,
        device,
        dtype,
        revision=revision,
        cache_dir=cache_dir,
        token=token,
        local_files_only=local_files_only,
    )


def example_clips() -> list[Path]:
    """The example videos of this package (.mp4), which the `toy` model understands."""
    return sorted((PACKAGED / "examples").glob("*.mp4"))
