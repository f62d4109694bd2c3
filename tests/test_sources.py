"""Layouts of data sets: published tables become clips, broken lines become ledger entries, wrong folders become one clear line."""

import json

import pytest

from configs.command import UsageError
from configs.schema import SourceConfig
from pipelines.manifest import Clip, Rejected, check
from pipelines.sources import audioset, folder, places_audio

SEGMENTS = """# Segments csv created Sun Mar  5 10:54:25 2017
# num_ytids=3, num_segs=3, num_unique_labels=2, num_positive_labels=4
# YTID, start_seconds, end_seconds, positive_labels
--PJHxphWEs, 30.000, 40.000, "/m/09x0r,/t/dd00088"
--aE2O5G5WE, 0.000, 10.000, "/m/03fwl"
AAAAAAAAAAA, 12.500, 20.000, "/m/09x0r"
"""


@pytest.fixture
def audioset_root(tmp_path):
    (tmp_path / "eval_segments.csv").write_text(SEGMENTS)
    return tmp_path


def test_audioset_segments_become_clips_of_whole_videos(audioset_root):
    clips = list(audioset.rows(SourceConfig(kind="audioset", root=str(audioset_root), split="eval", media="v/{ytid}.mkv")))
    assert clips[0] == Clip(
        id="--PJHxphWEs_30000",
        media="v/--PJHxphWEs.mkv",
        start_s=30.0,
        end_s=40.0,
        split="eval",
        source="audioset",
        labels=("/m/09x0r", "/t/dd00088"),
    )
    assert [check(clip) for clip in clips] == clips
    assert clips[2].id == "AAAAAAAAAAA_12500"


def test_audioset_media_that_are_cut_start_at_zero(audioset_root):
    clips = list(audioset.rows(SourceConfig(root=str(audioset_root), split="eval", media_is_cut=True)))
    assert [(c.media, c.start_s, c.end_s) for c in clips] == [
        ("videos/--PJHxphWEs_30000.mp4", 0.0, 10.0),
        ("videos/--aE2O5G5WE_0.mp4", 0.0, 10.0),
        ("videos/AAAAAAAAAAA_12500.mp4", 0.0, 7.5),
    ]


def test_an_audioset_template_may_hold_times_and_the_id(audioset_root):
    source = SourceConfig(root=str(audioset_root), split="eval", media="{id}/{start_s}_{end_s}/{start_ms}_{end_ms}")
    assert [c.media for c in audioset.rows(source)][::2] == ["--PJHxphWEs_30000/30_40/30000_40000", "AAAAAAAAAAA_12500/12.5_20/12500_20000"]


def test_audioset_labels_get_names_where_the_table_of_names_is_there(audioset_root):
    (audioset_root / "class_labels_indices.csv").write_text('index,mid,display_name\n0,/m/09x0r,"Speech, human"\n')
    assert [c.labels for c in audioset.rows(SourceConfig(root=str(audioset_root), split="eval"))] == [
        ("Speech, human", "/t/dd00088"),
        ("/m/03fwl",),
        ("Speech, human",),
    ]


@pytest.mark.parametrize("line", ["only-an-id", "x, ten, 20", "x, 1", "x, nan, 20", "x, inf, inf", 'x, 1, 2, "/m/a'])
def test_a_broken_audioset_line_becomes_one_ledger_entry_and_costs_no_other_row(audioset_root, line):
    (audioset_root / "eval_segments.csv").write_text(line + "\n" + SEGMENTS)
    rows = [check(row) if isinstance(row, Clip) else row for row in audioset.rows(SourceConfig(root=str(audioset_root), split="eval"))]
    assert len(rows) == 4
    assert isinstance(rows[0], Rejected) and rows[0].reason == "bad_row"


@pytest.mark.parametrize("cut", [False, True])
def test_times_that_go_backwards_or_begin_before_zero_are_turned_away(audioset_root, cut):
    (audioset_root / "eval_segments.csv").write_text('x, 40, 30, "/m/a"\ny, -5, 30, "/m/a"\n')
    rows = list(audioset.rows(SourceConfig(root=str(audioset_root), split="eval", media_is_cut=cut)))
    assert [row.reason for row in rows] == ["bad_times", "bad_times"]


