"""Read published upsamplers from their files, strictly."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from configs.errors import UsageError, raised_by_us
from model.convert.checkpoint_file import read_content, state_dict
from model.convert.featup import featup_weights, is_featup
from model.convert.implicit import implicit_weights, is_implicit
from model.convert.upsamplers import anyup_weights
from model.upsamplers.stored import KINDS, StoredUpsampler, build_stored, read_upsampler_folder

_ANYUP_BASIS = "key_features_encoder.0.basis"


def read_upsampler(source: str) -> StoredUpsampler:
    """Read an upsampler.

    Args:
        source: a published file (`{name}_jbu_stack_cocostuff.ckpt`, `anyup_*.pth`, a saved implicit model), or a folder
            of model.upsamplers.stored.

    Raises:
        UsageError: no such file, it is not one of a supported upsampler, or its weights do not fit.
    """
    if Path(source).is_dir():
        return read_upsampler_folder(Path(source))
    found = find_upsampler(read_content(source), source)
    if found is None:
        raise UsageError(f"source={source}: not a checkpoint of a supported upsampler ({', '.join(KINDS)})")
    return found


def find_upsampler(content: Any, source: str) -> StoredUpsampler | None:
    """The upsampler in the content of a file; None: it contains something else.

    Raises:
        UsageError: missing or unexpected weights, or other shapes.
    """
    try:
        if is_implicit(content):
            return _implicit(content)
        stored = state_dict(content, source)
        if is_featup(stored):
            return _featup(stored)
        return _anyup(stored) if _ANYUP_BASIS in stored else None
    except ValueError as error:
        if isinstance(error, UsageError) or not raised_by_us(error):
            raise
        raise UsageError(f"source={source}: {error}") from None


def _featup(stored: Mapping[str, Tensor]) -> StoredUpsampler:
    weights = featup_weights(stored)
    state = {f"upsampler.{name}": value for name, value in weights.upsampler.items()}
    state |= {f"norm.{name}": value for name, value in (weights.norm or {}).items()}
    return build_stored("featup", {"channels": weights.channels, "has_norm": weights.norm is not None}, state)


def _implicit(content: Mapping[str, Any]) -> StoredUpsampler:
    weights = implicit_weights(content)
    state = {f"network.{name}": value for name, value in weights.network.items()}
    settings = {"channels": weights.channels, "frequencies": weights.frequencies, "has_color": weights.has_color}
    if weights.components is not None and weights.mean is not None:
        state |= {"components": weights.components, "mean": weights.mean}
        settings["feature_channels"] = len(weights.mean)
    return build_stored("featup_implicit", settings, state)


def _anyup(stored: Mapping[str, Tensor]) -> StoredUpsampler:
    """Heads, window and groups are not stored: those of the published models are the defaults."""
    basis = stored[_ANYUP_BASIS].shape
    if len(basis) != 4 or basis[0] % 8:
        raise ValueError(f"{_ANYUP_BASIS} {list(basis)} instead of [D, 1, kernel, kernel] with D a multiple of 8")
    settings = {"channels": basis[0], "kernel": basis[2], "published_order": True}
    return build_stored("anyup", settings, anyup_weights(stored))
