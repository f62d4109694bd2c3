"""AudioSet: segments become clips, malformed lines rejected rows, invalid settings a one-line error."""

import pytest
from tiny_sources import SEGMENTS

from configs.errors import UsageError
from configs.schema import SourceConfig
from pipelines.manifest import Clip, Rejected, check
from pipelines.sources import audioset


@pytest.fixture
def audioset_root(tmp_path):
    (tmp_path / "eval_segments.csv").write_text(SEGMENTS)
    return tmp_path


def test_audioset_segments_become_clips_of_full_videos(audioset_root):
    clips = list(
        audioset.rows(SourceConfig(kind="audioset", root=str(audioset_root), split="eval", media="v/{ytid}.mkv"))
    )
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


def test_audioset_clips_of_cut_media_start_at_zero(audioset_root):
    clips = list(audioset.rows(SourceConfig(root=str(audioset_root), split="eval", media_is_cut=True)))
    assert [(c.media, c.start_s, c.end_s) for c in clips] == [
        ("videos/--PJHxphWEs_30000.mp4", 0.0, 10.0),
        ("videos/--aE2O5G5WE_0.mp4", 0.0, 10.0),
        ("videos/AAAAAAAAAAA_12500.mp4", 0.0, 7.5),
    ]


def test_audioset_template_may_contain_times_and_the_id(audioset_root):
    source = SourceConfig(root=str(audioset_root), split="eval", media="{id}/{start_s}_{end_s}/{start_ms}_{end_ms}")
    assert [c.media for c in audioset.rows(source)][::2] == [
        "--PJHxphWEs_30000/30_40/30000_40000",
        "AAAAAAAAAAA_12500/12.5_20/12500_20000",
    ]


def test_audioset_labels_become_names_if_the_label_table_exists(audioset_root):
    (audioset_root / "class_labels_indices.csv").write_text('index,mid,display_name\n0,/m/09x0r,"Speech, human"\n')
    assert [c.labels for c in audioset.rows(SourceConfig(root=str(audioset_root), split="eval"))] == [
        ("Speech, human", "/t/dd00088"),
        ("/m/03fwl",),
        ("Speech, human",),
    ]


@pytest.mark.parametrize("line", ["only-an-id", "x, ten, 20", "x, 1", "x, nan, 20", "x, inf, inf", 'x, 1, 2, "/m/a'])
def test_malformed_audioset_line_is_one_rejected_row(audioset_root, line):
    (audioset_root / "eval_segments.csv").write_text(line + "\n" + SEGMENTS)
    rows = [
        check(row) if isinstance(row, Clip) else row
        for row in audioset.rows(SourceConfig(root=str(audioset_root), split="eval"))
    ]
    assert len(rows) == 4
    assert isinstance(rows[0], Rejected) and rows[0].reason == "bad_row"


@pytest.mark.parametrize("cut", [False, True])
def test_negative_or_reversed_audioset_times_are_rejected(audioset_root, cut):
    (audioset_root / "eval_segments.csv").write_text('x, 40, 30, "/m/a"\ny, -5, 30, "/m/a"\n')
    rows = list(audioset.rows(SourceConfig(root=str(audioset_root), split="eval", media_is_cut=cut)))
    assert [row.reason for row in rows] == ["bad_times", "bad_times"]


def test_audioset_id_cannot_leave_the_root(audioset_root):
    (audioset_root / "eval_segments.csv").write_text('../../etc/x, 0, 10, "/m/a"\n')
    assert [check(row).reason for row in audioset.rows(SourceConfig(root=str(audioset_root), split="eval"))] == [
        "bad_id"
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"root": "/nowhere"}, r"source.root='/nowhere' is not a folder"),
        ({"root": ""}, r"source.root='' is not a folder"),
        ({"split": "training"}, r"source.split='training' is not one of train, balanced_train, eval"),
        ({"split": "train"}, r"unbalanced_train_segments.csv: no such table"),
        ({"segments": "mine.csv"}, r"mine.csv: no such table"),
        ({"media": "{id}_{oops}"}, r"source.media='\{id\}_\{oops\}' cannot be filled in .*\{ytid\} \{id\} \{start_s\}"),
        ({"media": "{id"}, r"source.media='\{id' cannot be filled in"),
    ],
)
def test_invalid_audioset_setting_is_a_one_line_error(audioset_root, changes, message):
    source = SourceConfig(**{"root": str(audioset_root), "split": "eval"} | changes)
    with pytest.raises(UsageError, match=message):
        list(audioset.rows(source))


def test_invalid_audioset_label_table_is_a_one_line_error(audioset_root):
    for content in ("", "a,b\n", 'index,mid,display_name\n0,"' + "x" * 200_000):
        (audioset_root / "class_labels_indices.csv").write_text(content)
        with pytest.raises(UsageError, match=r"class_labels_indices.csv"):
            next(audioset.rows(SourceConfig(root=str(audioset_root), split="eval")))


def test_audioset_labels_and_quotes_are_optional(audioset_root):
    (audioset_root / "eval_segments.csv").write_text('a,0,10\nb , 0 , 10 ,/m/x\nc, 0, 10, /m/x, /m/y\nd, 0, 10, ""\n')
    clips = list(audioset.rows(SourceConfig(root=str(audioset_root), split="eval")))
    assert [(clip.id, clip.labels) for clip in clips] == [
        ("a_0", ()),
        ("b_0", ("/m/x",)),
        ("c_0", ("/m/x", "/m/y")),
        ("d_0", ()),
    ]
