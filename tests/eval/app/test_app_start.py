"""`python -m eval.app`: its start and exit, and servers with limits or an index of their own."""

import shutil
import subprocess
import sys

import numpy as np
import psutil
import pytest
from odd_media import png
from paths import ROOT
from tiny_app import App, Visitor, tiny_app, video_path, write_tiny_model
from tiny_media import write_video, write_wav


@pytest.mark.slow
def test_a_full_disk_gives_a_message_and_the_server_goes_on(tmp_path, clip):
    from tiny_disk import tiny_disk

    with tiny_disk(tmp_path, "6m") as disk, tiny_app(tmp_path, f"temp={disk}") as app:
        filler = app.temp / "filler"
        visitor = Visitor(App(app.process, app.url, disk, app.log))
        upload = visitor.upload(clip)
        room = shutil.disk_usage(disk).free - 1_100_000
        filler.parent.mkdir(exist_ok=True)
        (disk / "filler").write_bytes(b"x" * room)
        assert "full" in visitor.http.post("/gradio_api/upload", files={"files": ("a.mp4", b"x" * 2_000_000)}).text
        (disk / "more").write_bytes(b"x" * 1_050_000)
        visitor.join("run-video", upload, "heatmap", "bilinear", 0)
        assert "full" in visitor.answer()["error"]
        for name in ("filler", "more"):
            (disk / name).unlink()
        assert video_path(visitor.localize(clip)).is_file()


@pytest.mark.slow
def test_a_sound_finds_clips_of_an_index_and_the_results_run_no_script(tmp_path, clip):
    pytest.importorskip("lancedb")
    media, index = tmp_path / "media", tmp_path / "index"
    for name in ("<b>dog", "bell"):
        (media / name).mkdir(parents=True)
        shutil.copy(clip, media / name / "clip.mp4")
    model = write_tiny_model(tmp_path / "model")
    command = [sys.executable, "-m", "eval.search", f"index={index}", f"build={media}", f"checkpoint={model}"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=240)
    with tiny_app(tmp_path, f"index={index}") as app:
        visitor = Visitor(app)
        visitor.join("run-search", visitor.upload(write_wav(tmp_path / "sound.wav", np.sin(np.arange(16000) / 5))), 0)
        page = visitor.answer()["data"][0]
        assert page.startswith("<iframe sandbox srcdoc=") and "data:image/jpeg" in page and "<b>" not in page
        assert str(tmp_path) not in page, "the page names folders of the server"
        visitor.join("run-search", visitor.upload(tmp_path / "model/config.json"), 0)
        assert "config.json" in visitor.answer()["error"]


@pytest.mark.slow
def test_jobs_that_take_too_long_or_too_much_memory_are_stopped(tmp_path):
    with tiny_app(tmp_path, "timeout_s=1", "max_duration_s=3000") as app:
        long = write_video(tmp_path / "long.mp4", duration_s=120.0, fps=25)
        assert "longer than 1 s" in Visitor(app).localize(long)["error"]
    with tiny_app(tmp_path, "memory_gb=0.1", "max_megapixels=200") as app:
        (tmp_path / "large.png").write_bytes(png(9000, 9000, rows=(b"\0" * 27_001) * 9000))
        visitor = Visitor(app)
        visitor.join("run-features", visitor.upload(tmp_path / "large.png"), "", "pretrained", "", 0)
        assert "more memory" in visitor.answer()["error"]


def test_sigterm_deletes_the_temporary_folder_and_exits_with_0(tmp_path, app):
    with tiny_app(tmp_path, f"checkpoint={app.temp.parent / 'model'}") as own:
        worker = psutil.Process(own.process.pid).children()
        assert list(own.temp.iterdir())
        assert own.stop() == 0 and not list(own.temp.iterdir())
        _, alive = psutil.wait_procs(worker, timeout=10)  # the last ones end when they notice that their parent has
        assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "checkpoint= is missing"),
        (["checkpoint={}"], "no model found"),
        (["checkpoint={}/other"], "config.json"),
        (["checkpoint={}", "host=192.0.2.1"], "cannot be listened on"),
        (["checkpoint={}", "port=0"], "port"),
    ],
)
def test_a_wrong_checkpoint_or_address_is_one_line_and_exit_code_2(tmp_path, arguments, message):
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"architectures": ["BertModel"]}')
    (other / "model.safetensors").write_bytes(b"\0" * 8)
    done = _start(*(argument.format(tmp_path) for argument in arguments), f"temp={tmp_path}")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1) and message in done.stderr
    assert list(tmp_path.iterdir()) == [other]


def test_without_gradio_one_line_names_the_command_that_installs_it(tmp_path):
    code = (
        "import sys; sys.modules['gradio'] = None; from eval.app.__main__ import *; sys.exit(run(AppConfig, '', main))"
    )
    done = _start(f"checkpoint={tmp_path}", program=["-c", code])
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and 'pip install "denseav-trainer[app]"' in done.stderr


def _start(*arguments: str, program=("-m", "eval.app")) -> subprocess.CompletedProcess:
    command = [sys.executable, *program, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
