"""Layouts of data sets: published tables become clips, broken lines become ledger entries, wrong folders become one clear line."""

import json
import os

import pytest

from configs.command import UsageError
from configs.schema import SourceConfig
from pipelines.manifest import Clip, Rejected, check
from pipelines.sources import audioset, folder, places_audio, vggsound

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


VGGSOUND = """---g-f_I2yQ,1,people marching,test
--0PQM4-hqg,30,waterfall burbling,train
-0000000000,12.5,"dog barking, far away",train
-1111111111, 7, "people ""eating"" soup", train
"""


def _vggsound(tmp_path, text=VGGSOUND, **changes):
    (tmp_path / "vggsound.csv").write_text(text)
    return SourceConfig(**{"kind": "vggsound", "root": str(tmp_path), "split": "train", "media": "v/{id}.mp4"} | changes)


def test_published_vggsound_rows_become_clips_of_one_split(tmp_path):
    clips = list(vggsound.rows(_vggsound(tmp_path)))
    expected = Clip(
        id="--0PQM4-hqg_30000", media="v/--0PQM4-hqg_30000.mp4", start_s=30.0, end_s=40.0, split="train", source="vggsound", labels=("waterfall burbling",)
    )
    assert clips[0] == expected
    assert [clip.id for clip in clips] == ["--0PQM4-hqg_30000", "-0000000000_12500", "-1111111111_7000"]
    assert [check(clip) for clip in clips] == clips
    assert [clip.id for clip in vggsound.rows(_vggsound(tmp_path, split="test"))] == ["---g-f_I2yQ_1000"]


def test_a_vggsound_label_keeps_its_commas_and_quotes(tmp_path):
    assert [clip.labels for clip in vggsound.rows(_vggsound(tmp_path))][1:] == [("dog barking, far away",), ('people "eating" soup',)]


def test_vggsound_media_that_are_cut_start_at_zero_and_whole_ones_at_their_time(tmp_path):
    cut, whole = (next(vggsound.rows(_vggsound(tmp_path, media="", media_is_cut=is_cut))) for is_cut in (True, False))
    assert cut.media == whole.media == "videos/--0PQM4-hqg_000030.mp4"
    assert (cut.start_s, cut.end_s, whole.start_s, whole.end_s) == (0.0, 10.0, 30.0, 40.0)


@pytest.mark.parametrize(
    "line", ["x", "x,1,label", "x,one,label,train", "x,nan,label,train", "x,inf,label,train", "x,1,label,validation", 'x,1,"label,train', "x,1,a,b,train"]
)
def test_a_broken_vggsound_line_becomes_one_ledger_entry_and_costs_no_other_row(tmp_path, line):
    rows = list(vggsound.rows(_vggsound(tmp_path, line + "\n" + VGGSOUND)))
    assert rows[0].id == "x"
    assert [isinstance(row, Rejected) and row.reason for row in rows] == ["bad_row", False, False, False]


def test_a_start_that_the_template_cannot_take_is_told_as_that(tmp_path):
    rows = list(vggsound.rows(_vggsound(tmp_path, media="{ytid}_{start_s:06d}.mp4")))
    assert [isinstance(row, Clip) for row in rows] == [True, False, True]
    assert rows[1].reason == "bad_row" and rows[1].detail.startswith("source.media='{ytid}_{start_s:06d}.mp4' cannot be filled in")


def test_a_vggsound_row_that_begins_before_zero_is_turned_away_in_its_own_split_only(tmp_path):
    text = "x,-5,label,train\n"
    assert [row.reason for row in vggsound.rows(_vggsound(tmp_path, text))] == ["bad_times"]
    assert not list(vggsound.rows(_vggsound(tmp_path, text, split="test")))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"root": "/nowhere"}, r"source.root='/nowhere' is not a folder; source.kind=vggsound wants one with vggsound.csv and videos/ in it"),
        ({"split": "val"}, r"source.split='val' is none of train, test"),
        ({"segments": "mine.csv"}, r"mine.csv: no such table; put the published vggsound.csv there"),
        ({"media": "{name}.mp4"}, r"source.media='\{name\}.mp4' cannot be filled in"),
        ({"media": "{start_s[0]}.mp4"}, r"cannot be filled in"),
        ({"media": "{}.mp4"}, r"cannot be filled in"),
    ],
)
def test_a_wrong_vggsound_setting_is_one_line_that_says_what_is_wanted(tmp_path, changes, said):
    with pytest.raises(UsageError, match=said) as raised:
        list(vggsound.rows(_vggsound(tmp_path, **changes)))
    assert len(str(raised.value).splitlines()) == 1


