"""Full training batches by Megatron Energon (extra `bench`), with the functions of peers.py."""

from __future__ import annotations

import collections
import contextlib
import io
import random
from pathlib import Path

import torch
from megatron import energon
from megatron.energon.flavors.webdataset.prepare import WebdatasetPreparator
from peers import Pick, training_example


@energon.edataclass
class Decoded(energon.Sample):
    image: torch.Tensor
    sound: torch.Tensor


@energon.edataclass
class Augmented(energon.Sample):
    frame: torch.Tensor
    image_weight: torch.Tensor
    waveform: torch.Tensor
    mask: torch.Tensor
    weight: torch.Tensor


@energon.stateless
def cook(sample: dict) -> Decoded:
    image, sound = Pick("flac" if "flac" in sample else "wav", lazy=True)(sample)
    return Decoded(**energon.basic_sample_keys(sample), image=image, sound=sound)


class Encoder(energon.DefaultTaskEncoder):
    decoder = None
    cookers = (energon.Cooker(cook),)

    def __init__(self) -> None:
        super().__init__()
        self.recent: collections.deque = collections.deque(maxlen=16)

    def encode_sample(self, sample: Decoded) -> Augmented:
        own = sample.image, sample.sound
        self.recent.append(own)
        frame, image_weight, waveform, mask, weight = training_example(own, random.choices(self.recent, k=4))
        return Augmented.derive_from(
            sample, frame=frame, image_weight=image_weight, waveform=waveform, mask=mask, weight=weight
        )


def energon_loader(folder: Path, batch_size: int):
    """A loader over a folder of tars, which is indexed first."""
    if not (folder / ".nv-meta/dataset.yaml").exists():
        tars = sorted(path.name for path in folder.glob("*.tar"))
        with contextlib.redirect_stdout(io.StringIO()):
            WebdatasetPreparator.prepare_dataset(folder, tars, split_parts_ratio=[("train", 1.0)], workers=1)
        (folder / ".nv-meta/dataset.yaml").write_text("__module__: megatron.energon\n__class__: CrudeWebdataset\n")
    data = energon.get_train_dataset(
        folder,
        worker_config=energon.WorkerConfig(rank=0, world_size=1, num_workers=1),
        batch_size=batch_size,
        shuffle_buffer_size=100,
        max_samples_per_sequence=100,
        task_encoder=Encoder(),
    )
    return energon.get_loader(data)
