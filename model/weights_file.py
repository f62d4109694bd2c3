"""Read and write safetensors files."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from torch import Tensor


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file onto the CPU."""
    from safetensors.torch import load_file

    return load_file(path)


def save_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write tensors to a safetensors file, readable by whom the umask allows; safetensors alone makes it private.

    Args:
        tensors: contiguous tensors on the CPU, by name.
        path: file to write.
        metadata: texts for the header of the file.

    Raises:
        OSError: the disk is full or not writable; safetensors itself raises an error of its own.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path.touch()
    mode = stat.S_IMODE(path.stat().st_mode)
    try:
        save_file(tensors, path, metadata)
        path.chmod(mode)
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None
