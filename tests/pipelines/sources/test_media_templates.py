"""Templates of media paths with several endings: the first file that exists is taken, when the clip is decoded."""

import json
import shutil

import pytest
from tiny_builds import build
from tiny_media import write_video
from tiny_sources import vggsound_source

from pipelines.build.preflight import MediaCheck
from pipelines.manifest import Clip, check
from pipelines.sources import vggsound
from pipelines.sources.youtube_segments import templates_of


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("v/{ytid}.mp4", ["v/{ytid}.mp4"]),
        ("v/{ytid}.{mp4, mkv,webm}", ["v/{ytid}.mp4", "v/{ytid}.mkv", "v/{ytid}.webm"]),
        (
            "{a,b}/{start_s:06d}{,_x}.mp4",
            ["a/{start_s:06d}.mp4", "a/{start_s:06d}_x.mp4", "b/{start_s:06d}.mp4", "b/{start_s:06d}_x.mp4"],
        ),
    ],
)
def test_template_with_alternatives_stands_for_several_in_order(template, expected):
    assert templates_of(template) == expected


def test_rows_name_all_alternatives_whatever_exists(tmp_path):
    row = next(vggsound.rows(vggsound_source(tmp_path, media="v/{ytid}.{mp4,mkv}")))
    assert (row.media, row.alternatives) == ("v/--0PQM4-hqg.mp4", ("v/--0PQM4-hqg.mkv",))
    assert check(row) == row
    assert check(Clip(id="a", media="a.mp4", alternatives=("../a.mkv",))).reason == "bad_path"


def test_clip_with_any_of_its_alternatives_is_not_counted_as_missing(tmp_path):
    (tmp_path / "b.mkv").touch()
    rows = [Clip(id=name, media=f"{name}.mp4", alternatives=(f"{name}.mkv",)) for name in "abc"]
    media_check = MediaCheck(tmp_path)
    assert list(media_check.count(rows)) == rows
    assert (media_check.missing, media_check.first_missing) == (2, "a.mp4")


def test_build_takes_the_first_ending_that_exists_and_retries_when_one_appears(tmp_path):
    root, out = tmp_path / "root", tmp_path / "out"
    video = write_video(root / "v/AAAAAAAAAAA.webm.mkv", duration_s=1.0, events_s=(0.3,))
    for name in ("AAAAAAAAAAA.mkv", "BBBBBBBBBBB.mp4", "BBBBBBBBBBB.mkv"):
        shutil.copy(video, root / "v" / name)
    (root / "vggsound.csv").write_text("".join(f"{letter * 11},0,label,train\n" for letter in "ABC"))
    words = ["source.kind=vggsound", "source.media=v/{ytid}.{mp4,mkv}", "source.media_is_cut=true"]

    def stored() -> dict[str, str]:
        index = json.loads((out / "train-000000.json").read_text())
        tar = (out / "train-000000.tar").read_bytes()
        spans = [clip["files"]["json"] for clip in index["members"]]
        clips = [json.loads(tar[offset : offset + size]) for offset, size in spans]
        return {clip["id"]: clip["media"] for clip in clips}

    done = build(root, out, *words)
    assert done.returncode == 0, done.stderr
    assert "1 of 3 rows (33.3 %) have no media file, the first is 'v/CCCCCCCCCCC.mp4'" in done.stderr
    expected = {"AAAAAAAAAAA_0": "v/AAAAAAAAAAA.mkv", "BBBBBBBBBBB_0": "v/BBBBBBBBBBB.mp4"}
    assert stored() == expected
    shutil.copy(video, root / "v/CCCCCCCCCCC.mkv")
    done = build(root, out, *words, "retry_rejected=true")
    assert done.returncode == 0, done.stderr
    assert stored() == expected | {"CCCCCCCCCCC_0": "v/CCCCCCCCCCC.mkv"}
