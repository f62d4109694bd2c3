"""The kinds of golden cases. A new kind is a file with the function that computes it, and a line in KINDS."""

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import Tensor

from eval.parity import featup, inputs, losses, metrics, projection, similarity, upsamplers
from eval.parity.featup_losses import featup_losses
from eval.parity.released_checkpoint import released_checkpoint
from eval.parity.released_upsampler import released_upsampler


class Kind(NamedTuple):
    """How a kind of case is computed and compared.

    Attributes:
        compute: (params, tensors) -> the outputs by name, once for each implementation that must agree. Tensors
            `in.NAME` arrive as `NAME`.
        tolerance: largest absolute difference in float32 (tests/golden/README.md).
        output_tolerances: of outputs with another tolerance; their differences are reported on the scale of
            `tolerance`.
        is_relative: differences are divided by the largest absolute expected value of the tensor, at least 0.001;
            booleans and integers have to be equal.
        companion: a JSON file in the folder of the case, passed on as `params["keys"]`.
    """

    compute: Callable[[dict[str, Any], dict[str, Tensor]], Iterator[Mapping[str, Tensor | float]]]
    tolerance: float
    output_tolerances: Mapping[str, float] = MappingProxyType({})
    companion: str = ""
    is_relative: bool = False


# In the order of the table.
KINDS = {
    "scores": Kind(similarity.scores, 1e-4),
    "paired_volume": Kind(similarity.paired_volume, 1e-5),
    "loss_terms": Kind(losses.loss_terms, 1e-4),
    "projection": Kind(projection.projection, 1e-4),
    "audio_mask": Kind(inputs.audio_mask, 1e-6),
    "mel": Kind(inputs.mel, 2e-3),
    "prompted_segmentation": Kind(metrics.prompted_segmentation, 1e-4),
    "retrieval": Kind(metrics.retrieval, 1e-5),
    "disentanglement": Kind(metrics.disentanglement, 1e-5),
    "localization": Kind(metrics.localization, 1e-5),
    "released_checkpoint": Kind(
        released_checkpoint,
        3e-2,
        {"scores": 5e-2, "scores_by_head": 5e-2, "audio_features": 5e-5, "audio_cls": 5e-5},
        "released_checkpoint_keys.json",
    ),
    "jbu_stage": Kind(upsamplers.jbu_stage, 1e-4, is_relative=True),
    "jbu_stack": Kind(upsamplers.jbu_stack, 1e-4, is_relative=True),
    "channel_norm": Kind(upsamplers.channel_norm, 1e-4, is_relative=True),
    "downsample_attention": Kind(featup.downsample_attention, 1e-4, is_relative=True),
    "downsample_simple": Kind(featup.downsample_simple, 1e-4, is_relative=True),
    "implicit_features": Kind(featup.implicit_features, 1e-2, is_relative=True),
    "implicit_upsampler": Kind(featup.implicit_network, 1e-2, is_relative=True),
    "jitter": Kind(featup.jitter, 1e-4, is_relative=True),
    "featup_losses": Kind(featup_losses, 1e-4, is_relative=True),
    "featup_released_upsampler": Kind(
        released_upsampler, 1e-4, companion="featup_released_layout.json", is_relative=True
    ),
    "anyup": Kind(upsamplers.anyup, 1e-4, is_relative=True),
    "jafar": Kind(upsamplers.jafar, 1e-4, is_relative=True),
}
