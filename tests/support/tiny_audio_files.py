"""Audio files as pipes, recorders and other programs write them: placeholders in headers, rare containers."""

import struct
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image
from tiny_decode import ffmpeg
from tiny_media import silence_with_clicks, write_wav

CLICK_S, DURATION_S, RATE_HZ = 1.0, 3.0, 16000
WAVEFORM = silence_with_clicks(DURATION_S, (CLICK_S,), RATE_HZ)
PCM = (WAVEFORM * 32768).round().astype("<i2").tobytes()
EXTENSIBLE = struct.pack("<HHIIHHHHI", 0xFFFE, 1, RATE_HZ, 2 * RATE_HZ, 2, 16, 22, 16, 4) + bytes.fromhex(
    "0100000000001000800000aa00389b71"
)
PLAIN = struct.pack("<HHIIHH", 1, 1, RATE_HZ, 2 * RATE_HZ, 2, 16)


def wav(riff_size: int, data_size: int, samples: bytes = PCM, form: bytes = PLAIN, chunks: bytes = b"") -> bytes:
    """A WAV file with any sizes in its header."""
    header = b"RIFF" + struct.pack("<I", riff_size) + b"WAVEfmt " + struct.pack("<I", len(form)) + form + chunks
    return header + b"data" + struct.pack("<I", data_size) + samples


def rf64(data_size: int, name: bytes = b"RF64", samples: bytes = PCM) -> bytes:
    """An RF64 or BW64 file, whose sizes are in a chunk of 64-bit numbers."""
    sizes = struct.pack("<QQQI", data_size and data_size + 72, data_size, data_size // 2, 0)
    header = name + b"\xff\xff\xff\xffWAVEds64" + struct.pack("<I", len(sizes)) + sizes
    return header + b"fmt " + struct.pack("<I", len(PLAIN)) + PLAIN + b"data\xff\xff\xff\xff" + samples


LIST = b"LIST" + struct.pack("<I", 27) + b"INFOISFT" + bytes(19) + b"\0"  # odd size, padded
STREAMED_WAVS = {
    "SoX and espeak-ng": wav(0x7FFFF024, 0x7FFFF000),
    "ffmpeg": wav(0xFFFFFFFF, 0xFFFFFFFF, chunks=LIST),
    "arecord": wav(0x80000024, 0x80000000),
    "the largest signed size": wav(0x7FFFFFFF, 0x7FFFFFFF - 36),
    "the largest size less the header": wav(0xFFFFFFF7, 0xFFFFFFD3),
    "zeros": wav(0, 0),
    "the size of the header": wav(36, 0),
    "a size for the samples only": wav(0, len(PCM)),
    "a size for the file only": wav(36 + len(PCM), 0),
    "WAVE_FORMAT_EXTENSIBLE": wav(0x7FFFF03C, 0x7FFFF000, form=EXTENSIBLE),
    "an odd number of bytes": wav(0x7FFFF024, 0x7FFFF000, PCM + b"\0"),
    "RF64": rf64(0),
    "BW64": rf64(0, b"BW64"),
}
TRUNCATED_WAVS = {
    "plain": wav(36 + len(PCM), len(PCM), PCM[: len(PCM) // 2]),
    "no size for the file": wav(0xFFFFFFFF, len(PCM), PCM[: len(PCM) // 2]),
    "no size for the samples": wav(36 + len(PCM), 0x7FFFF000, PCM[: len(PCM) // 2]),
    "extensible": wav(60 + len(PCM), len(PCM), PCM[: len(PCM) // 2], form=EXTENSIBLE),
    "RF64": rf64(len(PCM), samples=PCM[: len(PCM) // 2]),
    "big-endian": b"RIFX%sWAVEfmt %s%sdata%s"
    % (
        struct.pack(">I", 36 + len(PCM)),
        struct.pack(">I", 16),
        struct.pack(">HHIIHH", *struct.unpack("<HHIIHH", PLAIN)),
        struct.pack(">I", len(PCM)) + PCM[: len(PCM) // 2],
    ),
}
# ending -> arguments of ffmpeg; the tolerance of the click covers the delay of lossy encoders
LOSSLESS = {"w64": (), "au": (), "caf": (), "aiff": (), "flac": (), "wv": (), "tta": (), "sox": ()}
LOSSY = {
    "amr": ("-ar", "8000"),
    "opus": (),
    "m4a": (),
    "wma": (),
    "mp3": (),
    "ac3": (),
    "ogg": (),
    "mka": (),
    "aac": (),
}
BY_SOUNDFILE = {"sph": "NIST", "htk": "HTK", "avr": "AVR", "svx": "SVX"}


def write_audio(path: Path) -> Path:
    """The click in the container of the file's ending."""
    ending = path.suffix[1:]
    if ending in BY_SOUNDFILE:
        soundfile.write(path, WAVEFORM, RATE_HZ, format=BY_SOUNDFILE[ending], subtype="PCM_16")
        return path
    source = write_wav(path.with_name("source.wav"), WAVEFORM)
    ffmpeg("-i", source, *(LOSSLESS | LOSSY).get(ending, ()), path)
    return path


def write_piped(path: Path) -> Path:
    """The click as ffmpeg writes it into a pipe."""
    source = write_wav(path.with_name("source.wav"), WAVEFORM)
    with path.open("wb") as file:
        ffmpeg("-i", source, "-f", path.suffix[1:], "pipe:1", stdout=file)
    return path


def write_picture(folder: Path) -> str:
    Image.new("RGB", (50, 50)).save(folder / "p.png")
    return "p.png"


def click_of(waveform: np.ndarray) -> float:
    return float(np.argmax(np.abs(waveform) > np.abs(waveform).max() / 2)) / RATE_HZ
