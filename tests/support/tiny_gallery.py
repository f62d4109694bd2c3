"""A gallery of eleven pairs and a model that encodes it."""

from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from tiny_shards import write_data_set
from tiny_training import tiny_config, tiny_model

from model.denseav import DenseAV


@contextmanager
def recorded_calls(model, method, size):
    """Record the calls of a method of the model, by the size of their arguments."""
    calls, own = [], getattr(model, method)
    setattr(model, method, lambda *given: calls.append(size(*given)) or own(*given))
    try:
        yield calls
    finally:
        delattr(model, method)


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    """Eleven readable pairs and an unreadable one."""
    return write_data_set(
        tmp_path_factory.mktemp("pairs") / "shards",
        [5, 7],
        duration_s=0.8,
        frames=2,
        changes={3: {"flac": b"no sound at all" * 9}},
    )


@pytest.fixture(scope="module")
def model() -> DenseAV:
    """A model with two heads."""
    torch.manual_seed(1)
    return tiny_model(tiny_config("model.num_heads=2")).eval()
