"""Filters for rows: lists of excluded ids, labels to keep, and their error messages."""

import os

import pytest

from configs.errors import UsageError
from pipelines.manifest import Clip, Rejected
from pipelines.sources.filters import filtered

ROWS = [
    Clip(id="--aE2O5G5WE_0", media="0", labels=("Speech",)),
    Clip(id="--aE2O5G5WE_30000", media="1", labels=("Speech", "Dog")),
    Clip(id="a_b_c_d_e_f_1000", media="2", labels=("Cat",)),
    Rejected("--aE2O5G5WE", "bad_row", "broken"),
    Clip(id="plain", media="3"),
]


def _kept(*, exclude=(), labels=()):
    return [row.media if isinstance(row, Clip) else "rejected" for row in filtered(ROWS, exclude, labels)]


def _list(folder, text, name="ids.txt", encoding="utf-8"):
    (folder / name).write_text(text, encoding=encoding, newline="")
    return str(folder / name)


def test_without_filters_all_rows_pass_in_order():
    assert list(filtered(ROWS, [], [])) == ROWS


def test_clip_id_excludes_that_clip(tmp_path):
    assert _kept(exclude=[_list(tmp_path, "--aE2O5G5WE_30000\nplain\n")]) == ["0", "2", "rejected"]


def test_video_id_excludes_all_its_clips_but_not_its_rejected_rows(tmp_path):
    assert _kept(exclude=[_list(tmp_path, "--aE2O5G5WE\na_b_c_d_e_f\n")]) == ["rejected", "3"]


def test_id_prefix_is_a_video_id_only_if_a_time_follows(tmp_path):
    rows = [Clip(id="a_b-1f3e", media="0"), Clip(id="a_b", media="1"), Clip(id="a_5", media="2")]
    assert [row.media for row in filtered(rows, [_list(tmp_path, "a\n")], [])] == ["0", "1"]


def test_published_tables_work_as_lists_of_ids(tmp_path):
    audioset = _list(tmp_path, '# YTID, start, end\n--aE2O5G5WE, 0.000, 10.000, "/m/03fwl"\n\n', "eval_segments.csv")
    vggsound = _list(tmp_path, '"a_b_c_d_e_f",1,label,test\r\n', "vggsound.csv", "utf-8-sig")
    assert _kept(exclude=[audioset, vggsound]) == ["rejected", "3"]


@pytest.mark.parametrize(
    ("text", "message"), [("", "contains no ids"), ("# only a comment\n\n ,x\n", "contains no ids")]
)
def test_list_without_ids_is_a_one_line_error(tmp_path, text, message):
    with pytest.raises(UsageError, match=message) as raised:
        _kept(exclude=[_list(tmp_path, text)])
    assert len(str(raised.value).splitlines()) == 1


def test_unreadable_list_is_a_one_line_error_before_the_first_row(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name in ("missing.txt", ".", "pipe", "a\nb", "a\0b"):
        with pytest.raises(UsageError, match=r"exclude=.* cannot be read: no such file") as raised:
            next(filtered(ROWS, [str(tmp_path / name)], []))
        assert len(str(raised.value).splitlines()) == 1
    with pytest.raises(UsageError, match=r"exclude=.* cannot be read: 'utf-8' codec"):
        next(filtered(ROWS, [_list(tmp_path, "abc\n", encoding="utf-16")], []))


def test_clips_with_any_of_the_labels_and_rejected_rows_are_kept():
    assert _kept(labels=["Speech"]) == ["0", "1", "rejected"]
    assert _kept(labels=["Dog", "Cat"]) == ["1", "2", "rejected"]


def test_both_filters_apply_together(tmp_path):
    assert _kept(exclude=[_list(tmp_path, "--aE2O5G5WE_0\n")], labels=["Speech"]) == ["1", "rejected"]


def test_label_without_rows_is_an_error_with_similar_labels():
    with pytest.raises(UsageError, match=r"labels: no row has the label 'Speach'; similar labels are 'Speech'$"):
        _kept(labels=["Speach", "Dog"])
    with pytest.raises(UsageError, match=r"labels: no row has the label '/m/09x0r'$"):
        _kept(labels=["/m/09x0r"])
