"""From positions to batches: reading, mixing, and the replacement of unreadable clips."""

import itertools
import json
from collections import Counter

import numpy as np
import pytest
import torch
from tiny_shards import encode_audio, jpeg, tone, write_data_set
from tiny_stream import SHORT_AUGMENT

from configs.errors import UsageError
from configs.schema import AugmentConfig, StreamConfig, StreamSourceConfig
from pipelines.stream.batch import collate
from pipelines.stream.index import DatasetIndex
from pipelines.stream.loader import open_stream
from pipelines.stream.reader import ClipReader, UnreadableClip

PLAIN = {
    "crop_scale_min": 1.0,
    "flip_probability": 0.0,
    "color_jitter": 0.0,
    "grayscale_probability": 0.0,
    "quad_mixup_probability": 0.0,
    "audio_splice_max_s": 0.0,
    "time_mask_probability": 0.0,
}


def _stream(*folders, batch_size=4, seed=0, augment=None, **settings):
    sources = [StreamSourceConfig(name=folder.name, shards=[str(folder)]) for folder in folders]
    settings = {
        "image_size_px": 24,
        "clip_duration_s": 0.6,
        "num_workers": 0,
        "shuffle_window_clips": 8,
        "augment": AugmentConfig(**(augment or PLAIN)),
    } | settings
    return open_stream(StreamConfig(sources=sources, **settings), seed, batch_size)


def _batches(stream, count):
    return (batch.to("cpu") for batch in itertools.islice(stream.batches(), count))


def _reader(folder, **settings):
    return ClipReader(
        DatasetIndex.open(folder), **({"image_size_px": 24, "clip_duration_s": 0.6, "sample_rate_hz": 16000} | settings)
    )


def _gray(frames):
    """The gray value (0 to 255) of each uniform frame."""
    return frames.float().mean(dim=(-3, -2, -1))


def test_batch_pairs_each_frame_with_its_own_waveform(tmp_path):
    stream = _stream(
        write_data_set(tmp_path / "a", [6, 6]), write_data_set(tmp_path / "b", [7, 7], prefix="other", audio="wav")
    )
    sources = Counter()
    for step, batch in enumerate(_batches(stream, 6)):
        assert batch.position == list(range(4 * step, 4 * step + 4))
        assert (batch.frames.shape, batch.frames.dtype) == ((4, 3, 24, 24), torch.uint8)
        assert batch.audio.shape == batch.audio_mask.shape == batch.audio_positive_weight.shape == (4, 9600)
        assert batch.audio_mask.dtype == torch.bool
        for row, position in enumerate(batch.position):
            source, clip = stream.order.clip(position)
            assert (int(batch.source[row]), batch.id[row]) == (source, f"{('clip', 'other')[source]}{clip:04d}")
            gray = float(_gray(batch.frames[row]))
            assert min(abs(gray - 3 * clip - 100 * number) for number in (0, 1)) < 1.5
            assert batch.audio[row, :8000].numpy() == pytest.approx(tone(clip), abs=1e-4)
            sources[source] += 1
        assert (batch.audio[:, 8000:] == 0).all()
        assert batch.audio_mask[:, :8000].all()
        assert not batch.audio_mask[:, 8000:].any()
        assert (batch.image_weight == 1).all()
        assert (batch.audio_positive_weight == 1).all()
        assert not batch.rejected
    assert sources == {0: 12, 1: 12}


def test_all_frames_of_a_clip_are_eventually_drawn(tmp_path):
    stream = _stream(write_data_set(tmp_path / "a", [4], frames=3), batch_size=1)
    seen = {
        round(float(_gray(batch.frames[0])) - 3 * stream.order.clip(step)[1], -2)
        for step, batch in enumerate(_batches(stream, 40))
    }
    assert seen == {0, 100, 200}


def test_same_position_gives_the_same_bits_and_another_seed_different_ones(tmp_path):
    folder = write_data_set(tmp_path / "a", [10, 10])

    def batch(seed):
        return (
            _stream(folder, seed=seed, augment=SHORT_AUGMENT, batch_size=8)
            .dataset.__getitems__(list(range(8)))
            .to("cpu")
        )

    first, again, other = batch(0), batch(0), batch(1)
    for name, value in vars(first).items():
        same = (
            torch.equal(value, getattr(again, name))
            if isinstance(value, torch.Tensor)
            else value == getattr(again, name)
        )
        assert same, name
    assert not torch.equal(first.audio, other.audio)


