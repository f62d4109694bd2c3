"""VGGSound: rows become clips of their split, malformed lines rejected rows, invalid settings a one-line error."""

import pytest
from tiny_sources import VGGSOUND, vggsound_source

from configs.errors import UsageError
from pipelines.manifest import Clip, Rejected, check
from pipelines.sources import vggsound


def test_published_vggsound_rows_become_clips_of_one_split(tmp_path):
    clips = list(vggsound.rows(vggsound_source(tmp_path)))
    expected = Clip(
        id="--0PQM4-hqg_30000",
        media="v/--0PQM4-hqg_30000.mp4",
        start_s=30.0,
        end_s=40.0,
        split="train",
        source="vggsound",
        labels=("waterfall burbling",),
    )
    assert clips[0] == expected
    assert [clip.id for clip in clips] == ["--0PQM4-hqg_30000", "-0000000000_12500", "-1111111111_7000"]
    assert [check(clip) for clip in clips] == clips
    assert [clip.id for clip in vggsound.rows(vggsound_source(tmp_path, split="test"))] == ["---g-f_I2yQ_1000"]


def test_vggsound_label_keeps_its_commas_and_quotes(tmp_path):
    assert [clip.labels for clip in vggsound.rows(vggsound_source(tmp_path))][1:] == [
        ("dog barking, far away",),
        ('people "eating" soup',),
    ]


def test_vggsound_clips_of_cut_media_start_at_zero_and_of_full_videos_at_their_time(tmp_path):
    cut, whole = (
        next(vggsound.rows(vggsound_source(tmp_path, media="", media_is_cut=is_cut))) for is_cut in (True, False)
    )
    assert cut.media == whole.media == "videos/--0PQM4-hqg_000030.mp4"
    assert (cut.start_s, cut.end_s, whole.start_s, whole.end_s) == (0.0, 10.0, 30.0, 40.0)


@pytest.mark.parametrize(
    "line",
    [
        "x",
        "x,1,label",
        "x,one,label,train",
        "x,nan,label,train",
        "x,inf,label,train",
        "x,1,label,validation",
        'x,1,"label,train',
        "x,1,a,b,train",
    ],
)
def test_malformed_vggsound_line_is_one_rejected_row(tmp_path, line):
    rows = list(vggsound.rows(vggsound_source(tmp_path, line + "\n" + VGGSOUND)))
    assert rows[0].id == "x"
    assert [isinstance(row, Rejected) and row.reason for row in rows] == ["bad_row", False, False, False]


def test_start_time_that_does_not_fit_the_template_is_rejected_with_that_detail(tmp_path):
    rows = list(vggsound.rows(vggsound_source(tmp_path, media="{ytid}_{start_s:06d}.mp4")))
    assert [isinstance(row, Clip) for row in rows] == [True, False, True]
    assert rows[1].reason == "bad_row" and rows[1].detail.startswith(
        "source.media='{ytid}_{start_s:06d}.mp4' cannot be filled in"
    )


def test_negative_vggsound_start_is_rejected_in_its_split_only(tmp_path):
    text = "x,-5,label,train\n"
    assert [row.reason for row in vggsound.rows(vggsound_source(tmp_path, text))] == ["bad_times"]
    assert not list(vggsound.rows(vggsound_source(tmp_path, text, split="test")))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"root": "/nowhere"},
            r"source.root='/nowhere' is not a folder; source.kind=vggsound expects vggsound.csv and videos/ in it",
        ),
        ({"split": "val"}, r"source.split='val' is not one of train, test"),
        ({"segments": "mine.csv"}, r"mine.csv: no such table; put the published vggsound.csv there"),
        ({"media": "{name}.mp4"}, r"source.media='\{name\}.mp4' cannot be filled in"),
        ({"media": "{start_s[0]}.mp4"}, r"cannot be filled in"),
        ({"media": "{}.mp4"}, r"cannot be filled in"),
    ],
)
def test_invalid_vggsound_setting_is_a_one_line_error(tmp_path, changes, message):
    with pytest.raises(UsageError, match=message) as raised:
        list(vggsound.rows(vggsound_source(tmp_path, **changes)))
    assert len(str(raised.value).splitlines()) == 1
