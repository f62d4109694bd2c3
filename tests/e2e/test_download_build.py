"""From an empty folder to shards, as docs/data.md describes it: download, build, verify."""

import subprocess
import sys

import pytest
from media_server import serve_media
from paths import ROOT
from tiny_download import download, video_page, write_source

pytest.importorskip("yt_dlp", reason="extra download is not installed")


def _run(*arguments):
    return subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_audioset_from_an_empty_folder_to_shards(tmp_path):
    www, root, out = tmp_path / "www", tmp_path / "audioset", tmp_path / "shards"
    write_source(www)
    lines = [f'{ytid}, 5.000, 8.000, "/m/1"\n' for ytid in ("aaaaaaaaaaa", "bbbbbbbbbbb", "ccccccccccc", "ddddddddddd")]
    (www / "eval_segments.csv").write_text("# Segments csv\n" + "".join(lines))
    (www / "class_labels_indices.csv").write_text("index,mid,display_name\n0,/m/1,Bell\n")
    arguments = [
        "config=configs/download/audioset.yaml",
        f"source.root={root}",
        "source.split=eval",
        "clips_per_hour=0",
    ]
    with serve_media(www) as server:
        arguments += [f"url={server.address}/watch?v={{ytid}}", "retries=1", *[
            f"files.{number}.url={server.address}/{name}"
            for number, name in enumerate(["eval_segments.csv", "none", "none", "class_labels_indices.csv"])
        ]]  # fmt: skip
        server.pages.update(
            aaaaaaaaaaa=video_page(), bbbbbbbbbbb={"error": "Private video"}, ccccccccccc=video_page(),
            ddddddddddd={"error": "We're processing this video. Check back later."},
        )  # fmt: skip
        first = download(*arguments)
    assert first.returncode == 1 and "AudioSet's tables are published by Google under CC BY 4.0" in first.stdout
    build = [
        "pipelines.build",
        "config=configs/build/audioset.yaml",
        f"source.root={root}",
        "source.split=eval",
        f"out={out}",
    ]
    built = _run(*build, "decode.keep_static=true")
    assert built.returncode == 0, built.stderr
    assert (
        "missing: 2 of 4 rows (50.0 %) have no media file, the first is 'videos/bbbbbbbbbbb_5000.mp4'; 1 of them are "
        "gone, 0 not available here, 1 to be tried again, 0 were never tried; to download them: python -m "
        f"pipelines.download config=configs/download/audioset.yaml source.root={root} source.split=eval"
    ) in built.stderr
    verified = _run("pipelines.verify", str(out))
    assert verified.returncode == 0, verified.stdout + verified.stderr
    rows = (out / "build.json").read_text()
    (root / "download.jsonl").unlink()
    assert _run(*build, "decode.keep_static=true").returncode == 0 and (out / "build.json").read_text() == rows
