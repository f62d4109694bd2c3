"""Frames: JPEG images of a clip, KEY.0.jpg, KEY.1.jpg, ..., of which an example shows one.

The bytes decide how an image is decoded, not its extension, and the size in its header is checked before memory is
allocated. Images are converted as pipelines/rgb_image.py says: upright, with 16-bit gray scaled, without transparency.
Limits: JPEG and PNG.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import simplejpeg
from PIL import Image

from configs.schema import AugmentConfig, DecodeConfig
from pipelines.modalities.modality import (
    DecodedClip,
    ExampleSpec,
    Fields,
    Modality,
    StoredClip,
    TrainingContext,
    UnreadableClip,
    decoding_errors,
    stack,
)
from pipelines.rgb_image import upright_rgb

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from pipelines.stream.augment_image import DrawnImage

_MAX_PIXELS = 50_000_000
_MAX_ASPECT = 100  # resized to a short side of 224 px, a line of pixels would fill the memory
_MAX_SCANS = 100  # each scan of a progressive JPEG passes over all pixels
_PNG = b"\x89PNG\r\n\x1a\n"
_ORIENTATION_MARKS = b"Exif\0\0", b":Orientation"  # the latter in XMP


class StoredFrames:
    """The frames of a clip in order of time, decoded on access.

    Attributes:
        extensions: of their members: `0.jpg`, `1.jpg`, ...
    """

    def __init__(self, clip: StoredClip) -> None:
        self._clip, self.extensions = clip, frame_extensions(clip)

    def __len__(self) -> int:
        return len(self.extensions)

    def decode(self, number: int) -> Tensor:
        """One frame, uint8 [3, H_px, W_px], counted from 0.

        Raises:
            UnreadableClip: there is no such frame, or it does not decode.
        """
        import torch

        if not 0 <= number < len(self):
            raise UnreadableClip("missing_member", f"frame {number} of clip {self._clip.id}, which has {len(self)}")
        data = self._clip.read(self.extensions[number])
        with decoding_errors("bad_image", self._clip):
            pixels = _decode_png(data) if data.startswith(_PNG) else _decode_jpeg(data)
        return torch.from_numpy(pixels).permute(2, 0, 1)


class Frames(Modality[StoredFrames]):
    """Fields of an example: the one image that it shows, or the four of a quad mixup.

    `crops`: uint8 [size_px, size_px, 3]; or by quadrant four of half that, rounded up. `colors`: what was drawn for
    each (`ColorDraw`), which the device applies. `quadrant`: which of four is the clip's own, -1 if there is one image.
    """

    name = "frames"
    file_types = ("jpg", "jpeg", "png")

    def __init__(self, spec: ExampleSpec, augment: AugmentConfig | None = None) -> None:
        from pipelines.stream.augment_image import ImageDraws

        super().__init__(spec, augment)
        self._draw = ImageDraws(self.augment)

    @staticmethod
    def encode(decoded: DecodedClip, settings: DecodeConfig) -> dict[str, bytes]:
        """Each frame as a JPEG."""
        return {
            f"{number}.jpg": simplejpeg.encode_jpeg(frame, quality=settings.jpeg_quality)
            for number, frame in enumerate(decoded.frames)
        }

    def is_stored(self, clip: StoredClip) -> bool:
        """Whether a clip has an image."""
        return bool(frame_extensions(clip))

    def decode(self, clip: StoredClip) -> StoredFrames:
        """The frames, each decoded on access."""
        return StoredFrames(clip)

    def train(self, value: StoredFrames, context: TrainingContext) -> Fields:
        """A random crop of a random frame, and sometimes a quad mixup: a 2x2 grid of it and frames of mix partners.

        Source: reference 1.4.
        """
        rng, probability, size_px = context.rng, self.augment.quad_mixup_probability, self.spec.image_size_px
        own = self._random_frame(value, rng)
        if probability and rng.random() < probability:
            others = context.mix_in(3, lambda clip: self._random_frame(self.decode(clip), rng))
            if len(others) == 3:
                images = (own, *others)
                quadrants: list[int] = rng.permutation(4).tolist()  # of each image
                by_quadrant = [images[quadrants.index(quadrant)] for quadrant in range(4)]
                return self._fields(by_quadrant, _half(size_px), quadrants[0])
        return self._fields([own], size_px)

    def evaluate(self, value: StoredFrames, frame: int) -> Fields:
        """One frame: short side resized, center crop."""
        from pipelines.stream.augment_image import DrawnImage

        return self._fields([DrawnImage(value.decode(frame))], self.spec.image_size_px)

    def placeholder(self) -> Fields:
        """The fields of an example that shows a black frame."""
        import torch

        from pipelines.stream.augment_image import DrawnImage

        size_px = self.spec.image_size_px
        return self._fields([DrawnImage(torch.zeros(3, size_px, size_px, dtype=torch.uint8))], size_px)

    @staticmethod
    def collate(examples: Sequence[Fields]) -> dict[str, Tensor]:
        """`images` and `tiles`, their `colors`, and `quadrant`, as `device_frames.frame_fields` takes them."""
        import torch

        whole = [example for example in examples if example["quadrant"] < 0]
        quads = [example for example in examples if example["quadrant"] >= 0]
        size_px = examples[0]["size_px"]
        colors = [color.row() for example in (*whole, *quads) for color in example["colors"]]
        return {
            "images": _stack(whole, size_px),
            "tiles": _stack(quads, _half(size_px)),
            "colors": torch.tensor(colors, dtype=torch.float32),
            "quadrant": torch.tensor([example["quadrant"] for example in examples]),
        }

    @staticmethod
    def to_batch(fields: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
        """`frames` and `image_weight`, augmented on the device."""
        from pipelines.stream.device_frames import frame_fields

        return frame_fields(**fields, device=device)

    def _fields(self, images: Sequence[DrawnImage], crop_size_px: int, quadrant: int = -1) -> Fields:
        return {
            "crops": [image.crop(crop_size_px) for image in images],
            "colors": [image.color for image in images],
            "quadrant": quadrant,
            "size_px": self.spec.image_size_px,
        }

    def _random_frame(self, frames: StoredFrames, rng: np.random.Generator) -> DrawnImage:
        return self._draw(frames.decode(int(rng.integers(max(len(frames), 1)))), rng)


def _half(size_px: int) -> int:
    """Size of a quadrant, rounded up."""
    return (size_px + 1) // 2


def _stack(examples: Sequence[Fields], size_px: int) -> Tensor:
    """The crops of examples, uint8 [N, size_px, size_px, 3]."""
    import torch

    crops = [crop for example in examples for crop in example["crops"]]
    return stack(crops) if crops else torch.empty((0, size_px, size_px, 3), dtype=torch.uint8)


def frame_extensions(clip: StoredClip) -> list[str]:
    """Extensions of a clip's images in order of time: `0.jpg`, `1.jpg`, ..., `10.jpg`."""
    names = (name for name in clip.extensions() if _is_frame(name, clip.keys.image_key))
    return sorted(names, key=lambda name: (len(name), name))


