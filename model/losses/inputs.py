"""Inputs of the loss terms: features of the pairs of this process, and quantities derived from them on demand."""

from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from model.distributed import all_gather_batch, index_global_batch, world_size
from model.dtypes import upcast_half
from model.features import AudioFeatures, ImageFeatures, map_tensors
from model.losses.contrastive import LogitScale
from model.similarity import dense, fused
from model.similarity.config import SimilarityConfig


@dataclass(eq=False)
class LossInputs:
    """Features and annotations of the pairs of this process; row b belongs to one clip.

    Attributes:
        image, audio: features of the B pairs; the audio mask is True at valid steps.
        logit_scale: parameters from scores to logits.
        audio_positive_weight: 1 where a step is the clip's own audio, 0 where another clip was spliced in.
        image_weight: 1 where a cell shows the clip's own image, 0 where another clip's.
        source: number of the data set of each pair.
        similarity: how scores are computed.
        group: pairs with the same number match each other too (several positives a row); None: only the diagonal
            matches.
        num_sampled_positions: audio steps and image cells that `sample_*` draw from the global batch.
        generator: draws them; in the same state on every process. None: a new one with seed 0.
    """

    image: ImageFeatures
    audio: AudioFeatures
    logit_scale: LogitScale
    audio_positive_weight: Float[Tensor, "B T"]
    image_weight: Float[Tensor, "B H W"]
    source: Int[Tensor, "B"]
    similarity: SimilarityConfig = field(default_factory=SimilarityConfig)
    group: Int[Tensor, "B"] | None = None
    num_sampled_positions: int = 250
    generator: torch.Generator = field(default_factory=torch.Generator)

    @cached_property
    def all_audio(self) -> AudioFeatures:
        """Audio features of the global batch, gathered from all processes, without unused class tokens."""
        audio = self.audio if self.similarity.needs_cls else self.audio._replace(cls=None)
        return map_tensors(audio, all_gather_batch)

    @cached_property
    def scores(self) -> Float[Tensor, "A A"]:
        """Scores of the global batch, audio by image; each process computes the columns of its own images."""
        return all_gather_batch(fused.pairwise_similarity(self.all_audio, self.image, self.similarity).T).T

    @cached_property
    def positives(self) -> Bool[Tensor, "A A"] | None:
        """Which pairs of the global batch match; None: the diagonal."""
        if self.group is None:
            return None
        group = all_gather_batch(self.group)
        return group[:, None] == group[None, :]

    @cached_property
    def volume(self) -> Float[Tensor, "B K H W T"]:
        """Similarities of matching pairs, 0 at masked-out steps; float32 or better."""
        return dense.paired_similarity(self.audio, self.image, self.similarity.nonneg, self.similarity.use_cls)

    def sample_positions(self) -> tuple[Float[Tensor, "N K C"], Float[Tensor, "M K C"]]:
        """Draw audio steps and image cells of the global batch without repetition, all where there are fewer."""
        steps = self.all_audio.dense.permute(0, 3, 1, 2).flatten(0, 1)
        cells = upcast_half(self.image.dense).permute(0, 3, 4, 1, 2).flatten(1, 2)
        step = self._sample(len(steps)).to(steps.device)
        cell = self._sample(world_size() * cells.shape[0] * cells.shape[1])
        return upcast_half(steps[step]), index_global_batch(cells, cell)

    def sample_silent_steps(self) -> Float[Tensor, "N K C"]:
        """Draw masked-out audio steps of the global batch without repetition; none where there are too few."""
        steps = self.all_audio.dense.permute(0, 3, 1, 2)[~self.all_audio.mask]
        if len(steps) < self.num_sampled_positions:
            return upcast_half(steps[:0])
        return upcast_half(steps[self._sample(len(steps)).to(steps.device)])

    def _sample(self, count: int) -> Int[Tensor, "N"]:
        """min(count, num_sampled_positions) different indices below `count`."""
        device = self.generator.device
        return torch.randperm(count, generator=self.generator, device=device)[: self.num_sampled_positions]
