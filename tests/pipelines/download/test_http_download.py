"""Plain files over HTTP from a loopback server: resumed, complete or absent, and never another file than before."""

import hashlib

import pytest
from media_server import serve_media

pytest.importorskip("requests", reason="extra download is not installed")

from configs.errors import CommandFailed, UsageError
from configs.schema import DownloadConfig, DownloadFileConfig, SourceConfig
from pipelines.download.file_downloads import FileDownloads
from pipelines.download.files import missing_by_hand
from pipelines.download.http_download import HttpDownload, HttpOptions
from pipelines.download.ledger import Ledger, ledger_path, read_ledger

CONTENT = bytes(range(256)) * 4000
ARRIVED = len(CONTENT) * 6 // 10 // (1 << 14) << 14  # of a short answer, in whole chunks
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "www"
    folder.mkdir()
    (folder / "a.bin").write_bytes(CONTENT)
    with serve_media(folder) as server:
        yield server


@pytest.fixture
def root(tmp_path):
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def _download(server, root, slept=None, **options):
    pauses = [] if slept is None else slept
    defaults = {"retries": 3, "timeout_s": 1.0, "sleep": pauses.append}
    download = HttpDownload(
        f"{server.address}/a.bin", root / "a.bin", HttpOptions(**defaults | options), lambda *_: None
    )  # fmt: skip
    download.run()
    download.finish()


def _ranges(server):
    return [wanted for _, wanted in server.requests]


@pytest.mark.parametrize("fault", ["500", "503", "short", "stall"])
def test_failures_are_retried_and_what_has_arrived_is_kept(server, root, fault):
    server.faults["a.bin"] = [fault]
    _download(server, root)
    assert (root / "a.bin").read_bytes() == CONTENT and len(list(root.iterdir())) == 1
    arrived = f"bytes={ARRIVED}-" if fault in ("short", "stall") else None
    assert _ranges(server) == [None, arrived]


def test_a_killed_download_continues_where_it_was(server, root):
    server.faults["a.bin"] = ["short", "503", "..."]
    with pytest.raises(CommandFailed, match=r"HTTP 503 .*3 attempts in a row; run the same command again"):
        _download(server, root)
    assert (root / ".a.bin.part").stat().st_size == ARRIVED
    server.faults.clear()
    server.requests.clear()
    _download(server, root)
    assert (root / "a.bin").read_bytes() == CONTENT and _ranges(server) == [f"bytes={ARRIVED}-"]


def test_attempts_that_make_progress_are_not_counted(server, root):
    server.faults["a.bin"] = ["500", "500", "short", "500", "500"]
    _download(server, root)
    assert _ranges(server) == [None, None, None, *[f"bytes={ARRIVED}-"] * 3]


def test_server_without_ranges_starts_over(server, root):
    server.faults["a.bin"] = ["short", "no-range"]
    _download(server, root)
    assert (root / "a.bin").read_bytes() == CONTENT


def test_a_file_that_changed_meanwhile_starts_over(server, root):
    server.faults["a.bin"] = ["short", "404"]
    with pytest.raises(CommandFailed, match="HTTP 404"):
        _download(server, root)
    other = CONTENT[::-1]
    (server.folder / "a.bin").write_bytes(other)
    _download(server, root)
    assert (root / "a.bin").read_bytes() == other


