"""`python -m eval.app` over HTTP: results, isolation of the server's files, sessions."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import psutil
import pytest
from odd_media import png
from paths import ROOT
from tiny_app import Visitor, file_data, video_path, wait_until
from tiny_media import write_video, write_wav

SECRET = "the server's own file"


def test_a_video_gives_a_video_of_the_same_duration_and_the_similarity_over_time(visitor, clip):
    answer = visitor.localize(clip)
    with av.open(video_path(answer)) as video:
        assert video.duration == pytest.approx(2e6, abs=1e5) and video.streams.audio
    assert video_path(visitor.localize(clip, upsampler="bicubic")).read_bytes() != video_path(answer).read_bytes()
    timeline, download = (item["value"] for item in answer["data"][2:4])
    assert timeline.count("<polyline") == 2 and "2.0 s" in timeline
    assert visitor.http.get(f"/gradio_api/file={download['path']}").content == video_path(answer).read_bytes()


def test_a_picture_and_a_sound_give_a_video(visitor, tmp_path):
    (tmp_path / "picture.png").write_bytes(png(40, 30, rows=(b"\0" + bytes(range(120))) * 30))
    sound = write_wav(tmp_path / "sound.wav", np.sin(np.arange(192_000) / 20), 192_000)  # 192 kHz
    visitor.join("run-image", visitor.upload(tmp_path / "picture.png"), visitor.upload(sound), "heatmap", "bilinear", 0)
    with av.open(video_path(visitor.answer())) as video:
        assert video.duration == pytest.approx(1e6, abs=1e5)


def test_the_features_of_a_picture_are_a_picture(visitor, tmp_path):
    rows = b"".join(b"\0" + bytes([(7 * row + column) % 256 for column in range(120)]) for row in range(30))
    (tmp_path / "picture.png").write_bytes(png(40, 30, rows=rows))
    pictures = []
    for encoder in ("", "vit_small_patch16_224.dino"):
        visitor.join("run-features", visitor.upload(tmp_path / "picture.png"), encoder, "random", "bicubic", 0)
        path = visitor.answer()["data"][0]["path"]
        pictures.append(visitor.http.get(f"/gradio_api/file={path}").content)
    assert all(picture.startswith(b"\x89PNG") for picture in pictures) and pictures[0] != pictures[1]


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
    elsewhere = tmp_path / "elsewhere.mp4"
    elsewhere.write_bytes(clip.read_bytes())
    uploads = f"{app.folder}/uploads"
    for name in (
        "/etc/passwd",
        str(elsewhere),
        f"{uploads}/../../{elsewhere.name}",
        "http://127.0.0.1:1/clip.mp4",
        "https://example.com/clip.mp4",
    ):
        visitor.join("run-video", file_data(name), "heatmap", "bilinear", 0)
        answer = visitor.answer()
        assert "upload" in answer["error"] and "data" not in answer, name
    copied = {path.name for path in (app.folder / "uploads").rglob("*")}
    assert "passwd" not in copied and elsewhere.read_bytes() not in {
        path.read_bytes() for path in (app.folder / "uploads").rglob("elsewhere.mp4")
    }


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
    visitor.join(
        "run-video", visitor.upload(tmp_path / "text.mp4", "<img src=x onerror=alert(1)>.mp4"), "heatmap", "bilinear", 0
    )
    assert "<img" not in visitor.answer()["error"]


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
        visitor.join("run-video", visitor.upload(long), "heatmap", "bilinear", 0)
        wait_until(app.jobs, "the job does not start")
        (job,) = app.jobs()
    wait_until(lambda: not psutil.pid_exists(job.pid) or job.status() == psutil.STATUS_ZOMBIE, "the job goes on", 20)
    wait_until(lambda: not result.parent.parent.exists(), "the files are kept", 20)
    assert video_path(Visitor(app).localize(clip)).is_file()


@pytest.mark.slow
def test_a_killed_job_gives_a_message_and_a_killed_worker_is_started_again(app, visitor, clip, tmp_path):
    long = write_video(tmp_path / "long.mp4", duration_s=29.0, fps=30)
    for victim in ("job", "worker"):
        visitor.join("run-video", visitor.upload(long), "heatmap", "bilinear", 0)
        wait_until(app.jobs, "the job does not start")
        (job,) = app.jobs()
        (job if victim == "job" else job.parent()).kill()
        assert "canceled" in visitor.answer()["error"]
        wait_until(lambda: "data" in Visitor(app).localize(clip), "no job works any more")
