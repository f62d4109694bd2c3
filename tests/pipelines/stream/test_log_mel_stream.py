"""Streams that read stored log-mel in place of the waveform: the same clips, and losses within 1e-2."""

import itertools
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_foreign_shards import npy
from tiny_mel_shards import mel_model, write_mel_shards
from tiny_shards import write_data_set
from tiny_stream import assert_same_bits, stream_config

from configs.errors import UsageError
from configs.schema import AugmentConfig, LossConfig
from model.inputs import InputSpec
from model.training.step import forward_loss
from pipelines.stream.index import DatasetIndex
from pipelines.stream.loader import open_stream
from pipelines.stream.reader import ClipReader, UnreadableClip

DURATION_S = 2.0525  # 205 steps of 10 ms and a quarter
SILENT = {"audio_splice_max_s": 0.0, "time_mask_probability": 0.0}


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A data set with waveforms and log-mel."""
    return write_mel_shards(tmp_path_factory.mktemp("both") / "set", [7, 9])


@pytest.fixture(scope="module")
def mel_only(tmp_path_factory):
    """The same clips without waveforms."""
    return write_mel_shards(tmp_path_factory.mktemp("mel") / "set", [7, 9], with_waveform=False)


def _batches(folder: str, audio: str, count: int, augment: AugmentConfig, **settings):
    config = stream_config({"a": folder}, audio=audio, clip_duration_s=DURATION_S, image_size_px=32, augment=augment)
    stream = open_stream(replace(config, **settings), 0, 8)
    return [batch.to("cpu") for batch in itertools.islice(stream.batches(), count)]


def test_losses_of_stored_log_mel_agree_with_those_of_the_waveform_within_a_hundredth(both):
    model = mel_model(InputSpec(32, DURATION_S, 16_000))
    augment = AugmentConfig(**SILENT)
    similarity = model.similarity_config
    config = LossConfig()
    pairs = zip(*(_batches(both, audio, 3, augment) for audio in ("waveform", "log_mel")), strict=True)
    for waveform, log_mel in pairs:
        assert waveform.id == log_mel.id and torch.equal(waveform.frames, log_mel.frames)
        assert waveform.audio.shape == (8, 32840) and log_mel.audio.shape == (8, 205, 128)
        with torch.no_grad():
            expected, stored = (forward_loss(model, batch, similarity, config, 0) for batch in (waveform, log_mel))
        assert torch.equal(stored.inputs.audio.mask, expected.inputs.audio.mask)
        assert (stored.scores - expected.scores).abs().max() < 1e-2
        assert abs(stored.loss - expected.loss) < 1e-2


def test_splice_and_time_window_are_made_on_the_spectrogram(mel_only):
    augment = AugmentConfig(audio_splice_min_s=0.1, audio_splice_max_s=0.4, audio_splice_fade_min_s=0.05,
                            time_mask_probability=0.5, time_mask_min_s=0.2)  # fmt: skip
    (batch,) = _batches(mel_only, "log_mel", 1, augment)
    plain = _batches(mel_only, "log_mel", 1, AugmentConfig(**SILENT))[0]
    assert batch.id == plain.id and batch.audio.dtype == torch.float16
    spliced, masked = (batch.audio_positive_weight < 1).any(dim=1), batch.audio_mask.sum(1) < plain.audio_mask.sum(1)
    assert spliced.all() and 0 < masked.sum() < 8
    own = (batch.audio_positive_weight == 1) & batch.audio_mask
    assert torch.equal(batch.audio[own], plain.audio[own])
    assert (batch.audio[~batch.audio_mask] == plain.audio.min()).all()


def test_batches_are_bit_equal_for_any_number_of_workers(mel_only):
    augment = AugmentConfig(audio_splice_min_s=0.1, audio_splice_max_s=0.4, audio_splice_fade_min_s=0.05)
    runs = [_batches(mel_only, "log_mel", 2, augment, num_workers=workers) for workers in (0, 2)]
    for batches in zip(*runs, strict=True):
        assert_same_bits(*batches)


def test_a_data_set_without_log_mel_is_refused_in_one_line(tmp_path):
    folder = str(write_data_set(tmp_path / "set", [12]))
    with pytest.raises(UsageError, match=re.escape("no clip has a member .mel.npy, which audio=log_mel reads: build")):
        _batches(folder, "log_mel", 1, AugmentConfig(**SILENT))


def test_a_data_set_without_waveforms_is_refused_in_one_line_where_these_are_read(mel_only):
    with pytest.raises(UsageError, match=re.escape("stores log-mel and no waveforms: an encoder on log-mel")):
        _batches(mel_only, "waveform", 1, AugmentConfig(**SILENT))


def test_log_mel_of_audio_at_another_rate_is_refused(both):
    config = stream_config({"a": both}, audio="log_mel", sample_rate_hz=8000)
    with pytest.raises(UsageError, match="log-mel of audio at 16000 Hz, but stream.sample_rate_hz=8000"):  # noqa: RUF043
        open_stream(config, 0, 2)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((50, 64), np.float16),
        np.zeros((50, 128), np.float32),
        np.zeros(128, np.float16),
        np.full((50, 128), np.nan, np.float16),
        np.array([{}], dtype=object),
    ],
)
def test_a_spectrogram_of_another_form_is_an_unreadable_clip(tmp_path, array):
    folder = write_data_set(tmp_path / "set", [1], changes={0: {"mel.npy": npy(array)}})
    reader = ClipReader(DatasetIndex.open(folder), 32, 1.0, 16_000, audio="log_mel")
    with pytest.raises(UnreadableClip, match="bad_array: clip clip0000"):
        reader.evaluation_item(0, 0)


def test_a_clip_with_too_little_log_mel_is_replaced_in_training(tmp_path):
    changes = {clip: {"mel.npy": npy(np.zeros((5 if clip == 2 else 60, 128), np.float16))} for clip in range(20)}
    folder = str(write_data_set(tmp_path / "set", [20], changes=changes))
    batches = _batches(folder, "log_mel", 4, AugmentConfig(**SILENT), max_error_rate=1.0)
    assert "clip0002" not in {clip for batch in batches for clip in batch.id}
    assert sum(batch.rejected["too_short"] for batch in batches) > 0