def test_masks_and_weights_mark_what_was_mixed_in(tmp_path):
    stream = _stream(
        write_data_set(tmp_path / "a", [20, 20]), batch_size=8, augment=SHORT_AUGMENT | {"quad_mixup_probability": 0.5}
    )
    quads = masked = spliced = 0
    for batch in _batches(stream, 10):
        assert (batch.audio[~batch.audio_mask] == 0).all()
        assert not batch.audio_mask[:, 8000:].any()
        for row, position in enumerate(batch.position):
            own = torch.from_numpy(tone(stream.order.clip(position)[1]))
            pure = (batch.audio_positive_weight[row, :8000] == 1) & batch.audio_mask[row, :8000]
            torch.testing.assert_close(batch.audio[row, :8000][pure], own[pure], atol=1e-4, rtol=0)
            mixed = batch.audio_positive_weight[row, :8000] < 1
            spliced += bool(mixed.any())
            masked += int(batch.audio_mask[row].sum()) < 8000
            fraction = float(batch.image_weight[row].mean())
            assert fraction in (1.0, 0.25)
            quads += fraction < 1
    assert spliced > 70
    assert 25 <= masked <= 55
    assert 25 <= quads <= 55


def test_splice_comes_from_another_clip_of_the_same_window(tmp_path):
    """Every clip is a different constant, so the middle of a splice identifies its clip."""
    level = {clip: {"flac": encode_audio(np.full(8000, (clip + 1) / 50, dtype=np.float32))} for clip in range(40)}
    stream = _stream(
        write_data_set(tmp_path / "a", [20, 20], changes=level),
        batch_size=4,
        augment=SHORT_AUGMENT | {"time_mask_probability": 0.0},
    )
    others = set()
    for batch in _batches(stream, 20):
        for row, position in enumerate(batch.position):
            middle = batch.audio[row][batch.audio_positive_weight[row] == 0]
            other = round(float(middle.median()) * 50) - 1
            assert other in stream.order.mix_partners(position, 8)
            assert other != stream.order.clip(position)[1]
            others.add(other)
    assert len(others) > 20


BAD_MEMBERS = {
    "empty_member": {"0.jpg": b"", "1.jpg": b""},
    "bad_image": {"0.jpg": b"no image", "1.jpg": jpeg(9)[:-200][:300]},
    "missing_member": {"0.jpg": None, "1.jpg": None},
    "bad_audio": {"flac": b"fLaC and then garbage"},
    "too_short": {"flac": encode_audio(tone(1, duration_s=0.02))},
}


@pytest.mark.parametrize("reason", BAD_MEMBERS)
def test_unreadable_clip_is_replaced_and_counted_by_reason(tmp_path, reason):
    bad = {3, 8, 21}
    stream = _stream(
        write_data_set(tmp_path / "a", [16, 16], changes=dict.fromkeys(bad, BAD_MEMBERS[reason])), max_error_rate=1.0
    )
    rejected, met = Counter(), 0
    for batch in _batches(stream, 24):
        clips = [stream.order.clip(position)[1] for position in batch.position]
        assert len(set(batch.id)) == 4
        for clip, position, name in zip(clips, batch.position, batch.id, strict=True):
            if clip in bad:
                met += 1
                assert int(name[4:]) not in bad | set(clips)
                assert int(name[4:]) // 16 == clip // 16
                assert position % 2 == clip // 16
            else:
                assert name == f"clip{clip:04d}"
        rejected += batch.rejected
    assert set(rejected) == {reason}
    assert rejected[reason] >= met > 6


