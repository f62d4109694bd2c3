"""Shapes in the signatures of `model` and `eval` are checked by beartype in every test; torch uses one thread."""

import os
import signal

import pytest
import torch
from jaxtyping import install_import_hook

os.environ.setdefault("TRITON_INTERPRET", "1")

# Tests that a shell has started in the background ignore Ctrl-C, and so would the commands that they interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)
hook = install_import_hook(["model", "eval"], "beartype.beartype")


@pytest.fixture(autouse=True)
def _fixed_random_numbers():
    torch.manual_seed(0)
