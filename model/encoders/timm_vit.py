"""A timm vision transformer that gives all its tokens, normalised, for pictures of any shape: what the image and the mel encoder are built on.

Limits: transformers with a class token, by timm's names (vit_small_patch8_224.dino, hf_hub:OWNER/NAME, local-dir:FOLDER).
"""

from __future__ import annotations

from torch import nn

from model.encoders.pretrained import PRETRAINED, RANDOM, mismatched_weights_error, read_weights, summarize_error


def create_vit(
    name: str,
    size_px: tuple[int, int],
    in_channels: int,
    weights: str,
    config_key: str,
    norm_eps: float | None = None,
    gradient_checkpointing: bool = False,
) -> nn.Module:
    """Build one; `forward_features` gives [N prefix+patches C] after the final layer norm, the class token first.

    timm itself resamples position embeddings to the shape of the pictures and adds up the weights of three colours for one channel.

    Args:
        name: as timm.list_models gives it, or with one of timm's prefixes.
        size_px: height and width of the pictures, whole patches.
        in_channels: of the pictures.
        weights: `pretrained` (timm's own loader: its cache, or the network), `random`, or a file.
        config_key: the setting that gave the name, for error lines: `model.image_encoder=`, `model.audio_encoder=mel:`.
        norm_eps: of all layer norms; None: the model's own.
        gradient_checkpointing: blocks are computed again in the backward pass instead of kept.

    Raises:
        ValueError: no such model, no class token, or weights that are not there or do not fit.
    """
    import timm

    origin, weights_key = config_key + name, config_key.partition("_encoder")[0] + "_weights"
    weights_origin = f"{weights_key}={weights}"
    if ":" not in name and not timm.is_model(name):
        near = (
            timm.list_models(f"*{name.partition('.')[0][:12] or 'vit_small'}*")[:3]
            or timm.list_models("vit_small*")[:3]
        )
        raise ValueError(f"{origin}: timm has no such model; near it are {', '.join(near)}")
    stored = {}
    if weights not in (
        PRETRAINED,
        RANDOM,
    ):  # with a classifier to leave out, timm would load what fits and keep silent about the rest
        stored = {
            "state_dict": read_weights(weights, weights_origin, ignore=("head.",)),
            "source": "",
            "classifier": None,
        }
    try:
        model = timm.create_model(
            name,
            pretrained=weights != RANDOM,
            pretrained_cfg_overlay=stored,
            num_classes=0,
            in_chans=in_channels,
            img_size=size_px,
            dynamic_img_size=True,
        )
    except TypeError:
        raise ValueError(f"{origin} is no vision transformer that takes pictures of any size") from None
    except Exception as error:  # the hub's and the network's errors have no common base
        if stored and not isinstance(error, OSError):
            raise mismatched_weights_error(weights_origin, error) from None
        what = "its pre-trained weights are" if weights == PRETRAINED else "it is"
        raise ValueError(
            f"{origin}: {what} not in timm's cache and cannot be fetched ({summarize_error(error)}); "
            f"give a file as {weights_key}, or {weights_key}={RANDOM} with a name that timm lists"
        ) from None
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


def _use_token_norm(model: nn.Module) -> None:
    """Put a final norm that timm applies after pooling (eva02, beit3, AudioMAE) before it, and drop pooling that is never run (vit_pe_core).

    Parameters that no token meets get no gradient, with which several processes cannot train.
    """
    if list(model.fc_norm.parameters()):
        model.norm, model.fc_norm = model.fc_norm, nn.Identity()
    if getattr(model, "attn_pool", None) is not None:
        model.attn_pool = None
