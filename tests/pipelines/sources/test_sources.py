"""What holds for every layout: odd ids, tables that other programs saved, folders and pipes in their place; and a plain folder of videos."""

import os

import pytest
from tiny_sources import SEGMENTS, VGGSOUND, places_audio_source, vggsound_source

from configs.errors import UsageError
from configs.schema import SourceConfig
from pipelines.manifest import Clip, Rejected, check
from pipelines.sources import audioset, folder, places_audio, vggsound


def test_a_folder_gives_its_videos_in_order_with_ids_of_their_own(tmp_path):
    for name in (
        "b.mp4",
        "a/x y.mkv",
        "a/x y.mp4",
        "a/é.MP4",
        "note.txt",
        ".mp4",
        "...mp4",
        "long/" + "x" * 200 + ".mp4",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    clips = list(folder.rows(SourceConfig(root=str(tmp_path))))
    assert [c.media for c in clips] == [
        "...mp4",
        ".mp4",
        "b.mp4",
        "a/x y.mkv",
        "a/x y.mp4",
        "a/é.MP4",
        "long/" + "x" * 200 + ".mp4",
    ]
    assert len({c.id for c in clips}) == 7
    assert [check(c) for c in clips] == clips
    assert clips[3].id.startswith("a_x_y-")
    assert all(c.end_s == 0 and c.split == "train" and c.source == "folder" for c in clips)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, r"there is no video below it \(\.3gp \.avi"),
        ({"segments": "x.csv"}, "source.segments=x.csv is for layouts"),
    ],
)
def test_a_folder_without_videos_and_one_with_a_table_are_refused(tmp_path, changes, told):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UsageError, match=told):
        list(folder.rows(SourceConfig(root=str(tmp_path), **changes)))


def test_a_folder_that_is_not_there_is_one_clear_line(tmp_path):
    with pytest.raises(UsageError, match=r"is not a folder; source.kind=folder wants one with videos in it"):
        list(folder.rows(SourceConfig(root=str(tmp_path / "none"))))


def _one_row(root, kind, row_id):
    """A source with one row, whose id (and so its media's name) is given."""
    if kind == "places_audio":
        item = {"uttid": row_id, "wav": f"{row_id}.wav", "image": "a.jpg"}
        return places_audio.rows(places_audio_source(root, data=[item]))
    if kind == "vggsound":
        return vggsound.rows(vggsound_source(root, f"{row_id},0,label,train\n"))
    (root / "eval_segments.csv").write_text(f'{row_id}, 0, 10, "/m/a"\n', newline="")
    return audioset.rows(SourceConfig(root=str(root), split="eval"))


@pytest.mark.parametrize("kind", ["audioset", "vggsound", "places_audio"])
@pytest.mark.parametrize("row_id", ["a.b", "a/b", "../../etc/passwd", "/etc/passwd", "a\0b", "a b", "ä", "x" * 500])
def test_an_id_that_is_none_is_turned_away_by_every_source(tmp_path, kind, row_id):
    (row,) = _one_row(tmp_path, kind, row_id)
    assert check(row).reason == "bad_id"


@pytest.mark.parametrize(
    ("kind", "row_id"),
    [
        *((kind, f"a{end}b") for kind in ("audioset", "vggsound", "places_audio") for end in "\n\r"),
        ("places_audio", "\ud800"),
    ],
)
def test_an_id_with_a_line_end_or_half_a_letter_never_becomes_a_clip(tmp_path, kind, row_id):
    rows = [check(row) if isinstance(row, Clip) else row for row in _one_row(tmp_path, kind, row_id)]
    assert rows and all(isinstance(row, Rejected) for row in rows if row.id != "b_0")


TABLES = {
    "audioset": (audioset.rows, "eval", "eval_segments.csv", SEGMENTS, 3),
    "vggsound": (vggsound.rows, "train", "vggsound.csv", VGGSOUND, 3),
    "places_audio": (
        places_audio.rows,
        "val",
        "metadata/val.json",
        '{"data": [{"uttid": "a", "wav": "ä.wav", "image": "a.jpg"}]}',
        1,
    ),
}


def _table(root, kind, content):
    rows, split, name, _, _ = TABLES[kind]
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_bytes(content)
    return rows(SourceConfig(kind=kind, root=str(root), split=split, media="v/{id}.mp4"))


@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize(
    "saved", ["as it is", "with a byte-order mark", "with line ends of Windows", "with line ends of an old Mac"]
)
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


def test_a_folder_takes_names_of_any_bytes_and_leaves_links_to_folders_alone(tmp_path):
    for name in ("a\nb.mp4", "-rf.mp4", "..a.mp4", os.fsdecode(b"\xff.mp4")):
        (tmp_path / name).touch()
    (tmp_path / "loop").symlink_to(tmp_path)
    clips = list(folder.rows(SourceConfig(root=str(tmp_path))))
    assert len(clips) == 4
    assert [check(clip) for clip in clips] == clips
