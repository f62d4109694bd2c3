"""Map-style dataset: from positions of the sampler to a batch.

It reads clips, crops their frames, mixes their audio and replaces unreadable ones; the device of training does the rest
(`HostBatch.to`). What it sends is the same to the bit from any process. Loader workers import this
module: it needs torch, torchvision and numpy, nothing of the model.
"""

import time
from collections import Counter
from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Dataset

from configs.errors import CommandFailed, UsageError
from configs.schema import AugmentConfig
from pipelines.modalities import MODALITIES
from pipelines.modalities.modality import TrainingContext
from pipelines.stream.batch import Example, HostBatch, collate
from pipelines.stream.device import is_out_of_memory
from pipelines.stream.reader import ClipReader, UnreadableClip
from pipelines.stream.sampler import DeterministicSampler
from pipelines.stream.seeding import seeded_rng

# One clip to splice and three to mix in, and spare ones for those that cannot be read.
NUM_MIX_CANDIDATES = 8


class ClipDataset(Dataset[HostBatch]):
    """Maps a list of positions, one rank's part of one global batch, to a HostBatch.

    A further modality is in the batch (`Batch.extra`) when all data sets store it.

    Args:
        readers: one for each source of the sampler.
        order: the sampler.
        settings: augmentation.
        seed: of the augmentation; all randomness of a position is a function of (seed, position).
    """

    def __init__(
        self, readers: Sequence[ClipReader], order: DeterministicSampler, settings: AugmentConfig, seed: int
    ) -> None:
        self.readers, self.order, self.seed = list(readers), order, seed
        self._modalities = {
            modality.name: modality(self.readers[0].spec, settings)
            for modality in MODALITIES
            if all(modality.name in reader.modalities for reader in self.readers)
        }

    def __getitems__(self, positions: Sequence[int]) -> HostBatch | UsageError | CommandFailed:
        """Make a batch. Fatal errors are returned: raised in a worker, they would reach the user as a stack trace."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # more threads would add up pixels in another order
        rejected: Counter[str] = Counter()
        began_s, began_cpu_s = time.perf_counter(), time.thread_time()
        try:
            batch = collate([self.item(position, rejected) for position in positions], rejected)
            batch.worker_s, batch.worker_cpu_s = time.perf_counter() - began_s, time.thread_time() - began_cpu_s
            return batch
        except (UsageError, CommandFailed) as error:
            return error
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            return CommandFailed(
                f"a loader process has too little memory for a batch of {len(positions)} clips: "
                "use a smaller stream.num_workers, stream.prefetch_factor or global_batch_size"
            )
        finally:
            torch.set_num_threads(threads)

    def item(self, position: int, rejected: Counter[str]) -> Example:
        """The training example at a position, or that of its first readable replacement.

        Args:
            position: in the sample order.
            rejected: unusable clips are counted here by reason; mix partners as `mix_partner_REASON`.

        Raises:
            UsageError: no clip of the lane can be read, or one has another sample rate.
        """
        reader = self.readers[self.order.place(position).source]
        for clip in self._candidates(position, rejected):
            try:
                return self._training_example(reader, clip, position, rejected)
            except UnreadableClip as error:
                rejected[error.reason] += 1
        counts = ", ".join(f"{reason} {count}" for reason, count in sorted(rejected.items()))
        folder = reader.index.folder
        raise UsageError(
            f"{folder}: no readable clip is left to replace unreadable ones ({counts}); "
            f"python -m pipelines.verify {folder} lists the damage"
        )

    def _candidates(self, position: int, rejected: Counter[str]) -> Iterator[int]:
        assigned = self.order.assigned(position)
        if assigned != self.order.clip(position)[1]:
            rejected["duplicate_in_batch"] += 1
        yield assigned
        attempt = 0
        while (clip := self.order.replacement(position, attempt)) is not None:
            yield clip
            attempt += 1

    def _training_example(self, reader: ClipReader, clip: int, position: int, rejected: Counter[str]) -> Example:
        stored = reader.stored(clip)
        values = {name: modality.decode(stored) for name, modality in self._modalities.items()}
        for name, value in values.items():
            self._modalities[name].check(value, stored)
        partners = self.order.mix_partners(position, NUM_MIX_CANDIDATES)
        others = (reader.stored(partner) for partner in partners if partner != clip)
        context = TrainingContext(seeded_rng(self.seed, "item", position), others, rejected)
        fields = {name: self._modalities[name].train(value, context) for name, value in values.items()}
        return reader.example(clip, fields, position)
