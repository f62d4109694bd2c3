"""A sample of stock webdataset as a stored clip, decoded without running code from a shard."""

import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from pipelines.modalities.audio_file import to_float
from pipelines.modalities.frames import StoredFrames
from pipelines.modalities.modality import ExampleSpec, MemberKeys, StoredClip, decoding_errors
from pipelines.modalities.waveform import Waveform, audio_extension
from pipelines.stream.foreign_tar import PICKLE_TYPES

Sample = dict[str, Any]  # `__key__`, `__url__`, and the bytes of the members of a clip by extension


class SampleClip(StoredClip):
    """A sample whose members modalities can read.

    Args:
        sample: its members are bytes.
        keys: extensions of its images and its audio; None: those of pipelines.build.
    """

    def __init__(self, sample: Sample, keys: MemberKeys | None = None) -> None:
        self.keys = MemberKeys(*(name.lower().removeprefix(".") for name in keys or MemberKeys()))
        self._sample = sample
        self._sizes = {name: (0, len(data)) for name, data in sample.items() if not name.startswith("__")}

    @property
    def id(self) -> str:
        """The clip's id."""
        return self._sample["__key__"]

    @property
    def data_set(self) -> str:
        """URL of its shard, for messages."""
        return self._sample["__url__"]

    def extensions(self) -> Mapping[str, tuple[int, int]]:
        """(0, size) in bytes of its members by extension."""
        return self._sizes

    def _member(self, extension: str) -> bytes:
        return self._sample[extension]


def refuse_pickles(sample: Sample) -> Sample:
    """Return a sample that has no member which webdataset may unpickle, inside a compressed one (`x.pyd.gz`) or not.

    Raises:
        ValueError: it has one.
    """
    for name in sample:
        if not name.startswith("__") and not set(PICKLE_TYPES).isdisjoint(name.lower().split(".")):
            raise ValueError(
                f"{sample['__url__']}: {sample['__key__']}.{name} may be a pickle, which runs code when it is read"
            )
    return sample


def decode_sample(sample: Sample, sample_rate_hz: int = 16_000, max_duration_s: float = 60.0) -> Sample:
    """Decode the members of a sample, in place of webdataset's `.decode()`: `samples(folder).map(decode_sample)`.

    Args:
        sample: from `samples`.
        sample_rate_hz: sample rate that the audio must have.
        max_duration_s: longer audio is cut.

    Returns:
        The sample with images as uint8 tensors [3, H_px, W_px], the audio as float32 [S] in -1 to 1, arrays of .npy
        and objects of .json; members of other types are unchanged.

    Raises:
        ValueError: a member may be a pickle.
        UnreadableClip: a member is damaged or too large, or an array holds Python objects.
        UsageError: the audio has another sample rate.
    """
    clip, decoded = SampleClip(refuse_pickles(sample)), dict(sample)
    frames = StoredFrames(clip)
    for number, extension in enumerate(frames.extensions):
        decoded[extension] = frames.decode(number)
    if audio := audio_extension(clip):
        spec = ExampleSpec(1, round(max_duration_s * sample_rate_hz), sample_rate_hz)
        decoded[audio] = to_float(Waveform(spec).decode(clip))
    for extension in clip.extensions():
        kind = extension.rpartition(".")[2]
        if kind == "json":
            with decoding_errors("bad_json", clip):
                decoded[extension] = json.loads(clip.read(extension))
        elif kind == "npy":
            with decoding_errors("bad_array", clip):
                decoded[extension] = np.load(io.BytesIO(clip.read(extension)), allow_pickle=False)
    return decoded
