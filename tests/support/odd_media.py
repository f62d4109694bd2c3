"""Images and audio in unusual encodings, damaged files and decompression bombs, and a reader of such a clip."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image
from tiny_shards import encode_audio, jpeg, tone, write_data_set

from pipelines.stream.index import DatasetIndex
from pipelines.stream.reader import ClipReader, MemberKeys


def reader_of(folder: Path, members: dict[str, bytes | None], keys: MemberKeys | None = None) -> ClipReader:
    """A reader of one clip, a valid one with these members replaced or added."""
    return ClipReader(
        DatasetIndex.open(write_data_set(folder, [1], changes={0: members}, frames=1)), 24, 0.5, 16000, keys=keys
    )


def encode_image(image: Image.Image, form: str, **settings) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **settings)
    return buffer.getvalue()


def png(width_px: int, height_px: int, depth: int = 8, kind: int = 2, rows: bytes = b"", more: bytes = b"") -> bytes:
    """A PNG with any header; kind 0 gray, 2 RGB, 4 gray and alpha, 6 RGB and alpha."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width_px, height_px, depth, kind, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + more + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


def png_of_16_bits(kind: int, *values: int) -> bytes:
    return png(40, 30, 16, kind, (b"\0" + struct.pack(f">{len(values)}H", *values) * 40) * 30)


def soundfile_bytes(waveform: np.ndarray, form: str, subtype: str, rate_hz: int = 16000) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, rate_hz, format=form, subtype=subtype)
    return buffer.getvalue()


def flac_of_stated_length(samples: int, waveform: np.ndarray) -> bytes:
    """A FLAC whose header states another length; 0 stands for unknown, as in one written into a pipe."""
    data = bytearray(encode_audio(waveform))
    data[21] = (data[21] & 0xF0) | (samples >> 32)
    data[22:26] = (samples & 0xFFFFFFFF).to_bytes(4)
    return bytes(data)


def wav_header(channels: int, stated_bytes: int) -> bytes:
    form = struct.pack("<IHHIIHH", 16, 1, channels, 16000, 32000 * channels, 2 * channels, 16)
    return b"RIFF" + struct.pack("<I", stated_bytes) + b"WAVEfmt " + form + b"data" + struct.pack("<I", stated_bytes)


def palette_with_transparency() -> bytes:
    image = Image.new("P", (40, 30), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    return encode_image(image, "PNG", transparency=bytes([0, 7]))


COLOR = Image.new("RGB", (40, 30), (200, 50, 10))
IMAGES = {  # name -> (extension, bytes, expected color)
    "gray jpg": ("0.jpg", encode_image(Image.new("L", (40, 30), 77), "JPEG"), (77, 77, 77)),
    "CMYK jpg": ("0.jpg", encode_image(COLOR.convert("CMYK"), "JPEG", quality=95), (200, 50, 10)),
    "progressive jpg": ("0.jpg", encode_image(COLOR, "JPEG", quality=95, progressive=True), (200, 50, 10)),
    "jpg called png": ("0.png", encode_image(COLOR, "JPEG", quality=95), (200, 50, 10)),
    "png called jpg": ("0.jpg", encode_image(COLOR, "PNG"), (200, 50, 10)),
    "gray png": ("0.png", encode_image(Image.new("L", (40, 30), 77), "PNG"), (77, 77, 77)),
    "black and white png": ("0.png", encode_image(Image.new("1", (40, 30), 1), "PNG"), (255, 255, 255)),
    "png of 16 bits": ("0.png", png_of_16_bits(2, 40000, 20000, 10000), (156, 78, 39)),
    "gray png of 16 bits": ("0.png", png_of_16_bits(0, 40000), (156, 156, 156)),
    "gray png of 16 bits with alpha": ("0.png", png_of_16_bits(4, 40000, 7), (156, 156, 156)),
    "png with alpha": ("0.png", encode_image(Image.new("RGBA", (40, 30), (200, 50, 10, 0)), "PNG"), (200, 50, 10)),
    "gray png with a transparent gray": (
        "0.png",
        encode_image(Image.new("L", (40, 30), 9), "PNG", transparency=9),
        (9, 9, 9),
    ),
    "png with a palette": (
        "0.png",
        encode_image(COLOR.convert("P", palette=Image.Palette.ADAPTIVE), "PNG"),
        (200, 50, 10),
    ),
    "png with a palette with alpha": ("0.png", palette_with_transparency(), (10, 20, 30)),
}


def jpeg_of_stated_size(width_px: int, height_px: int) -> bytes:
    data = bytearray(jpeg(1))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height_px, width_px)
    return bytes(data)


def jpeg_of_many_scans(scans: int) -> bytes:
    data = encode_image(COLOR, "JPEG", progressive=True)
    at = data.rindex(b"\xff\xda")
    return data[:at] + data[at:-2] * scans + data[-2:]


