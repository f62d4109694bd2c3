"""Full training batches by stock webdataset with torchvision, soundfile and simplejpeg, as their documentation has it.

Splices, masks and quad mixups are those of our default settings. peer_energon.py uses the same functions. A mix partner
is one of the last samples, already decoded: neither loader reads another clip by number.
"""

from __future__ import annotations

import collections
import io
import random
from pathlib import Path

import simplejpeg
import soundfile
import torch
from torchvision.transforms import v2

SIZE_PX, SAMPLES, RATE_HZ = 224, 164_200, 16_000
AUGMENT = v2.Compose(
    [
        v2.RandomResizedCrop(SIZE_PX, scale=(0.08, 1.0), antialias=True),
        v2.RandomHorizontalFlip(),
        v2.ColorJitter(0.2, 0.2, 0.2, 0.2),
        v2.RandomGrayscale(0.1),
    ]
)


def decode_image(data: bytes) -> torch.Tensor:
    torch.set_num_threads(1)
    return torch.from_numpy(simplejpeg.decode_jpeg(data)).permute(2, 0, 1)


def decode_sound(data: bytes) -> torch.Tensor:
    return torch.from_numpy(soundfile.read(io.BytesIO(data), dtype="float32")[0])[:SAMPLES]


def decode_member(key: str, data: bytes):
    """A handler for webdataset's `.decode`."""
    return decode_image(data) if key.endswith("jpg") else decode_sound(data) if key.endswith(("flac", "wav")) else None


def quad_mixup(frames: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    half, order = SIZE_PX // 2, random.sample(range(4), 4)
    grid, weight = torch.empty_like(frames[0]), torch.zeros(SIZE_PX, SIZE_PX)
    for number, quadrant in enumerate(order):
        rows = slice(quadrant // 2 * half, (quadrant // 2 + 1) * half)
        columns = slice(quadrant % 2 * half, (quadrant % 2 + 1) * half)
        grid[:, rows, columns] = v2.functional.resize(frames[number], [half, half], antialias=True)
        weight[rows, columns] = number == 0
    return grid, weight


def augment_sound(sound: torch.Tensor, other: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    waveform, mask, weight = torch.zeros(SAMPLES), torch.zeros(SAMPLES, dtype=torch.bool), torch.ones(SAMPLES)
    waveform[: len(sound)], mask[: len(sound)] = sound, True
    length = round(random.uniform(1.0, 4.0) * RATE_HZ)
    at, start = random.randint(0, len(sound) - length), random.randint(0, len(other) - length)
    fade, stretch = min(max(length // 4, RATE_HZ // 2), length // 2), slice(at, at + length)
    ramp = 0.5 + 0.5 * torch.cos(torch.pi * (torch.arange(fade) + 0.5) / fade)
    weight[stretch] = torch.cat([ramp, torch.zeros(length - 2 * fade), ramp.flip(0)])
    waveform[stretch] = waveform[stretch] * weight[stretch] + other[start : start + length] * (1 - weight[stretch])
    if random.random() < 0.5:
        length = random.randint(RATE_HZ // 2, len(sound))
        at = random.randint(0, len(sound) - length)
        mask[:at], mask[at + length :] = False, False
        waveform *= mask
    return waveform, mask, weight


def training_example(sample, partners) -> tuple[torch.Tensor, ...]:
    """(frame, image weight, waveform, mask, positive weight) of a decoded (image, sound) and four others."""
    frame, image_weight = AUGMENT(sample[0]), torch.ones(SIZE_PX, SIZE_PX)
    if random.random() < 0.1:
        frame, image_weight = quad_mixup([frame, *(AUGMENT(image) for image, _ in partners[:3])])
    return frame, image_weight, *augment_sound(sample[1], partners[3][1])


class Pick:
    """One random image and the sound of a webdataset sample; `lazy`: decoded here, else all members were decoded."""

    def __init__(self, kind: str, lazy: bool) -> None:
        self.kind, self.lazy = kind, lazy

    def __call__(self, sample: dict) -> tuple[torch.Tensor, torch.Tensor]:
        image, sound = sample[f"{random.randrange(10)}.jpg"], sample[self.kind]
        return (decode_image(image), decode_sound(sound)) if self.lazy else (image, sound)


def mixed(samples):
    """Training examples of a stream of samples."""
    recent = collections.deque(maxlen=16)
    for sample in samples:
        if len(recent) >= 4:
            yield training_example(sample, random.sample(recent, 4))
        recent.append(sample)


def webdataset_loader(folder: Path, kind: str, lazy: bool, batch_size: int):
    import webdataset
    from torch.utils.data import DataLoader

    tars = sorted(map(str, folder.glob("*.tar")))
    data = webdataset.WebDataset(tars, shardshuffle=len(tars), seed=0).shuffle(100)
    data = (data if lazy else data.decode(decode_member)).map(Pick(kind, lazy)).compose(mixed)
    return DataLoader(data, batch_size=batch_size, num_workers=1, multiprocessing_context="forkserver")
