"""All layouts: invalid ids, encodings of tables, folders and pipes in place of tables; and a plain folder of videos."""

import os

import pytest
from tiny_sources import SEGMENTS, VGGSOUND, places_audio_source, vggsound_source

from configs.errors import UsageError
from configs.schema import SourceConfig
from pipelines.manifest import Clip, Rejected, check
from pipelines.sources import audioset, folder, places_audio, vggsound


def test_folder_yields_its_videos_in_order_with_unique_ids(tmp_path):
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
    ("changes", "message"),
    [
        ({}, r"no video found below it \(\.3gp \.avi"),
        ({"segments": "x.csv"}, "source.segments=x.csv is for layouts"),
    ],
)
def test_folder_without_videos_or_with_a_table_setting_is_an_error(tmp_path, changes, message):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UsageError, match=message):
        list(folder.rows(SourceConfig(root=str(tmp_path), **changes)))


def test_missing_folder_is_a_one_line_error(tmp_path):
    with pytest.raises(UsageError, match=r"is not a folder; source.kind=folder reads the videos below it"):
        list(folder.rows(SourceConfig(root=str(tmp_path / "none"))))


def _one_row(root, kind, row_id):
    """The rows of a source with one row of a given id."""
    if kind == "places_audio":
        item = {"uttid": row_id, "wav": f"{row_id}.wav", "image": "a.jpg"}
        return places_audio.rows(places_audio_source(root, data=[item]))
    if kind == "vggsound":
        return vggsound.rows(vggsound_source(root, f"{row_id},0,label,train\n"))
    (root / "eval_segments.csv").write_text(f'{row_id}, 0, 10, "/m/a"\n', newline="")
    return audioset.rows(SourceConfig(root=str(root), split="eval"))


@pytest.mark.parametrize("kind", ["audioset", "vggsound", "places_audio"])
@pytest.mark.parametrize("row_id", ["a.b", "a/b", "../../etc/passwd", "/etc/passwd", "a\0b", "a b", "ä", "x" * 500])
def test_invalid_id_is_rejected_for_every_source(tmp_path, kind, row_id):
    (row,) = _one_row(tmp_path, kind, row_id)
    assert check(row).reason == "bad_id"


@pytest.mark.parametrize(
    ("kind", "row_id"),
    [
        *((kind, f"a{end}b") for kind in ("audioset", "vggsound", "places_audio") for end in "\n\r"),
        ("places_audio", "\ud800"),
    ],
)
def test_id_with_a_line_end_or_a_surrogate_never_becomes_a_clip(tmp_path, kind, row_id):
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
@pytest.mark.parametrize("form", ["unchanged", "byte-order mark", "CRLF line ends", "CR line ends"])
def test_line_ends_and_byte_order_mark_do_not_change_the_rows(tmp_path, kind, form):
    text = TABLES[kind][3]
    plain = list(_table(tmp_path, kind, text.encode()))
    ends = {"CRLF line ends": "\r\n", "CR line ends": "\r"}.get(form, "\n")
    encoded = text.replace("\n", ends).encode("utf-8-sig" if form == "byte-order mark" else "utf-8")
    assert list(_table(tmp_path, kind, encoded)) == plain
    assert len(plain) == TABLES[kind][4] and all(isinstance(row, Clip) for row in plain)


@pytest.mark.parametrize("kind", TABLES)
def test_table_in_utf16_is_a_one_line_error(tmp_path, kind):
    with pytest.raises(UsageError, match="the table is encoded in UTF-16; convert it to UTF-8"):
        list(_table(tmp_path, kind, TABLES[kind][3].encode("utf-16")))


@pytest.mark.parametrize(("kind", "line"), [("audioset", 'x, 0, 10, "/m/é"\n'), ("vggsound", "x,0,café,train\n")])
def test_line_that_is_not_utf8_is_one_rejected_row(tmp_path, kind, line):
    rows = list(_table(tmp_path, kind, line.encode("latin-1") + TABLES[kind][3].encode()))
    assert rows[0].reason == "bad_row" and all(isinstance(row, Clip) for row in rows[1:]) and len(rows) == 4


@pytest.mark.parametrize("kind", ["audioset", "vggsound"])
def test_empty_table_has_no_rows(tmp_path, kind):
    assert not list(_table(tmp_path, kind, b""))
    assert not list(_table(tmp_path, kind, b"\n# nothing here\n"))


@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_folder_or_pipe_in_place_of_a_table_is_a_one_line_error(tmp_path, kind, make):
    rows, split, name, _, _ = TABLES[kind]
    (tmp_path / name).parent.mkdir(exist_ok=True)
    make(tmp_path / name)
    with pytest.raises(UsageError, match=f"{name}: not a file; put the published"):
        next(rows(SourceConfig(kind=kind, root=str(tmp_path), split=split)))


def test_folder_accepts_names_of_arbitrary_bytes_and_skips_links_to_folders(tmp_path):
    for name in ("a\nb.mp4", "-rf.mp4", "..a.mp4", os.fsdecode(b"\xff.mp4")):
        (tmp_path / name).touch()
    (tmp_path / "loop").symlink_to(tmp_path)
    clips = list(folder.rows(SourceConfig(root=str(tmp_path))))
    assert len(clips) == 4
    assert [check(clip) for clip in clips] == clips
