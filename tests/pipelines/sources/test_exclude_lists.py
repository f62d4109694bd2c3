"""Lists of clips to exclude: every published form excludes its clips and no others; a list of something else fails."""

import json

import pytest

from configs.errors import UsageError
from configs.schema import SourceConfig
from pipelines.sources import folder
from pipelines.sources.exclude_lists import ExcludeLists
from pipelines.sources.filters import filtered

VIDEO = "-a_b-C_d_12"  # 11 characters; the last part looks like a time
CLIPS = [
    f"{VIDEO}_0",
    f"{VIDEO}_32000",
    f"{VIDEO}_42000",
    f"{VIDEO}_320000",
    f"{VIDEO}_12500",
    "-a_b-C_d_12000",
    "--PJHxphWEs_32000",
    "v0_32000",
    "plain",
]


def excluded(tmp_path, text: str, clips=CLIPS, name="list", encoding="utf-8") -> list[str]:
    (tmp_path / name).write_text(text, encoding=encoding, newline="")
    lists = ExcludeLists([str(tmp_path / name)])
    found = [clip for clip in clips if lists.excludes(clip)]
    lists.check_matched(clips[0])
    return found


@pytest.mark.parametrize(
    "form",
    ["32000", "000032", "32", "32.0", "32.000", "32000_42000", "32_42", "000032_000042", "32.000_42.000", "32.0-42.0"],
)
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", ""),
        ("", ".mp4"),
        ("videos/test/", ".jpg"),
        ("/data/x_32000/", ".wav"),
        ("audio\\", ".flac"),
        ("'", "'"),
        ('"', '", 1, label'),
        ("./", ".mp4 7"),
        ("", ".mp4\tlabel"),
        ("Y", ".wav"),
        ("v_", ""),
    ],
)
def test_every_published_form_of_a_segment_excludes_that_clip_only(tmp_path, form, before, after):
    assert excluded(tmp_path, f"{before}{VIDEO}_{form}{after}\n") == [f"{VIDEO}_32000"]


@pytest.mark.parametrize(
    "name",
    [
        VIDEO,
        f"{VIDEO}.mp4",
        f"videos/{VIDEO}.webm",
        f"Y{VIDEO}.wav",
        f"https://www.youtube.com/watch?v={VIDEO}&t=32s",
        f"https://youtu.be/{VIDEO}",
        f'{VIDEO}, 32.000, 42.000, "/m/1,/m/2"',
        f"{VIDEO},32,dog barking,test",
    ],
)
def test_a_name_without_a_time_of_its_own_excludes_all_clips_of_that_video(tmp_path, name):
    assert excluded(tmp_path, f"{name}\n") == CLIPS[:5]


@pytest.mark.parametrize(
    "text",
    [
        "ytid,start,label\n{},32,dog\n",
        "label;Video ID;x\r\ndog;{};5\r\n",
        "label\tyoutube_id\ndog\t{}\n",
        ',file,label\n0,"{}.jpg","a, b"\n',
        "Category&VideoID&Quality\ndog&{}&good\n",
        "file_name\nvideos/{}.mp4\n",
        '# a comment\n\n"{}"\n',
        '["x", "{}"]',
        '[{{"class": "dog", "file": "{}", "bbox": [[1, 2]]}}]',
        '{{"data": [{{"image": "{}.jpg", "label": 3}}]}}',
        '{{"annotations": [{{"id": 7, "audio": "wavs/{}.wav"}}]}}',
        '{{"{}": ["dog"], "BBBBBBBBBBB": ["cat"]}}',
        '{{"videos": {{"solo": {{"flute": ["{}"]}}}}}}',
        '{{"video": "{}.mp4", "n": 1}}\n\n{{"video": "other", "n": 2}}\n',
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_tables_and_json_name_their_clips_in_any_known_column(tmp_path, text, encoding):
    assert excluded(tmp_path, text.format(VIDEO), encoding=encoding) == CLIPS[:5]
    assert excluded(tmp_path, text.format(f"{VIDEO}_000032"), encoding=encoding) == [f"{VIDEO}_32000"]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("v0_000032.mp4", ["v0_32000"]),
        ("v0_32000_42000", ["v0_32000"]),
        ("v0_32_42", ["v0_32000"]),
        ("v0", ["v0_32000"]),
        ("sets/plain.wav", ["plain"]),
        (f"{VIDEO}_12.5", [f"{VIDEO}_12500"]),
        (f"{VIDEO}_320", [f"{VIDEO}_320000"]),
        ("-a_b-C_d_12000", ["-a_b-C_d_12000"]),
    ],
)
def test_ids_of_other_lengths_match_where_their_times_are_unambiguous(tmp_path, name, found):
    assert excluded(tmp_path, f"{name}\n") == found


