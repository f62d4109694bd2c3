"""Downloads a published file once."""

import urllib.error
from pathlib import Path

import torch


def download_once(url: str, path: Path) -> Path:
    """The file at `path`, downloaded if it is not there; it appears when it is complete.

    Raises:
        ValueError: it cannot be downloaded.
    """
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(url, str(path))
    except (urllib.error.URLError, OSError) as error:
        raise ValueError(f"{url} cannot be downloaded ({error}); download it to {path} by other means") from None
    return path


def hub_folder() -> Path:
    """Where torch.hub keeps files of weights."""
    return Path(torch.hub.get_dir()) / "checkpoints"
