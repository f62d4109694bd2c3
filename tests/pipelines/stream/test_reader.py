"""A clip's members as arrays: the odd forms that pictures and sounds come in, and bytes that claim to be larger than they are or are damaged."""

import io
import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import soundfile
from paths import ROOT
from PIL import Image
from tiny_shards import jpeg, sound, tone, write_data_set

from configs.errors import UsageError
from configs.schema import AugmentConfig, StreamConfig, StreamSourceConfig
from pipelines.stream import reader as reader_module
from pipelines.stream.index import DatasetIndex
from pipelines.stream.loader import open_stream
from pipelines.stream.reader import ClipReader, MemberKeys, UnreadableClip


def reader_of(folder: Path, members: dict[str, bytes | None], fields: MemberKeys | None = None) -> ClipReader:
    """A reader of one clip with these members instead of, or beside, a good clip's."""
    return ClipReader(
        DatasetIndex.open(write_data_set(folder, [1], changes={0: members}, frames=1)), 24, 0.5, 16000, fields=fields
    )


def stored(picture: Image.Image, form: str, **settings) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **settings)
    return buffer.getvalue()


def png(width_px: int, height_px: int, depth: int = 8, kind: int = 2, rows: bytes = b"", more: bytes = b"") -> bytes:
    """A PNG that states whatever is wanted; kind 0 grey, 2 RGB, 4 grey and alpha, 6 RGB and alpha."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width_px, height_px, depth, kind, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + more + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


def of_16_bits(kind: int, *values: int) -> bytes:
    return png(40, 30, 16, kind, (b"\0" + struct.pack(f">{len(values)}H", *values) * 40) * 30)


def written(waveform: np.ndarray, form: str, subtype: str, rate_hz: int = 16000) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, rate_hz, format=form, subtype=subtype)
    return buffer.getvalue()


def flac_of_stated_length(samples: int, waveform: np.ndarray) -> bytes:
    """A FLAC whose header states another length; 0 is what one written into a pipe states."""
    data = bytearray(sound(waveform))
    data[21] = (data[21] & 0xF0) | (samples >> 32)
    data[22:26] = (samples & 0xFFFFFFFF).to_bytes(4)
    return bytes(data)


def wav_header(channels: int, stated_bytes: int) -> bytes:
    form = struct.pack("<IHHIIHH", 16, 1, channels, 16000, 32000 * channels, 2 * channels, 16)
    return b"RIFF" + struct.pack("<I", stated_bytes) + b"WAVEfmt " + form + b"data" + struct.pack("<I", stated_bytes)


def palette_with_transparency() -> bytes:
    picture = Image.new("P", (40, 30), 1)
    picture.putpalette([0, 0, 0, 10, 20, 30])
    return stored(picture, "PNG", transparency=bytes([0, 7]))


COLOUR = Image.new("RGB", (40, 30), (200, 50, 10))
ROTATED = Image.Exif()
ROTATED[0x0112] = 6
PICTURES = {  # name -> (extension, bytes, colour wanted)
    "grey jpg": ("0.jpg", stored(Image.new("L", (40, 30), 77), "JPEG"), (77, 77, 77)),
    "CMYK jpg": ("0.jpg", stored(COLOUR.convert("CMYK"), "JPEG", quality=95), (200, 50, 10)),
    "progressive jpg": ("0.jpg", stored(COLOUR, "JPEG", quality=95, progressive=True), (200, 50, 10)),
    "jpg with rotation in its EXIF": ("0.jpg", stored(COLOUR, "JPEG", quality=95, exif=ROTATED), (200, 50, 10)),
    "jpg called png": ("0.png", stored(COLOUR, "JPEG", quality=95), (200, 50, 10)),
    "png called jpg": ("0.jpg", stored(COLOUR, "PNG"), (200, 50, 10)),
    "grey png": ("0.png", stored(Image.new("L", (40, 30), 77), "PNG"), (77, 77, 77)),
    "black and white png": ("0.png", stored(Image.new("1", (40, 30), 1), "PNG"), (255, 255, 255)),
    "png of 16 bits": ("0.png", of_16_bits(2, 40000, 20000, 10000), (156, 78, 39)),
    "grey png of 16 bits": ("0.png", of_16_bits(0, 40000), (156, 156, 156)),
    "grey png of 16 bits with alpha": ("0.png", of_16_bits(4, 40000, 7), (156, 156, 156)),
    "png with alpha": ("0.png", stored(Image.new("RGBA", (40, 30), (200, 50, 10, 0)), "PNG"), (200, 50, 10)),
    "grey png with a transparent grey": (
        "0.png",
        stored(Image.new("L", (40, 30), 9), "PNG", transparency=9),
        (9, 9, 9),
    ),
    "png with a palette": ("0.png", stored(COLOUR.convert("P", palette=Image.Palette.ADAPTIVE), "PNG"), (200, 50, 10)),
    "png with a palette with alpha": ("0.png", palette_with_transparency(), (10, 20, 30)),
}


@pytest.mark.parametrize("kind", PICTURES)
def test_odd_kinds_of_pictures_become_rgb_as_stock_decoders_make_it(tmp_path, kind):
    extension, data, colour = PICTURES[kind]
    frame = reader_of(tmp_path / "a", {"0.jpg": None, extension: data}).frame(0, 0)
    assert (frame.shape, str(frame.dtype)) == ((3, 30, 40), "torch.uint8")
    assert np.abs(frame.numpy().astype(int) - np.reshape(colour, (3, 1, 1))).max() <= 2


def jpeg_of_stated_size(width_px: int, height_px: int) -> bytes:
    data = bytearray(jpeg(1))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height_px, width_px)
    return bytes(data)


def jpeg_of_many_scans(scans: int) -> bytes:
    data = stored(COLOUR, "JPEG", progressive=True)
    at = data.rindex(b"\xff\xda")
    return data[:at] + data[at:-2] * scans + data[-2:]


BAD_PICTURES = {
    "jpg that claims 4 gigapixels": (jpeg_of_stated_size(65500, 65500), "65500x65500 px; at most"),
    "png that claims 4 exapixels": (png(2**31 - 1, 2**31 - 1), "2147483647x2147483647 px; at most"),
    "png of 60 megapixels": (png(10000, 6000), "10000x6000 px; at most"),
    "png whose second header is larger": (png(4, 4, more=png(30000, 30000)[8:33]), ""),
    "png a pixel wide": (png(1, 50_000, rows=bytes(4) * 50_000), "1x50000 px; at most"),
    "jpg of a thousand scans": (jpeg_of_many_scans(1000), "scans, at most 100"),
    "png without size": (png(0, 0), ""),
    "png cut off": (stored(Image.effect_noise((64, 64), 50), "PNG")[:1000], ""),
    "jpg cut off": (stored(Image.effect_noise((64, 64), 50), "JPEG")[:700], ""),
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
    "gif": (stored(COLOUR, "GIF"), ""),
    "tiff": (stored(COLOUR, "TIFF"), ""),
    "nothing of use": (b"\x89PNG\r\n\x1a\n", ""),
    "text": (b"not a picture", ""),
}


@pytest.mark.parametrize("kind", BAD_PICTURES)
def test_a_picture_that_is_damaged_or_a_bomb_is_a_bad_image(tmp_path, kind):
    data, said = BAD_PICTURES[kind]
    with pytest.raises(UnreadableClip, match=r"^bad_image: clip clip0000: ") as error:
        reader_of(tmp_path / "a", {"0.jpg": data}).frame(0, 0)
    assert said in str(error.value) and "\n" not in str(error.value)


WAVE = tone(3)
EIGHT = np.stack([WAVE, *[np.zeros_like(WAVE)] * 7], axis=1)
SOUNDS = {
    "flac of 8 channels": ("flac", written(EIGHT, "FLAC", "PCM_16"), 1e-4),
    "flac of 24 bits": ("flac", written(WAVE, "FLAC", "PCM_24"), 1e-6),
    "flac of unknown length": ("flac", flac_of_stated_length(0, WAVE), 1e-4),
    "wav of float64": ("wav", written(WAVE, "WAV", "DOUBLE"), 1e-7),
    "wav of 24 bits": ("wav", written(WAVE, "WAV", "PCM_24"), 1e-6),
    "wav of 8 bits": ("wav", written(WAVE, "WAV", "PCM_U8"), 1e-2),
    "wav of mu-law": ("wav", written(WAVE, "WAV", "ULAW"), 3e-2),
    "wav whose length is not stated": ("wav", wav_header(1, 0xFFFFFFFF) + (WAVE * 32767).astype("<i2").tobytes(), 1e-4),
    "wav of 8 channels": ("wav", written(EIGHT, "WAVEX", "PCM_16"), 1e-4),
    "flac called wav": ("wav", sound(WAVE), 1e-4),
    "one that goes beyond 1 a little": ("wav", written(2.5 * WAVE, "WAV", "FLOAT"), None),
    "opus": ("opus", written(WAVE, "OGG", "OPUS"), None),
    "opus in stereo": ("opus", written(np.stack([WAVE, WAVE], axis=1), "OGG", "OPUS"), None),
}


@pytest.mark.parametrize("kind", SOUNDS)
def test_odd_kinds_of_sounds_become_a_waveform_of_the_first_channel(tmp_path, kind):
    extension, data, tolerance = SOUNDS[kind]
    waveform = reader_of(tmp_path / "a", {"flac": None, extension: data}).waveform(0)
    assert (waveform.shape, waveform.dtype) == ((8000,), np.float32)
    if tolerance:
        assert waveform == pytest.approx(WAVE, abs=tolerance)
    else:
        assert abs(np.fft.rfft(waveform)).argmax() == (200 + 30) // 2


NAN, HUGE = WAVE.astype(np.float64), WAVE.astype(np.float64) * 1e300
NAN[4000] = np.nan
BAD_SOUNDS = {
    "wav of float64 with a NaN": ("wav", written(NAN, "WAV", "DOUBLE"), "no numbers"),
    "wav of float64 beyond float32": ("wav", written(HUGE, "WAV", "DOUBLE"), "no numbers, or some beyond 10"),
    "wav of integers stored as floats": ("wav", written(WAVE * 32768, "WAV", "FLOAT"), "some beyond 10"),
    "wav of a thousand channels": ("wav", wav_header(1000, 10**9) + bytes(10_000), "1000 channels, at most 32"),
    "wav without samples": ("wav", wav_header(1, 0), "no samples"),
    "wav of no channel": ("wav", wav_header(0, 1000) + bytes(1000), ""),
    "flac that claims to be two months long": ("flac", flac_of_stated_length(2**36 - 1, tone(3, 0.4)), ""),
    "flac cut off": ("flac", sound(np.random.default_rng(0).normal(size=8000) / 10)[:5000], ""),
    "opus cut off in its headers": ("opus", written(WAVE, "OGG", "OPUS")[:100], ""),
    "opus of 255 channels": (
        "opus",
        (lambda d: d.replace(b"OpusHead\x01\x01", b"OpusHead\x01\xff"))(written(WAVE, "OGG", "OPUS")),
        "",
    ),
    "AIFF called flac": ("flac", written(WAVE, "AIFF", "PCM_16"), "no FLAC, WAV or Ogg begins like this"),
    "MP3 called wav": ("wav", b"\xff\xfb\x90\x00" * 500, "no FLAC, WAV or Ogg begins like this"),
    "AVI": ("wav", b"RIFF\x00\x10\x00\x00AVI LIST" + bytes(4000), ""),
}


@pytest.mark.parametrize("kind", BAD_SOUNDS)
def test_a_sound_that_is_damaged_or_a_bomb_is_bad_audio(tmp_path, kind):
    extension, data, said = BAD_SOUNDS[kind]
    with pytest.raises(UnreadableClip, match=r"^bad_audio: clip clip0000: ") as error:
        reader_of(tmp_path / "a", {"flac": None, extension: data}).waveform(0)
    assert said in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("data", [b"{", b"[1]", b"\xff\xfe", b"[" * 100_000, b"1" * 10_000, b'"text"'])
def test_metadata_that_is_no_json_object_is_bad_json(tmp_path, data):
    with pytest.raises(UnreadableClip, match=r"^bad_json: clip clip0000: "):
        reader_of(tmp_path / "a", {"json": data}).metadata(0)


def test_a_member_over_the_limit_is_never_read(tmp_path, monkeypatch):
    monkeypatch.setattr(reader_module, "_MAX_MEMBER_BYTES", 1000)
    reader = reader_of(tmp_path / "a", {"0.jpg": bytes(1001), "flac": bytes(1001), "json": bytes(1001)})
    for read in (lambda: reader.frame(0, 0), lambda: reader.waveform(0), lambda: reader.metadata(0)):
        with pytest.raises(UnreadableClip, match=r"^too_large: .* has 1001 bytes, at most 1000 are read"):
            read()


def test_what_cannot_be_read_is_counted_by_its_reason_in_the_stream_and_other_clips_stand_in(tmp_path):
    bad = [
        *({"0.jpg": data} for data, _ in BAD_PICTURES.values()),
        *({"flac": data} for _, data, _ in BAD_SOUNDS.values()),
    ]
    changes = {2 * number: members for number, members in enumerate(bad)}
    folder = write_data_set(tmp_path / "a", [30, 30], changes=changes, frames=1)
    augment = AugmentConfig(
        audio_splice_min_s=0.1, audio_splice_max_s=0.3, audio_splice_fade_min_s=0.05, time_mask_min_s=0.2
    )
    config = StreamConfig(
        sources=[StreamSourceConfig(shards=str(folder))],
        image_size_px=24,
        clip_duration_s=0.5,
        num_workers=0,
        augment=augment,
        max_error_rate=1.0,
    )
    rejected, seen = dict.fromkeys(("bad_image", "bad_audio"), 0), set()
    for _, batch in zip(range(15), open_stream(config, 0, 4).batches(), strict=False):
        seen |= set(batch.id)
        for reason, count in batch.rejected.items():
            if reason in rejected:
                rejected[reason] += count
    assert seen == {f"clip{number:04d}" for number in range(60) if number not in changes}
    assert min(rejected.values()) >= 12


MEMORY = """
import sys
from pipelines.stream.index import DatasetIndex
from pipelines.stream.reader import ClipReader, UnreadableClip
reader = ClipReader(DatasetIndex.open(sys.argv[1]), 224, 10.2625, 16000)
def peak():
    return int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
