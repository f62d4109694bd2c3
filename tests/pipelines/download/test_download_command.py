"""The download command in a real process: what it prints, records and answers, and that nothing is fetched twice."""

import json
import resource
import signal
import time

import pytest
from tiny_disk import tiny_disk
from tiny_download import command, download, last_line, ledger, start, video_page, write_table

pytest.importorskip("yt_dlp", reason="extra download is not installed")

from pipelines.download.clips import MAX_FAILURES_IN_A_ROW


def _segments(server, **pages):
    """One segment from 5 s to 6 s of each page; a text is the error of a page, None a video."""
    for ytid, page in pages.items():
        server.pages[ytid] = {"error": page} if isinstance(page, str) else page or video_page()
    return [(ytid, 5.0, 6.0) for ytid in pages]


def test_every_clip_ends_in_the_folder_or_in_the_ledger_and_nothing_is_fetched_twice(server, tmp_path):
    segments = _segments(
        server,
        here1=None,
        private="Private video. Sign in if you've been granted access to this video",
        abroad={"kind": "geo", "error": "The uploader has not made this video available in your country"},
        later="This live event will begin in 3 hours.",
        here2=None,
    )
    root = write_table(tmp_path / "data", *segments)
    done = download(*command(server, root, "clips_per_hour=36000", "terms=The table is CC BY 4.0."))
    assert done.returncode == 1, done.stderr
    entries = ledger(root)
    assert {row_id: entry["status"] for row_id, entry in entries.items()} == {
        "here1_5000": "done", "private_5000": "gone", "abroad_5000": "not_here", "later_5000": "retry",
        "here2_5000": "done",
    }  # fmt: skip
    for name in ("here1", "here2"):
        assert (root / f"videos/{name}_5000.mp4").stat().st_size == entries[f"{name}_5000"]["size_bytes"]
    assert {path.name for path in root.iterdir() if path.is_dir()} == {"videos"}
    assert "terms: The table is CC BY 4.0." in done.stdout
    assert "clips listed: 5; present: 0;" in done.stdout and "5 clips at 36000 an hour: about a minute" in done.stdout
    assert done.stdout.splitlines()[-4:] == [
        "done               2", "gone               1", "not_here           1", "retry              1",
    ]  # fmt: skip
    assert last_line(done) == "to be tried again: 1; run the same command again"

    server.requests.clear()
    server.pages["later"] = video_page()
    again = download(*command(server, root))
    assert again.returncode == 0, again.stderr
    assert "present: 2; gone: 1; not available here: 1; to download: 1 (1 tried before)" in again.stdout
    assert {path for path, _ in server.requests} == {"info/later.json", "source.mp4"}
    assert ledger(root)["later_5000"]["status"] == "done"

    server.requests.clear()
    assert download(*command(server, root)).returncode == 0 and not server.requests
    server.pages["private"] = video_page()
    assert download(*command(server, root, "retry_gone=true")).returncode == 0
    assert ledger(root)["private_5000"]["status"] == "done" and ledger(root)["abroad_5000"]["status"] == "not_here"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("Sign in to confirm you\u2019re not a bot. Use --cookies-from-browser", "YouTube checks for bots here"),
        ("Video unavailable. This content isn't available, try again later. The current session has been rate-limited",
         "the site limits the rate"),
    ],
)  # fmt: skip
def test_bot_check_and_rate_limit_stop_the_run_and_are_no_missing_clips(server, tmp_path, error, message):
    root = write_table(tmp_path / "data", *_segments(server, a=None, b=error, c=None))
    done = download(*command(server, root))
    assert done.returncode == 1 and done.stderr.count("error:") == 1
    assert last_line(done).startswith("error: stopped at b_5000: ") and message in last_line(done)
    assert set(ledger(root)) == {"a_5000"}
    server.pages["b"] = video_page()
    assert download(*command(server, root)).returncode == 0 and len(ledger(root)) == 3


def test_missing_javascript_runtime_stops_the_run(server, tmp_path):
    page = video_page(warnings=["No supported JavaScript runtime could be found. Only deno is enabled by default"])
    root = write_table(tmp_path / "data", *_segments(server, a=page, b=None))
    done = download(*command(server, root))
    assert done.returncode == 1 and "install deno" in last_line(done) and set(ledger(root)) == {"a_5000"}


