"""Companion clips (of splices and quad mixups) that cannot be read: the next one takes their place, or the clip stays
as it is, by a rule that depends on the position alone; each is counted."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from tiny_foreign_shards import npy
from tiny_mel_shards import audio, mel_npy
from tiny_shards import write_data_set
from tiny_stream import SHORT_AUGMENT, assert_same_bits, stream_config

from configs.schema import AugmentConfig
from pipelines.modalities.frames import Frames
from pipelines.modalities.log_mel import LogMel
from pipelines.modalities.modality import ExampleSpec, Modality, TrainingContext
from pipelines.modalities.waveform import Waveform
from pipelines.stream.index import DatasetIndex
from pipelines.stream.loader import open_stream
from pipelines.stream.reader import ClipReader

SPEC = ExampleSpec(24, 9600, 16_000)
AUGMENT = AugmentConfig(**SHORT_AUGMENT | {"time_mask_probability": 0.0}, quad_mixup_probability=1.0)
BAD = {"0.jpg": b"\xff\xd8 no image", "1.jpg": b"\xff\xd8 no image", "flac": b"fLaC and then garbage",
       "mel.npy": npy(np.zeros((50, 64), np.float16))}  # fmt: skip
MODALITIES: dict[str, type[Modality]] = {"bad_image": Frames, "bad_audio": Waveform, "bad_array": LogMel}


def _write(folder, damaged):
    """Sixteen clips; all members but KEY.json of the damaged ones cannot be decoded."""
    changes = {clip: {"mel.npy": mel_npy(audio(clip, 0.5))} | (BAD if clip in damaged else {}) for clip in range(16)}
    return write_data_set(folder, [16], changes=changes)


def _train(folder, reason: str, partners: list[int], seed: int = 0):
    """The fields of clip 15 with these partners, and what was rejected."""
    reader, rejected = ClipReader(DatasetIndex.open(folder), 24, 0.6, 16_000), Counter()
    modality = MODALITIES[reason](SPEC, AUGMENT)
    context = TrainingContext(np.random.default_rng(seed), (reader.stored(clip) for clip in partners), rejected)
    return modality.train(modality.decode(reader.stored(15)), context), rejected


@pytest.mark.parametrize("reason", MODALITIES)
def test_the_next_companion_takes_the_place_of_one_that_cannot_be_read(tmp_path, reason):
    folder = _write(tmp_path / "a", range(8))
    found, rejected = _train(folder, reason, [0, 8, 1, 9, 2, 10, 3, 11])
    again, _ = _train(folder, reason, [0, 8, 1, 9, 2, 10, 3, 11])
    assert rejected == {f"mix_partner_{reason}": 3 if reason == "bad_image" else 1}
    if reason == "bad_image":
        others = [crop for number, crop in enumerate(found["crops"]) if number != found["quadrant"]]
        grays = sorted(round(float(crop.float().mean())) for crop in map(torch.as_tensor, others))
        assert {gray % 100 // 3 for gray in grays} == {8, 9, 10}
    elif reason == "bad_audio":
        assert found["spans"][3] > 0
    else:
        assert (found["audio_positive_weight"] < 1).any()
    for name, value in found.items():
        if name != "colors":
            assert np.array_equal(value, again[name]), name


@pytest.mark.parametrize("reason", MODALITIES)
def test_a_clip_without_a_readable_companion_is_not_augmented(tmp_path, reason):
    found, rejected = _train(_write(tmp_path / "a", range(8)), reason, list(range(8)))
    assert rejected == {f"mix_partner_{reason}": 8}
    if reason == "bad_image":
        assert found["quadrant"] == -1
        assert len(found["crops"]) == 1
    elif reason == "bad_audio":
        assert found["spans"].tolist() == [0, 8000, 0, 0, 0]
    else:
        assert (found["audio_positive_weight"] == 1).all()


@pytest.mark.parametrize("kind", ["waveform", "log_mel"])
def test_batches_with_unreadable_companions_are_bit_equal_for_any_number_of_workers(tmp_path, kind):
    folder, runs = _write(tmp_path / "a", range(0, 16, 2)), []
    for num_workers in (0, 2):
        config = stream_config({"a": folder}, audio=kind, augment=AUGMENT, num_workers=num_workers)
        stream = open_stream(config, 0, 4)
        runs.append([batch.to("cpu") for batch in itertools.islice(stream.batches(), 4)])
    rejected = sum((batch.rejected for batch in runs[0]), Counter())
    expected = {"mix_partner_bad_image", "mix_partner_bad_audio" if kind == "waveform" else "mix_partner_bad_array"}
    assert expected <= rejected.keys()
    for batches in zip(*runs, strict=True):
        assert_same_bits(*batches)
