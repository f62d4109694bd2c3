"""One forward pass on every rank: features of the local pairs, then the loss of the global batch (model.losses).

Every rank gets the same loss, the backward passes of the collectives sum what all ranks send, and DDP averages the
gradients of the parameters over ranks: N processes give exactly the gradient of one process with the whole batch.
"""

import dataclasses
import hashlib
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from configs.schema import LossConfig
from model.audio_mask import downsample_weight
from model.distributed import all_reduce_sum, rank, world_size
from model.dtypes import upcast_half
from model.features import Features, map_tensors
from model.losses.contrastive import ContrastiveConfig, LogitScale, logit_scale
from model.losses.inputs import LossInputs
from model.losses.objective import compute_loss_terms, weighted_sum
from model.losses.regularizers import REGULARIZERS
from model.similarity.config import SimilarityConfig


@runtime_checkable
class Batch(Protocol):
    """The fields of a batch that training reads; pipelines.stream.batch.Batch has them.

    Attributes:
        audio: waveforms [B, S], or log-mel [B, N, F] for encoders that read it; masks and weights have its length.
    """

    frames: Tensor
    audio: Tensor
    audio_mask: Tensor
    audio_positive_weight: Tensor
    image_weight: Tensor
    source: Tensor


class StepOutput(NamedTuple):
    """The loss, its unweighted terms, the scores of the global batch, and detached inputs for `values`."""

    loss: Tensor
    terms: dict[str, Tensor]
    scores: Tensor
    inputs: LossInputs

    @torch.no_grad()
    def values(self) -> dict[str, float]:
        """Everything worth logging, by key; every rank must call it.

        `loss/total`, `loss/TERM` (unweighted); `accuracy`, the fraction of audio clips and images of the batch whose
        best match is their own, mean of both; `logit_scale`; `scores/positive` and `scores/negative`, means over
        matching and other pairs; `heads/win_rate_K`, the fraction of the valid audio steps whose most similar cell of
        their own image belongs to head K (they sum to 1).
        """
        count, positive = len(self.scores), self.scores.diagonal().sum()
        volume, mask = self.inputs.volume, self.inputs.audio.mask
        best_head = volume.flatten(2, 3).amax(dim=2).argmax(dim=1)[mask]
        own = torch.arange(count, device=self.scores.device)
        hits = torch.stack([self.scores.argmax(dim=dim) == own for dim in (0, 1)])
        wins = all_reduce_sum(torch.bincount(best_head, minlength=volume.shape[1]).double())
        values = {
            "loss/total": self.loss,
            **{f"loss/{name}": term for name, term in self.terms.items()},
            "accuracy": hits.double().mean(),
            "logit_scale": logit_scale(self.inputs.logit_scale.log_scale),
            "scores/positive": positive / count,
            "scores/negative": (self.scores.sum() - positive) / max(1, count * (count - 1)),
            **{f"heads/win_rate_{head}": rate for head, rate in enumerate(wins / wins.sum())},
        }
        return {name: value.item() for name, value in values.items()}


def forward_loss(
    model: nn.Module,
    batch: Batch,
    similarity: SimilarityConfig,
    config: LossConfig,
    seed: int,
    grad_cache_chunk_size: int = 0,
    score_dtype: torch.dtype | None = None,
) -> StepOutput:
    """Encode this rank's pairs and compute the loss of the global batch.

    Args:
        model: a DenseAV or its wrapper for several processes.
        batch: this rank's part of the global batch; row p of that is on rank p mod R. A `group` [B] in it says which
            pairs match each other too.
        similarity: how scores are computed.
        config: the contrastive objective and the weights of the regularizers.
        seed: of the sampled positions; the same on every rank, different at every step.
        grad_cache_chunk_size: pairs encoded at once, see DenseAV.forward; 0: all.
        score_dtype: dtype that features are rounded to before they are compared; None: as they are.

    Returns:
        The same loss on every rank.
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, 1))
    fallback_steps = torch.rand(len(batch.frames) * world_size(), generator=generator)  # of the global batch
    image, audio, parameters = model(
        batch.frames, batch.audio, batch.audio_mask, fallback_steps[rank() :: world_size()], grad_cache_chunk_size
    )
    image, audio = _round(image, score_dtype), _round(audio, score_dtype)
    grid = (image.dense.shape[-2], image.dense.shape[-1])
    inputs = LossInputs(
        image=image,
        audio=audio,
        logit_scale=LogitScale(upcast_half(parameters.log_scale), parameters.bias),
        audio_positive_weight=downsample_weight(batch.audio_positive_weight, audio.mask.shape[1]),
        image_weight=nn.functional.adaptive_avg_pool2d(batch.image_weight[:, None], grid)[:, 0],
        source=batch.source,
        similarity=similarity,
        group=getattr(batch, "group", None),
        num_sampled_positions=config.num_sampled_positions,
        generator=torch.Generator(device=audio.mask.device).manual_seed(seed),
    )
    weights = {name: getattr(config, name) for name in REGULARIZERS}
    contrastive = ContrastiveConfig(config.objective, config.label_smoothing, config.margin)
    terms = compute_loss_terms(inputs, contrastive, weights)
    detached = dataclasses.replace(
        inputs, image=map_tensors(image, Tensor.detach), audio=map_tensors(audio, Tensor.detach)
    )
    return StepOutput(weighted_sum(terms, weights), terms, inputs.scores.detach(), detached)


def _round(features: Features, dtype: torch.dtype | None) -> Features:
    """Autocast returns float32 features; scores are computed in its own dtype."""
    return features if dtype is None else map_tensors(features, lambda x: x.to(dtype) if x.is_floating_point() else x)


def derive_seed(*parts: int) -> int:
    """A 63-bit seed from integers such as (seed, step, rank); neighbors give unrelated streams."""
    digest = hashlib.blake2b(",".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
