"""A folder of videos with links, loops and other files: each video once, the rest counted in one line."""

from pathlib import Path

import pytest

from configs.errors import UsageError
from configs.schema import SourceConfig
from pipelines.manifest import check
from pipelines.sources import folder


def _touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def _media(root: Path) -> list[str]:
    clips = list(folder.rows(SourceConfig(root=str(root))))
    assert [check(clip) for clip in clips] == clips and len({clip.id for clip in clips}) == len(clips)
    assert all((root / clip.media).is_file() for clip in clips)
    return [clip.media for clip in clips]


def test_endings_of_cameras_and_recorders_are_videos(tmp_path):
    names = ["00001.MTS", "a.m2ts", "VTS_01_1.VOB", "b.m2t", "c.mod", "d.tod", "e.dv", "f.mxf", "g.f4v", "h.asf"]
    names += ["i.divx", "j.rmvb", "k.3g2", "l.qt", "m.wtv", "n.ogm", "o.dvr-ms"]
    _touch(tmp_path, *names)
    assert sorted(_media(tmp_path)) == sorted(names)


def test_linked_folders_and_files_are_read(tmp_path):
    root = tmp_path / "root"
    _touch(tmp_path, "disk/a/1.mp4", "disk/2.mp4", "single.mp4", "blobs/3f2a", "root/own/3.mp4")
    (root / "linked").symlink_to(tmp_path / "disk")
    (root / "4.mp4").symlink_to(tmp_path / "single.mp4")
    (root / "5.mp4").symlink_to("../blobs/3f2a")  # as in a cache of the Hugging Face hub
    assert _media(root) == ["4.mp4", "5.mp4", "linked/2.mp4", "linked/a/1.mp4", "own/3.mp4"]


def test_loops_end_and_no_video_is_read_twice(tmp_path, capsys):
    root = tmp_path / "root"
    _touch(tmp_path, "root/a/1.mp4", "root/z/2.mp4", "disk/deep/3.mp4", "outside.mp4")
    links = {
        "a/self": root / "a",
        "a/up": root,
        "around": tmp_path,
        "b.mp4": root / "z/2.mp4",
        "other z": root / "z",
        "disk": tmp_path / "disk",
        "deep": tmp_path / "disk/deep",
        "again": tmp_path / "disk",
        "d.mp4": tmp_path / "disk/deep/3.mp4",
        "circle": "circle",
    }
    for name, target in links.items():
        (root / name).symlink_to(target)
    (tmp_path / "disk/back").symlink_to(root)
    assert _media(root) == ["d.mp4", "a/1.mp4", "z/2.mp4"]
    assert "reached by another path" in capsys.readouterr().err


def test_order_of_a_folder_without_links_is_that_of_its_names(tmp_path):
    _touch(tmp_path, "b/1.mp4", "b.mp4", "a/2.mp4", "a b/3.mp4", "a/c/4.mp4", "Z.mp4")
    assert _media(tmp_path) == ["Z.mp4", "b.mp4", "a/2.mp4", "a/c/4.mp4", "a b/3.mp4", "b/1.mp4"]


def test_files_with_other_endings_are_counted_in_one_line(tmp_path, capsys):
    _touch(tmp_path, "1.mp4", "1.txt", "2.TXT", "notes", "cover.jpg", "a.t\nxt")
    assert _media(tmp_path) == ["1.mp4"]
    expected = f"skipped: 5 files below source.root={tmp_path}: 2 .txt, 2 without an ending, 1 .jpg\n"
    assert capsys.readouterr().err == expected


def test_a_folder_of_videos_only_prints_nothing(tmp_path, capsys):
    _touch(tmp_path, "1.mp4", "a/2.mkv")
    _media(tmp_path)
    assert capsys.readouterr() == ("", "")


def test_folder_of_other_files_only_is_an_error_that_counts_them(tmp_path):
    _touch(tmp_path, "a.wav", "b.wav")
    with pytest.raises(UsageError, match=r"no video found below it .*; it has 2 \.wav$"):
        _media(tmp_path)
