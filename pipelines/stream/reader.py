"""Clips of one data set by number: their metadata, one frame, the waveform, and evaluation examples of them."""

import contextlib
import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from configs.errors import UsageError
from pipelines.modalities import MODALITIES
from pipelines.modalities.audio_file import to_float
from pipelines.modalities.frames import Frames, frame_extensions
from pipelines.modalities.log_mel import MEL_BINS, LogMel
from pipelines.modalities.modality import (
    ExampleSpec,
    Fields,
    MemberKeys,
    Modality,
    StoredClip,
    UnreadableClip,
    decoding_errors,
)
from pipelines.modalities.waveform import Waveform
from pipelines.stream.batch import Example
from pipelines.stream.joined_index import ClipIndex

__all__ = ["ClipReader", "MemberKeys", "UnreadableClip"]

_CHECKED_CLIPS = 100


class ClipReader:
    """Reads clips of one data set by number.

    Args:
        index: of the data set.
        image_size_px, clip_duration_s, sample_rate_hz: of the examples; the shards must have this sample rate.
        source: number of the source, stated in the examples.
        keys: extensions of members, for third-party shards.
        audio: what examples hold: waveform, or log_mel, the stored spectrogram.

    Attributes:
        spec: the sizes of the examples.
        modalities: by name: frames, waveform or mel, and every further one that the data set stores.

    Raises:
        UsageError: none of many clips has a member that `keys` names.
    """

    def __init__(
        self,
        index: ClipIndex,
        image_size_px: int,
        clip_duration_s: float,
        sample_rate_hz: int,
        source: int = 0,
        keys: MemberKeys | None = None,
        audio: str = "waveform",
    ) -> None:
        self.index, self.source = index, source
        self.keys = MemberKeys(*(name.lower().removeprefix(".") for name in keys or MemberKeys()))
        self.spec = ExampleSpec(image_size_px, round(clip_duration_s * sample_rate_hz), sample_rate_hz)
        self._frames, self._waveform = Frames(self.spec), Waveform(self.spec)
        self._audio: Modality[Any] = LogMel(self.spec) if audio == "log_mel" else self._waveform
        self.modalities: dict[str, Modality[Any]] = {"frames": self._frames, self._audio.name: self._audio}
        for modality in MODALITIES:
            if modality.is_streamed and modality.name not in self.modalities and self._stores(modality(self.spec)):
                self.modalities[modality.name] = modality(self.spec)
        self.check_keys(required=False)

    def check_keys(self, required: bool = True) -> None:
        """Check that clips have the members that `keys` names and, if `required`, some image and audio in any case.

        Raises:
            UsageError: none of many clips has one.
        """
        if required:
            self.check_audio()
        for what, setting, key, modality in (
            ("image", "image_key", self.keys.image_key, self._frames),
            ("audio", "audio_key", self.keys.audio_key, self._audio),
        ):
            if (key or required) and not self._stores(modality):
                present = Counter(f".{name}" for clip in self._sample() for name in self.index.members(clip))
                missing = f"an {what} member .{key}" if key else f"{what} members"
                raise UsageError(
                    f"{self.index.folder}: no clip has {missing}, only "
                    f"{', '.join(name for name, _ in present.most_common(12))}; "
                    f"set stream.sources.{self.source}.{setting} to one of these"
                )

    def check_audio(self) -> None:
        """Check that the data set stores the audio that is read, at the configured rate.

        Raises:
            UsageError: as `check_audio_is_stored`; or the sample rate of the first clip of a folder is another one.
        """
        self.check_audio_is_stored()
        for clip in self.index.first_clips:
            with contextlib.suppress(UnreadableClip):
                self._check_sample_rate(clip)

    def _check_sample_rate(self, clip: int) -> None:
        if self._audio is self._waveform:
            self.waveform(clip)
            return
        rate_hz = self.metadata(clip).get("sample_rate_hz", self.spec.sample_rate_hz)
        if rate_hz != self.spec.sample_rate_hz:
            raise UsageError(
                f"{self.stored(clip).data_set}: log-mel of audio at {rate_hz} Hz, but stream.sample_rate_hz="
                f"{self.spec.sample_rate_hz}"
            )

    def check_audio_is_stored(self) -> None:
        """Check that the data set stores the audio that is read, whatever its length and rate.

        Raises:
            UsageError: none of many clips has log-mel where that is read, or log-mel alone where waveforms are.
        """
        log_mel = LogMel(self.spec)
        if self._audio is self._waveform:
            if not self._stores(self._waveform) and self._stores(log_mel):
                raise UsageError(
                    f"{self.index.folder} stores log-mel and no waveforms: an encoder on log-mel "
                    "(model.audio_encoder=mel:NAME) reads them with stream.audio=log_mel; eval.run with audio=log_mel"
                )
        elif not self._stores(log_mel):
            raise UsageError(
                f"{self.index.folder}: no clip has a member .mel.npy, which audio=log_mel reads: build the data set "
                "with decode.audio=log_mel, or with decode.log_mel=true beside the waveform"
            )

    def stored(self, clip: int) -> StoredClip:
        """A clip as modalities read it."""
        return StoredClip(self.index, clip, self.keys)

    def metadata(self, clip: int) -> dict[str, Any]:
        """The content of KEY.json: labels, text, times.

        Raises:
            UnreadableClip: there is no such member, or it is not a JSON object.
        """
        stored = self.stored(clip)
        data = stored.read("json")
        with decoding_errors("bad_json", stored):
            content = json.loads(data)
            if not isinstance(content, dict):
                raise ValueError(f"a {type(content).__name__}, not an object")
        return content

    def frame_names(self, clip: int) -> list[str]:
        """Extensions of the clip's images in order of time: `0.jpg`, `1.jpg`, ..."""
        return frame_extensions(self.stored(clip))

    def frame(self, clip: int, number: int) -> torch.Tensor:
        """One frame of the clip, uint8 [3, H_px, W_px], counted from 0 in order of time.

        Raises:
            UnreadableClip: there is no such frame, or it does not decode.
        """
        return self._frames.decode(self.stored(clip)).decode(number)

    def waveform(self, clip: int) -> np.ndarray:
        """The clip's audio as `Waveform.decode` returns it, but float32 [<= S], -1 to 1."""
        return to_float(self._waveform.decode(self.stored(clip)))

    def audio_fraction(self, clip: int) -> float:
        """The length of the clip's audio as a fraction of the model's input, at most 1.

        Raises:
            UnreadableClip: it does not decode.
        """
        length = self.spec.samples if self._audio is self._waveform else LogMel(self.spec).steps
        return len(self._audio.decode(self.stored(clip))) / length

    def evaluation_item(self, clip: int, frame: int) -> Example:
        """A clip without augmentation: short side resized, center crop, waveform cut or zero-padded.

        Raises:
            UnreadableClip: as `frame` and `waveform`.
        """
        values = {name: modality.decode(self.stored(clip)) for name, modality in self.modalities.items()}
        fields = {name: self.modalities[name].evaluate(value, frame) for name, value in values.items()}
        return self.example(clip, fields)

    def placeholder(self) -> Example:
        """A black frame and silence, in the place of a clip that cannot be read."""
        silence = self._audio.evaluate(np.zeros((0, MEL_BINS) if self._audio.name == "mel" else 0, np.float16), 0)
        return Example({"frames": self._frames.placeholder(), self._audio.name: silence}, self.source, "")

    def example(self, clip: int, fields: Mapping[str, Fields], position: int = -1) -> Example:
        """An example of a clip.

        Args:
            clip: its number.
            fields: of each modality, by its name.
            position: of the clip in the sample order; -1 outside training.
        """
        return Example(fields, self.source, self.index.id(clip), position)

    def _stores(self, modality: Modality[Any]) -> bool:
        return any(modality.is_stored(self.stored(clip)) for clip in self._sample())

    def _sample(self) -> range:
        return range(0, self.index.clips, -(-self.index.clips // _CHECKED_CLIPS))