def test_many_failures_in_a_row_stop_the_run(server, tmp_path):
    failing = {f"f{number}": "Failed to resolve 'www.youtube.com'" for number in range(MAX_FAILURES_IN_A_ROW + 5)}
    root = write_table(tmp_path / "data", *_segments(server, **failing))
    done = download(*command(server, root))
    assert done.returncode == 1
    assert last_line(done).startswith("error: 20 clips in a row failed, the last: f19_5000: Failed to resolve")
    assert {entry["status"] for entry in ledger(root).values()} == {"retry"} and len(ledger(root)) == 20


def test_clips_that_always_fail_do_not_keep_a_run_from_the_others(server, tmp_path):
    failing = {f"f{number:02d}": "Failed to resolve 'www.youtube.com'" for number in range(30)}
    root = write_table(tmp_path / "data", *_segments(server, **failing, new=None))
    tried = []
    for _ in range(3):
        server.requests.clear()
        assert download(*command(server, root)).returncode == 1
        tried.append([path[5:-5] for path, _ in server.requests if path.startswith("info/")])
    names = list(failing)
    assert tried[0] == names[:20] and tried[1] == [*names[20:], "new", *names[:20]]
    assert tried[2] == [*names[20:], *names[:10]]


def test_proxy_that_answers_a_web_page_is_no_missing_clip(server, tmp_path):
    server.faults["source.mp4"] = ["html", "..."]
    root = write_table(tmp_path / "data", ("source", 5.0, 6.0), ("other", 5.0, 6.0))
    done = download(*command(server, root, f"url={server.address}/{{ytid}}.mp4"))
    assert done.returncode == 2 and "is not a video" in last_line(done) and done.stderr.count("error:") == 1
    assert not (root / "download.jsonl").read_text()


def test_full_disk_stops_the_run_and_it_continues_with_more_space(server, tmp_path):
    root = write_table(tmp_path / "data", ("a", 5.0, 6.0), ("b", 2.0, 18.0), ("c", 5.0, 6.0))
    server.pages.update(a=video_page(), b=video_page(), c=video_page())
    done = download(*command(server, root), preexec_fn=_limit_files(40_000))
    assert done.returncode == 1 and "ulimit -f" in last_line(done) and done.stderr.count("error:") == 1
    assert set(ledger(root)) == {"a_5000"}
    assert download(*command(server, root)).returncode == 0 and len(ledger(root)) == 3


def test_disk_without_space_stops_the_run_and_the_clips_so_far_are_complete(server, tmp_path):
    with tiny_disk(tmp_path, "120k") as disk:
        root = write_table(disk, *[(f"v{number}", 2.0, 12.0) for number in range(4)])
        server.pages.update({f"v{number}": video_page() for number in range(4)})
        done = download(*command(server, root))
        assert done.returncode == 1 and "No space left on device; free some space" in last_line(done)
        stored = {path.stem: path.stat().st_size for path in root.glob("videos/*")}
        assert stored == {row_id: entry["size_bytes"] for row_id, entry in ledger(root).items()} and len(stored) < 4


def _limit_files(size_bytes):
    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, size_bytes))

    return limit


@pytest.mark.parametrize(
    ("number", "code", "text"), [(signal.SIGTERM, 1, "stopped by SIGTERM"), (signal.SIGINT, 130, "interrupted")]
)
def test_signal_ends_the_run_cleanly(server, tmp_path, number, code, text):
    root = write_table(tmp_path / "data", *_segments(server, a=None, b=None, c=None))
    process = start(*command(server, root, "clips_per_hour=1"))
    while not (root / "download.jsonl").exists() or not (root / "download.jsonl").read_text():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=20)
    assert process.returncode == code and text in stderr.splitlines()[-1] and "Traceback" not in stderr
    assert "not tried          2" in stdout
    assert set(ledger(root)) == {"a_5000"} and not list(root.glob(".download-0-of-1*/"))


