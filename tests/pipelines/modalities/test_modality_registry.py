"""The registry of stored modalities: torch-free encoding, and a further modality from a decoded clip to a batch."""

import dataclasses
import io
import subprocess
import sys

import numpy as np
import pytest
import torch
from paths import ROOT
from tiny_shards import write_data_set
from tiny_stream import assert_same_bits, stream_config

from pipelines import modalities
from pipelines.modalities import MODALITIES
from pipelines.modalities.modality import Modality
from pipelines.stream import batch, dataset, reader
from pipelines.stream.batch import collate
from pipelines.stream.index import DatasetIndex
from pipelines.stream.loader import open_stream
from pipelines.stream.reader import ClipReader

ENCODE = """
import sys
import numpy as np
from configs.schema import DecodeConfig
from pipelines.modalities.modality import DecodedClip
from pipelines.manifest import Clip
from pipelines.modalities.encode import encode_clip
frames, waveform = [np.zeros((8, 8, 3), np.uint8)] * 2, np.ones(16000, np.float32) / 2
decoded = DecodedClip(frames, [0.0, 0.5], waveform, 16000, 0.0, 1.0, 2.0, "pyav", "1")
print(*encode_clip(Clip("a", "a.mp4"), decoded, DecodeConfig(log_mel=True)))
print(*{"torch", "torchvision", "torchaudio"} & set(sys.modules))
"""


def test_clips_are_encoded_in_registry_order_without_importing_torch():
    done = subprocess.run([sys.executable, "-c", ENCODE], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["json 0.jpg 1.jpg flac mel.npy", ""]


def test_names_of_modalities_are_unique():
    assert len({modality.name for modality in MODALITIES}) == len(MODALITIES)


class Level(Modality[np.ndarray]):
    """A modality that uses every default."""

    name = "level"


def _level(clip: int) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.full(4, clip, np.float32))
    return buffer.getvalue()


@pytest.fixture
def register(monkeypatch):
    """Adds the modality to the registry."""

    def add():
        for module in (modalities, batch, dataset, reader):
            monkeypatch.setattr(module, "MODALITIES", (*MODALITIES, Level))

    return add


def _first_batch(**folders):
    return next(open_stream(stream_config(folders), 0, 4).batches()).to("cpu")


def test_further_modality_that_all_sources_store_is_in_the_batch_and_leaves_the_rest_unchanged(tmp_path, register):
    changes = {clip: {"level.npy": _level(clip)} for clip in range(16)}
    folder = write_data_set(tmp_path / "a", [8, 8], changes=changes)
    other = write_data_set(tmp_path / "b", [8, 8], prefix="other")
    plain = _first_batch(a=folder)
    register()
    first = _first_batch(a=folder)
    clips = [float(name.removeprefix("clip")) for name in first.id]
    assert torch.equal(first.extra["level"], torch.tensor(clips)[:, None].expand(4, 4))
    assert torch.equal(first.to("cpu").extra["level"], first.extra["level"])
    assert plain.extra == {}
    assert_same_bits(plain, dataclasses.replace(first, extra={}))
    assert _first_batch(a=folder, b=other).extra == {}


def test_damaged_array_of_a_further_modality_is_counted_and_replaced(tmp_path, register):
    register()
    changes = {clip: {"level.npy": _level(clip)} for clip in range(8)} | {3: {"level.npy": b"\x93NUMPY"}}
    folder = write_data_set(tmp_path / "a", [8], changes=changes)
    batches = open_stream(stream_config({"a": folder}), 0, 2).batches()
    found = [next(batches) for _ in range(8)]
    assert sum(some.rejected["bad_array"] for some in found) >= 1
    assert all("clip0003" not in some.id for some in found)
    example = ClipReader(DatasetIndex.open(folder), 24, 0.6, 16000).evaluation_item(2, 0)
    assert collate([example]).to("cpu").extra["level"].tolist() == [[2, 2, 2, 2]]
