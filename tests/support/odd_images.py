"""Images in every Pillow mode and file format that users have, with the color that each shows, and rotated ones."""

import io
import struct

import numpy as np
from odd_media import png_of_16_bits
from PIL import Image

RGB, GRAY, GRAY_16 = (200, 50, 10), 156, 40000  # GRAY is GRAY_16 of 65535
COLOR = Image.new("RGB", (40, 30), RGB)


def encode(image: Image.Image, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def gray(dtype: str, value: float) -> Image.Image:
    return Image.fromarray(np.full((30, 40), value, dtype))


def _palette() -> Image.Image:
    image = Image.new("P", (40, 30), 1)
    image.putpalette([0, 0, 0, *RGB])
    return image


def _with_alpha(alpha: int) -> Image.Image:
    image = COLOR.copy()
    image.putalpha(alpha)
    return image


def _animation(form: str) -> bytes:
    return encode(COLOR, form, save_all=True, append_images=[Image.new("RGB", (40, 30), (0, 0, 255))])


def _tiff_of_12_bits(value: int) -> bytes:
    """Two pixels in three bytes, which Pillow reads and does not write."""
    pixels = (value << 12 | value).to_bytes(3) * 600
    tags = {256: 40, 257: 30, 258: 12, 259: 1, 262: 1, 273: 128, 277: 1, 278: 30, 279: len(pixels)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, content) for tag, content in tags.items())
    header = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)
    return header.ljust(tags[273], b"\0") + pixels


IMAGES = {  # name -> (bytes, color)
    "TIFF of 12-bit gray": (_tiff_of_12_bits(2500), GRAY),
    "PNG of 16-bit gray": (encode(gray("uint16", GRAY_16), "PNG"), GRAY),
    "PNG of 16-bit gray with alpha": (png_of_16_bits(4, GRAY_16, 7), GRAY),
    "PNG of 16-bit color": (png_of_16_bits(2, 40000, 20000, 10000), (156, 78, 39)),
    "PNG of 16-bit color with alpha": (png_of_16_bits(6, 40000, 20000, 10000, 7), (156, 78, 39)),
    "TIFF of 16-bit gray": (encode(gray("uint16", GRAY_16), "TIFF"), GRAY),
    "TIFF of 16-bit gray, big-endian": (encode(gray(">u2", GRAY_16), "TIFF"), GRAY),
    "JPEG 2000 of 16-bit gray": (encode(gray("uint16", GRAY_16), "JPEG2000"), GRAY),
    "PGM of 16-bit gray": (encode(gray("uint16", GRAY_16), "PPM"), GRAY),
    "PGM of 10-bit gray": (b"P5 40 30 1023\n" + np.full(1200, 624, ">u2").tobytes(), GRAY),
    "dark PGM of 16-bit gray": (encode(gray("uint16", 255), "PPM"), 0),
    "TIFF of 32-bit integers to 65535": (encode(gray("int32", GRAY_16), "TIFF"), GRAY),
    "TIFF of 32-bit integers to 255": (encode(gray("int32", GRAY), "TIFF"), GRAY),
    "TIFF of 32-bit integers to 2^31": (encode(gray("int32", GRAY_16 << 15), "TIFF"), GRAY),
    "TIFF of floats to 1": (encode(gray("float32", GRAY / 255), "TIFF"), GRAY),
    "TIFF of floats to 255": (encode(gray("float32", GRAY), "TIFF"), GRAY),
    "TIFF of NaN": (encode(gray("float32", np.nan), "TIFF"), 0),
    "TIFF of negative floats": (encode(gray("float32", -3.0), "TIFF"), 0),
    "black and white PNG": (encode(Image.new("1", (40, 30), 1), "PNG"), 255),
    "palette PNG": (encode(_palette(), "PNG"), RGB),
    "palette PNG with transparency": (encode(_palette(), "PNG", transparency=bytes([0, 7])), RGB),
    "palette TIFF with alpha": (encode(_palette().convert("PA"), "TIFF"), RGB),
    "PNG with a transparent color": (encode(COLOR, "PNG", transparency=RGB), RGB),
    "transparent PNG": (encode(_with_alpha(0), "PNG"), RGB),
    "transparent WebP": (encode(_with_alpha(0), "WEBP", lossless=True, exact=True), RGB),
    "CMYK JPEG": (encode(COLOR.convert("CMYK"), "JPEG", quality=95), RGB),
    "CMYK TIFF": (encode(COLOR.convert("CMYK"), "TIFF"), RGB),
    # Pillow 12, to which gradio is bound, reads a YCbCr TIFF only if it is compressed.
    "YCbCr TIFF": (encode(COLOR.convert("YCbCr"), "TIFF", compression="tiff_lzw"), RGB),
    "first frame of a GIF": (_animation("GIF"), RGB),
    "first frame of a WebP": (_animation("WEBP"), RGB),
    "first frame of an animated PNG": (_animation("PNG"), RGB),
    "first page of a TIFF": (_animation("TIFF"), RGB),
}


def rotated(form: str, orientation: int) -> bytes:
    """An image of 30 x 40 px that shows white at its top left and gray at its bottom right when it is upright."""
    upright = Image.new("RGB", (30, 40))
    upright.paste((255, 255, 255), (0, 0, 15, 20))
    upright.paste((128, 128, 128), (15, 20, 30, 40))
    turn = Image.Transpose
    back = {
        2: turn.FLIP_LEFT_RIGHT,
        3: turn.ROTATE_180,
        4: turn.FLIP_TOP_BOTTOM,
        5: turn.TRANSPOSE,
        6: turn.ROTATE_90,
        7: turn.TRANSVERSE,
        8: turn.ROTATE_270,
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = upright.transpose(back[orientation]) if orientation in back else upright
    return encode(stored, form, exif=exif, **({"quality": 95} if form == "JPEG" else {}))


def is_upright(pixels: np.ndarray) -> bool:
    """Whether pixels [H_px, W_px, 3] show an image of `rotated` upright."""
    quarters = [[int(pixels[row, column, 0]) for column in (7, 22)] for row in (10, 30)]
    return pixels.shape == (40, 30, 3) and np.allclose(quarters, [[255, 0], [0, 128]], atol=4)