def test_an_audioset_id_cannot_lead_out_of_the_root(audioset_root):
    (audioset_root / "eval_segments.csv").write_text('../../etc/x, 0, 10, "/m/a"\n')
    assert [check(row).reason for row in audioset.rows(SourceConfig(root=str(audioset_root), split="eval"))] == ["bad_id"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"root": "/nowhere"}, r"source.root='/nowhere' is not a folder"),
        ({"root": ""}, r"source.root='' is not a folder"),
        ({"split": "training"}, r"source.split='training' is none of train, balanced_train, eval"),
        ({"split": "train"}, r"unbalanced_train_segments.csv: no such table"),
        ({"segments": "mine.csv"}, r"mine.csv: no such table"),
        ({"media": "{id}_{oops}"}, r"source.media='\{id\}_\{oops\}' cannot be filled in .*\{ytid\} \{id\} \{start_s\}"),
        ({"media": "{id"}, r"source.media='\{id' cannot be filled in"),
    ],
)
def test_a_wrong_audioset_setting_is_one_line_that_says_what_is_wanted(audioset_root, changes, said):
    source = SourceConfig(**{"root": str(audioset_root), "split": "eval"} | changes)
    with pytest.raises(UsageError, match=said):
        list(audioset.rows(source))


def _places(root, **changes):
    items = [{"uttid": "S1-u_1", "speaker": "S1", "asr_text": "a red boat", "wav": "wavs/1/a.wav", "image": "b/boat/1.jpg"}]
    content = {"image_base_path": "/data/them/places205", "audio_base_path": "/data/them/audio", "data": items} | changes
    (root / "metadata").mkdir(exist_ok=True)
    (root / "metadata/val.json").write_text(json.dumps(content))
    return SourceConfig(kind="places_audio", root=str(root), split="val")


def test_published_places_audio_captions_become_clips(tmp_path):
    expected = Clip(id="S1-u_1", media="wavs/1/a.wav", image="images/b/boat/1.jpg", split="val", source="places_audio", text="a red boat")
    assert list(places_audio.rows(_places(tmp_path))) == [expected]


def test_relative_base_paths_of_places_audio_count_from_the_root(tmp_path):
    clip = next(places_audio.rows(_places(tmp_path, image_base_path="pictures/", audio_base_path="speech")))
    assert (clip.media, clip.image) == ("speech/wavs/1/a.wav", "pictures/b/boat/1.jpg")


@pytest.mark.parametrize("item", [{}, "text", None, {"uttid": 5, "wav": "a", "image": "b"}, {"uttid": "a", "wav": None, "image": "b"}])
def test_a_broken_places_audio_item_becomes_one_ledger_entry(tmp_path, item):
    (row,) = places_audio.rows(_places(tmp_path, data=[item]))
    assert row.reason == "bad_row" and row.id == "item 0 of val.json"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"data": 3}', "not json", '{"data": [], "image_base_path": 1}'])
def test_another_file_in_place_of_the_places_audio_table_is_one_clear_line(tmp_path, text):
    source = _places(tmp_path)
    (tmp_path / "metadata/val.json").write_text(text)
    with pytest.raises(UsageError, match="is not a table of Places Audio"):
        list(places_audio.rows(source))


def test_missing_places_audio_folders_and_tables_are_named(tmp_path):
    with pytest.raises(UsageError, match=r"metadata/train.json: no such table"):
        list(places_audio.rows(SourceConfig(root=str(tmp_path))))
    with pytest.raises(UsageError, match=r"wants one with metadata/, images/ and wavs/"):
        list(places_audio.rows(SourceConfig(root=str(tmp_path / "none"))))


def test_a_folder_gives_its_videos_in_order_with_ids_of_their_own(tmp_path):
    for name in ("b.mp4", "a/x y.mkv", "a/x y.mp4", "a/é.MP4", "note.txt", ".mp4", "...mp4", "long/" + "x" * 200 + ".mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    clips = list(folder.rows(SourceConfig(root=str(tmp_path))))
    assert [c.media for c in clips] == ["...mp4", ".mp4", "b.mp4", "a/x y.mkv", "a/x y.mp4", "a/é.MP4", "long/" + "x" * 200 + ".mp4"]
    assert len({c.id for c in clips}) == 7
    assert [check(c) for c in clips] == clips
    assert clips[3].id.startswith("a_x_y-")
    assert all(c.end_s == 0 and c.split == "train" and c.source == "folder" for c in clips)


def test_a_folder_that_is_not_there_is_one_clear_line(tmp_path):
    with pytest.raises(UsageError, match=r"is not a folder; source.kind=folder wants one with videos in it"):
        list(folder.rows(SourceConfig(root=str(tmp_path / "none"))))
