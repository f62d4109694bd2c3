"""A download that is killed ten times: every clip is there once, and ledger and folder agree."""

import random
import time

import pytest
from media_server import serve_media
from tiny_decode import click_s, decode, flash_s
from tiny_download import EVENT_S, command, download, ledger, start, video_page, write_source, write_table

from configs.schema import DecodeConfig

pytest.importorskip("yt_dlp", reason="extra download is not installed")

KILLS = 10
CLIPS = 20


@pytest.mark.slow
def test_ten_kills_lose_no_clip_and_fetch_none_twice(tmp_path):
    rng = random.Random(0)
    write_source(tmp_path / "www")
    segments = [(f"v{number}", 4.0 + number / 8, 9.0 + number / 8) for number in range(CLIPS)]
    root = write_table(tmp_path / "data", *segments)
    path = root / "download.jsonl"
    with serve_media(tmp_path / "www") as server:
        for number, (ytid, *_) in enumerate(segments):
            server.pages[ytid] = {"error": "Private video"} if number % 8 == 3 else video_page()
        for kill in range(KILLS):
            process = start(*command(server, root))
            wanted = 2 * kill + rng.randint(0, 1)  # kills at the start of a run, and in the middle of one
            while process.poll() is None and (not path.exists() or path.read_bytes().count(b"\n") < wanted):
                time.sleep(0.01)
            time.sleep(rng.uniform(0.0, 0.6))
            assert process.poll() is None, "the download was complete before it was killed"
            process.kill()
            process.communicate()
        done = download(*command(server, root))
        assert done.returncode == 0, done.stderr
        entries = ledger(root)
        assert set(entries) == {f"{ytid}_{round(start_s * 1000)}" for ytid, start_s, _ in segments}
        stored = {path.stem: path.stat().st_size for path in (root / "videos").iterdir()}
        assert stored == {key: entry["size_bytes"] for key, entry in entries.items() if entry["status"] == "done"}
        assert {entry["status"] for entry in entries.values()} == {"done", "gone"}
        assert {path.name for path in root.iterdir()} == {
            "eval_segments.csv", "videos", "download.jsonl", ".download.lock",
        }  # fmt: skip
        settings = DecodeConfig(frames_per_clip=125, short_side_px=48, keep_static=True)
        for ytid, start_s, _ in segments[::5]:
            decoded = decode(root / f"videos/{ytid}_{round(start_s * 1000)}.mp4", settings=settings)
            assert flash_s(decoded) == pytest.approx(EVENT_S - start_s, abs=0.08)
            assert click_s(decoded) == pytest.approx(EVENT_S - start_s, abs=0.08)
        server.requests.clear()
        assert download(*command(server, root)).returncode == 0 and not server.requests
