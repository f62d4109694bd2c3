"""The clips of one data set as arrays: a frame, the waveform, the metadata.

Bytes of unknown origin decide how they are decoded, not names, and what their headers claim is checked before memory is given to it. As stock decoders do:
16-bit pictures lose their lower byte, transparency and EXIF rotation are ignored, CMYK becomes RGB. Limits: jpg, png, flac, wav and opus; nothing is
resampled; of a sound the first channel.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections import Counter
from typing import Any, NamedTuple

import numpy as np
import torch

from configs.errors import UsageError
from pipelines.stream.augment import pad_or_crop, resize_center_crop
from pipelines.stream.batch import Example
from pipelines.stream.index import DatasetIndex

_PICTURES = ("jpg", "jpeg", "png")
_SOUNDS = ("flac", "wav", "opus")
_MAX_MEMBER_BYTES = 1 << 26
_MAX_PIXELS = 50_000_000
_MAX_ASPECT = 100  # resized to a short side of 224 px, a line of pixels would fill the memory
_MAX_SCANS = 100  # each pass of a progressive JPEG goes over all pixels
_MAX_CHANNELS = 32
_MAX_AMPLITUDE = 10.0  # lossy sounds overshoot 1 a little; integers stored as floats are no waveform
_CLIPS_LOOKED_AT = 100
_PNG = b"\x89PNG\r\n\x1a\n"
_CONTAINERS = (b"fLaC", b"RIFF", b"OggS")  # libsndfile would try two dozen more
_UNKNOWN_SAMPLES = (1 << 63) - 1  # libsndfile's word for a FLAC that was written into a pipe


class UnreadableClip(Exception):
    """A clip that cannot be used; `reason` is one of REASONS, counted in training."""

    REASONS = (
        "missing_member",
        "read_error",
        "cut_off",
        "empty_member",
        "too_large",
        "bad_image",
        "bad_audio",
        "bad_json",
        "too_short",
    )

    def __init__(self, reason: str, detail: str) -> None:
        assert reason in self.REASONS
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


class MemberKeys(NamedTuple):
    """How shards of others name a clip's pictures and its sound.

    Attributes:
        image_key: `jpg` is KEY.jpg, or KEY.0.jpg, KEY.1.jpg, ...; `rgb.jpg` KEY.rgb.jpg, or KEY.0.rgb.jpg, ...; "": every picture.
        audio_key: `mix.wav` is KEY.mix.wav; "": the first there is of flac, wav, opus.
    """

    image_key: str = ""
    audio_key: str = ""


class ClipReader:
    """Reads clips of one data set by number.

    Args:
        index: of the data set.
        image_size_px, clip_duration_s, sample_rate_hz: of the items made; the shards must have this sample rate.
        source: number stated in the items.
        fields: names of members, for shards of others.

    Raises:
        UsageError: none of many clips has a member that `fields` names.
    """

    def __init__(
        self,
        index: DatasetIndex,
        image_size_px: int,
        clip_duration_s: float,
        sample_rate_hz: int,
        source: int = 0,
        fields: MemberKeys | None = None,
    ) -> None:
        self.index, self.source = index, source
        self._fields = MemberKeys(*(name.lower().removeprefix(".") for name in fields or MemberKeys()))
        self.image_size_px, self.sample_rate_hz = image_size_px, sample_rate_hz
        self.samples = round(clip_duration_s * sample_rate_hz)
        self.check_fields(needed=False)

    def check_fields(self, needed: bool = True) -> None:
        """Look whether clips have the members that the fields name; where none are named, and they are `needed`, whether they have any picture and sound.

        Raises:
            UsageError: none of many clips has one.
        """
        some = range(0, self.index.clips, -(-self.index.clips // _CLIPS_LOOKED_AT))
        for what, key, field, found in (
            ("picture", "image_key", self._fields.image_key, self.frame_names),
            ("sound", "audio_key", self._fields.audio_key, self.sound_name),
        ):
            if (field or needed) and not any(map(found, some)):
                there = Counter(f".{name}" for clip in some for name in self.index.members(clip))
                raise UsageError(
                    f"{self.index.folder}: no clip has a {what}{f' .{field}' if field else ''}, there are {', '.join(n for n, _ in there.most_common(12))}; "
                    f"stream.sources.{self.source}.{key} names one"
                )

    def metadata(self, clip: int) -> dict[str, Any]:
        """What the shard says about a clip: labels, text, times (KEY.json).

        Raises:
            UnreadableClip: no such member, or it is no JSON object.
        """
        try:
            content = json.loads(self._member(clip, "json"))
        except (ValueError, RecursionError) as error:
            raise UnreadableClip("bad_json", f"clip {self.index.id(clip)}: {error}") from None
        if not isinstance(content, dict):
            raise UnreadableClip("bad_json", f"clip {self.index.id(clip)}: a {type(content).__name__}, not an object")
        return content

    def frame_names(self, clip: int) -> list[str]:
        """Extensions of the clip's pictures in order of time: `0.jpg`, `1.jpg`, ..."""
        names = [name for name in self.index.members(clip) if self._is_picture(name)]
        return sorted(names, key=lambda name: (len(name), name))

    def _is_picture(self, name: str) -> bool:
        if not self._fields.image_key:
            return name.rpartition(".")[2] in _PICTURES
        number, _, rest = name.partition(".")
        return name == self._fields.image_key or (rest == self._fields.image_key and number.isdecimal())

    def sound_name(self, clip: int) -> str:
        """Extension of the clip's sound, "" where it has none."""
        members = self.index.members(clip)
        return next(
            (name for name in ([self._fields.audio_key] if self._fields.audio_key else _SOUNDS) if name in members), ""
        )

    def frame(self, clip: int, number: int) -> torch.Tensor:
        """One picture of the clip, uint8 [3, H_px, W_px], counted from 0 in order of time.

        Raises:
            UnreadableClip: no such picture, or it does not decode.
        """
        names = self.frame_names(clip)
        if not 0 <= number < len(names):
            raise UnreadableClip(
                "missing_member", f"picture {number} of clip {self.index.id(clip)}, which has {len(names)}"
            )
        data = self._member(clip, names[number])
        try:
            pixels = _decode_png(data) if data.startswith(_PNG) else _decode_jpeg(data)
        except (
            Exception
        ) as error:  # damaged bytes make decoders raise almost anything: ValueError, OSError, SyntaxError, MemoryError
            raise UnreadableClip("bad_image", f"clip {self.index.id(clip)}: {' '.join(str(error).split())}") from None
        return torch.from_numpy(pixels).permute(2, 0, 1)

    def waveform(self, clip: int) -> np.ndarray:
        """The clip's sound from its start, float32 [<= S] in -1 to 1 or little more: the first channel, cut to the configured length, not padded.

        Raises:
            UnreadableClip: no sound, or it does not decode.
            UsageError: another sample rate than the configured one.
        """
        data = self._member(clip, self.sound_name(clip) or self._fields.audio_key or _SOUNDS[0])
        try:
            rate_hz, waveform = _decode_sound(data, self.samples)
        except Exception as error:  # as above
            raise UnreadableClip("bad_audio", f"clip {self.index.id(clip)}: {' '.join(str(error).split())}") from None
        if rate_hz != self.sample_rate_hz:
            raise UsageError(
                f"{self.index.folder}: clip {self.index.id(clip)} has sound at {rate_hz} Hz, and stream.sample_rate_hz={self.sample_rate_hz} "
                f"is what the model was made for: build the shards with decode.sample_rate_hz={self.sample_rate_hz}, or resample those of others"
            )
        if not (len(waveform) and np.abs(waveform).max() <= _MAX_AMPLITUDE):  # false for NaN too
            raise UnreadableClip(
                "bad_audio",
                f"clip {self.index.id(clip)}: no samples, some that are no numbers, or some beyond {_MAX_AMPLITUDE:g}",
            )
        return waveform

    def evaluation_item(self, clip: int, frame: int) -> Example:
        """A clip without augmentation: short side resized, centre crop, waveform cut or zero-padded.

        Raises:
            UnreadableClip: as `frame` and `waveform`.
        """
        waveform, mask = pad_or_crop(self.waveform(clip), self.samples)
        return Example(
            frame=resize_center_crop(self.frame(clip, frame), self.image_size_px),
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
        if size > _MAX_MEMBER_BYTES:
            raise UnreadableClip(
                "too_large",
                f".{name} of clip {self.index.id(clip)} has {size} bytes, at most {_MAX_MEMBER_BYTES} are read",
            )
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
    _check_size(width_px, height_px)
    if (scans := data.count(b"\xff\xda")) > _MAX_SCANS:
        raise ValueError(f"{scans} scans, at most {_MAX_SCANS} are decoded")
    return simplejpeg.decode_jpeg(data, colorspace="RGB")


def _decode_png(data: bytes) -> np.ndarray:
    from PIL import Image

    _check_size(int.from_bytes(data[16:20]), int.from_bytes(data[20:24]))  # before PIL, which would warn too
    picture = Image.open(io.BytesIO(data), formats=["PNG"])
    _check_size(*picture.size)
    if picture.mode.startswith("I"):  # 16-bit grey, which PIL would cut off at 255
        grey = (np.array(picture) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    picture.info.pop("transparency", None)  # PIL warns of what it does not use
    return np.array(picture.convert("RGB"))


def _check_size(width_px: int, height_px: int) -> None:
    """Some hundred bytes can claim to be a picture that fills the memory."""
    if width_px * height_px > _MAX_PIXELS or max(width_px, height_px) > _MAX_ASPECT * min(width_px, height_px):
        raise ValueError(
            f"{width_px}x{height_px} px; at most {_MAX_PIXELS} pixels are decoded, and one side {_MAX_ASPECT} times the other"
        )


def _decode_sound(data: bytes, samples: int) -> tuple[int, np.ndarray]:
    """Sample rate in Hz and the first channel, float32 [<= samples]."""
    import soundfile

    if data[:4] not in _CONTAINERS:
        raise ValueError("no FLAC, WAV or Ogg begins like this")
    with soundfile.SoundFile(io.BytesIO(data)) as file:
        if file.channels > _MAX_CHANNELS:
            raise ValueError(f"{file.channels} channels, at most {_MAX_CHANNELS} are decoded")
        if file.frames != _UNKNOWN_SAMPLES:
            return file.samplerate, file.read(samples, dtype="float32", always_2d=True)[:, 0]
        read = np.full((samples, file.channels), np.nan, dtype=np.float32)
        with contextlib.suppress(soundfile.LibsndfileError):  # it reads to the end, and then cannot place itself there
            file.read(out=read)
        return file.samplerate, read[: int(np.isfinite(read[:, 0]).sum()), 0]
