"""Converts images to upright 8-bit RGB, in the build, in the reader of shards and in the evaluation alike.

- The orientation in the EXIF or XMP metadata is applied.
- 16-bit gray keeps its upper byte, as Pillow does for 16-bit color. Float and 32-bit integer gray, for which no format
  defines white, has the first of WHITES that is not exceeded as white; NaN and negative values are black.
- Transparency is ignored: pixels have the color that is stored for them, whatever their alpha.
- Of an animation or a file with several pages, the first one counts.
"""

import contextlib

import numpy as np
from PIL import Image, ImageOps

WHITES = (1.0, 255.0, 65535.0, 2.0**31 - 1)


def turn_upright(image: Image.Image) -> None:
    """Apply the orientation in the metadata of an opened image, in place; damaged metadata are ignored."""
    with contextlib.suppress(Exception):  # whatever parsers raise; pixels that do not decode raise again when used
        ImageOps.exif_transpose(image, in_place=True)


def upright_rgb(image: Image.Image) -> Image.Image:
    """An opened image as RGB, turned upright.

    Raises:
        OSError, ValueError, SyntaxError: it does not decode.
    """
    turn_upright(image)
    if image.mode.startswith(("I", "F")):
        return _gray_of_8_bits(image).convert("RGB")
    image.info.pop("transparency", None)  # Pillow warns when it ignores transparency
    return image.convert("RGB")


def _gray_of_8_bits(image: Image.Image) -> Image.Image:
    """Gray of more than 8 bits (modes I;16, I and F), which Pillow would clip at 255, scaled."""
    if image.mode.startswith("I;16") or image.format in ("PNG", "PPM"):
        bits = getattr(image, "tag_v2", {}).get(258, (16,))[0]  # 12 in some TIFF files
        return Image.fromarray((np.asarray(image) >> (bits - 8)).clip(0, 255).astype(np.uint8))
    gray = np.nan_to_num(np.asarray(image, np.float64), posinf=0.0, neginf=0.0)
    white = next((white for white in WHITES if gray.max() <= white), gray.max())
    return Image.fromarray(np.round(gray.clip(0) * (255 / white)).astype(np.uint8))
