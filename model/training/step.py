"""One forward pass on every rank: features of the local pairs, then the objective of the global batch (model.losses.objective).

Every rank ends up with the same loss, the collectives' backward passes sum what all ranks send, and DDP averages the parameters' gradients over ranks: N
processes give exactly the gradient of one process with the whole batch.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional

from configs.schema import LossConfig
from model.audio_mask import downsample_weight
from model.denseav import SimilarityConfig
from model.distributed import all_reduce_sum, world_size
from model.dtypes import upcast_half
from model.losses.contrastive import ContrastiveConfig, logit_scale
from model.losses.objective import REGULARIZERS, LossInputs, compute_loss_terms, weighted_sum
from model.similarity.dense import paired_similarity


@runtime_checkable
class Batch(Protocol):
    """What is read of a batch: pipelines.stream.batch.Batch has it all."""

    frames: Tensor
    waveform: Tensor
    audio_mask: Tensor
    audio_positive_weight: Tensor
    image_weight: Tensor
    source: Tensor


class StepOutput(NamedTuple):
    """The loss to call backward on, its unweighted terms, and what statistics are made of (detached; see `values`); `settings`: how it was scored."""

    loss: Tensor
    terms: dict[str, Tensor]
    scores: Tensor
    inputs: LossInputs
    settings: SimilarityConfig

    @torch.no_grad()
    def values(self) -> dict[str, float]:
        """Everything worth a line as numbers by key; every rank has to call it.

        `loss/total`, `loss/TERM` (unweighted); `scale`; `scores/positive` and `scores/negative`, means over matching and other pairs; `heads/win_rate_K`, the
        share of the valid audio steps whose most similar cell of their own image is one of head K's (they add up to 1).
        """
        count, own = len(self.scores), self.scores.diagonal().sum()
        found = {
            "loss/total": self.loss,
            **{f"loss/{name}": term for name, term in self.terms.items()},
            "logit_scale": logit_scale(self.inputs.calibration.log_scale),
        }
        found |= {
            "scores/positive": own / count,
            "scores/negative": (self.scores.sum() - own) / max(1, count * (count - 1)),
        }
        cls = (
            (upcast_half(self.inputs.audio_cls), upcast_half(self.inputs.image_cls))
            if self.settings.use_cls
            else (None, None)
        )
        dense = upcast_half(self.inputs.audio), upcast_half(self.inputs.image)
        volume = paired_similarity(*dense, self.inputs.audio_mask, self.settings.nonneg, *cls)
        winner = volume.flatten(2, 3).amax(dim=2).argmax(dim=1)[self.inputs.audio_mask]
        wins = all_reduce_sum(torch.bincount(winner, minlength=volume.shape[1]).double())
        found |= {f"heads/win_rate_{k}": share for k, share in enumerate(wins / wins.sum())}
        return {name: value.item() for name, value in found.items()}


def forward_loss(
    model: nn.Module,
    batch: Batch,
    scores: SimilarityConfig,
    config: LossConfig,
    seed: int,
    grad_cache_chunk_size: int = 0,
    score_dtype: torch.dtype | None = None,
) -> StepOutput:
    """Encode this rank's pairs and compute the objective of the global batch.

    Args:
        model: a DenseAV or what wraps it for several processes.
        batch: this rank's part of the global batch, row p of which lives on rank p mod R: `frames`, `waveform`, `audio_mask`,
            `audio_positive_weight`, `image_weight`, `source`.
        scores: how similarities become scores.
        config: the objective and the weights of the added terms.
        seed: of the random positions; the same on every rank, another one at every step.
        grad_cache_chunk_size: pairs encoded at once, see DenseAV.forward; 0: all.
        score_dtype: features are rounded to it before they are compared; None: compared as they come.

    Returns:
        The same loss on every rank.
    """
    fallback_step = _local_rows(
        torch.rand(len(batch.frames) * world_size(), generator=torch.Generator().manual_seed(derive_seed(seed, 1)))
    )
    image, audio, calibration = model(
        batch.frames, batch.waveform, batch.audio_mask, fallback_step, grad_cache_chunk_size
    )
    image, audio = (
        [x.to(score_dtype) if score_dtype and x is not None and x.is_floating_point() else x for x in features]
        for features in (image, audio)
    )
    (image_dense, image_cls), (audio_dense, mask, audio_cls) = image, audio
    positive_weight = downsample_weight(batch.audio_positive_weight, mask.shape[1])
    image_weight = functional.adaptive_avg_pool2d(batch.image_weight[:, None], image_dense.shape[-2:])[:, 0]
    calibration = calibration._replace(log_scale=upcast_half(calibration.log_scale))
    inputs = LossInputs(
        audio_dense, image_dense, mask, positive_weight, image_weight, batch.source, calibration, audio_cls, image_cls
    )

    weights = {name: getattr(config, name) for name in REGULARIZERS}
    contrast = ContrastiveConfig(config.objective, config.label_smoothing, config.margin)
    generator = torch.Generator(device=mask.device).manual_seed(seed)
    terms, pairs = compute_loss_terms(inputs, scores, contrast, weights, config.num_sampled_positions, generator)
    return StepOutput(
        weighted_sum(terms, weights),
        terms,
        pairs.detach(),
        inputs._replace(audio=audio_dense.detach(), image=image_dense.detach()),
        scores,
    )


def _local_rows(rows: Tensor) -> Tensor:
    return rows if world_size() == 1 else rows[distributed.get_rank() :: world_size()]


def derive_seed(*parts: int) -> int:
    """A 63-bit seed from whole numbers such as (seed, step, rank); neighbours give unrelated streams."""
    digest = hashlib.blake2b(",".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