def test_a_download_that_shrinks_starts_over_with_a_message(server, root, capsys):
    server.headers["a.bin"] = {"ETag": '"same"'}
    server.faults["a.bin"] = ["short", "404"]
    with pytest.raises(CommandFailed, match="HTTP 404"):
        _download(server, root)
    for size in (len(CONTENT) * 8 // 10, 1000):  # a smaller total, and one that has been passed (416)
        (server.folder / "a.bin").write_bytes(CONTENT[:size])
        _download(server, root)
        assert (root / "a.bin").read_bytes() == CONTENT[:size]
        assert "the download starts over" in capsys.readouterr().err
        (root / "a.bin").unlink()
        (root / ".a.bin.part").write_bytes(CONTENT[:600_000])
        (root / ".a.bin.part.json").write_text(
            f'{{"url": "{server.address}/a.bin", "validator": "\\"same\\"", "total_bytes": {len(CONTENT)}}}'
        )


def test_retry_after_is_respected_up_to_a_limit(server, root):
    server.headers["429"] = {"Retry-After": "7"}
    server.faults["a.bin"] = ["429"]
    slept = []
    _download(server, root, slept)
    assert slept[0] == 7.0
    server.headers["503"] = {"Retry-After": "4000"}
    server.faults["a.bin"] = ["503"]
    with pytest.raises(CommandFailed, match="to be retried after 4000 s"):
        _download(server, root)


def test_web_page_in_place_of_a_file_is_refused(server, root):
    server.faults["a.bin"] = ["html"]
    with pytest.raises(CommandFailed, match=r"answered a web page in place of a\.bin"):
        _download(server, root)
    (server.folder / "a.bin").write_bytes(b"\n <!DOCTYPE html><title>Log in</title>")
    with pytest.raises(CommandFailed, match="answered a web page"):
        _download(server, root)
    assert not list(root.iterdir())


def test_server_that_cannot_be_reached_is_one_line(root):
    with pytest.raises(CommandFailed, match="run the same command again"):
        HttpDownload("http://127.0.0.1:9/a.bin", root / "a.bin", HttpOptions(sleep=lambda _: None), print).run()


def _fetch(server, root, **file):
    config = DownloadConfig(
        source=SourceConfig(root=str(root), split="eval"),
        files=[DownloadFileConfig(url=f"{server.address}/a.bin", **file)],
        retries=2,
        timeout_s=1.0,
    )
    with Ledger(ledger_path(root)) as ledger:
        return FileDownloads(config, ledger).run()


def test_a_complete_file_is_recorded_and_not_requested_again(server, root):
    assert _fetch(server, root, path="tables/a.bin") == 1
    entry = read_ledger(root)["file:tables/a.bin"]
    assert (entry.status, entry.size_bytes, entry.sha256) == ("done", len(CONTENT), SHA256)
    server.requests.clear()
    assert _fetch(server, root, path="tables/a.bin") == 0 and not server.requests


def test_file_of_another_split_is_not_downloaded(server, root):
    assert _fetch(server, root, split="train") == 0 and not server.requests


def test_file_that_was_put_there_by_hand_is_taken_over(server, root):
    (root / "a.bin").write_bytes(CONTENT)
    _fetch(server, root, sha256=SHA256)
    assert not server.requests and read_ledger(root)["file:a.bin"].sha256 == SHA256


def test_another_content_than_the_first_is_an_error_and_the_old_file_is_kept(server, root):
    _fetch(server, root)
    (root / "a.bin").write_bytes(CONTENT[:100])
    (server.folder / "a.bin").write_bytes(CONTENT[::-1])
    with pytest.raises(CommandFailed, match=r"another content .*the first download.*is kept as it is"):
        _fetch(server, root)
    assert (root / "a.bin").read_bytes() == CONTENT[:100]
    with pytest.raises(CommandFailed, match=r"files: sha256 of b\.bin.*nothing was stored"):
        _fetch(server, root, path="b.bin", sha256=SHA256)
    assert {path.name for path in root.iterdir()} == {"a.bin", "download.jsonl"}


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ({"path": "../a.bin"}, "must be a file below source.root"),
        ({"path": "/a.bin"}, "must be a file below source.root"),
        ({"sha256": "12"}, "must be 64 hexadecimal digits"),
    ],
)
def test_invalid_file_settings_are_named(server, root, file, message):
    with pytest.raises(UsageError, match=message):
        _fetch(server, root, **file)


def test_what_is_fetched_by_hand_is_listed_until_it_is_there(root):
    from configs.schema import ByHandConfig

    config = DownloadConfig(
        source=SourceConfig(root=str(root)), by_hand=[ByHandConfig(path="images", text="ask\n  them")]
    )
    assert missing_by_hand(config) == [f"by hand: {root}/images: ask them"]
    (root / "images").mkdir()
    assert missing_by_hand(config) == []
