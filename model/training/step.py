"""One forward pass on every rank: features of the local pairs, then the objective of the global batch (model.grounding.losses).

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
from model.collectives import sum_over_ranks, world_size
from model.grounding.contrast import ContrastSettings, scale_of
from model.grounding.denseav import ScoreSettings
from model.grounding.losses import ADDED_TERMS, ObjectiveInputs, objective, total
from model.grounding.masks import step_weight
from model.grounding.similarity import paired_volume
from model.precision import at_least_float32


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
    inputs: ObjectiveInputs
    settings: ScoreSettings

    @torch.no_grad()
    def values(self) -> dict[str, float]:
        """Everything worth a line as numbers by key; every rank has to call it.

        `loss/total`, `loss/TERM` (unweighted); `scale`; `scores/own` and `scores/other`, means over matching and other pairs; `heads/share_of_head_K`, the
        share of the valid audio steps whose most similar cell of their own image is one of head K's (they add up to 1).
        """
        count, own = len(self.scores), self.scores.diagonal().sum()
        found = {"loss/total": self.loss, **{f"loss/{name}": term for name, term in self.terms.items()}, "scale": scale_of(self.inputs.calibration.log_scale)}
        found |= {"scores/own": own / count, "scores/other": (self.scores.sum() - own) / max(1, count * (count - 1))}
        cls = (at_least_float32(self.inputs.audio_cls), at_least_float32(self.inputs.image_cls)) if self.settings.use_cls else (None, None)
        dense = at_least_float32(self.inputs.audio), at_least_float32(self.inputs.image)
        volume = paired_volume(*dense, self.inputs.audio_mask, self.settings.nonneg, *cls)
        winner = volume.flatten(2, 3).amax(dim=2).argmax(dim=1)[self.inputs.audio_mask]
        wins = sum_over_ranks(torch.bincount(winner, minlength=volume.shape[1]).double())
        found |= {f"heads/share_of_head_{k}": share for k, share in enumerate(wins / wins.sum())}
        return {name: value.item() for name, value in found.items()}


def forward_loss(
    model: nn.Module,
    batch: Batch,
    scores: ScoreSettings,
    config: LossConfig,
    seed: int,
    chunk_pairs: int = 0,
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
        chunk_pairs: pairs encoded at once, see DenseAV.forward; 0: all.
        score_dtype: features are rounded to it before they are compared; None: compared as they come.

    Returns:
        The same loss on every rank.
    """
    lone_step = _of_this_rank(torch.rand(len(batch.frames) * world_size(), generator=torch.Generator().manual_seed(seed_of(seed, 1))))
    image, audio, calibration = model(batch.frames, batch.waveform, batch.audio_mask, lone_step, chunk_pairs)
    image, audio = ([x.to(score_dtype) if score_dtype and x is not None and x.is_floating_point() else x for x in features] for features in (image, audio))
    (image_dense, image_cls), (audio_dense, mask, audio_cls) = image, audio
    positive_weight = step_weight(batch.audio_positive_weight, mask.shape[1])
    image_weight = functional.adaptive_avg_pool2d(batch.image_weight[:, None], image_dense.shape[-2:])[:, 0]
    calibration = calibration._replace(log_scale=at_least_float32(calibration.log_scale))
    inputs = ObjectiveInputs(audio_dense, image_dense, mask, positive_weight, image_weight, batch.source, calibration, audio_cls, image_cls)

    weights = {name: getattr(config, name) for name in ADDED_TERMS}
    contrast = ContrastSettings(config.objective, config.label_smoothing, config.margin)
    generator = torch.Generator(device=mask.device).manual_seed(seed)
    terms, pairs = objective(inputs, scores, contrast, weights, config.random_positions, generator)
    return StepOutput(total(terms, weights), terms, pairs.detach(), inputs._replace(audio=audio_dense.detach(), image=image_dense.detach()), scores)


def _of_this_rank(rows: Tensor) -> Tensor:
    return rows if world_size() == 1 else rows[distributed.get_rank() :: world_size()]


def seed_of(*parts: int) -> int:
    """A 63-bit seed from whole numbers such as (seed, step, rank); neighbours give unrelated streams."""
    digest = hashlib.blake2b(",".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
