"""What a loader worker sends of a batch: its size, companions that cannot be read, and the batch made of it."""

import dataclasses
import pickle
import resource
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_shards import encode_audio, tone, write_data_set
from tiny_stream import SHORT_AUGMENT, stream_config

from configs.errors import CommandFailed
from configs.schema import AugmentConfig
from pipelines.stream.batch import HostBatch
from pipelines.stream.loader import open_stream

BATCH = 8


def _host_batches(folder, count, batch_size=BATCH, **settings):
    batches = open_stream(stream_config({"a": folder}, **settings), 0, batch_size).batches()
    return [batch for _, batch in zip(range(count), batches, strict=False)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_data_set(tmp_path_factory.mktemp("shards") / "a", [20, 20])


def test_a_worker_sends_at_most_a_third_of_the_bytes_of_the_batch(folder):
    """At the default sizes; 1.83 MB a clip were sent when workers made the batch."""
    augment = AugmentConfig(quad_mixup_probability=0.5)
    (host,) = _host_batches(folder, 1, image_size_px=224, clip_duration_s=10.2625, augment=augment)
    assert (host.fields["frames"]["quadrant"] >= 0).any()
    tensors = [value for fields in host.fields.values() for value in fields.values()]
    sent = sum(value.numel() * value.element_size() for value in tensors)
    batch = host.to("cpu")
    made = sum(value.numel() * value.element_size() for value in vars(batch).values() if torch.is_tensor(value))
    assert sent / BATCH < 1.83e6 / 3
    assert sent < made / 3
    described = dataclasses.replace(host, fields={})
    assert len(pickle.dumps(described)) < 2000 + 100 * BATCH


def _row(host: HostBatch, row: int) -> HostBatch:
    """One row of a batch, by itself."""
    frames, waveform = host.fields["frames"], host.fields["waveform"]
    is_single = frames["quadrant"] < 0
    singles, quads = int(is_single[:row].sum()), int((~is_single)[:row].sum())
    first = len(frames["images"]) + 4 * quads
    if is_single[row]:
        images, tiles = frames["images"][singles : singles + 1], frames["tiles"][:0]
        colors = frames["colors"][singles : singles + 1]
    else:
        images, tiles = frames["images"][:0], frames["tiles"][4 * quads : 4 * quads + 4]
        colors = frames["colors"][first : first + 4]
    one = slice(row, row + 1)
    fields = {
        "frames": {"images": images, "tiles": tiles, "colors": colors, "quadrant": frames["quadrant"][one]},
        "waveform": {name: value[one] for name, value in waveform.items()},
    }
    return HostBatch(fields, host.source[one], host.id[one], host.position[one], Counter())


def test_each_row_of_a_batch_is_the_same_in_a_batch_of_any_size(folder):
    augment = AugmentConfig(**SHORT_AUGMENT, quad_mixup_probability=0.4)
    (host,) = _host_batches(folder, 1, batch_size=20, augment=augment, image_size_px=33)
    batch = host.to("cpu")
    for row in range(20):
        single = _row(host, row).to("cpu")
        for name in ("frames", "image_weight", "audio", "audio_mask", "audio_positive_weight"):
            assert torch.equal(getattr(single, name)[0], getattr(batch, name)[row]), name


DAMAGED = encode_audio(np.random.default_rng(0).normal(size=8000) / 10)
COMPANIONS = {
    "bytes of no file": b"fLaC and then garbage",
    "a header without its audio": DAMAGED[:100] + bytes(len(DAMAGED) - 100),
    "a header that states twice its length": DAMAGED[:22] + (16000).to_bytes(4) + DAMAGED[26:],
}


@pytest.mark.parametrize("kind", COMPANIONS)
def test_companion_that_cannot_be_read_is_counted_and_another_is_spliced_in(tmp_path, kind):
    """Of 16 clips, 8 cannot be read."""
    changes = {clip: {"flac": COMPANIONS[kind]} for clip in range(0, 16, 2)}
    shards = write_data_set(tmp_path / "a", [16], changes=changes)
    augment = AugmentConfig(**SHORT_AUGMENT | {"time_mask_probability": 0.0})
    hosts = _host_batches(shards, 20, batch_size=2, augment=augment)
    rejected = sum((host.rejected for host in hosts), Counter())
    assert rejected["mix_partner_bad_audio"] > 0
    assert rejected["bad_audio"] > 0
    for host in hosts:
        assert not {int(name[4:]) for name in host.id} & changes.keys()
        batch = host.to("cpu")
        for row in range(2):
            own = torch.from_numpy(tone(int(batch.id[row][4:])))
            is_other = batch.audio_positive_weight[row, :8000] == 0
            assert is_other.any()
            assert not torch.allclose(batch.audio[row, :8000][is_other], own[is_other], atol=0.01)


def test_device_without_memory_for_the_augmentation_is_one_line():
    images = torch.zeros(1, 1, 1, 1, dtype=torch.uint8).expand(600, 1000, 1000, 3)
    frames = {
        "images": images,
        "tiles": images[:0],
        "colors": torch.tensor([[1.5, 1, 1, 0, 0, 1, 2, 3, 0, 0]]).expand(600, -1),
        "quadrant": torch.full((600,), -1),
    }
    host = HostBatch({"frames": frames}, torch.zeros(600), ["clip"] * 600, [0] * 600, Counter())
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 20), before[1]))
    try:
        with pytest.raises(CommandFailed) as error:
            host.to("cpu")
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert str(error.value) == (
        "cpu has too little memory to augment a batch of 600 clips: use a smaller global_batch_size with more "
        "gradient_accumulation_steps"
    )