def _one_row(root, kind, row_id):
    """A source with one row, whose id (and so its media's name) is given."""
    if kind == "places_audio":
        item = {"uttid": row_id, "wav": f"{row_id}.wav", "image": "a.jpg"}
        return places_audio.rows(_places(root, data=[item]))
    if kind == "vggsound":
        return vggsound.rows(_vggsound(root, f"{row_id},0,label,train\n"))
    (root / "eval_segments.csv").write_text(f'{row_id}, 0, 10, "/m/a"\n', newline="")
    return audioset.rows(SourceConfig(root=str(root), split="eval"))


@pytest.mark.parametrize("kind", ["audioset", "vggsound", "places_audio"])
@pytest.mark.parametrize("row_id", ["a.b", "a/b", "../../etc/passwd", "/etc/passwd", "a\0b", "a b", "ä", "x" * 500])
def test_an_id_that_is_none_is_turned_away_by_every_source(tmp_path, kind, row_id):
    (row,) = _one_row(tmp_path, kind, row_id)
    assert check(row).reason == "bad_id"


@pytest.mark.parametrize(
    ("kind", "row_id"), [*((kind, f"a{end}b") for kind in ("audioset", "vggsound", "places_audio") for end in "\n\r"), ("places_audio", "\ud800")]
)
def test_an_id_with_a_line_end_or_half_a_letter_never_becomes_a_clip(tmp_path, kind, row_id):
    rows = [check(row) if isinstance(row, Clip) else row for row in _one_row(tmp_path, kind, row_id)]
    assert rows and all(isinstance(row, Rejected) for row in rows if row.id != "b_0")


@pytest.mark.parametrize("name", ["../../x.wav", "a/../../../x.wav", "x\0.wav"])
def test_names_in_a_places_audio_table_cannot_lead_out_of_the_root(tmp_path, name):
    for item in ({"uttid": "a", "wav": name, "image": "a.jpg"}, {"uttid": "a", "wav": "a.wav", "image": name}):
        (row,) = places_audio.rows(_places(tmp_path, data=[item]))
        assert check(row).reason == "bad_path"
    (row,) = places_audio.rows(_places(tmp_path, audio_base_path="../elsewhere"))
    assert check(row).reason == "bad_path"


def test_an_absolute_name_in_a_places_audio_table_is_looked_for_below_the_root(tmp_path):
    (row,) = places_audio.rows(_places(tmp_path, data=[{"uttid": "a", "wav": "/etc/x.wav", "image": "a.jpg"}]))
    assert check(row).media == "wavs//etc/x.wav"


TABLES = {
    "audioset": (audioset.rows, "eval", "eval_segments.csv", SEGMENTS, 3),
    "vggsound": (vggsound.rows, "train", "vggsound.csv", VGGSOUND, 3),
    "places_audio": (places_audio.rows, "val", "metadata/val.json", '{"data": [{"uttid": "a", "wav": "ä.wav", "image": "a.jpg"}]}', 1),
}


def _table(root, kind, content):
    rows, split, name, _, _ = TABLES[kind]
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_bytes(content)
    return rows(SourceConfig(kind=kind, root=str(root), split=split, media="v/{id}.mp4"))


@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize("saved", ["as it is", "with a byte-order mark", "with line ends of Windows", "with line ends of an old Mac"])
def test_a_table_saved_by_another_program_gives_the_same_rows(tmp_path, kind, saved):
    text = TABLES[kind][3]
    plain = list(_table(tmp_path, kind, text.encode()))
    ends = {"with line ends of Windows": "\r\n", "with line ends of an old Mac": "\r"}.get(saved, "\n")
    encoded = text.replace("\n", ends).encode("utf-8-sig" if saved == "with a byte-order mark" else "utf-8")
    assert list(_table(tmp_path, kind, encoded)) == plain
    assert len(plain) == TABLES[kind][4] and all(isinstance(row, Clip) for row in plain)


@pytest.mark.parametrize("kind", TABLES)
def test_a_table_in_another_encoding_is_one_clear_line(tmp_path, kind):
    with pytest.raises(UsageError, match="the table is in UTF-16; wanted UTF-8"):
        list(_table(tmp_path, kind, TABLES[kind][3].encode("utf-16")))


