"""Golden cases of the loss: each term, the weighted sum, and the gradients."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from eval.parity.similarity import stored_features
from model.losses.contrastive import ContrastiveConfig, LogitScale
from model.losses.inputs import LossInputs
from model.losses.objective import compute_loss_terms, weighted_sum

# The reference's name of a term's weight -> our name of the term.
TERMS = {
    "cal_balance_weight": "logit_scale_floor",
    "mixup_weight": "image_mixup",
    "neg_audio_weight": "negative_audio",
    "specialization_weight": "head_specialization",
    "tv_weight": "tv",
    "disentangle_weight": "disentangle",
}


def loss_terms(params: dict[str, Any], tensors: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """`term`: the regularizers alone, or InfoNCE when the case has no other term; `total`: the weighted sum."""
    audio, image = stored_features(params, tensors)
    log_scale = tensors["log_scale"].squeeze().requires_grad_()
    inputs = LossInputs(
        image=image,
        audio=audio,
        logit_scale=LogitScale(log_scale),
        audio_positive_weight=tensors["audio_positive_mask"],
        image_weight=tensors["image_mask"][:, 0],
        source=tensors["source"],
    )
    weights = {TERMS[name]: weight for name, weight in params["weights"].items()}
    terms = compute_loss_terms(inputs, ContrastiveConfig(), weights)
    loss = weighted_sum(terms, weights)
    grad_audio, grad_image, grad_log_scale = torch.autograd.grad(loss, (audio.dense, image.dense, log_scale))
    yield {
        "term": loss - terms["info_nce"] if weights else loss,
        "total": loss,
        "grad_audio_features": grad_audio,
        "grad_image_features": grad_image,
        "grad_log_scale": grad_log_scale,
    }
