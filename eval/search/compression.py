"""Dense features of clips as bytes: pooled to a small grid, int8 with one float16 scale for each vector of a head.

At most MAX_BYTES a clip: 97,776 for the published architecture (ViT-S/8 at 224 px, 2 heads of 192 channels: 28 x 28
cells pooled to 14 x 14, as in training, and 56 audio steps). Class tokens, where scores need them, are float16. Limits:
pooling changes scores, because they take the maximum over cells; tests/bench/bench_search.py measures how much.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int8
from torch import Tensor
from torch.nn import functional

from model.features import AudioFeatures, ImageFeatures

MAX_BYTES = 100_000
MAX_SIDE = 14
STEPS_PER_SIDE = 4  # 56 steps for 14 x 14 cells
_LEVELS = 127


class Layout(NamedTuple):
    """Shape of the stored features.

    Attributes:
        heads, channels: K and C.
        height, width: H and W of the stored grid.
        steps: maximum T; shorter sounds are stored with their valid steps alone.
        has_cls: whether class tokens are stored.
    """

    heads: int
    channels: int
    height: int
    width: int
    steps: int
    has_cls: bool

    @property
    def image_bytes(self) -> int:
        """Bytes of the image features of a clip."""
        return self._bytes(self.height * self.width)

    @property
    def clip_bytes(self) -> int:
        """Bytes of the features of a clip with a picture and the longest sound."""
        return self.image_bytes + self._bytes(self.steps)

    def _bytes(self, vectors: int) -> int:
        return self.heads * (vectors * (self.channels + 2) + 2 * self.channels * self.has_cls)


def plan_layout(image: ImageFeatures, audio: AudioFeatures, has_cls: bool) -> Layout:
    """The largest layout of at most MAX_BYTES a clip for features of this shape.

    Raises:
        ValueError: even one cell and four steps need more.
    """
    _, heads, channels, height, width = image.dense.shape
    for side in range(MAX_SIDE, 0, -1):
        steps = min(audio.dense.shape[-1], STEPS_PER_SIDE * side)
        layout = Layout(heads, channels, min(height, side), min(width, side), steps, has_cls)
        if layout.clip_bytes <= MAX_BYTES:
            return layout
    raise ValueError(f"features of {heads} x {channels} channels need more than {MAX_BYTES} bytes a clip")


def compress_image(image: ImageFeatures, layout: Layout) -> list[bytes]:
    """One blob for each of V images."""
    pooled = functional.adaptive_avg_pool2d(image.dense.float().flatten(1, 2), (layout.height, layout.width))
    vectors = pooled.unflatten(1, (layout.heads, layout.channels)).flatten(3).transpose(2, 3)
    cls: Sequence[Tensor | None] = [None] * len(vectors) if image.cls is None else list(image.cls)
    return [_pack(one, token if layout.has_cls else None) for one, token in zip(vectors, cls, strict=True)]


def compress_audio(audio: AudioFeatures, layout: Layout) -> list[bytes]:
    """One blob for each of A sounds: the valid steps, averaged to at most `layout.steps`."""
    cls: Sequence[Tensor | None] = [None] * len(audio.dense) if audio.cls is None else list(audio.cls)
    blobs = []
    for dense, mask, token in zip(audio.dense.float(), audio.mask, cls, strict=True):
        steps = dense[:, :, mask]
        if steps.shape[-1] > layout.steps:
            steps = functional.adaptive_avg_pool1d(steps, layout.steps)
        blobs.append(_pack(steps.transpose(1, 2), token if layout.has_cls else None))
    return blobs


def restore_image(blobs: Sequence[bytes], layout: Layout) -> ImageFeatures:
    """Features of V images, float32 on the CPU.

    Raises:
        ValueError: a blob has another size.
    """
    levels, scale, cls = _unpack(blobs, layout, layout.height * layout.width)
    # Contiguous, because products with transposed cells take twice as long; int8 is the fastest to transpose.
    dense = levels.transpose(2, 3).contiguous().float().mul_(scale[:, :, None])
    return ImageFeatures(dense.unflatten(3, (layout.height, layout.width)), cls)


def restore_audio(blobs: Sequence[bytes], layout: Layout) -> AudioFeatures:
    """Features of A sounds, float32 on the CPU, padded to the longest of them.

    Raises:
        ValueError: a blob has another size.
    """
    step_bytes = layout.heads * (layout.channels + 2)
    cls_bytes = 2 * layout.heads * layout.channels * layout.has_cls
    counts = torch.tensor([(len(blob) - cls_bytes) // step_bytes for blob in blobs], dtype=torch.int64)
    longest = int(counts.max()) if len(counts) else 0
    dense = torch.zeros(len(blobs), layout.heads, longest, layout.channels)
    cls = torch.zeros(len(blobs), layout.heads, layout.channels) if layout.has_cls else None
    for count in counts.unique().tolist():
        rows = (counts == count).nonzero()[:, 0]
        levels, scale, tokens = _unpack([blobs[row] for row in rows.tolist()], layout, count)
        dense[rows, :, :count] = levels.float().mul_(scale[..., None])
        if cls is not None and tokens is not None:
            cls[rows] = tokens
    return AudioFeatures(dense.transpose(2, 3), torch.arange(longest) < counts[:, None], cls)


def _pack(vectors: Float[Tensor, "K N C"], cls: Float[Tensor, "K C"] | None) -> bytes:
    scale = (vectors.abs().amax(dim=2, keepdim=True) / _LEVELS).clamp(min=2.0**-24).to(torch.float16)
    levels = (vectors / scale.float()).round().clamp(-_LEVELS, _LEVELS).to(torch.int8)
    parts = [scale, levels] if cls is None else [scale, levels, cls.to(torch.float16)]
    return b"".join(part.cpu().contiguous().numpy().tobytes() for part in parts)


def _unpack(
    blobs: Sequence[bytes], layout: Layout, vectors: int
) -> tuple[Int8[Tensor, "B K N C"], Float[Tensor, "B K N"], Float[Tensor, "B K C"] | None]:
    """Levels, their scales and class tokens; the blobs hold as many vectors of each head."""
    heads, channels = layout.heads, layout.channels
    scale_end = 2 * heads * vectors
    cls_start = scale_end + heads * vectors * channels
    size = cls_start + 2 * heads * channels * layout.has_cls
    if wrong := [len(blob) for blob in blobs if len(blob) != size]:
        raise ValueError(f"stored features of {wrong[0]} bytes, expected {size}: the index is damaged, build it anew")
    raw = np.frombuffer(b"".join(blobs), np.uint8).reshape(len(blobs), size)
    scale = torch.from_numpy(raw[:, :scale_end].copy().view(np.float16).astype(np.float32))
    levels = torch.from_numpy(raw[:, scale_end:cls_start].view(np.int8).copy())
    shape = (len(blobs), heads, vectors)
    cls = None
    if layout.has_cls:
        cls = torch.from_numpy(raw[:, cls_start:].copy().view(np.float16).astype(np.float32)).view(-1, heads, channels)
    return levels.view(*shape, channels), scale.view(shape), cls
