"""The device of training: copies to it, and how much it computes at once."""

import torch
from torch import Tensor


def to_device(value: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to a device; a GPU is not waited for: the copy starts from pinned memory."""
    if device.type == "cuda" and value.device.type == "cpu" and value.numel():
        return value.pin_memory().to(device, non_blocking=True)
    return value.to(device)


def rows_per_pass(device: torch.device) -> int:
    """Rows of a batch that are computed at once: few on a CPU, for its cache; more on a GPU, within its memory."""
    return 4 if device.type == "cpu" else 128


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory could not be allocated: of a GPU, pinned, shared between processes, or of a CPU."""
    texts = ("can't allocate memory", "out of memory", "allocate shared memory")
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(text in str(error) for text in texts)
