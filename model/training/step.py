"""One forward pass on every rank: features of the local pairs, gathered with gradient, the objective over the global batch.

Each rank computes the whole objective. The backward pass of the gather sums what all ranks send back, and DDP averages the parameters'
gradients over ranks, so N processes give exactly the gradient of one process with the whole batch.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from configs.schema import LossConfig
from model.grounding.denseav import AudioFeatures, ImageFeatures, ScoreSettings
from model.grounding.losses import ObjectiveInputs, objective, total
from model.grounding.masks import step_weight


class StepOutput(NamedTuple):
    """The loss to call backward on, its unweighted terms, and what else is worth logging (detached scalars)."""

    loss: Tensor
    terms: dict[str, Tensor]
    statistics: dict[str, Tensor]


def seed_of(*parts: int) -> int:
    """A 63-bit seed from whole numbers such as (seed, step, rank); neighbours give unrelated streams."""
    digest = hashlib.blake2b(",".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def gather_pairs(local: Tensor) -> Tensor:
    """All ranks' rows in the order of the global batch (row p lives on rank p mod R), with gradient; the input itself on one process."""
    import torch.distributed as distributed

    if not distributed.is_available() or not distributed.is_initialized() or distributed.get_world_size() == 1:
        return local
    if not local.requires_grad:
        parts = [torch.empty_like(local) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, local.contiguous())
    else:
        from torch.distributed.nn.functional import all_gather

        parts = all_gather(local)
    return torch.stack(tuple(parts), dim=1).flatten(0, 1)
