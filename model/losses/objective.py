"""The loss of the global batch on any number of processes: one contrastive objective and the weighted regularizers.

Each process holds some of the pairs. It gathers all audio features, scores them against its own images, and the columns
of scores are gathered, so every score is computed once. (Scoring rows and columns against all features would compute
each score twice and gather the images too, which are 3.5 times larger.) Numerators and denominators of the regularizers
are summed over the processes together, then divided. Every process gets the same loss; see model/distributed.py for the
gradients. Source: reference 1.3.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from model.distributed import all_reduce_sum
from model.losses.contrastive import CONTRASTIVE_LOSSES, WITH_BIAS, ContrastiveConfig, to_logits
from model.losses.inputs import LossInputs
from model.losses.regularizers import REGULARIZERS, safe_divide


def compute_loss_terms(
    inputs: LossInputs, contrastive: ContrastiveConfig, weights: Mapping[str, float]
) -> dict[str, Float[Tensor, ""]]:
    """Compute the contrastive term and every regularizer whose weight is not 0, over the pairs of all processes.

    Args:
        weights: weight of each regularizer by name; absent means 0.

    Returns:
        Unweighted terms by name, the contrastive one first; the same on every process. Regularizers that do not apply
        (`head_specialization` with one head) are left out.

    Raises:
        ValueError: scores that need class tokens without class tokens, a bias that is missing or has no effect, an
            unknown objective, or settings that a regularizer refuses.
    """
    _check(inputs, contrastive)
    logits = to_logits(inputs.scores, inputs.logit_scale)
    terms = {contrastive.objective: CONTRASTIVE_LOSSES[contrastive.objective](logits, inputs.positives, contrastive)}
    means = {name: compute(inputs) for name, compute in REGULARIZERS.items() if weights.get(name)}
    partial = {name: mean for name, mean in means.items() if mean is not None}
    if partial:
        parts = all_reduce_sum(torch.stack([torch.stack(mean) for mean in partial.values()]))
        terms |= zip(partial, safe_divide(*parts.unbind(dim=1)), strict=True)
    return terms


def weighted_sum(terms: Mapping[str, Float[Tensor, ""]], weights: Mapping[str, float]) -> Float[Tensor, ""]:
    """The loss: the contrastive term with weight 1 plus each regularizer times its weight."""
    return sum(
        (weights[name] * term if name in REGULARIZERS else term for name, term in terms.items()), torch.zeros(())
    )


def _check(inputs: LossInputs, contrastive: ContrastiveConfig) -> None:
    similarity, objective, has_bias = inputs.similarity, contrastive.objective, inputs.logit_scale.bias is not None
    contradictions = (
        (
            similarity.needs_cls and (inputs.audio.cls is None or inputs.image.cls is None),
            f"model.add_cls_similarity={str(similarity.use_cls).lower()}, model.similarity_aggregation="
            f"{similarity.aggregation}: the image encoder or the audio projection has no class token",
        ),
        (
            objective not in CONTRASTIVE_LOSSES,
            f"loss.objective={objective}: allowed are {', '.join(CONTRASTIVE_LOSSES)}",
        ),
        (
            has_bias and objective not in WITH_BIAS,
            f"loss.objective={objective} is invariant to a logit bias: set model.logit_bias=false",
        ),
        (
            not has_bias and objective in WITH_BIAS,
            f"loss.objective={objective} needs model.logit_bias=true",
        ),
    )
    for applies, message in contradictions:
        if applies:
            raise ValueError(message)