BAD_IMAGES = {
    "jpg that claims 4 gigapixels": (jpeg_of_stated_size(65500, 65500), "65500x65500 px; at most"),
    "png that claims 4 exapixels": (png(2**31 - 1, 2**31 - 1), "2147483647x2147483647 px; at most"),
    "png of 60 megapixels": (png(10000, 6000), "10000x6000 px; at most"),
    "png whose second header is larger": (png(4, 4, more=png(30000, 30000)[8:33]), ""),
    "png a pixel wide": (png(1, 50_000, rows=bytes(4) * 50_000), "1x50000 px; at most"),
    "jpg of a thousand scans": (jpeg_of_many_scans(1000), "scans, at most 100"),
    "png without size": (png(0, 0), ""),
    "png truncated": (encode_image(Image.effect_noise((64, 64), 50), "PNG")[:1000], ""),
    "jpg truncated": (encode_image(Image.effect_noise((64, 64), 50), "JPEG")[:700], ""),
    "png with a text that unpacks to a gigabyte": (
        png(
            4,
            4,
            rows=bytes(13) * 4,
            more=(lambda d: struct.pack(">I", len(d)) + b"zTXt" + d + struct.pack(">I", zlib.crc32(b"zTXt" + d)))(
                b"x\0\0" + zlib.compress(bytes(10**8))
            ),
        ),
        "",
    ),
    "gif": (encode_image(COLOR, "GIF"), ""),
    "tiff": (encode_image(COLOR, "TIFF"), ""),
    "signature only": (b"\x89PNG\r\n\x1a\n", ""),
    "text": (b"not a image", ""),
}


TONE = tone(3)
EIGHT_CHANNELS = np.stack([TONE, *[np.zeros_like(TONE)] * 7], axis=1)
AUDIO = {
    "wav that states no samples": ("wav", wav_header(1, 0) + (TONE * 32767).astype("<i2").tobytes(), 1e-4),
    "RF64": ("wav", soundfile_bytes(TONE, "RF64", "PCM_16"), 1e-4),
    "flac of 8 channels": ("flac", soundfile_bytes(EIGHT_CHANNELS, "FLAC", "PCM_16"), 1e-4),
    "flac of 24 bits": ("flac", soundfile_bytes(TONE, "FLAC", "PCM_24"), 1e-6),
    "flac of unknown length": ("flac", flac_of_stated_length(0, TONE), 1e-4),
    "wav of float64": ("wav", soundfile_bytes(TONE, "WAV", "DOUBLE"), 1e-7),
    "wav of 24 bits": ("wav", soundfile_bytes(TONE, "WAV", "PCM_24"), 1e-6),
    "wav of 8 bits": ("wav", soundfile_bytes(TONE, "WAV", "PCM_U8"), 1e-2),
    "wav of mu-law": ("wav", soundfile_bytes(TONE, "WAV", "ULAW"), 3e-2),
    "wav whose length is not stated": ("wav", wav_header(1, 0xFFFFFFFF) + (TONE * 32767).astype("<i2").tobytes(), 1e-4),
    "wav of 8 channels": ("wav", soundfile_bytes(EIGHT_CHANNELS, "WAVEX", "PCM_16"), 1e-4),
    "flac called wav": ("wav", encode_audio(TONE), 1e-4),
    "wav of amplitudes above 1": ("wav", soundfile_bytes(2.5 * TONE, "WAV", "FLOAT"), None),
    "opus": ("opus", soundfile_bytes(TONE, "OGG", "OPUS"), None),
    "opus in stereo": ("opus", soundfile_bytes(np.stack([TONE, TONE], axis=1), "OGG", "OPUS"), None),
}


NAN, HUGE = TONE.astype(np.float64), TONE.astype(np.float64) * 1e300
NAN[4000] = np.nan
BAD_AUDIO = {
    "wav of float64 with a NaN": ("wav", soundfile_bytes(NAN, "WAV", "DOUBLE"), "NaN"),
    "wav of float64 beyond float32": ("wav", soundfile_bytes(HUGE, "WAV", "DOUBLE"), "amplitudes above 10"),
    "wav of integers stored as floats": ("wav", soundfile_bytes(TONE * 32768, "WAV", "FLOAT"), "amplitudes above 10"),
    "wav of a thousand channels": ("wav", wav_header(1000, 10**9) + bytes(10_000), "1000 channels, at most 32"),
    "wav without samples": ("wav", wav_header(1, 0), "no samples"),
    "wav of no channel": ("wav", wav_header(0, 1000) + bytes(1000), ""),
    "flac that claims to be two months long": ("flac", flac_of_stated_length(2**36 - 1, tone(3, 0.4)), ""),
    "flac truncated": ("flac", encode_audio(np.random.default_rng(0).normal(size=8000) / 10)[:5000], ""),
    "opus truncated in its headers": ("opus", soundfile_bytes(TONE, "OGG", "OPUS")[:100], ""),
    "opus of 255 channels": (
        "opus",
        (lambda d: d.replace(b"OpusHead\x01\x01", b"OpusHead\x01\xff"))(soundfile_bytes(TONE, "OGG", "OPUS")),
        "",
    ),
    "AIFF called flac": (
        "flac",
        soundfile_bytes(TONE, "AIFF", "PCM_16"),
        "the first bytes are not those of a FLAC, WAV or Ogg file",
    ),
    "MP3 called wav": ("wav", b"\xff\xfb\x90\x00" * 500, "the first bytes are not those of a FLAC, WAV or Ogg file"),
    "AVI": ("wav", b"RIFF\x00\x10\x00\x00AVI LIST" + bytes(4000), ""),
}
