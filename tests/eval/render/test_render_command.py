"""python -m eval.render: checks its settings first, and leaves a whole file or none."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from odd_media import png
from tiny_disk import tiny_disk
from tiny_maps import red_and_blue, write_halves
from tiny_media import write_video

from configs.errors import UsageError
from configs.schema import RenderConfig
from eval.render.__main__ import _read_words, main
from eval.render.render import render_image, render_video
from eval.render.writer import VideoWriter

BENCH = Path(__file__).resolve().parents[2] / "bench/bench_render.py"
SLOW_WRITER = """
import sys, time
import numpy as np
from pathlib import Path
from eval.render.writer import VideoWriter
with VideoWriter(Path(sys.argv[1]), None, 25, 1000) as writer:
    for number in range(100_000):
        writer.write(np.random.default_rng(number).integers(0, 255, (480, 640, 3), dtype=np.uint8), number / 25)
        if number == 60:
            print("writing", flush=True)
"""


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"out": ""}, "out= is missing"),
        ({"video": ""}, "give video=, or image= and sound="),
        ({"image": "in.mp4"}, "give video=, or image= and sound="),
        ({"video": "", "image": "in.mp4"}, "belong together"),
        ({"video": "no.mp4"}, "video=.*no.mp4: no such file"),
        ({"words": "no.json"}, "words=.*no.json: no such file"),
        ({"out": "x.webm"}, "which ends with .mp4, such as"),
        ({"out": "x.png"}, "which ends with .mp4, such as"),
        ({"out": "folder.mp4"}, "is a folder"),
        ({"out": "./in.mp4"}, "is the input video=, which would be overwritten"),
        ({"out": "link.mp4"}, "is the input video=, which would be overwritten"),
    ],
)
def test_invalid_settings_are_refused_before_the_model_is_loaded(tmp_path, monkeypatch, settings, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.mp4").write_bytes(b"video")
    (tmp_path / "link.mp4").symlink_to("in.mp4")
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(UsageError, match=message):
        main(RenderConfig(**({"checkpoint": "nowhere", "video": "in.mp4", "out": "out.mp4"} | settings)))
    assert (tmp_path / "in.mp4").read_bytes() == b"video"


def test_words_are_read_from_a_list_or_from_a_clip(tmp_path):
    words = [{"word": "b", "start_s": 1, "end_s": 2}, {"word": "a", "start_s": 0.5, "end_s": 0.7}]
    for content in (words, {"id": "x", "words": words}):
        (tmp_path / "w.json").write_text(json.dumps(content))
        assert _read_words(tmp_path / "w.json") == (("a", 0.5, 0.7), ("b", 1.0, 2.0))
    for wrong in ("[1]", "{", '[{"word": "a", "start_s": 2, "end_s": 1}]', "3", '[{"word": "a"}]'):
        (tmp_path / "w.json").write_text(wrong)
        with pytest.raises(UsageError, match=r"words=.*w\.json cannot be read"):
            _read_words(tmp_path / "w.json")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (png(20000, 20000), "20000 x 20000 pixels; at most|bomb"),
        (png(9000, 9000), "9000 x 9000 pixels; at most 67108864 are allowed"),
        (b"no picture", "not a complete image"),
        (png(64, 64), "not a complete image"),
    ],
)
def test_hostile_image_is_refused_in_one_line(tmp_path, data, message):
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(UsageError, match=message) as raised:
        render_image(red_and_blue(), tmp_path / "a.png", (np.ones(16000), 16000), tmp_path / "out.mp4")
    assert "\n" not in str(raised.value) and not (tmp_path / "out.mp4").exists()


def test_sound_without_audio_is_refused(tmp_path):
    write_video(tmp_path / "in.mp4", 0.3, audio=False)
    with pytest.raises(UsageError, match="cannot be used as a sound: it has no audio"):
        render_image(red_and_blue(), np.zeros((48, 48, 3), np.uint8), tmp_path / "in.mp4", tmp_path / "out.png")


def test_sound_that_turns_bad_leaves_nothing(tmp_path):
    sound = np.full(32000, 0.1, np.float32)
    sound[30000:] = np.nan
    soundfile.write(tmp_path / "a.wav", sound, 16000, subtype="FLOAT")
    (tmp_path / "out.mp4").write_bytes(b"older")
    with pytest.raises(UsageError, match="NaN or infinite"):
        render_image(red_and_blue(), np.zeros((48, 48, 3), np.uint8), tmp_path / "a.wav", tmp_path / "out.mp4")
    assert (tmp_path / "out.mp4").read_bytes() == b"older" and len(list(tmp_path.iterdir())) == 2


def _start(out):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_WRITER, out], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout.readline() == b"writing\n"
    return process


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_or_killed_writer_leaves_the_older_file(tmp_path, sent):
    (tmp_path / "out.mp4").write_bytes(b"older")
    process = _start(tmp_path / "out.mp4")
    time.sleep(0.2)
    process.send_signal(sent)
    assert process.wait(60) != 0
    process.stdout.close()
    assert (tmp_path / "out.mp4").read_bytes() == b"older"
    left = [path.name for path in tmp_path.iterdir() if path.name != "out.mp4"]
    assert not left if sent == signal.SIGINT else all(name.startswith(".out.mp4") for name in left)


def test_full_disk_leaves_nothing(tmp_path):
    noise = np.random.default_rng(0)
    with tiny_disk(tmp_path, "300k") as disk:
        with (
            pytest.raises(OSError, match="No space left"),
            VideoWriter(disk / "out.mp4", None, 25, 4.0) as writer,
        ):
            for number in range(100):
                writer.write(noise.integers(0, 255, (240, 320, 3), dtype=np.uint8), number / 25)
        assert not list(disk.iterdir())


def test_folder_that_cannot_be_written_to_is_an_error_of_the_system(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OSError, match=r"exists|directory"):
        render_video(red_and_blue(), write_halves(tmp_path / "in.mp4", 0.3), tmp_path / "file/out.mp4")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_memory_does_not_grow_with_the_duration():
    done = subprocess.run([sys.executable, BENCH, "memory"], capture_output=True, text=True, check=True)
    growth = re.search(r"growth (-?[\d.]+)%", done.stdout)
    assert growth and float(growth[1]) < 10, done.stdout
