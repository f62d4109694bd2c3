"""The configurations of configs/download: valid, with terms, and stored where the readers of this repository look."""

import json

import pytest
from media_server import serve_media
from paths import ROOT
from tiny_download import download, ledger, write_source

from configs.load import load
from configs.schema import DownloadConfig
from pipelines.download.files import wanted_files
from pipelines.download.listing import check_url

CONFIGS = sorted((ROOT / "configs/download").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_is_valid_and_states_terms_size_and_the_next_command(path):
    config = load(DownloadConfig, [f"config={path}", "source.root=data"])
    header = path.read_text().partition("\nterms:")[0]
    assert f"config=configs/download/{path.name}" in header and "Expected: " in header and "Next: python -m" in header
    assert config.terms and (config.files or config.by_hand)
    for split in {file.split for file in config.files} | {config.source.split}:
        config.source.split = split
        wanted_files(config)
    if config.url:
        check_url(config.url)


def test_config_without_files_prints_what_to_fetch_by_hand_and_fails_until_it_is_there(tmp_path):
    arguments = ["config=configs/download/avsbench.yaml", f"source.root={tmp_path / 'avsbench'}"]
    done = download(*arguments)
    assert (
        done.returncode == 1 and done.stderr.count("by hand: ") == 4 and "with your name and institution" in done.stderr
    )
    for name in ("Single-source/s4_meta_data.csv", "Multi-sources/ms3_meta_data.csv"):
        (tmp_path / "avsbench" / name).parent.mkdir(parents=True)
        (tmp_path / "avsbench" / name).touch()
    for name in ("Single-source/s4_data/visual_frames", "Multi-sources/ms3_data/visual_frames"):
        (tmp_path / "avsbench" / name).mkdir(parents=True)
    assert download(*arguments).returncode == 0


@pytest.mark.slow
def test_vggss_downloads_the_clips_of_its_list_and_the_reader_finds_frames_and_audio(tmp_path):
    pytest.importorskip("yt_dlp", reason="extra download is not installed")
    from eval.benchmarks.localization.vgg_ss import read_vgg_ss

    www, root = tmp_path / "www", tmp_path / "vggss"
    write_source(www, "AAAAAAAAAAA.mp4")
    (www / "vggsound.csv").write_text(
        "AAAAAAAAAAA,5,dog barking,test\nBBBBBBBBBBB,1,bell,test\nAAAAAAAAAAA,9,bell,train\n"
    )
    boxes = [{"file": "AAAAAAAAAAA_000005", "class": "dog barking", "bbox": [[0.1, 0.1, 0.5, 0.5]]}]
    (www / "vggss.json").write_text(json.dumps(boxes))
    (www / "vggss_test.csv").write_text("AAAAAAAAAAA_000005\nCCCCCCCCCCC_000001\n")
    config = load(DownloadConfig, ["config=configs/download/vggss.yaml"])
    with serve_media(www) as server:
        files = [f"files.{n}.url={server.address}/vggss_test.csv" for n in range(len(config.files))]
        for number, file in enumerate(config.files):
            if (www / file.url.rpartition("/")[2]).exists():
                files[number] = f"files.{number}.url={server.address}/{file.url.rpartition('/')[2]}"
        done = download(
            "config=configs/download/vggss.yaml", f"source.root={root}", f"url={server.address}/{{ytid}}.mp4",
            "clips_per_hour=0", *files,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "clips listed: 1;" in done.stdout and "ids of include= without a row: 1" in done.stderr
    assert "AAAAAAAAAAA_5000" in ledger(root) and (root / "videos/AAAAAAAAAAA_000005.mp4").exists()
    (item,) = read_vgg_ss(root).items
    assert item.id == "AAAAAAAAAAA_000005" and item.label == "dog barking"
    from eval.benchmarks.io import read_waveform

    assert abs(len(read_waveform(item.audio, 16000)) / 16000 - 10) < 0.1