def test_slices_divide_the_clips_and_a_whole_run_finds_all_of_them(server, tmp_path):
    names = {f"v{number}": None for number in range(6)}
    root = write_table(tmp_path / "data", *_segments(server, **names))
    for part in (1, 2, 3):
        assert download(*command(server, root, f"slice={part}/3")).returncode == 0
    parts = [set(ledger(root, f"download-{part}-of-3.jsonl")) for part in range(3)]
    assert sum(map(len, parts)) == 6 and set().union(*parts) == {f"{name}_5000" for name in names}
    server.requests.clear()
    assert download(*command(server, root)).returncode == 0 and not server.requests


def test_second_command_on_the_same_folder_is_refused(server, tmp_path):
    root = write_table(tmp_path / "data", *_segments(server, a=None, b=None))
    first = start(*command(server, root, "clips_per_hour=1"))
    try:
        while not (root / "download.jsonl").exists() or not (root / "download.jsonl").read_text():
            time.sleep(0.02)
        second = download(*command(server, root))
        assert second.returncode == 2 and "another command" in last_line(second) and second.stderr.count("\n") == 1
    finally:
        first.kill()
        first.communicate()


def test_clip_of_a_killed_process_without_an_entry_is_kept_and_one_that_shrank_is_fetched_again(server, tmp_path):
    root = write_table(tmp_path / "data", *_segments(server, a=None, b=None))
    assert download(*command(server, root)).returncode == 0
    path = root / "download.jsonl"
    path.write_text(
        "".join(line + "\n" for line in path.read_text().splitlines() if json.loads(line)["id"] == "b_5000")
    )
    (root / "videos/b_5000.mp4").write_bytes(b"short")
    server.requests.clear()
    done = download(*command(server, root))
    assert done.returncode == 0 and "present: 1;" in done.stdout and ("info/b.json", None) in server.requests
    assert ("info/a.json", None) not in server.requests
    assert {row_id: (root / f"videos/{row_id}.mp4").stat().st_size for row_id in ("a_5000", "b_5000")} == {
        row_id: entry["size_bytes"] for row_id, entry in ledger(root).items()
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["source.root="], "source.root= is empty"),
        (["url=https://example.com/video"], "must be an address with {ytid} or {id}"),
        (["url=ftp://example.com/{ytid}"], "must be an address with {ytid} or {id}"),
        (["source.kind=folder"], "needs a table of segments"),
        (["slice=3/2"], "slice='3/2' must be I/N"),
        (["proxy=socks5://127.0.0.1:1"], "must start with http:// or https://"),
        (["cookies=nowhere.txt"], "cookies='nowhere.txt' is not a file of cookies"),
        (["cookies=README.md"], "cookies='README.md' is not a file of cookies"),
        (["source.media=videos/{ytid}.avi"], "must end in one of .mp4"),
        (["source.media=videos/one.mp4"], "stores two clips in 'videos/one.mp4'"),
        (["source.kind=vggsound", "source.split=test", "source.segments=eval_segments.csv"], "no clip of split 'test'"),
        (["labels=[dog]"], "no row has the label 'dog'"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(server, tmp_path, changes, message):
    root = write_table(tmp_path / "data", *_segments(server, a=None, b=None))
    done = download(*command(server, root, *changes))
    assert done.returncode == 2 and message in last_line(done) and "Traceback" not in done.stderr
    assert not server.requests


def test_dry_run_prints_the_estimate_and_writes_nothing(server, tmp_path):
    root = write_table(tmp_path / "data", *_segments(server, a=None, b=None))
    done = download(*command(server, root, "dry_run=true", "clips_per_hour=2"))
    assert done.returncode == 0 and "2 clips at 2 an hour: about 60 minutes" in done.stdout and not server.requests
    assert {path.name for path in root.iterdir()} == {"eval_segments.csv"}


def test_youtube_without_a_javascript_runtime_is_refused_before_any_request(server, tmp_path):
    root = write_table(tmp_path / "data", *_segments(server, a=None))
    done = download(*command(server, root, "url=https://www.youtube.com/watch?v={ytid}", "proxy=http://127.0.0.1:9"))
    assert done.returncode == 1 and not (root / "download.jsonl").read_text()
    assert "JavaScript runtime" in last_line(done) or "yt-dlp-ejs" in last_line(done) or "proxy" in last_line(done)
