"""Words of clips from KEY.json: times from the start of the clip, cut to it; damaged data sets are one line."""

import json
import subprocess
import sys

import pytest
from paths import ROOT
from tiny_shards import write_data_set
from tiny_words import WORDS

from configs.errors import UsageError
from pipelines.clip_words import Word, clip_words, read_words


def _word(text, start_s, end_s):
    return {"word": text, "start_s": start_s, "end_s": end_s}


def test_times_are_from_the_start_of_the_clip_cut_to_it_and_in_order():
    words = [
        _word("before", 8.0, 9.5),
        _word("last", 14.5, 16.0),
        _word("first", 9.5, 10.5),
        _word("middle", 11, 11.25),
        _word("after", 15.0, 16.0),
    ]
    found = clip_words({"start_s": 10.0, "end_s": 15.0, "words": words})
    assert found == [("first", 0.0, 0.5), ("middle", 1.0, 1.25), ("last", 4.5, 5.0)]
    assert found[1].text == "middle"


def test_a_word_of_no_length_is_kept_and_a_clip_without_times_is_not_cut():
    assert clip_words({"words": [_word("a", 0, 0), _word("b", 70, 71.5)]}) == [("a", 0, 0), ("b", 70, 71.5)]
    assert clip_words({}) == clip_words({"words": None}) == clip_words({"words": []}) == []


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"words": "red"}, "words is a str, not a list"),
        ({"words": ["red"]}, "words holds 'red', not a word with start_s and end_s"),
        ({"words": [{"start_s": 0, "end_s": 1}]}, "not a word with start_s and end_s"),
        ({"words": [_word("red", 2, 1)]}, "word 'red' ends before it starts"),
        ({"words": [_word("red", "0", 1)]}, "'0' is not a time in seconds"),
        ({"words": [_word("red", 0, float("nan"))]}, "'nan' is not a time in seconds"),
        ({"words": [_word("red", 0, 1)], "start_s": None}, "'None' is not a time in seconds"),
        ({"words": [_word("red", 0, 1)], "end_s": True}, "'True' is not a time in seconds"),
    ],
)
def test_words_of_another_form_are_refused(metadata, message):
    with pytest.raises(ValueError, match=message):
        clip_words(metadata)


def test_words_are_read_from_shards_of_the_build_pipeline_by_id(spoken):
    found = read_words(str(spoken), ["clip2", "clip0"])
    assert found == {"clip0": [Word("red", 1.4, 1.8), Word("thing", 1.9, 2.0)],
                     "clip2": [Word("blue", 1.4, 1.8), Word("thing", 1.9, 2.0)]}  # fmt: skip
    stored = [word["word"] for word in WORDS["clip1"]]
    assert [word.text for word in read_words(f"file://{spoken}", ["clip1"])["clip1"]] == stored
    assert read_words(str(spoken), []) == {}


def test_a_clip_or_data_set_that_does_not_exist_or_is_damaged_is_one_line(tmp_path, spoken):
    with pytest.raises(UsageError, match=r"no clip has the id clip7; python -m pipelines.inspect .* lists ids"):
        read_words(str(spoken), ["clip0", "clip7"])
    with pytest.raises(UsageError, match=r"manifest.json is missing"):
        read_words(str(tmp_path), ["clip0"])
    changes = {0: {"json": b"{not json"}, 1: {"json": b"[]"}, 2: {"json": json.dumps({"words": 5}).encode()}}
    folder = write_data_set(tmp_path / "a", [3, 1], changes=changes)
    for clip, message in (("clip0000", "Expecting"), ("clip0001", "a list, not"), ("clip0002", "words is a int")):
        with pytest.raises(UsageError, match=f"train-000000.tar: {clip}.json cannot be read: .*{message}"):
            read_words(str(folder), [clip])
    assert read_words(str(folder), ["clip0003"]) == {"clip0003": []}
    (folder / "train-000000.json").write_text("{}")
    with pytest.raises(UsageError, match=r"train-000000.json cannot be read"):
        read_words(str(folder), ["clip0003"])


def test_words_are_read_without_torch():
    code = "import sys, pipelines.clip_words; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
