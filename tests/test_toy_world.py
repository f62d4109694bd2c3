"""The toy world: what it draws, plays and says, the published layouts it writes, and what happens when it is interrupted."""

import csv
import hashlib
import json
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from PIL import Image

from configs.command import UsageError
from configs.schema import ToyWorldConfig
from pipelines.sources import toy_layouts, toy_scene, toy_world
from pipelines.sources.toy_scene import CLASSES, COLOURS, NO_CLASS, Scene, Thing
from pipelines.sources.toy_sound import SAMPLE_RATE_HZ, resample, sound, with_noise
from pipelines.sources.toy_speech import SPEAKERS, say

SMALL = {"seed": 3, "audioset_train": 12, "audioset_eval": 2, "places_train": 4, "places_val": 2, "prompts": 24, "damaged_share": 0.25, "image_size_px": 64}


def files_of(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> ToyWorldConfig:
    config = ToyWorldConfig(out=str(tmp_path_factory.mktemp("toy") / "world"), processes=2, **SMALL)
    toy_world.main(config)
    return config


@pytest.fixture(scope="module")
def out(config) -> Path:
    return Path(config.out)


def plain_scene(*things: Thing, size_px: int = 64) -> Scene:
    blank = np.full((size_px, size_px, 3), 0.5, np.float32)
    return Scene(background=blank, light=np.ones((size_px, size_px, 1), np.float32), things=things, noise=np.zeros_like(blank), blur_px=0.0)


def still(kind: int, x: float, y: float, radius: float, shape: str = "", colour=(1.0, 0.0, 0.0), x_per_s: float = 0.0) -> Thing:
    shape = shape or CLASSES[kind].split()[1]
    return Thing(kind, shape, colour, x, y, radius, angle=0.0, x_per_s=x_per_s, y_per_s=0.0, shading=(0.0, 0.0))


# ---------------------------------------------------------------------------------------------- pictures


def test_there_are_24_classes_and_class_id_finds_each():
    assert len(set(CLASSES)) == 24
    assert [toy_scene.class_id(name) for name in CLASSES] == list(range(24))


def test_a_circle_covers_pi_r_squared_pixels_and_is_painted_where_the_mask_says():
    red_circle = toy_scene.class_id("red circle")
    picture = plain_scene(still(red_circle, 0.5, 0.5, 0.25))
    kinds, image = toy_scene.mask(picture), toy_scene.render(picture)
    assert (kinds == red_circle).sum() == pytest.approx(np.pi * 16**2, rel=0.02)
    assert set(np.unique(kinds)) == {NO_CLASS, red_circle}
    assert (image[kinds == red_circle][:, 0] >= 190).all()
    assert (image[kinds == NO_CLASS][:, 0] <= 192).all()


def test_a_shape_lies_where_it_was_put():
    for x, y in np.random.default_rng(0).uniform(0.3, 0.7, (20, 2)):
        rows, columns = np.nonzero(toy_scene.mask(plain_scene(still(0, x, y, 0.2))) == 0)
        assert columns.mean() + 0.5 == pytest.approx(x * 64, abs=0.15)
        assert rows.mean() + 0.5 == pytest.approx(y * 64, abs=0.15)


def test_the_later_thing_hides_the_earlier_one_and_a_distractor_hides_without_a_class():
    below, above = still(0, 0.4, 0.5, 0.2), still(9, 0.6, 0.5, 0.2)
    cover = still(NO_CLASS, 0.6, 0.5, 0.2, shape="square", colour=(0.5, 0.5, 0.5))
    assert toy_scene.mask(plain_scene(below, above))[32, 32] == 9
    assert toy_scene.mask(plain_scene(above, below))[32, 32] == 0
    assert toy_scene.mask(plain_scene(below, above, cover))[32, 40] == NO_CLASS


def test_a_ring_has_a_hole():
    kinds = toy_scene.mask(plain_scene(still(5, 0.5, 0.5, 0.2, shape="ring")))
    assert kinds[32, 32] == NO_CLASS
    assert kinds[32, 32 + 13] == 5


def test_things_drift_with_time_and_may_leave_the_picture():
    mover = plain_scene(still(0, 0.5, 0.5, 0.1, x_per_s=0.25))
    x_px = [np.nonzero(toy_scene.mask(mover, t) == 0)[1].mean() for t in (0.0, 1.0)]
    assert x_px[1] - x_px[0] == pytest.approx(16, abs=0.1)
    assert (toy_scene.mask(mover, 4.0) == NO_CLASS).all()


def test_scenes_hold_two_or_three_distinct_visible_classes_with_the_wanted_ones_among_them():
    for number in range(60):
        picture = toy_scene.scene(np.random.default_rng(number), 64, kinds=(number % 24,))
        assert len(picture.kinds) in (2, 3)
        assert len(set(picture.kinds)) == len(picture.kinds)
        assert number % 24 in picture.kinds
        assert len(picture.things) - len(picture.kinds) >= 2
        visible = toy_scene.mask(picture)
        assert all((visible == kind).sum() > 40 for kind in picture.kinds)


def test_the_same_random_numbers_give_the_same_picture():
    first, second = (toy_scene.render(toy_scene.scene(np.random.default_rng(5), 64), 0.7) for _ in range(2))
    assert (first == second).all()


# ---------------------------------------------------------------------------------------------- sounds


def test_every_sound_has_its_length_and_loudness_and_differs_from_the_next():
    for kind in range(24):
        rng = np.random.default_rng(kind)
        first, second = sound(kind, rng, 1.5), sound(kind, rng, 1.5)
        assert first.shape == (24000,)
        assert first.dtype == np.float32
        assert 0.09 < np.abs(first).max() < 0.81
        assert not np.array_equal(first, second)


@pytest.mark.parametrize("colour", COLOURS)
def test_the_colour_sets_the_pitch_band(colour):
    pitches_hz = dict(zip(COLOURS, (165, 250, 380, 575, 870, 1320), strict=True))
    for seed in range(4):
        power = np.abs(np.fft.rfft(sound(toy_scene.class_id(f"{colour} square"), np.random.default_rng(seed), 2.0))) ** 2
        assert np.argmax(power) / 2.0 == pytest.approx(pitches_hz[colour], rel=0.25)


def test_the_signal_to_noise_ratio_is_what_was_asked_for():
    tone = np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    mixed = with_noise(tone, np.random.default_rng(0), snr_db=10).astype(float)
    gain = mixed @ tone / (tone @ tone)
    assert 10 * np.log10(np.mean((gain * tone) ** 2) / np.mean((mixed - gain * tone) ** 2)) == pytest.approx(10, abs=0.3)


@pytest.mark.parametrize(("from_hz", "to_hz"), [(16000, 44100), (22050, 16000)])
def test_resampling_keeps_a_tone(from_hz, to_hz):
    tone = {rate: np.sin(2 * np.pi * 440 * np.arange(rate // 2) / rate) for rate in (from_hz, to_hz)}
    resampled = resample(tone[from_hz], from_hz, to_hz)
    assert len(resampled) == to_hz // 2
    assert np.abs(resampled - tone[to_hz])[500:-500].max() < 0.002


# ---------------------------------------------------------------------------------------------- speech


def test_words_come_with_their_times_in_order_up_to_the_end():
    waveform, words = say("look at the red circle", "en-us+f2", rate_wpm=170)
    assert [word.text for word in words] == ["look", "at", "the", "red", "circle"]
    assert all(a.start_s < a.end_s == b.start_s for a, b in pairwise(words))
    assert words[-1].end_s == pytest.approx(len(waveform) / SAMPLE_RATE_HZ, abs=0.001)


def test_a_word_is_where_its_time_says():
    # The same beginning sounds the same, so two texts part where their third word starts (less the sounds that lean on the next one).
    first, words = say("the red circle", "en-us+m3")
    second, _ = say("the red star", "en-us+m3")
    shorter = min(len(first), len(second))
    parting_s = np.nonzero(np.abs(first[:shorter] - second[:shorter]) > 0.05)[0][0] / SAMPLE_RATE_HZ
    assert parting_s == pytest.approx(words[2].start_s, abs=0.08)


def test_what_was_said_before_changes_nothing():
    first, _ = say("a red star", "en-us+f2")
    say("a blue square", "en+m1", rate_wpm=200)
    assert np.array_equal(first, say("a red star", "en-us+f2")[0])


def test_there_are_at_least_six_voices_and_all_differ_and_faster_is_shorter():
    spoken = {name: say("a red star", voice, 170, pitch)[0] for name, (voice, pitch) in SPEAKERS.items()}
    assert len({waveform.tobytes() for waveform in spoken.values()}) == len(SPEAKERS) >= 6
    assert all(np.abs(waveform).max() > 0.1 for waveform in spoken.values())
    assert len(say("a red star", "en-us", 220)[0]) < 0.8 * len(say("a red star", "en-us", 150)[0])


def test_an_unknown_voice_is_named():
    with pytest.raises(UsageError, match="no voice 'nobody'"):
        say("a red star", "nobody")


# ---------------------------------------------------------------------------------------------- layouts


def test_the_audioset_half_has_the_published_tables_and_one_video_for_each_row_but_the_missing(out):
    lines = (out / "audioset/unbalanced_train_segments.csv").read_text().splitlines()
    assert all(line.startswith("# ") for line in lines[:3])
    assert len(lines) == 3 + 12
    mids = [row["mid"] for row in csv.DictReader((out / "audioset/class_labels_indices.csv").read_text().splitlines())]
    there = 0
    for row in csv.reader(lines[3:], skipinitialspace=True):
        ytid, start_s, end_s, mid = row
        assert len(ytid) == 11
        assert float(end_s) - float(start_s) == 2.0
        assert mid in mids
        there += (out / f"audioset/videos/{ytid}_{round(float(start_s) * 1000)}.mp4").exists()
    assert there == 11


def test_videos_show_the_scene_and_carry_the_sound_and_the_damaged_ones_do_not(out):
    outcomes = []
    for path in sorted((out / "audioset/videos").iterdir()):
        try:
            with av.open(str(path)) as container:
                video, sounds = container.streams.video[0], container.streams.audio
                assert (video.codec_context.name, video.codec_context.pix_fmt, video.average_rate) == ("h264", "yuv420p", 10)
                assert len(list(container.decode(video=0))) == 20
                outcomes.append("whole" if sounds and sounds[0].codec_context.name == "aac" else "without sound")
        except av.error.InvalidDataError:
            outcomes.append("cut off")
    assert sorted(outcomes) == ["cut off"] + ["whole"] * 11 + ["without sound"]


def test_a_video_is_the_rendered_scene(config, out):
    rng = np.random.default_rng([3, 1, 0])
    rng.integers(64, size=11), rng.integers(0, 600)
    picture = toy_scene.scene(rng, 64)
    ytid, start_s, *_ = csv.reader([(out / "audioset/eval_segments.csv").read_text().splitlines()[3]]).__next__()
    with av.open(str(out / f"audioset/videos/{ytid}_{round(float(start_s) * 1000)}.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    for number in (0, 19):
        error = frames[number].astype(float) - toy_scene.render(picture, number / config.fps)
        assert np.sqrt(np.mean(error**2)) < 16


def test_captions_name_two_objects_of_their_picture_and_fit_the_longest_duration(config, out):
    for split, part, count in (("train", 2, 4), ("val", 3, 2)):
        table = json.loads((out / f"places_audio/metadata/{split}.json").read_text())
        assert len(table["data"]) == count
        for number, row in enumerate(table["data"]):
            picture = toy_scene.scene(np.random.default_rng([3, part, number]), 64)
            named = [k for k, name in enumerate(CLASSES) if name in row["asr_text"]]
            assert len(named) == 2
            assert set(named) <= set(picture.kinds)
            assert row["speaker"] in SPEAKERS
            info = soundfile.info(out / "places_audio" / table["audio_base_path"] / row["wav"])
            assert (info.samplerate, info.channels, info.subtype) == (16000, 1, "PCM_16")
            assert info.duration <= config.max_caption_s
            with Image.open(out / "places_audio" / table["image_base_path"] / row["image"]) as image:
                assert image.size == (64, 64)


def test_each_prompt_has_its_object_in_the_annotation_and_its_word_inside_the_speech(out):
    folder = out / "prompted_ade20k"
    rows = list(csv.DictReader((folder / "prompted_segmentation.csv").read_text().splitlines()))
    assert list(rows[0]) == ["image_location", "ade_class_id", "speech_prompt_file", "timing", "vggsound_file"]
    assert sorted(int(row["ade_class_id"]) for row in rows) == sorted(toy_layouts.ade_class_id(k) for k in range(24))
    for row in rows:
        stem = Path(row["image_location"]).stem
        colours = np.asarray(Image.open(folder / "annotations" / f"{stem}_seg.png")).astype(int)
        ids = colours[..., 0] // 10 * 256 + colours[..., 1]
        assert (ids == int(row["ade_class_id"])).sum() > 40
        assert set(np.unique(ids)) <= {0} | {toy_layouts.ade_class_id(k) for k in range(24)}
        start_s, end_s = json.loads(row["timing"])
        assert 0 < start_s < end_s <= soundfile.info(folder / "audio" / Path(row["speech_prompt_file"]).name).duration
        assert soundfile.info(folder / "audio" / Path(row["vggsound_file"]).name).duration == 2.0


def test_the_annotation_colours_give_back_the_class():
    kinds = np.arange(-1, 24, dtype=np.int16).reshape(5, 5)
    colours = toy_layouts.annotation(kinds).astype(int)
    ids = colours[..., 0] // 10 * 256 + colours[..., 1]
    assert ids[0, 0] == 0
    assert ids.ravel()[1:].tolist() == [101 + 37 * k for k in range(24)]


# ---------------------------------------------------------------------------------------------- the command


def test_the_same_settings_give_the_same_bytes_on_another_number_of_processes_also_after_a_kill(out, tmp_path):
    arguments = [f"{key}={value}" for key, value in SMALL.items()] + [f"out={tmp_path / 'world'}", "processes=1"]
    command = [sys.executable, "-m", "pipelines.sources.toy_world", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    videos = tmp_path / "world/audioset/videos"
    while process.poll() is None and not (videos.is_dir() and list(videos.glob("*.mp4"))):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "world/audioset/unbalanced_train_segments.csv").exists()
    subprocess.run(command, check=True, capture_output=True)
    assert files_of(tmp_path / "world") == files_of(out)


def test_a_finished_world_is_left_alone_and_a_removed_file_comes_back(config, out, capsys):
    before = files_of(out)
    toy_world.main(config)
    assert "is complete" in capsys.readouterr().out
    wav = out / "places_audio/wavs/train/000001.wav"
    other = (out / "places_audio/wavs/train/000002.wav").stat().st_mtime_ns
    wav.unlink()
    toy_world.main(config)
    assert files_of(out) == before
    assert (out / "places_audio/wavs/train/000002.wav").stat().st_mtime_ns == other


def test_other_settings_in_the_same_folder_are_refused_by_name(config):
    with pytest.raises(UsageError, match=r"seed=3 \(now 4\)"):
        toy_world.main(ToyWorldConfig(**{**vars(config), "seed": 4}))


def test_a_folder_with_other_data_is_refused_and_untouched(tmp_path):
    (tmp_path / "audioset").mkdir()
    (tmp_path / "audioset/mine.txt").write_text("real data")
    with pytest.raises(UsageError, match=r"holds audioset but no toy_world\.json"):
        toy_world.main(ToyWorldConfig(out=str(tmp_path), **SMALL))
    assert files_of(tmp_path).keys() == {"audioset/mine.txt"}


@pytest.mark.parametrize(("key", "value"), [("image_size_px", 65), ("prompts", 0), ("damaged_share", 1.5), ("clip_duration_s", 0.1), ("out", "")])
def test_a_setting_out_of_range_is_named(key, value, tmp_path):
    with pytest.raises(UsageError, match=key):
        toy_world.main(ToyWorldConfig(**{"out": str(tmp_path), **SMALL, key: value}))


def test_the_toy_world_needs_no_torch():
    code = "import sys, pipelines.sources.toy_world; from pipelines.sources import toy_speech; toy_speech.say('a red star'); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
