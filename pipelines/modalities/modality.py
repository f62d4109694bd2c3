"""The interface of a stored modality: one thing that a clip stores, from the decoded media through a shard to a batch.

A shard holds the members of each clip: KEY.json, KEY.0.jpg, KEY.flac, ... A modality encodes some of them when the
shard is built, decodes them when it is read, makes a training or an evaluation example of them, and stacks
the examples of a batch, all in a loader worker; on the device of training, it makes the fields of the batch. Its module
must be importable without torch, because the machines that build shards have none: import torch inside the methods that
need it.
"""

from __future__ import annotations

import bisect
import contextlib
import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, TypeVar

import numpy as np

from configs.errors import CommandFailed, UsageError
from configs.schema import AugmentConfig, DecodeConfig

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from pipelines.stream.joined_index import ClipIndex

T = TypeVar("T")
V = TypeVar("V")
_MAX_MEMBER_BYTES = 1 << 26
Fields = dict[str, Any]  # name -> value in one example: by default an array or tensor of one shape for every clip


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
        "bad_array",
    )

    def __init__(self, reason: str, detail: str) -> None:
        assert reason in self.REASONS
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


class MemberKeys(NamedTuple):
    """Extensions of a clip's images and its audio in third-party shards.

    Attributes:
        image_key: `jpg` selects KEY.jpg, or KEY.0.jpg, KEY.1.jpg, ...; `rgb.jpg` selects KEY.rgb.jpg, or KEY.0.rgb.jpg,
            ...; "": every image.
        audio_key: `mix.wav` selects KEY.mix.wav; "": the first member of type flac, wav or opus.
    """

    image_key: str = ""
    audio_key: str = ""


class ExampleSpec(NamedTuple):
    """The sizes of an example.

    Attributes:
        image_size_px: side of the square image.
        samples: length of the waveform.
        sample_rate_hz: sample rate of the waveform, which the shards must have.
    """

    image_size_px: int
    samples: int
    sample_rate_hz: int


class StoredClip:
    """A clip in a shard, as a modality reads it.

    Attributes:
        keys: extensions of its images and its audio; empty in shards of pipelines.build.
    """

    def __init__(self, index: ClipIndex, clip: int, keys: MemberKeys) -> None:
        self._index, self._clip, self.keys = index, clip, keys
        self._members: Mapping[str, tuple[int, int]] | None = None

    @property
    def id(self) -> str:
        """The clip's id."""
        return self._index.id(self._clip)

    @property
    def data_set(self) -> str:
        """Folder of its data set, for messages."""
        return str(self._index.folders[bisect.bisect_right(self._index.first_clips, self._clip) - 1])

    def extensions(self) -> Mapping[str, tuple[int, int]]:
        """(offset, size) in bytes of its members by extension: `json`, `0.jpg`, ..., `flac`."""
        if self._members is None:
            self._members = self._index.members(self._clip)
        return self._members

    def read(self, extension: str) -> bytes:
        """The bytes of a member.

        Raises:
            UnreadableClip: there is no such member, it is larger than 64 MiB, empty or truncated, or the disk fails.
        """
        size = self.extensions().get(extension, (0, None))[1]
        if size is None:
            raise UnreadableClip("missing_member", f"clip {self.id} has no .{extension}")
        if size > _MAX_MEMBER_BYTES:
            raise UnreadableClip(
                "too_large", f".{extension} of clip {self.id} has {size} bytes, at most {_MAX_MEMBER_BYTES} are read"
            )
        try:
            data = self._member(extension)
        except OSError as error:
            raise UnreadableClip("read_error", f"clip {self.id}: {error}") from None
        if len(data) < size:
            raise UnreadableClip("cut_off", f".{extension} of clip {self.id} has {len(data)} bytes of {size}")
        if not data:
            raise UnreadableClip("empty_member", f".{extension} of clip {self.id}")
        return data

    def _member(self, extension: str) -> bytes:
        return self._index.read(self._clip, extension)


@dataclass(frozen=True)
class DecodedClip:
    """The content of a clip, before it is encoded for a shard.

    Attributes:
        frames: at least one RGB image, uint8 [H_px, W_px, 3]; consecutive ones differ.
        frame_times_s: presentation time of each frame in seconds from the start of the clip; negative if it was on
            screen before the clip began.
        waveform: mono, float32 [S], -1 to 1; shorter than the clip if the audio of the file ends earlier.
        sample_rate_hz: sample rate of the waveform.
        start_s, end_s: the segment in seconds of the file; end_s is the actual end.
        fps: frame rate of the video; 0 for an image.
        decoder, decoder_version: name and version of the decoder.
        full_duration_s: duration of the clip before it was cut to decode.max_duration_s, infinite if it is not known;
            0 if it was not cut.
    """

    frames: list[np.ndarray]
    frame_times_s: list[float]
    waveform: np.ndarray
    sample_rate_hz: int
    start_s: float
    end_s: float
    fps: float
    decoder: str
    decoder_version: str
    full_duration_s: float = 0.0


