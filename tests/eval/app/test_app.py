"""`python -m eval.app` over HTTP: results, isolation of the server's files, hostile uploads, limits, sessions, exit."""

import shutil
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import psutil
import pytest
from odd_media import png, wav_header
from paths import ROOT
from tiny_app import App, Visitor, file_data, tiny_app, video_path, wait_until, write_tiny_model
from tiny_media import write_video, write_wav

SECRET = "the server's own file"


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    with tiny_app(tmp_path_factory.mktemp("app"), "max_duration_s=30", "max_megapixels=1", "memory_gb=2") as app:
        yield app


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", events_s=(0.5, 1.5))


@pytest.fixture
def visitor(app):
    return Visitor(app)


def test_a_video_gives_a_video_of_the_same_duration_and_the_similarity_over_time(visitor, clip):
    answer = visitor.localize(clip)
    with av.open(video_path(answer)) as video:
        assert video.duration == pytest.approx(2e6, abs=1e5) and video.streams.audio
    timeline, download = (item["value"] for item in answer["data"][2:4])
    assert timeline.count("<polyline") == 2 and "2.0 s" in timeline
    assert visitor.http.get(f"/gradio_api/file={download['path']}").content == video_path(answer).read_bytes()


def test_a_picture_and_a_sound_give_a_video(visitor, tmp_path):
    (tmp_path / "picture.png").write_bytes(png(40, 30, rows=(b"\0" + bytes(range(120))) * 30))
    sound = write_wav(tmp_path / "sound.wav", np.sin(np.arange(192_000) / 20), 192_000)  # 192 kHz
    visitor.join("run-image", visitor.upload(tmp_path / "picture.png"), visitor.upload(sound), "heatmap", 0)
    with av.open(video_path(visitor.answer())) as video:
        assert video.duration == pytest.approx(1e6, abs=1e5)


def test_the_features_of_a_picture_are_a_picture(visitor, tmp_path):
    rows = b"".join(b"\0" + bytes([(7 * row + column) % 256 for column in range(120)]) for row in range(30))
    (tmp_path / "picture.png").write_bytes(png(40, 30, rows=rows))
    visitor.join("run-features", visitor.upload(tmp_path / "picture.png"), 0)
    path = visitor.answer()["data"][0]["path"]
    assert visitor.http.get(f"/gradio_api/file={path}").content.startswith(b"\x89PNG")


# ------------------------------------------------------------------------------------------ files of the server


def test_no_file_outside_the_uploads_is_served(app, visitor, tmp_path):
    (tmp_path / "secret.txt").write_text(SECRET)
    (app.folder / "secret.txt").write_text(SECRET)
    uploads = f"{app.folder}/uploads"
    for name in (
        "/etc/passwd",
        f"{tmp_path}/secret.txt",
        f"{app.folder}/secret.txt",
        f"{uploads}/../secret.txt",
        f"{uploads}/..%2fsecret.txt",
        f"{uploads}/%2e%2e/secret.txt",
        "pyproject.toml",
        f"{ROOT}/pyproject.toml",
        "../../../../../../etc/passwd",
        "file:///etc/passwd",
        uploads,
    ):
        response = visitor.http.get(f"/gradio_api/file={name}")
        assert response.status_code in (403, 404) and SECRET not in response.text and "root:" not in response.text, name


def test_an_event_with_a_path_or_an_address_in_place_of_an_upload_is_refused(app, visitor, tmp_path, clip):
    elsewhere = tmp_path / "clip.mp4"
    elsewhere.write_bytes(clip.read_bytes())
    uploads = f"{app.folder}/uploads"
    for name in (
        "/etc/passwd",
        str(elsewhere),
        f"{uploads}/../../{elsewhere.name}",
        "http://127.0.0.1:1/clip.mp4",
        "https://example.com/clip.mp4",
    ):
        visitor.join("run-video", file_data(name), "heatmap", 0)
        answer = visitor.answer()
        assert "error" in answer and "data" not in answer, name


