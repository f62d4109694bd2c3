"""Find a model by name: published models, the model in the package, and ids of the Hugging Face Hub."""

import os
import re
from pathlib import Path
from typing import NamedTuple

from model.download import download_once, hub_folder

# The checkpoints that the authors of DenseAV have published (mhamilton723/DenseAV, hubconf.py), and their heads.
PUBLISHED_URL = "https://marhamilresearch4.blob.core.windows.net/denseav-public/hub"
_FILES = {
    "sound": "denseav_sound.ckpt",
    "language": "denseav_language.ckpt",
    "sound_and_language": "denseav_2head.ckpt",
}
NUM_HEADS = {"sound": 1, "language": 1, "sound_and_language": 2}
TOY = "toy"
NAMES = (*_FILES, TOY)
PACKAGED = Path(__file__).parent / "pretrained"
ACCEPTED = (
    "a run folder, a step folder, a folder with config.json and model.safetensors, a released .ckpt, an id of the "
    f"Hugging Face Hub (user/name), or one of {', '.join(NAMES)}"
)
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)
_HUB_FILES = ["config.json", "model.safetensors", "metrics.json", "README.md"]


class HubOptions(NamedTuple):
    """How files are downloaded.

    Attributes:
        revision: branch, tag or commit of a repository of the Hugging Face Hub; None: its main branch.
        cache_dir: folder of downloads; None: that of the Hugging Face Hub, or of torch.hub for the published names.
        token: of the Hugging Face Hub, for private repositories; None: that of `hf auth login`, if any.
        local_files_only: use the cache alone.
    """

    revision: str | None = None
    cache_dir: str | os.PathLike[str] | None = None
    token: str | bool | None = None
    local_files_only: bool = False


DEFAULT_OPTIONS = HubOptions()


def locate(name_or_path: str | Path, options: HubOptions = DEFAULT_OPTIONS) -> Path:
    """The folder or file of a model; downloads what is not on this machine.

    Args:
        name_or_path: see ACCEPTED. A name comes before a folder of the same name: `./toy` is the folder.

    Raises:
        ValueError: no such model, or it cannot be downloaded.
    """
    name, path = str(name_or_path), Path(name_or_path).expanduser()
    if name == TOY:
        return PACKAGED / TOY
    if name in _FILES:
        return _download_published(_FILES[name], options)
    if name and path.exists():
        return path
    if isinstance(name_or_path, str) and _HUB_ID.fullmatch(name):
        return _download_repository(name, options)
    raise ValueError(f"model {name!r}: no such file or folder; allowed is {ACCEPTED}")


def _download_published(file: str, options: HubOptions) -> Path:
    folder = Path(options.cache_dir) if options.cache_dir else hub_folder()
    path, url = folder / file, f"{PUBLISHED_URL}/{file}"
    if options.local_files_only and not path.is_file():
        raise ValueError(f"{path}: no such file, and local_files_only=True; it is published at {url}")
    return download_once(url, path)


def _download_repository(repository: str, options: HubOptions) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, allow_patterns=_HUB_FILES, **options._asdict()))
    except Exception as error:  # errors of the hub, of its HTTP client and of the cache have no common base class
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"model {repository!r}: no such folder, and no download from the Hugging Face Hub "
            f"({type(error).__name__}: {reason}); allowed is {ACCEPTED}"
        ) from None