@dataclass
class TrainingContext:
    """What the training transforms of one position share; they draw from it in the order of MODALITIES.

    Attributes:
        rng: the random generator of the position.
        mix_partners: other clips that may be mixed in; each is used once.
        rejected: unreadable mix partners are counted here as `mix_partner_REASON`.
    """

    rng: np.random.Generator
    mix_partners: Iterator[StoredClip]
    rejected: Counter[str]

    def mix_in(self, count: int, read: Callable[[StoredClip], V]) -> list[V]:
        """Results of `read` on the next readable mix partners; fewer than `count` where none is left."""
        results: list[V] = []
        while len(results) < count and (partner := next(self.mix_partners, None)) is not None:
            try:
                results.append(read(partner))
            except UnreadableClip as error:
                self.rejected[f"mix_partner_{error.reason}"] += 1
        return results


class Modality(Generic[T]):
    """One thing that a clip stores. Subclass it in a file of its own and add the class to MODALITIES.

    The defaults serve a modality with one member KEY.NAME.npy and one field NAME: override `encode`, and `train` and
    `evaluate` where arrays differ in shape from clip to clip or are augmented.

    Args:
        spec: the sizes of the examples.
        augment: settings of the training transform; None where only evaluation examples are made.

    Attributes:
        name: of the modality; also of its fields in `Batch.extra`.
        file_types: last parts of its members' extensions.
        is_streamed: whether it is read into batches; False for one that is only stored.
    """

    name: ClassVar[str]
    file_types: ClassVar[tuple[str, ...]] = ("npy",)
    is_streamed: ClassVar[bool] = True

    def __init__(self, spec: ExampleSpec, augment: AugmentConfig | None = None) -> None:
        self.spec, self.augment = spec, augment or AugmentConfig()

    @staticmethod
    def encode(decoded: DecodedClip, settings: DecodeConfig) -> dict[str, bytes]:
        """Members of a decoded clip by extension, in stored order; empty where `settings` switch the modality off.

        Runs without torch. The same input must give the same bytes.
        """
        raise NotImplementedError

    def is_stored(self, clip: StoredClip) -> bool:
        """Whether a clip has the members that `decode` reads."""
        return f"{self.name}.npy" in clip.extensions()

    def decode(self, clip: StoredClip) -> T:
        """The stored value.

        Raises:
            UnreadableClip: a member is missing or damaged.
        """
        data = clip.read(f"{self.name}.npy")
        with decoding_errors("bad_array", clip):
            return np.load(io.BytesIO(data), allow_pickle=False)

    def check(self, value: T, clip: StoredClip) -> None:
        """Reject a clip that decodes but is not trained on, before anything random is drawn.

        Raises:
            UnreadableClip: it is not used.
        """

    def train(self, value: T, context: TrainingContext) -> Fields:
        """The fields of a training example: cropped, padded, augmented."""
        del context
        return {self.name: value}

    def evaluate(self, value: T, frame: int) -> Fields:
        """The fields of an evaluation example, without augmentation.

        Args:
            value: what `decode` returned.
            frame: number of the frame that the example shows, counted from 0.
        """
        del frame
        return {self.name: value}

    @staticmethod
    def collate(examples: Sequence[Fields]) -> dict[str, Tensor]:
        """What a loader worker sends of some examples: their fields, stacked along a new first dimension."""
        return {name: stack([example[name] for example in examples]) for name in examples[0]}

    @staticmethod
    def to_batch(fields: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
        """The fields of a `Batch`, made on its device from what `collate` returned: by default the same, copied there.

        Rows of the batch must not depend on each other.
        """
        from pipelines.stream.device import to_device

        return {name: to_device(value, device) for name, value in fields.items()}


def stack(values: Sequence[Any]) -> Tensor:
    """Numpy arrays, tensors or numbers of one shape as one tensor with a new first dimension."""
    import torch

    return torch.stack([torch.as_tensor(value) for value in values])


@contextlib.contextmanager
def decoding_errors(reason: str, clip: StoredClip) -> Iterator[None]:
    """Turn any exception of a decoder into UnreadableClip: damaged bytes raise ValueError, OSError, SyntaxError, ..."""
    try:
        yield
    except (UnreadableClip, UsageError, CommandFailed):
        raise
    except Exception as error:
        raise UnreadableClip(reason, f"clip {clip.id}: {' '.join(str(error).split())}") from None