def test_the_name_of_an_upload_cannot_leave_the_folder(app, visitor, clip):
    for name in ("../../../evil.mp4", "/etc/evil.mp4", "..", "a/../../b.mp4", "..\\..\\evil.mp4", "x" * 300 + ".mp4"):
        response = visitor.http.post("/gradio_api/upload", files={"files": (name, clip.read_bytes())})
        if response.status_code == 200:
            path = Path(response.json()[0]).resolve()
            assert path.is_relative_to(app.folder / "uploads") and path.is_file()
        else:
            assert response.status_code < 500 or len(name) > 255


def test_the_name_of_an_upload_is_not_html_in_a_message(visitor, tmp_path):
    (tmp_path / "text.mp4").write_text("text")
    visitor.join("run-video", visitor.upload(tmp_path / "text.mp4", "<img src=x onerror=alert(1)>.mp4"), "heatmap", 0)
    assert "<img" not in visitor.answer()["error"]


# --------------------------------------------------------------------------------------------------- bad uploads


def _box(kind: bytes, size: int, content: bytes = b"") -> bytes:
    return struct.pack(">I", size) + kind + content


PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10.0,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"
FTYP = _box(b"ftyp", 20, b"isom\0\0\0\0isom")
BAD_VIDEOS = {
    "text": (b"This is not a video.\n" * 100, "cannot be used"),
    "empty": (b"", "cannot be used"),
    "header_of_2_gb": (FTYP + _box(b"moov", 2_000_000_000, b"\0" * 1000), "cannot be used"),
    "playlist": (PLAYLIST, "cannot be used"),
    "concat": (b"ffconcat version 1.0\nfile /etc/passwd\n", "cannot be used"),
}


@pytest.mark.parametrize("name", BAD_VIDEOS)
def test_a_file_that_is_not_a_video_gives_one_message_and_the_next_job_works(visitor, clip, tmp_path, name):
    content, message = BAD_VIDEOS[name]
    (tmp_path / f"{name}.mp4").write_bytes(content)
    error = visitor.localize(tmp_path / f"{name}.mp4")["error"]
    assert message in error and f"{name}.mp4" in error and str(tmp_path.root) + "tmp" not in error
    assert "\n" not in error and "Traceback" not in error and len(error) < 300
    assert video_path(visitor.localize(clip)).is_file()


def test_too_long_and_too_large_videos_give_the_limit(visitor, tmp_path):
    long = write_video(tmp_path / "long.mp4", duration_s=31, fps=2)
    assert "at most 30 s" in visitor.localize(long)["error"]
    large = write_video(tmp_path / "large.mp4", duration_s=0.4, size_px=(1200, 1000))
    assert "at most 1000000" in visitor.localize(large)["error"]


def test_a_video_of_one_pixel_is_localized_or_refused_in_one_line(visitor, tmp_path):
    answer = visitor.localize(write_video(tmp_path / "pixel.mp4", size_px=(1, 1), audio_codec="aac"))
    assert "data" in answer or ("\n" not in answer["error"] and "log says why" not in answer["error"])


def test_videos_without_sound_or_picture_say_so_and_show_what_they_can(visitor, tmp_path):
    for options in ({"audio": False}, {"video": False}):
        answer = visitor.localize(write_video(tmp_path / f"{next(iter(options))}.mp4", **options))
        assert video_path(answer).is_file()


def test_bombs_and_broken_pictures_give_one_message(visitor, tmp_path):
    sound = write_wav(tmp_path / "sound.wav", np.zeros(16000))
    rows = (b"\0" * 90_001) * 3000  # 30000 x 30000 pixels were 2.7 GB
    for name, content in {
        "bomb": png(30_000, 30_000, rows=rows),
        "text": b"text",
        "cut": png(40, 30, rows=b""),
    }.items():
        (tmp_path / f"{name}.png").write_bytes(content)
        visitor.join("run-image", visitor.upload(tmp_path / f"{name}.png"), visitor.upload(sound), "heatmap", 0)
        error = visitor.answer()["error"]
        assert f"{name}.png" in error and "\n" not in error and "log says why" not in error