def _is_frame(name: str, key: str) -> bool:
    if not key:
        return name.rpartition(".")[2] in Frames.file_types
    number, _, rest = name.partition(".")
    return name == key or (rest == key and number.isdecimal())


def _decode_jpeg(data: bytes) -> np.ndarray:
    height_px, width_px, _, _ = simplejpeg.decode_jpeg_header(data)
    _check_size(width_px, height_px)
    if (scans := data.count(b"\xff\xda")) > _MAX_SCANS:
        raise ValueError(f"{scans} scans, at most {_MAX_SCANS} are decoded")
    pixels = simplejpeg.decode_jpeg(data, colorspace="RGB")
    header = data[: data.find(b"\xff\xda")]
    if not any(mark in header for mark in _ORIENTATION_MARKS):
        return pixels
    image = Image.fromarray(pixels)
    image.info.update(Image.open(io.BytesIO(data), formats=["JPEG"]).info)
    return np.array(upright_rgb(image))


def _decode_png(data: bytes) -> np.ndarray:
    _check_size(int.from_bytes(data[16:20]), int.from_bytes(data[20:24]))  # before PIL, which would warn as well
    image: Image.Image = Image.open(io.BytesIO(data), formats=["PNG"])
    _check_size(*image.size)
    return np.array(upright_rgb(image))


def _check_size(width_px: int, height_px: int) -> None:
    """Reject an image bomb: a few hundred bytes whose header claims more pixels than the memory holds."""
    if width_px * height_px > _MAX_PIXELS or max(width_px, height_px) > _MAX_ASPECT * min(width_px, height_px):
        raise ValueError(
            f"{width_px}x{height_px} px; at most {_MAX_PIXELS} pixels and an aspect ratio of {_MAX_ASPECT} are decoded"
        )