@pytest.mark.parametrize(
    "name", [f"{VIDEO}_33", f"{VIDEO}_000012", "-a_b-C_d_13", "v0_32", "v0_1_2", "a_b-C_d_12_32000", "PJHxphWEs_32000"]
)
def test_a_list_that_excludes_nothing_is_an_error_that_names_it_its_length_and_the_forms(tmp_path, name):
    message = r"exclude='.*list': none of its 2 entries is in this data set \(the first is .*known forms are YTID, "
    with pytest.raises(UsageError, match=message) as raised:
        excluded(tmp_path, f"{name}\nBBBBBBBBBBB\n")
    assert len(str(raised.value).splitlines()) == 1


def test_each_of_several_lists_has_to_match_also_where_they_overlap(tmp_path):
    for name, text in (("a", VIDEO), ("b", f"{VIDEO}_000032\n"), ("c", "BBBBBBBBBBB\n")):
        (tmp_path / name).write_text(text)
    lists = ExcludeLists([str(tmp_path / name) for name in "aba"])
    assert [clip for clip in CLIPS if lists.excludes(clip)] == CLIPS[:5]
    lists.check_matched("x")
    lists = ExcludeLists([str(tmp_path / name) for name in "abc"])
    assert lists.excludes(CLIPS[1])
    with pytest.raises(UsageError, match=r"exclude='.*/c': none of its 1 entries"):
        lists.check_matched("x")


@pytest.mark.parametrize(
    ("text", "message"),
    [("[]", "no ids"), ('{"a": 1}', "no ids"), ('[{"file": ""}]', "no ids"), ("{x", "cannot be read")],
)
def test_json_without_names_is_a_one_line_error(tmp_path, text, message):
    with pytest.raises(UsageError, match=message) as raised:
        excluded(tmp_path, text)
    assert len(str(raised.value).splitlines()) == 1


FILES = ["AAAAAAAAAAA_000032.mp4", "dog/BBBBBBBBBBB_30000_40000.mkv", "dog/x y.mkv", "dog/x y.mp4", "x y.mp4", "é.mp4"]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("AAAAAAAAAAA_32000", FILES[:1]),
        ("AAAAAAAAAAA", FILES[:1]),
        ("other/BBBBBBBBBBB_000030.jpg", FILES[1:2]),
        ("dog/x y.mkv", FILES[2:3]),
        ("dog/x y", FILES[2:4]),
        ("videos/dog/x y.mp4", FILES[3:4]),
        ("/data/videos/dog/x y.mkv", FILES[2:3]),
        ("x y", FILES[4:5]),
        ("é.mp4", FILES[5:]),
    ],
)
def test_files_of_a_folder_are_excluded_by_path_and_by_published_name(tmp_path, name, found):
    for file in FILES:
        (tmp_path / "root" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / file).touch()
    rows = list(folder.rows(SourceConfig(root=str(tmp_path / "root"))))
    (tmp_path / "list").write_text(name + "\n")
    kept = filtered(rows, [str(tmp_path / "list")], [])
    assert sorted({row.media for row in rows} - {row.media for row in kept}) == found
    lists = ExcludeLists([str(tmp_path / "list")])  # the stream knows the ids only
    assert sorted(row.media for row in rows if lists.excludes(row.id)) == found


def test_a_bare_file_name_excludes_that_file_in_every_folder_of_the_build(tmp_path):
    for file in ("a/x.mp4", "b/x.mp4", "b/y.mp4"):
        (tmp_path / "root" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / file).touch()
    (tmp_path / "list").write_text("x.mp4\n")
    kept = filtered(folder.rows(SourceConfig(root=str(tmp_path / "root"))), [str(tmp_path / "list")], [])
    assert [row.media for row in kept] == ["b/y.mp4"]


@pytest.mark.parametrize("clip", ["AAAAAAAAAAA_000032", "AAAAAAAAAAA_32000_42000", "sets/AAAAAAAAAAA_32_42"])
@pytest.mark.parametrize("name", ["AAAAAAAAAAA_32000", "AAAAAAAAAAA_32", "AAAAAAAAAAA", "x/AAAAAAAAAAA_000032.mp4"])
def test_ids_of_third_party_shards_match_in_any_form(tmp_path, clip, name):
    others = ["AAAAAAAAAAB_000032", "AAAAAAAAAA_32_42"]
    assert excluded(tmp_path, json.dumps([name]), [clip, *others]) == [clip]