@pytest.mark.parametrize(("kind", "line"), [("audioset", 'x, 0, 10, "/m/é"\n'), ("vggsound", "x,0,café,train\n")])
def test_a_line_that_is_not_utf8_becomes_one_ledger_entry(tmp_path, kind, line):
    rows = list(_table(tmp_path, kind, line.encode("latin-1") + TABLES[kind][3].encode()))
    assert rows[0].reason == "bad_row" and all(isinstance(row, Clip) for row in rows[1:]) and len(rows) == 4


@pytest.mark.parametrize("kind", ["audioset", "vggsound"])
def test_an_empty_table_has_no_rows(tmp_path, kind):
    assert not list(_table(tmp_path, kind, b""))
    assert not list(_table(tmp_path, kind, b"\n# nothing here\n"))


@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_a_folder_or_a_pipe_in_place_of_a_table_is_one_clear_line(tmp_path, kind, make):
    rows, split, name, _, _ = TABLES[kind]
    (tmp_path / name).parent.mkdir(exist_ok=True)
    make(tmp_path / name)
    with pytest.raises(UsageError, match=f"{name}: not a file; put the published"):
        next(rows(SourceConfig(kind=kind, root=str(tmp_path), split=split)))


def test_a_table_of_label_names_that_is_none_is_one_clear_line(audioset_root):
    for content in ("", "a,b\n", 'index,mid,display_name\n0,"' + "x" * 200_000):
        (audioset_root / "class_labels_indices.csv").write_text(content)
        with pytest.raises(UsageError, match=r"class_labels_indices.csv"):
            next(audioset.rows(SourceConfig(root=str(audioset_root), split="eval")))


def test_audioset_lines_may_lack_labels_and_quotes(audioset_root):
    (audioset_root / "eval_segments.csv").write_text('a,0,10\nb , 0 , 10 ,/m/x\nc, 0, 10, /m/x, /m/y\nd, 0, 10, ""\n')
    clips = list(audioset.rows(SourceConfig(root=str(audioset_root), split="eval")))
    assert [(clip.id, clip.labels) for clip in clips] == [("a_0", ()), ("b_0", ("/m/x",)), ("c_0", ("/m/x", "/m/y")), ("d_0", ())]


def test_a_folder_takes_names_of_any_bytes_and_leaves_links_to_folders_alone(tmp_path):
    for name in ("a\nb.mp4", "-rf.mp4", "..a.mp4", os.fsdecode(b"\xff.mp4")):
        (tmp_path / name).touch()
    (tmp_path / "loop").symlink_to(tmp_path)
    clips = list(folder.rows(SourceConfig(root=str(tmp_path))))
    assert len(clips) == 4
    assert [check(clip) for clip in clips] == clips


WORDS = [{"word": "a", "start_s": 0, "end_s": 0.25}, {"word": "boat", "start_s": 0.25, "end_s": 0.75}]


def _said(words):
    return {"uttid": "u", "wav": "a.wav", "image": "a.jpg", "words": words}


def test_places_audio_words_come_with_the_item_or_from_a_table_beside_it(tmp_path):
    expected = (("a", 0.0, 0.25), ("boat", 0.25, 0.75))
    assert next(places_audio.rows(_places(tmp_path))).words == ()
    assert next(places_audio.rows(_places(tmp_path, data=[_said(WORDS)]))).words == expected
    (tmp_path / "metadata/val_alignments.json").write_text(json.dumps({"S1-u_1": WORDS}))
    assert next(places_audio.rows(_places(tmp_path))).words == expected
    assert next(places_audio.rows(_places(tmp_path, data=[_said([])]))).words == ()


@pytest.mark.parametrize("words", [None, 5, ["a"], [{"word": "a"}], [{"word": 5, "start_s": 0, "end_s": 1}], [{"word": "a", "start_s": 2, "end_s": 1}]])
def test_broken_words_of_places_audio_become_one_ledger_entry(tmp_path, words):
    (row,) = places_audio.rows(_places(tmp_path, data=[_said(words)]))
    assert row.reason == "bad_row" and "words with their times" in row.detail


@pytest.mark.parametrize("text", ["", "[]", "not json"])
def test_another_file_in_place_of_the_alignments_is_one_clear_line(tmp_path, text):
    source = _places(tmp_path)
    (tmp_path / "metadata/val_alignments.json").write_text(text)
    with pytest.raises(UsageError, match=r"val_alignments.json is not a table of alignments"):
        next(places_audio.rows(source))
