"""One forward pass on every rank: features of the local pairs, gathered with gradient, the objective over the global batch.

Each rank computes the whole objective. The backward pass of the gather sums what all ranks send back, and DDP averages the parameters'
gradients over ranks, so N processes give exactly the gradient of one process with the whole batch.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional

from configs.command import RunFailed
from configs.schema import LossConfig
from model.collectives import gather_pairs
from model.grounding.denseav import ScoreSettings
from model.grounding.losses import ObjectiveInputs, objective, scale_of, total
from model.grounding.masks import step_weight
from model.grounding.similarity import paired_volume


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
    """The loss to call backward on, its unweighted terms, and what else is worth logging (detached scalars)."""

    loss: Tensor
    terms: dict[str, Tensor]
    statistics: dict[str, Tensor]

    def check_finite(self, step: int, ids: Sequence[str]) -> None:
        """Stop before numbers that are none reach the weights.

        Args:
            step: the number of the step, from 1.
            ids: of this rank's clips.

        Raises:
            RunFailed: the loss is not finite; names the step, the terms and the clips.
        """
        if not self.loss.isfinite():
            terms = ", ".join(f"{name}={term.item():g}" for name, term in self.terms.items() if not term.isfinite())
            raise RunFailed(f"step {step}: the loss is {self.loss.item():g} ({terms or 'every term is finite'}); clips {', '.join(ids)}")

    def values(self) -> dict[str, float]:
        """Everything as numbers by key: `loss/total`, `loss/TERM` (unweighted), then the statistics."""
        terms = {"loss/total": self.loss, **{f"loss/{name}": term for name, term in self.terms.items()}, **self.statistics}
        return {name: value.item() for name, value in terms.items()}


def forward_loss(model: nn.Module, batch: Batch, scores: ScoreSettings, config: LossConfig, seed: int) -> StepOutput:
    """Encode this rank's pairs, gather everybody's, and compute the objective of the global batch.

    Args:
        model: a DenseAV or what wraps it for several processes.
        batch: this rank's part of the global batch: `frames`, `waveform`, `audio_mask`, `audio_positive_weight`, `image_weight`, `source`.
        scores: how similarities become scores.
        config: weights of the terms.
        seed: of the random positions; the same on every rank, another one at every step.

    Returns:
        The same loss on every rank.
    """
    image, audio, log_scale = model(batch.frames, batch.waveform, batch.audio_mask)
    positive_weight = step_weight(batch.audio_positive_weight, audio.dense.shape[-1])
    image_weight = functional.adaptive_avg_pool2d(batch.image_weight[:, None], image.dense.shape[-2:])[:, 0]
    local = (audio.dense.float(), image.dense.float(), audio.mask, positive_weight, image_weight, batch.source)
    gathered = [gather_pairs(part) for part in local]
    classes = [None if cls is None else gather_pairs(cls.float()) for cls in (audio.cls, image.cls)]
    inputs = ObjectiveInputs(*gathered, log_scale.float(), *classes)

    weights = {field.name: getattr(config, field.name) for field in dataclasses.fields(config) if field.name != "random_positions"}
    generator = torch.Generator(device=log_scale.device).manual_seed(seed)
    terms = objective(inputs, scores, weights, config.random_positions, generator)
    return StepOutput(total(terms, weights), terms, {"scale": scale_of(log_scale.detach())} | _statistics(inputs, scores.nonneg))


@torch.no_grad()
def _statistics(inputs: ObjectiveInputs, nonneg: bool) -> dict[str, Tensor]:
    """Share of the valid audio steps whose most similar cell of their own image is one of each head's; all shares add up to 1."""
    volume = paired_volume(inputs.audio, inputs.image, inputs.audio_mask, nonneg)
    winner = volume.flatten(2, 3).amax(dim=2).argmax(dim=1)[inputs.audio_mask]
    return {f"heads/share_of_head_{k}": (winner == k).float().mean() for k in range(volume.shape[1])}


def seed_of(*parts: int) -> int:
    """A 63-bit seed from whole numbers such as (seed, step, rank); neighbours give unrelated streams."""
    digest = hashlib.blake2b(",".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
