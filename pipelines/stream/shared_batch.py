"""Batches on their way from a loader worker to the training process, in anonymous memory.

torch sends each tensor through a file of its own in /dev/shm, which has 64 MB in a plain container; a tensor that finds
no space there is lost, and the training process waits for its batch forever. An anonymous file (`memfd_create`) is
limited by the memory of the machine or container only. A batch is one such file, with one file descriptor.
"""

from __future__ import annotations

import io
import mmap
import os
import pickle
from multiprocessing.reduction import DupFd
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from configs.errors import CommandFailed, UsageError
from pipelines.stream.batch import HostBatch

_ALIGNMENT_BYTES = 64


class SharedBatch(NamedTuple):
    """A batch as the queue of a DataLoader carries it: a message that a pipe takes whole (PIPE_BUF) or not at all.

    Attributes:
        descriptor: of the anonymous file; its worker has to live until the batch is fetched.
        pickle_offset: where the pickle of the batch starts in the file, after the contents of its tensors, in bytes.
    """

    descriptor: Any
    pickle_offset: int

    def fetch(self) -> HostBatch:
        """The batch in the training process; its tensors share the memory of the file, which ends with them.

        Raises:
            OSError, EOFError: the worker has ended.
        """
        file = self.descriptor.detach()
        try:
            memory = mmap.mmap(file, 0, mmap.MAP_SHARED | mmap.MAP_POPULATE)
        finally:
            os.close(file)
        memory.seek(self.pickle_offset)
        return _Unpickler(memory).load()


def share_batch(batch: Any) -> SharedBatch | UsageError | CommandFailed:
    """Write a batch into anonymous memory; a DataLoader calls it in its workers, as `collate_fn`.

    Args:
        batch: HostBatch, or the error in place of it that a dataset returns.

    Returns:
        An error in place of a batch as it is; CommandFailed if there is no memory.
    """
    if not isinstance(batch, HostBatch):
        return batch
    pickled = io.BytesIO()
    try:
        with os.fdopen(os.memfd_create("denseav-batch"), "wb") as file:
            _Pickler(pickled, file).dump(batch)
            offset = file.tell()
            file.write(pickled.getbuffer())
            file.flush()
            return SharedBatch(DupFd(file.fileno()), offset)
    except OSError as error:
        return CommandFailed(
            f"a loader worker cannot share a batch of {len(batch)} clips: {error.strerror}; use a smaller "
            "stream.num_workers, stream.prefetch_factor or global_batch_size"
        )


class _Pickler(pickle.Pickler):
    """Writes the contents of tensors to a file, and their type, shape and offset in bytes to the pickle."""

    def __init__(self, pickled: io.BytesIO, file: BinaryIO) -> None:
        super().__init__(pickled, protocol=pickle.HIGHEST_PROTOCOL)
        self._file = file

    def persistent_id(self, value: Any) -> tuple[torch.dtype, torch.Size, int] | None:
        if not isinstance(value, Tensor):
            return None
        offset = self._file.seek(-self._file.tell() % _ALIGNMENT_BYTES, os.SEEK_CUR)
        self._file.write(value.contiguous().flatten().view(torch.uint8).numpy().data)
        return value.dtype, value.shape, offset


class _Unpickler(pickle.Unpickler):
    """Replaces the type, shape and offset of a tensor by the tensor in a memory map."""

    def __init__(self, memory: mmap.mmap) -> None:
        super().__init__(memory)
        self._memory = memory

    def persistent_load(self, description: tuple[torch.dtype, torch.Size, int]) -> Tensor:
        dtype, shape, offset = description
        if not shape.numel():
            return torch.empty(shape, dtype=dtype)
        return torch.frombuffer(self._memory, dtype=dtype, count=shape.numel(), offset=offset).reshape(shape)
