"""Files of tensors: who may read them."""

import os
import stat

import pytest
import torch

from model.weights_file import read_checkpoint, save_tensors


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_the_umask_decides_who_may_read_a_file_of_tensors(tmp_path, umask, mode):
    path, before = tmp_path / "model.safetensors", os.umask(umask)
    try:
        save_tensors({"a": torch.ones(2)}, path)
        save_tensors({"a": torch.zeros(2)}, path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert read_checkpoint(path)["a"].tolist() == [0, 0]
