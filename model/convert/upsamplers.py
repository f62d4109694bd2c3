"""Names of the parameters of published upsamplers, in ours."""

import re
from collections.abc import Mapping

from torch import Tensor

_ATTENTION = "cross_decode.cross_attn."
# Projections of values and outputs are stored and not used: the weights mix raw features.
_UNUSED = re.compile(rf"{re.escape(_ATTENTION)}(attention\.(out_proj\.|v_proj_weight)|norm_v\.)")
_COMMON = {f"{_ATTENTION}norm_": "attention.norm_", "cross_decode.conv2d.": "query_conv."}
_ANYUP = _COMMON | {
    "key_features_encoder.0.basis": "unification.basis",
    "key_features_encoder.1.": "unification.blocks.0.",
    "key_features_encoder.2.": "unification.blocks.1.",
}
_JAFAR = _COMMON | {
    "key_features_encoder.": "feature_encoder.",
    "sft_key.": "",
    f"{_ATTENTION}attention.q_proj_weight": "attention.query.weight",
    f"{_ATTENTION}attention.k_proj_weight": "attention.key.weight",
}
_JAFAR_BLOCK = {"norm1": "block.0", "conv1": "block.2", "norm2": "block.3", "conv2": "block.5"}


def anyup_weights(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a published AnyUp, for model.upsamplers.anyup.AnyUp."""
    return _renamed(published, _ANYUP)


def jafar_weights(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a published JAFAR, for model.upsamplers.jafar.Jafar."""
    blocks = re.compile(r"^(\w+encoder\.\d)\.(norm1|conv1|norm2|conv2)")
    renamed = {blocks.sub(lambda m: f"{m[1]}.{_JAFAR_BLOCK[m[2]]}", name): value for name, value in published.items()}
    return _renamed(renamed, _JAFAR)


def _renamed(published: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """Renamed weights; the joint projection of queries, keys and values split, what is not used left out."""
    out = {}
    for name, value in published.items():
        if _UNUSED.match(name):
            continue
        if name.startswith(f"{_ATTENTION}attention.in_proj_"):
            kind = name.rpartition("_")[2]
            out[f"attention.query.{kind}"], out[f"attention.key.{kind}"], _ = value.chunk(3)
            continue
        prefix = next((old for old in names if name.startswith(old)), "")
        out[names.get(prefix, "") + name.removeprefix(prefix)] = value
    return out
