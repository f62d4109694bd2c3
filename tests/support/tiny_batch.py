"""A random batch in which every term of the objective is non-zero."""

import dataclasses

import torch

from pipelines.stream.batch import Batch


def rows(batch: Batch, some: slice) -> Batch:
    """A slice of the pairs of a batch."""
    parts = {
        name: value[some].clone() if isinstance(value, torch.Tensor) else value[some]
        for name, value in vars(batch).items()
        if name not in ("rejected", "extra")
    }
    return dataclasses.replace(batch, **parts)


def tiny_batch(pairs: int, image_size_px: int, samples: int, seed: int = 0) -> Batch:
    """Half of each audio is masked out, all of the first; a part is spliced; a quarter of each image is its own."""
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randint(0, 256, (pairs, 3, image_size_px, image_size_px), dtype=torch.uint8, generator=generator)
    mask = torch.arange(samples) < samples * (0.3 + 0.4 * torch.arange(pairs)[:, None] / pairs)
    mask[0] = False
    waveform = 0.1 * torch.randn(pairs, samples, generator=generator) * mask
    positive_weight = torch.ones(pairs, samples)
    positive_weight[:, samples // 8 : samples // 4] = 0.3
    image_weight = torch.zeros(pairs, image_size_px, image_size_px)
    image_weight[:, : image_size_px // 2, : image_size_px // 2] = 1.0
    names = [f"clip{pair}" for pair in range(pairs)]
    return Batch(frames, waveform, mask, positive_weight, image_weight, torch.arange(pairs) % 2, names, [-1] * pairs)