reader.waveform(0), reader.frame(0, 0)
before = peak()
for clip in range(1, reader.index.clips):
    for read in (lambda: reader.evaluation_item(clip, 0), lambda: reader.frame(clip, 0), lambda: reader.waveform(clip)):
        try:
            read()
        except UnreadableClip:
            pass
print(peak() - before)
"""


def test_bombs_take_little_memory(tmp_path):
    bombs = [
        *({"0.jpg": data} for data, _ in BAD_PICTURES.values()),
        *({"flac": data} for _, data, _ in BAD_SOUNDS.values()),
    ]
    folder = write_data_set(tmp_path / "a", [len(bombs) + 1], changes=dict(enumerate(bombs, 1)), frames=1)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", MEMORY, str(folder)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 100_000  # KiB


def test_bytes_changed_at_random_give_a_reason_or_an_array_never_a_crash(tmp_path):
    rng = np.random.default_rng(0)
    good = [data for _, data, _ in PICTURES.values()] + [data for _, data, _ in SOUNDS.values()]
    changes = {}
    for clip in range(300):
        data = bytearray(good[clip % len(good)])
        for at in rng.integers(min(len(data), rng.choice([60, 100_000])), size=rng.integers(1, 8)):
            data[at] = rng.integers(256)
        changes[clip] = {"0.jpg" if clip % len(good) < len(PICTURES) else "flac": bytes(data)}
    reader = ClipReader(
        DatasetIndex.open(write_data_set(tmp_path / "a", [300], changes=changes, frames=1)), 24, 0.5, 16000
    )
    outcomes = set()
    for clip in range(300):
        for read in (lambda clip=clip: reader.frame(clip, 0), lambda clip=clip: reader.waveform(clip)):
            try:
                outcomes.add(len(read().shape))
            except UnreadableClip as error:
                outcomes.add(error.reason)
            except UsageError as error:
                assert "Hz" in str(error)
    assert outcomes == {1, 3, "bad_image", "bad_audio"}


def test_a_reader_whose_fields_no_clip_has_is_refused_with_what_there_is(tmp_path):
    told = (
        r"no clip has a picture \.rgb\.jpg, there are \.json, \.0\.jpg, \.flac; stream\.sources\.0\.pictures names one"
    )
    with pytest.raises(UsageError, match=told):
        reader_of(tmp_path / "a", {}, MemberKeys(image_key="rgb.jpg"))
    reader_of(tmp_path / "b", {}, MemberKeys("JPG", ".flac")).check_fields()
    silent = reader_of(tmp_path / "c", {"flac": None})
    with pytest.raises(
        UsageError, match=r"no clip has a sound, there are \.json, \.0\.jpg; stream\.sources\.0\.sound names one"
    ):
        silent.check_fields()
    assert silent.frame(0, 0).shape == (3, 32, 32)
    assert json.loads(silent.index.read(0, "json")) == silent.metadata(0)


def test_grey_and_colour_agree_with_pil_to_a_grey_value_or_two(tmp_path):
    noise = np.kron(
        np.random.default_rng(0).integers(256, size=(4, 5, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8)
    )
    data = simplejpeg.encode_jpeg(noise, quality=90, colorsubsampling="420")
    expected = np.array(Image.open(io.BytesIO(data)).convert("RGB"))
    assert (
        np.abs(
            reader_of(tmp_path / "a", {"0.jpg": data}).frame(0, 0).permute(1, 2, 0).numpy().astype(int) - expected
        ).mean()
        < 2
    )
