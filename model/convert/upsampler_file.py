"""Read published upsamplers from their files, strictly, and write and read them as a folder.

A folder has config.json (`upsampler`: its kind, and the arguments of its class) and model.safetensors.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load_file
from torch import Tensor, nn

from configs.errors import UsageError, raised_by_us
from model.convert.checkpoint_file import read_content, state_dict
from model.convert.featup import featup_weights, is_featup
from model.convert.implicit import implicit_weights, is_implicit
from model.convert.strict import check_weights
from model.convert.upsamplers import anyup_weights
from model.upsamplers.published import KINDS
from model.weights_file import save_tensors

_ANYUP_BASIS = "key_features_encoder.0.basis"


class PublishedUpsampler(NamedTuple):
    """An upsampler with its published weights.

    Attributes:
        kind: of model.upsamplers.published.KINDS.
        settings: arguments of its class.
        module: in evaluation mode.
    """

    kind: str
    settings: dict[str, Any]
    module: nn.Module


def load_upsampler(source: str) -> PublishedUpsampler:
    """Load an upsampler.

    Args:
        source: a published file (`{name}_jbu_stack_cocostuff.ckpt`, `anyup_*.pth`, a saved implicit model), or a folder
            that `save_upsampler` has written.

    Raises:
        UsageError: no such file, it is not one of a supported upsampler, or its weights do not fit.
    """
    if Path(source).is_dir():
        return _load_folder(Path(source))
    found = find_upsampler(read_content(source), source)
    if found is None:
        raise UsageError(f"source={source}: not a checkpoint of a supported upsampler ({', '.join(KINDS)})")
    return found


def find_upsampler(content: Any, source: str) -> PublishedUpsampler | None:
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


def save_upsampler(upsampler: PublishedUpsampler, folder: Path) -> None:
    """Write config.json and model.safetensors into an existing folder."""
    config = {"upsampler": upsampler.kind, **upsampler.settings}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    tensors = {name: tensor.contiguous() for name, tensor in upsampler.module.state_dict().items()}
    save_tensors(tensors, folder / "model.safetensors")


def _load_folder(folder: Path) -> PublishedUpsampler:
    file = folder / "config.json"
    try:
        settings = json.loads(file.read_text())
        kind = settings.pop("upsampler")
        return _build(kind, settings, load_file(folder / "model.safetensors"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"source={folder}: not a folder of an upsampler ({' '.join(str(error).split())[:200]})"
        ) from None


def _featup(stored: Mapping[str, Tensor]) -> PublishedUpsampler:
    weights = featup_weights(stored)
    state = {f"upsampler.{name}": value for name, value in weights.upsampler.items()}
    state |= {f"norm.{name}": value for name, value in (weights.norm or {}).items()}
    return _build("featup", {"channels": weights.channels, "has_norm": weights.norm is not None}, state)


def _implicit(content: Mapping[str, Any]) -> PublishedUpsampler:
    weights = implicit_weights(content)
    state = {f"network.{name}": value for name, value in weights.network.items()}
    settings = {"channels": weights.channels, "frequencies": weights.frequencies, "has_color": weights.has_color}
    if weights.components is not None and weights.mean is not None:
        state |= {"components": weights.components, "mean": weights.mean}
        settings["feature_channels"] = len(weights.mean)
    return _build("featup_implicit", settings, state)


def _anyup(stored: Mapping[str, Tensor]) -> PublishedUpsampler:
    """Heads, window and groups are not stored: those of the published models are the defaults."""
    basis = stored[_ANYUP_BASIS].shape
    if len(basis) != 4 or basis[0] % 8:
        raise ValueError(f"{_ANYUP_BASIS} {list(basis)} instead of [D, 1, kernel, kernel] with D a multiple of 8")
    settings = {"channels": basis[0], "kernel": basis[2], "published_order": True}
    return _build("anyup", settings, anyup_weights(stored))


def _build(kind: str, settings: dict[str, Any], state: Mapping[str, Tensor]) -> PublishedUpsampler:
    if kind not in KINDS:
        raise ValueError(f"upsampler {kind!r}: allowed is {', '.join(KINDS)}")
    module = KINDS[kind](**settings)
    check_weights(state, module.state_dict())
    module.load_state_dict(dict(state))
    return PublishedUpsampler(kind, settings, module.eval())
