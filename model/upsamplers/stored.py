"""Upsamplers with weights, as a folder of config.json (`upsampler`, and its arguments) and model.safetensors."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from safetensors.torch import load_file
from torch import Tensor, nn

from configs.errors import UsageError
from model.convert.strict import check_weights
from model.upsamplers.anyup import AnyUp
from model.upsamplers.featup_stack import FeatUpStack
from model.upsamplers.implicit import ImplicitFeatures
from model.upsamplers.jafar import Jafar
from model.upsamplers.jbu import Jbu
from model.upsamplers.naf import Naf
from model.weights_file import save_tensors

KINDS: Mapping[str, Callable[..., nn.Module]] = MappingProxyType(
    {
        "featup": FeatUpStack,
        "featup_implicit": ImplicitFeatures,
        "anyup": AnyUp,
        "jbu": Jbu,
        "naf": Naf,
        "jafar": Jafar,
    }
)


class StoredUpsampler(NamedTuple):
    """An upsampler and how to build it again.

    Attributes:
        kind: of KINDS.
        settings: arguments of its class.
        module: in evaluation mode.
    """

    kind: str
    settings: dict[str, Any]
    module: nn.Module


def build_stored(kind: str, settings: dict[str, Any], state: Mapping[str, Tensor]) -> StoredUpsampler:
    """Build an upsampler with weights.

    Raises:
        ValueError: no such kind, or weights that are missing, unexpected or of another shape.
    """
    if kind not in KINDS:
        raise ValueError(f"upsampler {kind!r}: allowed is {', '.join(KINDS)}")
    module = KINDS[kind](**settings)
    check_weights(state, module.state_dict())
    module.load_state_dict(dict(state))
    return StoredUpsampler(kind, settings, module.eval())


def save_upsampler(upsampler: StoredUpsampler, folder: Path) -> None:
    """Write the files into an existing folder."""
    config = {"upsampler": upsampler.kind, **upsampler.settings}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    tensors = {name: tensor.contiguous() for name, tensor in upsampler.module.state_dict().items()}
    save_tensors(tensors, folder / "model.safetensors")


def read_upsampler_folder(folder: Path) -> StoredUpsampler:
    """The upsampler of a folder.

    Raises:
        UsageError: not a folder that save_upsampler has written, or a damaged one.
    """
    try:
        settings = json.loads((folder / "config.json").read_text())
        kind = settings.pop("upsampler")
        return build_stored(kind, settings, load_file(folder / "model.safetensors"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"source={folder}: not a folder of an upsampler ({' '.join(str(error).split())[:200]})"
        ) from None
