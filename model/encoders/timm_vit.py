"""timm vision transformers that return all normalized tokens for images of any shape, for image.py and log_mel_vit.py.

Limits: transformers with a class token, by timm's names (vit_small_patch8_224.dino, hf_hub:OWNER/NAME,
local-dir:FOLDER).
"""

from typing import TYPE_CHECKING, Any, cast

from torch import nn

from model.encoders.pretrained import PRETRAINED, RANDOM, mismatched_weights_error, read_weights, summarize_error

if TYPE_CHECKING:
    from timm.models import vision_transformer

    class VisionTransformer(vision_transformer.VisionTransformer):
        """With the attribute that timm.create_model adds."""

        pretrained_cfg: dict[str, Any]

else:  # timm is slow to import
    VisionTransformer = nn.Module


def create_vit(
    name: str,
    size_px: tuple[int, int],
    in_channels: int,
    weights: str,
    config_key: str,
    norm_eps: float | None = None,
    gradient_checkpointing: bool = False,
    num_classes: int = 0,
) -> VisionTransformer:
    """Create a transformer whose `forward_features` returns [N prefix+patches C], normalized, class token first.

    timm resamples position embeddings to the shape of the images, and sums the weights of three colors for one channel.

    Args:
        name: as timm.list_models returns it, or with one of timm's prefixes.
        size_px: height and width of the images, multiples of the patch size.
        in_channels: channels of the images.
        weights: `pretrained` (timm's own loader: its cache, or the network), `random`, or a file.
        config_key: the setting of the name, for error messages: `model.image_encoder=`, `model.audio_encoder=mel:`.
        norm_eps: epsilon of all layer norms; None: the model's own.
        gradient_checkpointing: recompute blocks in the backward pass instead of storing their activations.
        num_classes: outputs of the head, such as the projection of CLIP; 0: no head.

    Raises:
        ValueError: no such model, no class token, or weights that are missing or do not fit.
    """
    import timm

    origin, weights_key = config_key + name, config_key.partition("_encoder")[0] + "_weights"
    weights_origin = f"{weights_key}={weights}"
    if ":" not in name and not timm.is_model(name):
        stem = name.partition(".")[0][:12] or "vit_small"
        similar = timm.list_models(f"*{stem}*")[:3] or timm.list_models("vit_small*")[:3]
        raise ValueError(f"{origin}: timm has no such model; similar names are {', '.join(similar)}")
    overlay: dict[str, Any] = {}
    if weights not in (PRETRAINED, RANDOM):
        # Without `classifier`, timm would load what fits and ignore the rest.
        overlay = {
            "state_dict": read_weights(weights, weights_origin, ignore=() if num_classes else ("head.",)),
            "source": "",
            "classifier": None,
        }
    try:
        created = timm.create_model(
            name,
            pretrained=weights != RANDOM,
            pretrained_cfg_overlay=overlay,
            num_classes=num_classes,
            in_chans=in_channels,
            img_size=size_px,
            dynamic_img_size=True,
        )
    except TypeError:
        raise ValueError(f"{origin} is not a vision transformer that accepts images of any size") from None
    except Exception as error:  # the errors of the hub and of the network have no common base
        if overlay and not isinstance(error, OSError):
            raise mismatched_weights_error(weights_origin, error) from None
        what = "its pre-trained weights are" if weights == PRETRAINED else "it is"
        raise ValueError(
            f"{origin}: {what} not in timm's cache and cannot be fetched ({summarize_error(error)}); "
            f"give a file as {weights_key}, or {weights_key}={RANDOM} with a name that timm lists"
        ) from None
    model = cast(VisionTransformer, created)
    if not getattr(model, "num_prefix_tokens", 0) or model.cls_token is None:
        raise ValueError(f"{origin} has no class token")
    model.pretrained_cfg.pop("state_dict", None)
    _use_token_norm(model)
    for module in model.modules():
        if norm_eps is not None and isinstance(module, nn.LayerNorm):
            module.eps = norm_eps
    if gradient_checkpointing:
        model.set_grad_checkpointing()
    return model


def _use_token_norm(model: VisionTransformer) -> None:
    """Apply a norm that timm has after pooling (eva02, beit3, AudioMAE) before it; remove unused pooling (vit_pe_core).

    Parameters that no token reaches get no gradient, and then several processes cannot train.
    """
    if list(model.fc_norm.parameters()):
        model.norm, model.fc_norm = model.fc_norm, nn.Identity()
    if getattr(model, "attn_pool", None) is not None:
        model.register_module("attn_pool", None)
