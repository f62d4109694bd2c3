"""The toy world's twins of the localisation sets: complete, repeatable, torch-free; their readers are tested in test_localization_sets.py."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from tiny_localization import make_twins

from configs.schema import ToyWorldConfig
from pipelines.toy_world import layouts, localization


def _files(root):
    return {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in root.rglob("*") if p.is_file()
    }


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    return make_twins(tmp_path_factory.mktemp("twins"), seed=5)


def test_every_file_is_in_a_folder_or_table_the_toy_world_knows_of(twins):
    unknown = {
        f
        for f in _files(twins)
        if f not in localization.TABLES and not f.startswith(tuple(folder + "/" for folder in localization.FOLDERS))
    }
    assert not unknown
    assert all((twins / table).is_file() for table in localization.TABLES)
    assert all(any((twins / folder).rglob("*.*")) for folder in localization.FOLDERS)


def test_what_was_removed_comes_back_the_same_beside_what_was_kept(twins):
    before = _files(twins)
    for name in list(before)[::3]:
        (twins / name).unlink()
    assert _files(make_twins(twins, seed=5)) == before


def test_the_older_parts_keep_their_places_so_that_their_files_stay_as_they_were():
    assert list(layouts.counts(ToyWorldConfig()))[:5] == [
        "audioset_train",
        "audioset_eval",
        "places_train",
        "places_val",
        "prompts",
    ]


def test_sounds_have_their_published_lengths_and_a_silent_second_is_silent(twins):
    for sound in (twins / "vggss/audio").iterdir():
        assert soundfile.info(sound).duration == 4.0
    for sound in (twins / "avsbench/Multi-sources/ms3_data/audio_wav/test").iterdir():
        waveform, rate_hz = soundfile.read(sound)
        loudness = np.sqrt((waveform.reshape(5, rate_hz) ** 2).mean(axis=1))
        assert rate_hz == 16000 and loudness[4] < 0.1 * loudness[:4].min()


def test_the_twins_need_no_torch():
    code = "import sys, pipelines.toy_world.localization; assert not {'torch', 'eval'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
