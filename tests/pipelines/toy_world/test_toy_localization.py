"""Synthetic localization benchmarks of the toy world: complete, reproducible, and generated without torch."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from tiny_localization import write_localization_sets

from configs.schema import ToyWorldConfig
from pipelines.toy_world import layouts, localization


def _files(folder):
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()
    }


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_localization_sets(tmp_path_factory.mktemp("toy"), seed=5)


def test_every_file_belongs_to_a_listed_folder_or_table(root):
    unknown = {
        f
        for f in _files(root)
        if f not in localization.TABLES and not f.startswith(tuple(folder + "/" for folder in localization.FOLDERS))
    }
    assert not unknown
    assert all((root / table).is_file() for table in localization.TABLES)
    assert all(any((root / folder).rglob("*.*")) for folder in localization.FOLDERS)


def test_removed_files_are_regenerated_identically(root):
    before = _files(root)
    for name in list(before)[::3]:
        (root / name).unlink()
    assert _files(write_localization_sets(root, seed=5)) == before


def test_the_order_of_the_parts_that_seeds_their_items_is_fixed():
    assert list(layouts.item_counts(ToyWorldConfig()))[:5] == [
        "audioset_train",
        "audioset_eval",
        "places_train",
        "places_val",
        "prompts",
    ]


def test_audio_has_its_published_duration_and_a_silent_second_is_silent(root):
    for path in (root / "vggss/audio").iterdir():
        assert soundfile.info(path).duration == 4.0
    for path in (root / "avsbench/Multi-sources/ms3_data/audio_wav/test").iterdir():
        waveform, rate_hz = soundfile.read(path)
        loudness = np.sqrt((waveform.reshape(5, rate_hz) ** 2).mean(axis=1))
        assert rate_hz == 16000 and loudness[4] < 0.1 * loudness[:4].min()


def test_localization_benchmarks_need_neither_torch_nor_eval():
    code = "import sys, pipelines.toy_world.localization; assert not {'torch', 'eval'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