def test_no_batch_repeats_a_clip_when_a_fifth_are_damaged(tmp_path):
    kinds = list(BAD_MEMBERS)
    bad = {clip: BAD_MEMBERS[kinds[clip % len(kinds)]] for clip in range(0, 80, 5)}
    bad = {clip + (clip // 5) % 5: members for clip, members in bad.items()}
    stream = _stream(
        write_data_set(tmp_path / "a", [20] * 4, changes=bad), batch_size=16, max_error_rate=1.0, augment=SHORT_AUGMENT
    )
    rejected = Counter()
    for batch in _batches(stream, 15):
        assert len(set(batch.id)) == 16
        assert not {int(name[4:]) for name in batch.id} & bad.keys()
        rejected += batch.rejected
    assert sum(count for reason, count in rejected.items() if reason in BAD_MEMBERS) >= 15 * 16 // 5
    assert any(reason.startswith("mix_partner_") for reason in rejected)


def test_clip_that_repeats_in_a_batch_at_the_end_of_an_epoch_is_replaced(tmp_path):
    stream = _stream(write_data_set(tmp_path / "a", [9]), batch_size=6)
    rejected = Counter()
    for batch in _batches(stream, 12):
        assert len(set(batch.id)) == 6
        rejected += batch.rejected
    assert set(rejected) == {"duplicate_in_batch"}


def test_run_stops_when_the_error_rate_is_exceeded(tmp_path):
    folder = write_data_set(tmp_path / "a", [16, 16], changes={3: BAD_MEMBERS["bad_audio"]})
    with pytest.raises(
        UsageError,
        match=r"11 of the last \d+ clips are unreadable \(bad_audio 11\), more than stream.max_error_rate=0.01",
    ):
        list(zip(range(200), _stream(folder).batches(), strict=False))
    assert len(list(zip(range(200), _stream(folder, max_error_rate=0.05).batches(), strict=False))) == 200


def test_run_stops_when_no_clip_of_a_lane_is_readable(tmp_path):
    folder = write_data_set(tmp_path / "a", [5, 5], changes={clip: {"flac": b"x"} for clip in range(5, 10)})
    with pytest.raises(UsageError, match=r"no readable clip is left to replace unreadable ones .*bad_audio") as error:
        next(_stream(folder).batches())
    assert str(folder) in str(error.value)


def test_sample_rate_other_than_the_configured_one_is_rejected(tmp_path):
    message = (
        r"clip clip\d+ has audio at 8000 Hz, but stream.sample_rate_hz=16000: "
        r"build the shards with decode.sample_rate_hz=16000"
    )
    with pytest.raises(UsageError, match=message):
        _stream(write_data_set(tmp_path / "a", [6], rate_hz=8000))
    stream = _stream(
        write_data_set(tmp_path / "b", [6], changes={5: {"flac": encode_audio(tone(5, rate_hz=8000), rate_hz=8000)}})
    )
    with pytest.raises(UsageError, match=message):
        list(zip(range(3), stream.batches(), strict=False))


def test_waveform_is_the_first_channel_cut_to_the_configured_length(tmp_path):
    stereo = encode_audio(np.stack([tone(1, 2.0), -tone(2, 2.0)], axis=1))
    reader = _reader(write_data_set(tmp_path / "a", [1], changes={0: {"flac": stereo}}))
    assert reader.waveform(0) == pytest.approx(tone(1, 0.6), abs=1e-4)


def test_evaluation_item_is_the_clip_without_augmentation(tmp_path):
    reader = _reader(write_data_set(tmp_path / "a", [3], frames=12))
    batch = collate([reader.evaluation_item(2, frame) for frame in (0, 1, 2)]).to("cpu")
    assert _gray(batch.frames).tolist() == pytest.approx([6, 106, 206], abs=1)
    assert batch.audio[1, :8000].numpy() == pytest.approx(tone(2), abs=1e-4)
    assert batch.audio_mask.sum(dim=1).tolist() == [8000] * 3
    assert (batch.position, batch.id) == ([-1] * 3, ["clip0002"] * 3)
    assert reader.metadata(2)["labels"] == ["label2"]
    assert reader.frame_names(0) == [f"{number}.jpg" for number in range(12)]
    with pytest.raises(UnreadableClip, match="missing_member: frame 12 of clip clip0002, which has 12"):
        reader.evaluation_item(2, 12)


def test_tar_truncated_while_open_gives_a_reason(tmp_path):
    folder = write_data_set(tmp_path / "a", [3])
    reader = _reader(folder)
    reader.waveform(2)
    with (folder / "train-000000.tar").open("r+b") as tar:
        tar.truncate(reader.index.members(2)["flac"][0] + 10)
    with pytest.raises(UnreadableClip, match=r"cut_off: \.flac of clip clip0002 has 10 bytes of"):
        reader.waveform(2)


def test_png_frames_and_wav_audio_are_read(tmp_path):
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.new("L", (32, 40), 77).save(buffer, "PNG")
    reader = _reader(
        write_data_set(
            tmp_path / "a", [1], changes={0: {"0.jpg": None, "1.jpg": None, "0.png": buffer.getvalue()}}, audio="wav"
        )
    )
    assert reader.frame(0, 0).shape == (3, 40, 32)
    assert (reader.frame(0, 0) == 77).all()
    assert json.loads(reader.index.read(0, "json"))["id"] == "clip0000"
    assert len(reader.waveform(0)) == 8000
