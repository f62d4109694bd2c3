"""Places Audio: captions with words become clips, malformed items rejected rows, invalid tables one-line errors."""

import json

import pytest
from tiny_sources import places_audio_source

from configs.errors import UsageError
from configs.schema import SourceConfig
from pipelines.manifest import Clip, check
from pipelines.sources import places_audio


def test_published_places_audio_captions_become_clips(tmp_path):
    expected = Clip(
        id="S1-u_1",
        media="wavs/1/a.wav",
        image="images/b/boat/1.jpg",
        split="val",
        source="places_audio",
        text="a red boat",
    )
    assert list(places_audio.rows(places_audio_source(tmp_path))) == [expected]


def test_relative_base_paths_of_places_audio_are_below_the_root(tmp_path):
    clip = next(places_audio.rows(places_audio_source(tmp_path, image_base_path="pictures/", audio_base_path="speech")))
    assert (clip.media, clip.image) == ("speech/wavs/1/a.wav", "pictures/b/boat/1.jpg")


@pytest.mark.parametrize(
    "item", [{}, "text", None, {"uttid": 5, "wav": "a", "image": "b"}, {"uttid": "a", "wav": None, "image": "b"}]
)
def test_malformed_places_audio_item_is_one_rejected_row(tmp_path, item):
    (row,) = places_audio.rows(places_audio_source(tmp_path, data=[item]))
    assert row.reason == "bad_row" and row.id == "item 0 of val.json"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"data": 3}', "not json", '{"data": [], "image_base_path": 1}'])
def test_invalid_places_audio_table_is_a_one_line_error(tmp_path, text):
    source = places_audio_source(tmp_path)
    (tmp_path / "metadata/val.json").write_text(text)
    with pytest.raises(UsageError, match="is not a table of Places Audio"):
        list(places_audio.rows(source))


def test_missing_places_audio_folder_or_table_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"metadata/train.json: no such table"):
        list(places_audio.rows(SourceConfig(root=str(tmp_path))))
    with pytest.raises(UsageError, match=r"expects metadata/, images/ and wavs/"):
        list(places_audio.rows(SourceConfig(root=str(tmp_path / "none"))))


@pytest.mark.parametrize("name", ["../../x.wav", "a/../../../x.wav", "x\0.wav"])
def test_paths_in_a_places_audio_table_cannot_leave_the_root(tmp_path, name):
    for item in ({"uttid": "a", "wav": name, "image": "a.jpg"}, {"uttid": "a", "wav": "a.wav", "image": name}):
        (row,) = places_audio.rows(places_audio_source(tmp_path, data=[item]))
        assert check(row).reason == "bad_path"
    (row,) = places_audio.rows(places_audio_source(tmp_path, audio_base_path="../elsewhere"))
    assert check(row).reason == "bad_path"


def test_absolute_path_in_a_places_audio_table_is_resolved_below_the_root(tmp_path):
    (row,) = places_audio.rows(
        places_audio_source(tmp_path, data=[{"uttid": "a", "wav": "/etc/x.wav", "image": "a.jpg"}])
    )
    assert check(row).media == "wavs//etc/x.wav"


WORDS = [{"word": "a", "start_s": 0, "end_s": 0.25}, {"word": "boat", "start_s": 0.25, "end_s": 0.75}]


def _item(words):
    return {"uttid": "u", "wav": "a.wav", "image": "a.jpg", "words": words}


def test_places_audio_words_come_from_the_item_or_the_alignments_table(tmp_path):
    expected = (("a", 0.0, 0.25), ("boat", 0.25, 0.75))
    assert next(places_audio.rows(places_audio_source(tmp_path))).words == ()
    assert next(places_audio.rows(places_audio_source(tmp_path, data=[_item(WORDS)]))).words == expected
    (tmp_path / "metadata/val_alignments.json").write_text(json.dumps({"S1-u_1": WORDS}))
    assert next(places_audio.rows(places_audio_source(tmp_path))).words == expected
    assert next(places_audio.rows(places_audio_source(tmp_path, data=[_item([])]))).words == ()


@pytest.mark.parametrize(
    "words",
    [
        None,
        5,
        ["a"],
        [{"word": "a"}],
        [{"word": 5, "start_s": 0, "end_s": 1}],
        [{"word": "a", "start_s": 2, "end_s": 1}],
    ],
)
def test_malformed_places_audio_words_are_one_rejected_row(tmp_path, words):
    (row,) = places_audio.rows(places_audio_source(tmp_path, data=[_item(words)]))
    assert row.reason == "bad_row" and "words with their times" in row.detail


@pytest.mark.parametrize("text", ["", "[]", "not json"])
def test_invalid_places_audio_alignments_are_a_one_line_error(tmp_path, text):
    source = places_audio_source(tmp_path)
    (tmp_path / "metadata/val_alignments.json").write_text(text)
    with pytest.raises(UsageError, match=r"val_alignments.json is not a table of alignments"):
        next(places_audio.rows(source))
