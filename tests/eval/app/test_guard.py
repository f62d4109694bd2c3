"""HTTP rules around the page: which routes, hosts, sizes and origins are refused."""

import asyncio

import pytest

from eval.app.guard import Guard
from eval.app.temp_folder import TempFolder

MAX_BYTES = 1000
HOST = {"host": "127.0.0.1:7860"}


async def _page(_scope, receive, send):
    """Reads the whole body and answers with its size."""
    size = 0
    while (message := await receive())["type"] == "http.request":
        size += len(message.get("body", b""))
        if not message.get("more_body"):
            break
    text = b"disconnected" if message["type"] == "http.disconnect" else b"%d" % size
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": text})


@pytest.fixture
def guard(tmp_path):
    folder = TempFolder(str(tmp_path), max_bytes=5000)
    yield Guard(_page, folder, MAX_BYTES, only_loopback=True)
    folder.remove()


def _ask(guard, method, path, headers=HOST, chunks=(b"",)):
    """Status, headers and body of the response."""
    sent = []
    waiting = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    waiting[-1]["more_body"] = False
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "headers": [(k.encode(), v.encode()) for k, v in headers.items()],
    }

    async def receive():
        return waiting.pop(0)

    async def send(message):
        sent.append(message)

    asyncio.run(guard(scope, receive, send))
    return sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"].decode()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/config"),
        ("GET", "/assets/index.js"),
        ("GET", "/gradio_api/queue/data"),
        ("GET", "/gradio_api/heartbeat/abc"),
        ("GET", "/gradio_api/file=/tmp/clip.mp4"),
        ("HEAD", "/"),
        ("POST", "/gradio_api/upload"),
        ("POST", "/gradio_api/queue/join"),
    ],
)
def test_routes_of_the_page_pass(guard, method, path):
    assert _ask(guard, method, path)[0] == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/gradio_api/proxy=http://example.com/"),
        ("GET", "/gradio_api/file=http://example.com/a.mp4"),
        ("GET", "/gradio_api/file=%68ttp://example.com/a.mp4"),
        ("GET", "/gradio_api/file=file:///etc/passwd"),
        ("GET", "/gradio_api/info"),
        ("GET", "/monitoring"),
        ("GET", "/docs"),
        ("GET", "/gradio_api/stream/a/b/1/playlist.m3u8"),
        ("POST", "/gradio_api/vibe-edit"),
        ("POST", "/gradio_api/component_server"),
        ("POST", "/gradio_api/process_recording"),
        ("POST", "/login"),
        ("GET", "/gradio_api/upload"),
        ("POST", "/"),
        ("PUT", "/gradio_api/upload"),
        ("OPTIONS", "/gradio_api/upload"),
    ],
)
def test_all_other_routes_and_addresses_are_not_found(guard, method, path):
    assert _ask(guard, method, path)[0] == 404


@pytest.mark.parametrize("host", ["evil.example", "evil.example:7860", "127.0.0.1.evil.example", ""])
def test_another_host_name_is_refused_because_it_may_be_a_rebound_one(guard, host):
    assert _ask(guard, "GET", "/", {"host": host})[0] == 403
    guard.only_loopback = False
    assert _ask(guard, "GET", "/", {"host": host})[0] == 200


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:7860", "[::1]:7860", "localhost"])
def test_names_of_this_machine_pass(guard, host):
    assert _ask(guard, "GET", "/", {"host": host})[0] == 200


def test_a_post_of_another_site_is_refused(guard):
    assert _ask(guard, "POST", "/gradio_api/queue/join", HOST | {"origin": "https://evil.example"})[0] == 403
    assert _ask(guard, "POST", "/gradio_api/queue/join", HOST | {"origin": "null"})[0] == 403
    assert _ask(guard, "POST", "/gradio_api/queue/join", HOST | {"origin": "http://127.0.0.1:7860"})[0] == 200


def test_an_upload_that_states_too_much_is_refused_before_it_is_read(guard):
    status, _, text = _ask(guard, "POST", "/gradio_api/upload", HOST | {"content-length": "2000000000"})
    assert status == 413 and "larger than 0.001 MB" in text


def test_a_body_that_is_longer_than_stated_is_cut_off(guard):
    chunks = [b"x" * 60_000] * 20
    assert _ask(guard, "POST", "/gradio_api/upload", chunks=chunks)[2] == "disconnected"
    assert _ask(guard, "POST", "/gradio_api/queue/join", chunks=chunks)[2] == "disconnected"
    assert _ask(guard, "POST", "/gradio_api/queue/join", chunks=chunks[:2])[2] == "120000"


def test_an_upload_without_room_is_refused_with_a_message(guard):
    (guard.folder.uploads / "old").write_bytes(b"x" * 4990)
    status, _, text = _ask(guard, "POST", "/gradio_api/upload", HOST | {"content-length": "11"})
    assert status == 507 and "full" in text
    assert _ask(guard, "POST", "/gradio_api/upload", HOST | {"content-length": "10"})[0] == 200


def test_responses_allow_no_address_outside_the_server(guard):
    policy = _ask(guard, "GET", "/")[1][b"content-security-policy"].decode()
    assert "default-src 'self'" in policy and "http" not in policy and "*" not in policy


def test_the_health_check_needs_no_page(guard):
    assert _ask(guard, "GET", "/health") == (
        200,
        {b"content-type": b"text/plain; charset=utf-8", b"x-content-type-options": b"nosniff"},
        "ok",
    )
