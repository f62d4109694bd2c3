"""The clips of one data set as arrays: a frame, the waveform, the metadata. Limits: decodes jpg, png, flac,
wav and opus; nothing is resampled."""

from __future__ import annotations

import io
import json
from typing import Any, NamedTuple

import numpy as np
import torch

from configs.command import UsageError
from pipelines.stream.augment import evaluation_image, padded
from pipelines.stream.batch import Item
from pipelines.stream.index import DatasetIndex

_PICTURES = ("jpg", "png")
_SOUNDS = ("flac", "wav", "opus")
_MOST_MEMBER_BYTES = 1 << 26
_MOST_PIXELS = 50_000_000


class UnreadableClip(Exception):
    """A clip that cannot be used; `reason` is one of REASONS, counted in training."""

    REASONS = ("missing_member", "read_error", "cut_off", "empty_member", "too_large", "bad_image", "bad_audio", "too_short")

    def __init__(self, reason: str, detail: str) -> None:
        assert reason in self.REASONS
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


class Fields(NamedTuple):
    """How shards of others name a clip's pictures and its sound: extensions, "" for ours."""

    pictures: str = ""
    sound: str = ""


class ClipReader:
    """Reads clips of one data set by number.

    Args:
        index: of the data set.
        image_size_px, clip_duration_s, sample_rate_hz: of the items made; the shards must have this sample rate.
        source: number stated in the items.
        fields: names of members, for shards of others.
    """

    def __init__(
        self, index: DatasetIndex, image_size_px: int, clip_duration_s: float, sample_rate_hz: int, source: int = 0, fields: Fields | None = None
    ) -> None:
        self.index, self.source, self._fields = index, source, fields or Fields()
        self.image_size_px, self.sample_rate_hz = image_size_px, sample_rate_hz
        self.samples = round(clip_duration_s * sample_rate_hz)

    def metadata(self, clip: int) -> dict[str, Any]:
        """What the shard says about a clip: labels, text, times (KEY.json)."""
        return json.loads(self._member(clip, "json"))

    def frame_names(self, clip: int) -> list[str]:
        """Extensions of the clip's pictures in order of time: `0.jpg`, `1.jpg`, ..."""
        pictures = self._fields.pictures
        names = (name for name in self.index.members(clip) if (name == pictures if pictures else name.rpartition(".")[2] in _PICTURES))
        return sorted(names, key=lambda name: (len(name), name))

    def frame(self, clip: int, number: int) -> torch.Tensor:
        """One picture of the clip, uint8 [3, H_px, W_px], counted from 0 in order of time.

        Raises:
            UnreadableClip: no such picture, or it does not decode.
        """
        names = self.frame_names(clip)
        if not 0 <= number < len(names):
            raise UnreadableClip("missing_member", f"picture {number} of clip {self.index.id(clip)}, which has {len(names)}")
        data = self._member(clip, names[number])
        try:
            pixels = _decode_png(data) if names[number].endswith("png") else _decode_jpeg(data)
        except Exception as error:  # damaged bytes make decoders raise almost anything: ValueError, OSError, SyntaxError, MemoryError
            raise UnreadableClip("bad_image", f"clip {self.index.id(clip)}: {error}") from None
        return torch.from_numpy(pixels).permute(2, 0, 1)

    def waveform(self, clip: int) -> np.ndarray:
        """The clip's sound from its start, float32 [<= S] in -1 to 1: the first channel, cut to the configured length, not padded.

        Raises:
            UnreadableClip: no sound, or it does not decode.
            UsageError: another sample rate than the configured one.
        """
        import soundfile

        name = self._fields.sound or next((name for name in _SOUNDS if name in self.index.members(clip)), _SOUNDS[0])
        data = self._member(clip, name)
        try:
            with soundfile.SoundFile(io.BytesIO(data)) as file:
                rate_hz, waveform = file.samplerate, file.read(self.samples, dtype="float32", always_2d=True)[:, 0]
        except Exception as error:  # as above
            raise UnreadableClip("bad_audio", f"clip {self.index.id(clip)}: {error}") from None
        if rate_hz != self.sample_rate_hz:
            raise UsageError(
                f"{self.index.folder}: clip {self.index.id(clip)} has sound at {rate_hz} Hz, stream.sample_rate_hz={self.sample_rate_hz}: "
                f"set it to {rate_hz} or build the shards with decode.sample_rate_hz={self.sample_rate_hz}"
            )
        if not len(waveform) or not np.isfinite(waveform).all():
            raise UnreadableClip("bad_audio", f"clip {self.index.id(clip)}: no samples, or some that are no numbers")
        return waveform

    def evaluation_item(self, clip: int, frame: int) -> Item:
        """A clip without augmentation: short side resized, centre crop, waveform cut or zero-padded.

        Raises:
            UnreadableClip: as `frame` and `waveform`.
        """
        waveform, mask = padded(self.waveform(clip), self.samples)
        return Item(
            frame=evaluation_image(self.frame(clip, frame), self.image_size_px),
            waveform=waveform,
            audio_mask=mask,
            audio_positive_weight=np.ones(self.samples, dtype=np.float32),
            image_weight=torch.ones(self.image_size_px, self.image_size_px),
            source=self.source,
            id=self.index.id(clip),
        )

    def _member(self, clip: int, name: str) -> bytes:
        size = self.index.members(clip).get(name, (0, None))[1]
        if size is None:
            raise UnreadableClip("missing_member", f"clip {self.index.id(clip)} has no .{name}")
        if size > _MOST_MEMBER_BYTES:
            raise UnreadableClip("too_large", f".{name} of clip {self.index.id(clip)} has {size} bytes, at most {_MOST_MEMBER_BYTES} are read")
        try:
            data = self.index.read(clip, name)
        except OSError as error:
            raise UnreadableClip("read_error", f"clip {self.index.id(clip)}: {error}") from None
        if len(data) < size:
            raise UnreadableClip("cut_off", f".{name} of clip {self.index.id(clip)} has {len(data)} bytes of {size}")
        if not data:
            raise UnreadableClip("empty_member", f".{name} of clip {self.index.id(clip)}")
        return data


def _decode_jpeg(data: bytes) -> np.ndarray:
    import simplejpeg

    height_px, width_px, _, _ = simplejpeg.decode_jpeg_header(data)
    _check_pixels(width_px * height_px)
    return simplejpeg.decode_jpeg(data, colorspace="RGB")


def _decode_png(data: bytes) -> np.ndarray:
    from PIL import Image

    picture = Image.open(io.BytesIO(data), formats=["PNG"])
    _check_pixels(picture.width * picture.height)
    return np.array(picture.convert("RGB"))


def _check_pixels(pixels: int) -> None:
    """Some hundred bytes can claim to be a picture that fills the memory."""
    if pixels > _MOST_PIXELS:
        raise ValueError(f"{pixels} pixels, at most {_MOST_PIXELS} are decoded")
