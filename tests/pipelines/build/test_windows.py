"""Windows over long videos: their times match the pictures, the end of a file, unusual files, and what is refused."""

import io
import json
import shutil
import subprocess

import imageio_ffmpeg
import numpy as np
import pytest
import simplejpeg
import soundfile
from tiny_builds import OURS
from tiny_decode import ffmpeg
from tiny_media import gray, write_video

from configs.errors import UsageError
from configs.load import load
from configs.schema import BuildConfig
from pipelines.build.__main__ import main
from pipelines.build.windows import window_starts
from pipelines.stream.index import DatasetIndex

EVENTS_S = (0.5, 3.5, 6.4)


def build(root, out, *words: str) -> DatasetIndex:
    assert main(load(BuildConfig, [f"source.root={root}", f"out={out}", *OURS, *words])) == 0
    return DatasetIndex.open(out)


def starts(index: DatasetIndex) -> dict[str, list[float]]:
    """The start times of the clips of each file."""
    clips = [json.loads(index.read(clip, "json")) for clip in range(index.clips)]
    assert all(clip["id"].endswith(f"_{round(clip['start_s'] * 1000)}") for clip in clips)
    return {
        media: sorted(clip["start_s"] for clip in clips if clip["media"] == media)
        for media in sorted({clip["media"] for clip in clips})
    }


@pytest.mark.parametrize(
    ("duration_s", "window_s", "stride_s", "expected"),
    [
        (30.0, 10.0, 0.0, [0, 10, 20]),
        (30.03, 10.0, 0.0, [0, 10, 20]),
        (34.9, 10.0, 0.0, [0, 10, 20]),
        (35.1, 10.0, 0.0, [0, 10, 20, 30]),
        (20.0, 10.0, 5.0, [0, 5, 10]),
        (22.0, 10.0, 5.0, [0, 5, 10, 15]),
        (30.0, 4.0, 13.0, [0, 13, 26]),
        (3.0, 10.0, 0.0, [0]),
        (0.0, 10.0, 2.5, [0]),
        (1.0, 0.3, 0.1, [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]),
    ],
)
def test_last_window_ends_with_the_file_and_is_half_a_window_at_least(duration_s, window_s, stride_s, expected):
    assert list(window_starts(duration_s, window_s, stride_s)) == expected


def test_pictures_and_sound_of_each_window_are_those_of_its_time(tmp_path):
    write_video(tmp_path / "root/long.mp4", duration_s=9.0, events_s=EVENTS_S)  # 10 frames a second
    index = build(tmp_path / "root", tmp_path / "out", "source.window_s=4", "source.stride_s=2.5")
    assert starts(index) == {"long.mp4": [0.0, 2.5, 5.0]}
    for clip in range(index.clips):
        metadata = json.loads(index.read(clip, "json"))
        assert metadata["end_s"] == pytest.approx(metadata["start_s"] + 4.0, abs=0.05)
        for number, time_s in enumerate(metadata["frame_times_s"]):
            value = simplejpeg.decode_jpeg(index.read(clip, f"{number}.jpg")).mean()
            file_s = round(metadata["start_s"] + time_s, 3)
            assert value == pytest.approx(255 if file_s in EVENTS_S else gray(round(10 * file_s)), abs=1.9)
        waveform = soundfile.read(io.BytesIO(index.read(clip, "flac")))[0]
        click_s = metadata["start_s"] + np.argmax(np.abs(waveform) > 0.3) / 16000
        assert min(abs(click_s - event_s) for event_s in EVENTS_S) < 0.03


def test_files_of_every_kind_become_windows_or_one_rejected_row(tmp_path, capsys):
    root, out = tmp_path / "root", tmp_path / "out"
    video = write_video(root / "a.mp4", duration_s=3.0, events_s=(0.5,))
    ffmpeg("-i", video, "-c", "copy", "-f", "mpegts", root / "b.ts")
    # A pipe cannot be written backwards, so the header of Matroska states no duration.
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", video, "-c", "copy", "-f", "matroska", "-"]
    (root / "c.mkv").write_bytes(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    write_video(root / "short.mp4", duration_s=0.6, events_s=(0.3,))
    (root / "text.mp4").write_text("text")
    (root / "cut.mp4").write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    index = build(root, out, "source.window_s=1", "processes=2")
    assert starts(index) == {name: [0.0, 1.0, 2.0] for name in ("a.mp4", "b.ts", "c.mkv")} | {"short.mp4": [0.0]}
    assert sorted(json.loads(line)["reason"] for line in (out / "rejected.jsonl").read_text().splitlines()) == [
        "unreadable",
        "unreadable",
    ]
    assert (
        main(load(BuildConfig, [f"source.root={root}", f"out={out}", *OURS, "source.window_s=1", "processes=1"])) == 0
    )
    assert "rows              12" in capsys.readouterr().out


def test_window_is_excluded_by_its_id_and_all_windows_by_that_of_their_file(tmp_path):
    root = tmp_path / "root"
    video = write_video(root / "AAAAAAAAAAA.mp4", duration_s=2.0, events_s=(0.3,))
    shutil.copy(video, root / ("x" * 90 + ".mp4"))
    shutil.copy(video, root / "b.mp4")
    (tmp_path / "list").write_text("AAAAAAAAAAA\nb.mp4\n")
    words = ["source.window_s=1", f"exclude=[{tmp_path}/list]"]
    index = build(root, tmp_path / "out", *words)
    assert starts(index) == {"x" * 90 + ".mp4": [0.0, 1.0]}
    (tmp_path / "list").write_text(f"{index.id(0)}\n")
    assert build(root, tmp_path / "second", *words).clips == 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["source.window_s=31"],
            r"source.window_s=31 must be from decode.min_duration_s=0.3 to decode.max_duration_s=30",
        ),
        (["source.window_s=0.2"], r"source.window_s=0.2 must be from"),
        (["source.stride_s=1"], r"source.stride_s=1 must be 0.1 or more, and needs source.window_s"),
        (["source.window_s=1", "source.stride_s=0.01"], r"source.stride_s=0.01 must be 0.1 or more"),
        (["source.window_s=1", "source.kind=audioset"], r"are for source.kind=folder, not audioset"),
        (["source.labels_from_folders=true", "source.kind=vggsound"], r"are for source.kind=folder, not vggsound"),
    ],
)
def test_window_that_does_not_fit_is_a_one_line_error(tmp_path, words, message):
    with pytest.raises(UsageError, match=message) as raised:
        build(tmp_path, tmp_path / "out", *words)
    assert len(str(raised.value).splitlines()) == 1 and not (tmp_path / "out").exists()
