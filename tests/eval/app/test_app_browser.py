"""The page in a browser (Debian's chromium): upload, wait, the video plays, without errors or outside requests."""

import contextlib

import numpy as np
import pytest
from chromium import chromium, needs_chromium
from odd_media import png
from tiny_app import TIMEOUT_S, wait_until
from tiny_media import write_video, write_wav

pytestmark = needs_chromium
# Of the frame that is shown: the largest value of a pixel.
BRIGHTEST = """video => {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  const drawing = canvas.getContext("2d");
  drawing.drawImage(video, 0, 0);
  const values = drawing.getImageData(0, 0, canvas.width, canvas.height).data;
  return values.reduce((most, value, index) => index % 4 == 3 ? most : Math.max(most, value), 0);
}"""


@pytest.fixture(scope="module")
def browser():
    with chromium(TIMEOUT_S) as browser:
        yield browser


@pytest.fixture
def open_page(app, browser):
    """Opens pages, each a visitor of its own; at the end there must be no error and no request to another host."""
    problems, contexts = [], []

    def open_page(width_px: int = 1400):
        contexts.append(browser.new_context(viewport={"width": width_px, "height": 900}))
        page = contexts[-1].new_page()
        page.set_default_timeout(TIMEOUT_S * 1000)
        page.on("console", lambda message: message.type == "error" and problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: _is_outside(request.url, app.url) and problems.append(request.url))
        page.goto(app.url)
        page.wait_for_selector("#run-video")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not problems


def _is_outside(url: str, own: str) -> bool:
    return not url.startswith((own, "data:", "blob:"))


def _upload(page, place: str, path) -> None:
    page.set_input_files(f"{place} input[type=file]", path)
    page.wait_for_selector(f"{place} :is(video, img, audio, #waveform)", state="attached")


def _expect_error(page, text: str) -> None:
    """Wait for the error message with a text, beside those of the player, and close what can be closed."""
    page.wait_for_selector(f'.toast-body:has-text("{text}")')
    with contextlib.suppress(Exception):
        page.click(".toast-close", timeout=2000)


def _assert_plays(page, duration_s: float) -> None:
    video = page.wait_for_selector("#result video")
    page.wait_for_function("document.querySelector('#result video').readyState >= 3")
    assert video.evaluate("video => video.duration") == pytest.approx(duration_s, abs=0.15)
    video.evaluate("video => { video.muted = true; video.currentTime = 0; return video.play() }")
    page.wait_for_function("document.querySelector('#result video').currentTime > 0.2")
    assert video.evaluate(BRIGHTEST) > 40
    page.wait_for_function("parseFloat(document.querySelector('#timeline .mark').style.left) > 0")


def test_an_uploaded_video_plays_with_its_heatmap_and_can_be_downloaded(open_page, clip):
    page = open_page()
    _upload(page, "#video", clip)
    page.click("#run-video")
    _assert_plays(page, 2.0)
    assert page.locator("#timeline polyline").count() == 2
    with page.expect_download() as download:
        page.click("#download")
    assert download.value.suggested_filename.endswith(".mp4")


def test_a_file_that_is_not_a_video_gives_a_message_on_a_narrow_page(open_page, tmp_path):
    (tmp_path / "text.mp4").write_text("This is not a video.")
    page = open_page(420)
    page.set_input_files("#video input[type=file]", tmp_path / "text.mp4")
    page.wait_for_selector("#video video", state="attached")
    page.click("#run-video")
    page.wait_for_selector(".toast-body:has-text('text.mp4 cannot be used')")
    assert page.evaluate("document.documentElement.scrollWidth") <= 420, "the page is wider than a phone"


@pytest.mark.slow
def test_another_view_a_picture_with_a_sound_and_features_are_shown(open_page, tmp_path):
    rows = b"".join(b"\0" + bytes([(7 * row + column) % 256 for column in range(120)]) for row in range(30))
    (tmp_path / "picture.png").write_bytes(png(40, 30, rows=rows))
    page = open_page()
    page.get_by_role("tab", name="Picture and sound").click()
    _upload(page, "#image", tmp_path / "picture.png")
    _upload(page, "#sound", write_wav(tmp_path / "sound.wav", np.sin(np.arange(48_000) / 5)))
    page.click("#run-image")
    _assert_plays(page, 3.0)
    old = page.get_attribute("#result video", "src")
    page.click("#view input")
    page.get_by_role("option", name="Side by side").click()
    page.wait_for_function("old => document.querySelector('#result video').src != old", arg=old)
    _assert_plays(page, 3.0)
    page.get_by_role("tab", name="Features").click()
    _upload(page, "#features-image", tmp_path / "picture.png")
    page.click("#encoder input")
    page.get_by_role("option", name="DINO ViT-S/16").click()
    page.click("#weights input")
    page.get_by_role("option", name="Random").click()
    page.click("#run-features")
    page.wait_for_function("document.querySelector('#features-result img')?.naturalWidth > 100")


@pytest.mark.slow
def test_ten_visitors_at_once_each_see_their_own_video(open_page, tmp_path):
    durations = [1.0 + 0.2 * number for number in range(10)]
    pages = [open_page() for _ in durations]
    for page, duration_s in zip(pages, durations, strict=True):
        _upload(page, "#video", write_video(tmp_path / f"{duration_s}.mp4", duration_s, size_px=(160, 120)))
    for page in pages:
        page.click("#run-video")
    for page, duration_s in zip(pages, durations, strict=True):
        _assert_plays(page, duration_s)


@pytest.mark.slow
def test_a_visitor_who_leaves_in_the_middle_leaves_nothing_and_the_next_one_gets_a_result(
    app, open_page, clip, tmp_path
):
    leaving, staying = open_page(), open_page()
    _upload(leaving, "#video", write_video(tmp_path / "long.mp4", 28.0, size_px=(160, 120)))
    leaving.click("#run-video")
    wait_until(app.jobs, "the job does not start")
    leaving.close()
    _upload(staying, "#video", clip)
    staying.click("#run-video")
    _assert_plays(staying, 2.0)
    wait_until(lambda: not list(app.folder.rglob("*long.mp4")), "the upload of a closed page is kept")


@pytest.mark.slow
def test_hostile_uploads_give_messages(open_page, clip, tmp_path):
    page = open_page()
    page.click("#run-video")
    _expect_error(page, "Drop or record a video first")
    (tmp_path / "bomb.png").write_bytes(png(30_000, 30_000, rows=b"\0" * 90_001))
    (tmp_path / "playlist.mp4").write_bytes(b"#EXTM3U\n#EXTINF:10.0,\nfile:///etc/passwd\n")
    page.set_input_files("#video input[type=file]", tmp_path / "playlist.mp4")
    page.click("#run-video")
    _expect_error(page, "cannot be used")
    page.get_by_role("tab", name="Features").click()
    page.set_input_files("#features-image input[type=file]", tmp_path / "bomb.png")
    page.wait_for_selector("#features-image img", state="attached")
    page.click("#run-features")
    _expect_error(page, "bomb.png")
    page.reload()
    (tmp_path / "large.mp4").write_bytes(clip.read_bytes() + b"\0" * 6_000_000)
    page.set_input_files("#video input[type=file]", tmp_path / "large.mp4")
    _expect_error(page, "exceed the maximum allowed size")