def test_a_sound_with_a_header_of_2_gb_gives_one_message(visitor, tmp_path):
    (tmp_path / "picture.png").write_bytes(png(40, 30, rows=(b"\0" + b"a" * 120) * 30))
    (tmp_path / "sound.wav").write_bytes(wav_header(1, 2_000_000_000) + b"\0" * 100)
    files = [visitor.upload(tmp_path / name) for name in ("picture.png", "sound.wav")]
    visitor.join("run-image", *files, "heatmap", 0)
    answer = visitor.answer()
    assert "\n" not in answer.get("error", "") and "log says why" not in answer.get("error", "")


def test_values_that_the_page_does_not_offer_are_refused(visitor, clip):
    for view, model in (("../../x", 0), ("head:99", 0), ("heatmap", 99), ("heatmap", -1), ("heatmap", None)):
        visitor.join("run-video", visitor.upload(clip), view, model)
        assert "error" in visitor.answer()


# ------------------------------------------------------------------------------------------------------ sessions


def test_two_visitors_at_once_have_their_own_results(app, clip, tmp_path):
    other = write_video(tmp_path / "other.mp4", duration_s=3.0)
    with ThreadPoolExecutor(2) as threads:
        visitors = [Visitor(app), Visitor(app)]
        first, second = threads.map(lambda pair: pair[0].localize(pair[1]), zip(visitors, (clip, other), strict=True))
    durations = []
    for answer in (first, second):
        with av.open(video_path(answer)) as video:
            durations.append(round(video.duration / 1e6))
    assert durations == [2, 3] and video_path(first).parent.parent != video_path(second).parent.parent


def test_closing_the_page_cancels_its_job_and_deletes_its_files(app, visitor, clip, tmp_path):
    long = write_video(tmp_path / "long.mp4", duration_s=29.0, fps=30)
    with visitor.present():
        result = video_path(visitor.localize(clip))
        visitor.join("run-video", visitor.upload(long), "heatmap", 0)
        wait_until(app.jobs, "the job does not start")
        (job,) = app.jobs()
    wait_until(lambda: not psutil.pid_exists(job.pid) or job.status() == psutil.STATUS_ZOMBIE, "the job goes on", 20)
    wait_until(lambda: not result.parent.parent.exists(), "the files are kept", 20)
    assert video_path(Visitor(app).localize(clip)).is_file()


def test_a_killed_job_gives_a_message_and_a_killed_worker_is_started_again(app, visitor, clip, tmp_path):
    long = write_video(tmp_path / "long.mp4", duration_s=29.0, fps=30)
    for victim in ("job", "worker"):
        visitor.join("run-video", visitor.upload(long), "heatmap", 0)
        wait_until(app.jobs, "the job does not start")
        (job,) = app.jobs()
        (job if victim == "job" else job.parent()).kill()
        assert "canceled" in visitor.answer()["error"]
        wait_until(lambda: "data" in Visitor(app).localize(clip), "no job works any more")


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
        visitor.join("run-video", upload, "heatmap", 0)
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
        visitor.join("run-features", visitor.upload(tmp_path / "large.png"), 0)
        assert "more memory" in visitor.answer()["error"]


# ------------------------------------------------------------------------------------------------ start and exit


def test_sigterm_deletes_the_temporary_folder_and_exits_with_0(tmp_path, app):
    with tiny_app(tmp_path, f"checkpoint={app.temp.parent / 'model'}") as own:
        worker = psutil.Process(own.process.pid).children()
        assert list(own.temp.iterdir())
        assert own.stop() == 0 and not list(own.temp.iterdir())
        assert not any(process.is_running() for process in worker)


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
