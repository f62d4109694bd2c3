"""Shapes in the signatures of `model` and `eval` are checked by beartype in every test; torch keeps to one thread beside other processes."""

import os

os.environ.setdefault("TRITON_INTERPRET", "1")

from jaxtyping import install_import_hook

hook = install_import_hook(["model", "eval"], "beartype.beartype")

import pytest
import torch


@pytest.fixture(autouse=True)
def _fixed_random_numbers():
    torch.manual_seed(0)
