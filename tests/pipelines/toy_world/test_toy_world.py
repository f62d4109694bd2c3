"""pipelines.toy_world: the published layouts that it writes, interruption, and invalid settings."""

import csv
import hashlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from PIL import Image

from configs.errors import UsageError
from configs.schema import SourceConfig, ToyWorldConfig
from pipelines.sources import vggsound
from pipelines.toy_world import layouts, world
from pipelines.toy_world.scene import CLASSES, random_scene, render
from pipelines.toy_world.speech import SPEAKERS

SMALL = {
    "seed": 3,
    "audioset_train": 12,
    "audioset_eval": 2,
    "places_train": 4,
    "places_val": 2,
    "prompts": 24,
    "damaged_share": 0.25,
    "image_size_px": 64,
}


def files_of(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> ToyWorldConfig:
    config = ToyWorldConfig(out=str(tmp_path_factory.mktemp("toy") / "world"), processes=2, **SMALL)
    world.main(config)
    return config


@pytest.fixture(scope="module")
def out(config) -> Path:
    return Path(config.out)


# ---------------------------------------------------------------------------------------------- layouts


def test_audioset_has_the_published_tables_and_a_video_for_each_row_that_is_not_missing(out):
    lines = (out / "audioset/unbalanced_train_segments.csv").read_text().splitlines()
    assert all(line.startswith("# ") for line in lines[:3])
    assert len(lines) == 3 + 12
    mids = [row["mid"] for row in csv.DictReader((out / "audioset/class_labels_indices.csv").read_text().splitlines())]
    existing = 0
    for row in csv.reader(lines[3:], skipinitialspace=True):
        ytid, start_s, end_s, mid = row
        assert len(ytid) == 11
        assert float(end_s) - float(start_s) == 2.0
        assert mid in mids
        existing += (out / f"audioset/videos/{ytid}_{round(float(start_s) * 1000)}.mp4").exists()
    assert existing == 11


def test_videos_are_h264_with_aac_except_for_the_defective_ones(out):
    outcomes = []
    for path in sorted((out / "audioset/videos").iterdir()):
        try:
            with av.open(str(path)) as container:
                video, audio = container.streams.video[0], container.streams.audio
                assert (video.codec_context.name, video.codec_context.pix_fmt, video.average_rate) == (
                    "h264",
                    "yuv420p",
                    10,
                )
                assert len(list(container.decode(video=0))) == 20
                outcomes.append("intact" if audio and audio[0].codec_context.name == "aac" else "no audio")
        except av.error.InvalidDataError:
            outcomes.append("truncated")
    assert sorted(outcomes) == ["intact"] * 11 + ["no audio", "truncated"]


def test_vggsound_is_read_by_its_source_and_every_row_has_a_video(out):
    source = SourceConfig(kind="vggsound", root=str(out / "vggsound"), split="test", media_is_cut=True)
    clips = list(vggsound.rows(source))
    assert (
        len(clips) == 48 and len({clip.id for clip in clips}) == 48 and all(clip.labels[0] in CLASSES for clip in clips)
    )
    assert sorted(clip.media for clip in clips) == sorted(
        str(p.relative_to(out / "vggsound")) for p in (out / "vggsound/videos").iterdir()
    )


def test_a_video_is_the_rendered_scene(config, out):
    rng = np.random.default_rng([3, 1, 0])
    rng.integers(64, size=11), rng.integers(0, 600)
    scene = random_scene(rng, 64)
    ytid, start_s, *_ = csv.reader([(out / "audioset/eval_segments.csv").read_text().splitlines()[3]]).__next__()
    with av.open(str(out / f"audioset/videos/{ytid}_{round(float(start_s) * 1000)}.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    for number in (0, 19):
        error = frames[number].astype(float) - render(scene, number / config.fps)
        assert np.sqrt(np.mean(error**2)) < 16


def test_captions_name_two_objects_of_their_image_and_fit_the_maximum_duration(config, out):
    for split, part, count in (("train", 2, 4), ("val", 3, 2)):
        table = json.loads((out / f"places_audio/metadata/{split}.json").read_text())
        assert len(table["data"]) == count
        for number, row in enumerate(table["data"]):
            scene = random_scene(np.random.default_rng([3, part, number]), 64)
            named = [k for k, name in enumerate(CLASSES) if name in row["asr_text"]]
            assert len(named) == 2
            assert set(named) <= set(scene.class_ids)
            assert row["speaker"] in SPEAKERS
            info = soundfile.info(out / "places_audio" / table["audio_base_path"] / row["wav"])
            assert (info.samplerate, info.channels, info.subtype) == (16000, 1, "PCM_16")
            assert info.duration <= config.max_caption_s
            with Image.open(out / "places_audio" / table["image_base_path"] / row["image"]) as image:
                assert image.size == (64, 64)


def test_each_prompt_has_its_class_in_the_annotation_and_its_word_in_the_speech(out):
    folder = out / "prompted_ade20k"
    rows = list(csv.DictReader((folder / "prompted_segmentation.csv").read_text().splitlines()))
    assert list(rows[0]) == ["image_location", "ade_class_id", "speech_prompt_file", "timing", "vggsound_file"]
    assert sorted(int(row["ade_class_id"]) for row in rows) == sorted(layouts.ade_class_id(k) for k in range(24))
    for row in rows:
        stem = Path(row["image_location"]).stem
        colors = np.asarray(Image.open(folder / "annotations" / f"{stem}_seg.png")).astype(int)
        ids = colors[..., 0] // 10 * 256 + colors[..., 1]
        assert (ids == int(row["ade_class_id"])).sum() > 40
        assert set(np.unique(ids)) <= {0} | {layouts.ade_class_id(k) for k in range(24)}
        start_s, end_s = json.loads(row["timing"])
        assert 0 < start_s < end_s <= soundfile.info(folder / "audio" / Path(row["speech_prompt_file"]).name).duration
        assert soundfile.info(folder / "audio" / Path(row["vggsound_file"]).name).duration == 2.0


def test_annotation_colors_decode_to_the_class_id():
    class_ids = np.arange(-1, 24, dtype=np.int16).reshape(5, 5)
    colors = layouts.annotation(class_ids).astype(int)
    ids = colors[..., 0] // 10 * 256 + colors[..., 1]
    assert ids[0, 0] == 0
    assert ids.ravel()[1:].tolist() == [101 + 37 * k for k in range(24)]


# ---------------------------------------------------------------------------------------------- command


def test_files_are_identical_for_any_number_of_processes_and_after_a_kill(out, tmp_path):
    arguments = [f"{key}={value}" for key, value in SMALL.items()] + [f"out={tmp_path / 'world'}", "processes=1"]
    command = [sys.executable, "-m", "pipelines.toy_world", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    videos = tmp_path / "world/audioset/videos"
    while process.poll() is None and not (videos.is_dir() and list(videos.glob("*.mp4"))):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "world/audioset/unbalanced_train_segments.csv").exists()
    subprocess.run(command, check=True, capture_output=True)
    assert files_of(tmp_path / "world") == files_of(out)


def test_a_finished_world_is_not_rewritten_and_a_removed_file_is_regenerated(config, out, capsys):
    before = files_of(out)
    world.main(config)
    assert "is complete" in capsys.readouterr().out
    wav = out / "places_audio/wavs/train/000001.wav"
    other = (out / "places_audio/wavs/train/000002.wav").stat().st_mtime_ns
    wav.unlink()
    world.main(config)
    assert files_of(out) == before
    assert (out / "places_audio/wavs/train/000002.wav").stat().st_mtime_ns == other


def test_other_settings_in_the_same_folder_are_rejected_with_their_names(config):
    with pytest.raises(UsageError, match=r"seed=3 \(now 4\)"):
        world.main(ToyWorldConfig(**{**vars(config), "seed": 4}))


def test_a_folder_with_other_data_is_rejected_and_unchanged(tmp_path):
    (tmp_path / "audioset").mkdir()
    (tmp_path / "audioset/mine.txt").write_text("real data")
    with pytest.raises(UsageError, match=r"contains audioset but no toy_world\.json"):
        world.main(ToyWorldConfig(out=str(tmp_path), **SMALL))
    assert files_of(tmp_path).keys() == {"audioset/mine.txt"}


@pytest.mark.parametrize(("key", "value"), [("image_size_px", 65), ("out", "")])
def test_an_invalid_setting_is_named(key, value, tmp_path):
    with pytest.raises(UsageError, match=key):
        world.main(ToyWorldConfig(**{"out": str(tmp_path), **SMALL, key: value}))


def test_the_toy_world_needs_no_torch():
    code = "import sys; from pipelines.toy_world import speech, world; speech.synthesize_speech('a red star')"
    subprocess.run([sys.executable, "-c", f"{code}; assert 'torch' not in sys.modules"], check=True)
