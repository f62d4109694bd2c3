"""Clips read by number: metadata, size limits, unreadable members, and member keys of third-party shards."""

import json
import subprocess
import sys

import numpy as np
import pytest
from odd_media import AUDIO, BAD_AUDIO, BAD_IMAGES, IMAGES, reader_of
from paths import ROOT
from tiny_shards import write_data_set
from tiny_stream import SHORT_AUGMENT

from configs.errors import UsageError
from configs.schema import AugmentConfig, StreamConfig, StreamSourceConfig
from pipelines.modalities import modality
from pipelines.stream.index import DatasetIndex
from pipelines.stream.loader import open_stream
from pipelines.stream.reader import ClipReader, MemberKeys, UnreadableClip


@pytest.mark.parametrize("data", [b"{", b"[1]", b"\xff\xfe", b"[" * 100_000, b"1" * 10_000, b'"text"'])
def test_metadata_that_is_not_a_json_object_is_bad_json(tmp_path, data):
    with pytest.raises(UnreadableClip, match=r"^bad_json: clip clip0000: "):
        reader_of(tmp_path / "a", {"json": data}).metadata(0)


def test_member_over_the_size_limit_is_never_read(tmp_path, monkeypatch):
    monkeypatch.setattr(modality, "_MAX_MEMBER_BYTES", 1000)
    reader = reader_of(tmp_path / "a", {"0.jpg": bytes(1001), "flac": bytes(1001), "json": bytes(1001)})
    for read in (lambda: reader.frame(0, 0), lambda: reader.waveform(0), lambda: reader.metadata(0)):
        with pytest.raises(UnreadableClip, match=r"^too_large: .* has 1001 bytes, at most 1000 are read"):
            read()


def test_unreadable_clips_are_counted_by_reason_and_replaced_in_the_stream(tmp_path):
    bad = [
        *({"0.jpg": data} for data, _ in BAD_IMAGES.values()),
        *({"flac": data} for _, data, _ in BAD_AUDIO.values()),
    ]
    changes = {2 * number: members for number, members in enumerate(bad)}
    folder = write_data_set(tmp_path / "a", [30, 30], changes=changes, frames=1)
    augment = AugmentConfig(**SHORT_AUGMENT)
    config = StreamConfig(
        sources=[StreamSourceConfig(shards=[str(folder)])],
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
        *({"0.jpg": data} for data, _ in BAD_IMAGES.values()),
        *({"flac": data} for _, data, _ in BAD_AUDIO.values()),
    ]
    folder = write_data_set(tmp_path / "a", [len(bombs) + 1], changes=dict(enumerate(bombs, 1)), frames=1)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", MEMORY, str(folder)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 100_000  # KiB


def test_randomly_corrupted_members_give_a_reason_or_an_array(tmp_path):
    rng = np.random.default_rng(0)
    good = [data for _, data, _ in IMAGES.values()] + [data for _, data, _ in AUDIO.values()]
    changes = {}
    for clip in range(300):
        data = bytearray(good[clip % len(good)])
        for at in rng.integers(min(len(data), rng.choice([60, 100_000])), size=rng.integers(1, 8)):
            data[at] = rng.integers(256)
        changes[clip] = {"0.jpg" if clip % len(good) < len(IMAGES) else "flac": bytes(data)}
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


def test_member_keys_that_no_clip_has_are_rejected_with_the_present_extensions(tmp_path):
    message = (
        r"no clip has an image member \.rgb\.jpg, only \.json, \.0\.jpg, \.flac; set stream.sources.0.image_key to"
    )
    with pytest.raises(UsageError, match=message):
        reader_of(tmp_path / "a", {}, MemberKeys(image_key="rgb.jpg"))
    reader_of(tmp_path / "b", {}, MemberKeys("JPG", ".flac")).check_keys()
    silent = reader_of(tmp_path / "c", {"flac": None})
    with pytest.raises(
        UsageError, match=r"no clip has audio members, only \.json, \.0\.jpg; set stream\.sources\.0\.audio_key to one"
    ):
        silent.check_keys()
    assert silent.frame(0, 0).shape == (3, 32, 32)
    assert json.loads(silent.index.read(0, "json")) == silent.metadata(0)
