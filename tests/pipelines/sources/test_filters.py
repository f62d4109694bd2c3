"""Which rows are wanted: lists of ids to leave out, labels to keep, and what is said of wrong ones."""

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


def test_the_id_of_a_clip_leaves_out_that_clip(tmp_path):
    assert _kept(exclude=[_list(tmp_path, "--aE2O5G5WE_30000\nplain\n")]) == ["0", "2", "rejected"]


def test_the_id_of_a_video_leaves_out_all_its_clips_and_keeps_its_broken_rows(tmp_path):
    assert _kept(exclude=[_list(tmp_path, "--aE2O5G5WE\na_b_c_d_e_f\n")]) == ["rejected", "3"]


def test_the_start_of_an_id_is_no_video_unless_a_time_follows_it(tmp_path):
    rows = [Clip(id="a_b-1f3e", media="0"), Clip(id="a_b", media="1"), Clip(id="a_5", media="2")]
    assert [row.media for row in filtered(rows, [_list(tmp_path, "a\n")], [])] == ["0", "1"]


def test_published_tables_with_comments_quotes_and_more_columns_are_lists_of_ids_too(tmp_path):
    audioset = _list(tmp_path, '# YTID, start, end\n--aE2O5G5WE, 0.000, 10.000, "/m/03fwl"\n\n', "eval_segments.csv")
    vggsound = _list(tmp_path, '"a_b_c_d_e_f",1,label,test\r\n', "vggsound.csv", "utf-8-sig")
    assert _kept(exclude=[audioset, vggsound]) == ["rejected", "3"]


@pytest.mark.parametrize(
    ("text", "said"), [("", "has no ids in it"), ("# only a comment\n\n ,x\n", "has no ids in it")]
)
def test_a_list_without_ids_is_one_clear_line(tmp_path, text, said):
    with pytest.raises(UsageError, match=said) as raised:
        _kept(exclude=[_list(tmp_path, text)])
    assert len(str(raised.value).splitlines()) == 1


def test_a_list_that_cannot_be_read_is_one_clear_line_before_the_first_row(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name in ("missing.txt", ".", "pipe", "a\nb", "a\0b"):
        with pytest.raises(UsageError, match=r"exclude=.* cannot be read: there is no such file") as raised:
            next(filtered(ROWS, [str(tmp_path / name)], []))
        assert len(str(raised.value).splitlines()) == 1
    with pytest.raises(UsageError, match=r"exclude=.* cannot be read: 'utf-8' codec"):
        next(filtered(ROWS, [_list(tmp_path, "abc\n", encoding="utf-16")], []))


def test_a_clip_with_any_of_the_labels_is_kept_and_so_are_broken_rows():
    assert _kept(labels=["Speech"]) == ["0", "1", "rejected"]
    assert _kept(labels=["Dog", "Cat"]) == ["1", "2", "rejected"]


def test_both_filters_hold_at_once(tmp_path):
    assert _kept(exclude=[_list(tmp_path, "--aE2O5G5WE_0\n")], labels=["Speech"]) == ["1", "rejected"]


def test_a_label_that_no_row_has_is_named_with_those_near_it():
    with pytest.raises(UsageError, match=r"labels: no row has the label 'Speach'; near it are 'Speech'$"):
        _kept(labels=["Speach", "Dog"])
    with pytest.raises(UsageError, match=r"labels: no row has the label '/m/09x0r'$"):
        _kept(labels=["/m/09x0r"])
